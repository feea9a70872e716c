//! Scalar curves for TensorBoard: `events.out.tfevents.*`.
//!
//! An event file is a TFRecord file whose records are protobuf messages. The crates for it are old: `tensorboard-rs`
//! 0.5.9 needs an image library and protobuf 2, `tfrecord` 0.15.0 and `tboard` 0.1.1 need prost 0.12. Four messages for
//! today's `prost` and the frame of a record are less to carry than any of them.
//!
//! ```text
//! record = length (u64) · masked CRC-32C of the length · message · masked CRC-32C of the message     little-endian
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::Message;

use crate::{Metrics, TrainError};

/// What every event file's name begins with.
const PREFIX: &str = "events.out.tfevents.";

/// The version of the format from which on TensorBoard heeds [`SESSION_START`].
const FILE_VERSION: &str = "brain.Event:2";

/// `SessionLog.START`: what earlier files say of this step and later ones is void.
const SESSION_START: i32 = 1;

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    // Optional, so that a zero is written.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Writes metrics as TensorBoard reads them.
///
/// A folder is one run of TensorBoard with one axis of steps; that of the warm-up's steps is another folder.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Begins a new event file in `dir`, which is made if need be. What earlier files there say of `first_step` and later
    /// steps is void from now on, so that a run continued from a checkpoint shows no step twice.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(dir: &Path, first_step: u64) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Write { file: dir.into(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        // TensorBoard reads the files of a folder by name, so a later one must have a later time, whatever the clock says.
        let earlier = fs::read_dir(dir).map_err(failed)?.filter_map(|entry| time_in_name(&entry.ok()?.file_name()));
        let time = earlier.max().map_or(now() as u64, |last| last.saturating_add(1).max(now() as u64));
        let path = dir.join(format!("{PREFIX}{time:010}.luspo"));
        let file = File::create_new(&path).map_err(|source| TrainError::Write { file: path.clone(), source })?;
        let mut events = Self { path, file };
        events.append(&Event { wall_time: now(), file_version: Some(FILE_VERSION.into()), ..Event::default() })?;
        let session_log = Some(SessionLog { status: SESSION_START });
        events.append(&Event { wall_time: now(), step: first_step as i64, session_log, ..Event::default() })?;
        Ok(events)
    }

    /// Writes the metrics at their `step`, for TensorBoard to see at once. Values are rounded to `f32`; TensorBoard
    /// marks those that are not finite.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        let step = metrics.get("step").unwrap_or(0.0) as i64;
        let value = metrics
            .iter()
            .filter(|(name, _)| *name != "step")
            .map(|(name, value)| Scalar { tag: name.into(), simple_value: Some(value as f32) })
            .collect();
        self.append(&Event { wall_time: now(), step, summary: Some(Summary { value }), ..Event::default() })
    }

    fn append(&mut self, event: &Event) -> Result<(), TrainError> {
        let failed = |source| TrainError::Write { file: self.path.clone(), source };
        self.file.write_all(&record(&event.encode_to_vec())).map_err(failed)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |time| time.as_secs_f64())
}

fn time_in_name(name: &std::ffi::OsStr) -> Option<u64> {
    name.to_str()?.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// The frame of a message.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), message, &masked_crc(message).to_le_bytes()].concat()
}

/// CRC-32C, turned and shifted as TFRecord wants it.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The events of a file, every checksum verified.
    fn events(file: &Path) -> Vec<Event> {
        let bytes = fs::read(file).unwrap();
        let (mut rest, mut events) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let (length_crc, after) = after.split_at(4);
            let (message, after) = after.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (message_crc, after) = after.split_at(4);
            assert_eq!(length_crc, masked_crc(length).to_le_bytes());
            assert_eq!(message_crc, masked_crc(message).to_le_bytes());
            events.push(Event::decode(message).unwrap());
            rest = after;
        }
        events
    }

    fn event_files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn metrics(step: usize, values: &[(&str, f64)]) -> Metrics {
        let mut metrics = Metrics::of_step(step);
        for (name, value) in values {
            metrics.set(*name, *value);
        }
        metrics
    }

    #[test]
    fn the_masked_checksum_is_that_of_the_format() {
        // 32 zero bytes: the CRC-32C is in RFC 3720, B.4; the mask is ((crc >> 15) | (crc << 17)) + 0xa282ead8.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x0fd7_fffa);
    }

    #[test]
    fn a_file_says_its_version_its_start_and_then_each_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(dir.path(), 3).unwrap();
        board.write(&metrics(3, &[("actor/pg_loss", 0.0), ("actor/lr", 1e-6)])).unwrap();
        // Read while the writer is open: a step is visible as soon as it is written.
        let events = events(&event_files(dir.path())[0]);
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!((events[1].step, events[1].session_log.as_ref().unwrap().status), (3, SESSION_START));
        let scalars = &events[2].summary.as_ref().unwrap().value;
        let read: Vec<(&str, Option<f32>)> = scalars.iter().map(|s| (s.tag.as_str(), s.simple_value)).collect();
        assert_eq!((events[2].step, read), (3, vec![("actor/pg_loss", Some(0.0)), ("actor/lr", Some(1e-6))]));
    }

    #[test]
    fn files_begun_in_one_second_have_names_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for first_step in 1..=12 {
            TensorBoard::create(dir.path(), first_step).unwrap();
        }
        let starts: Vec<i64> = event_files(dir.path()).iter().map(|file| events(file)[1].step).collect();
        assert_eq!(starts, (1..=12).collect::<Vec<_>>());
    }

    #[test]
    #[ignore = "needs LUSPO_TEST_PYTHON"]
    fn python_tensorboard_reads_the_curves_and_shows_no_step_of_a_continued_run_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(dir.path(), 1).unwrap();
        for step in 1..=4 {
            board.write(&metrics(step, &[("loss", step as f64), ("lost", 1.0)])).unwrap();
        }
        // Continued after step 2; the tag `lost` does not come again.
        let mut board = TensorBoard::create(dir.path(), 3).unwrap();
        for step in 3..=5 {
            board.write(&metrics(step, &[("loss", 10.0 * step as f64), ("nan", f64::NAN), ("zero", 0.0)])).unwrap();
        }
        let mut warm_up = TensorBoard::create(&dir.path().join("sft"), 1).unwrap();
        warm_up.write(&metrics(700, &[("sft/loss", 0.5)])).unwrap();

        let script = r#"
import math, sys
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
board = EventMultiplexer().AddRunsFromDirectory(sys.argv[1]).Reload()
def curve(run, tag):
    return [(event.step, event.value) for event in board.Scalars(run, tag)]
assert curve(".", "loss") == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)], curve(".", "loss")
assert curve(".", "lost") == [(1, 1.0), (2, 1.0)], curve(".", "lost")
assert curve(".", "zero") == [(3, 0.0), (4, 0.0), (5, 0.0)], curve(".", "zero")
assert [step for step, value in curve(".", "nan") if math.isnan(value)] == [3, 4, 5]
assert curve("sft", "sft/loss") == [(700, 0.5)], curve("sft", "sft/loss")
"#;
        let python = std::env::var_os("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON names a Python with tensorboard");
        let output = Command::new(python).args(["-c", script]).arg(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
