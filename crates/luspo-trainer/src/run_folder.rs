//! The folder of a run.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use luspo_core::durable;

use crate::{Config, Metrics, TrainError};

/// Held while a process works in the folder; the system lets go of it however that process ends.
const LOCK: &str = ".lock";
const CONFIG: &str = "config.toml";
/// A built-in task's files; written before the run begins.
const DATA: &str = "data";
/// Made when the run begins, so that a folder of checkpoints that went missing is not taken for a run without any.
const CHECKPOINTS: &str = "checkpoints";

/// A run's folder: its resolved config, its metrics, its checkpoints. Holding it keeps every other process out.
///
/// A new folder is on trial until [`begin`](Self::begin): dropped before that, everything made here is removed again, so
/// that a run that cannot start leaves nothing in the way of the next try.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    /// Whether the folder itself was made here, and not only what is in it.
    made: bool,
    begun: bool,
    /// None where the folder is only looked at.
    lock: Option<File>,
}

impl RunFolder {
    /// Makes the folder, or takes an empty one, or one that a run left behind that was killed before it began.
    ///
    /// # Errors
    /// A folder that holds a run or anything else, that another process works in, or that cannot be made; a run whose
    /// configuration is gone.
    pub fn create(dir: PathBuf) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Write { file: dir.clone(), source };
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let made = match fs::create_dir(&dir) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
            Err(source) => return Err(failed(source)),
        };
        let entries =
            || -> io::Result<Vec<OsString>> { fs::read_dir(&dir)?.map(|entry| Ok(entry?.file_name())).collect() };
        let found = entries().map_err(failed)?;
        if Self::has_begun(&dir) || !(found.is_empty() || found.iter().any(|name| name == LOCK)) {
            return Err(TrainError::RunExists { dir });
        }
        let lock = lock(&dir)?;
        // Looked at again under the lock: a run may have begun meanwhile.
        if Self::has_begun(&dir) {
            return Err(TrainError::RunExists { dir });
        }
        // As it was made; one with something in it stays.
        let _ = fs::remove_dir(dir.join(CHECKPOINTS));
        let found = entries().map_err(failed)?;
        if found.iter().any(|name| name == CHECKPOINTS) {
            let problem = "the file is missing from its run; put it back (every checkpoint holds a copy)".into();
            return Err(TrainError::Config { file: dir.join(CONFIG), problem });
        }
        let ours = |name: &OsString| name == LOCK || name == DATA || durable::is_aside(&name.to_string_lossy());
        if !found.iter().all(ours) {
            return Err(TrainError::RunExists { dir });
        }
        match fs::remove_dir_all(dir.join(DATA)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(Self { dir, made, begun: false, lock: Some(lock) }),
        }
    }

    /// Whether a run has begun in this folder, so that it can be continued.
    pub fn has_begun(dir: &Path) -> bool {
        dir.join(CONFIG).is_file()
    }

    /// Opens the folder of a run that has begun, to continue it.
    ///
    /// # Errors
    /// A folder that holds no run, or that another process works in.
    pub fn reopen(dir: PathBuf) -> Result<Self, TrainError> {
        let mut folder = Self::look(dir)?;
        let checkpoints = folder.checkpoints();
        if let Err(source) = fs::read_dir(&checkpoints) {
            return Err(TrainError::NoCheckpoints { dir: checkpoints, source });
        }
        folder.lock = Some(lock(&folder.dir)?);
        Ok(folder)
    }

    /// Opens the folder of a run that has begun, to read it. Nothing is written to it.
    ///
    /// # Errors
    /// A folder that holds no run.
    pub fn look(dir: PathBuf) -> Result<Self, TrainError> {
        if !Self::has_begun(&dir) {
            return Err(TrainError::NoRun { dir });
        }
        Ok(Self { dir, made: false, begun: true, lock: None })
    }

    /// Writes the resolved `config.toml`; from here on the folder stays.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn begin(&mut self, config: &Config) -> Result<(), TrainError> {
        if !self.begun {
            let (data, checkpoints) = (self.dir.join(DATA), self.checkpoints());
            if data.exists() {
                durable::sync_tree(&data).map_err(TrainError::write(&data))?;
            }
            fs::create_dir(&checkpoints).map_err(TrainError::write(&checkpoints))?;
        }
        durable::write(&self.config(), config.to_toml()?.as_bytes()).map_err(TrainError::write(&self.config()))?;
        self.begun = true;
        Ok(())
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The run's resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join(CONFIG)
    }

    /// Where the checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join(CHECKPOINTS)
    }

    /// The answers of a step, a Parquet file.
    pub fn rollouts(&self, step: usize) -> PathBuf {
        self.dir.join("rollouts").join(format!("step_{step:06}.parquet"))
    }

    /// What a replay of a step compares with.
    pub fn journal(&self, step: usize) -> PathBuf {
        self.dir.join("journal").join(format!("step_{step:06}.json"))
    }

    /// Appends one line to a JSON-lines file of the folder, and flushes it to the disk.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn append(&self, name: &str, metrics: &Metrics) -> Result<(), TrainError> {
        let file = self.dir.join(name);
        let line = format!("{}\n", metrics.to_json());
        File::options()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut f| f.write_all(line.as_bytes()).and_then(|()| f.sync_data()))
            .map_err(TrainError::write(&file))
    }

    /// Cuts a JSON-lines file down to the lines of steps up to `last`; none where nothing is to stay. Lines that cannot
    /// be read go too: the last where a process was killed while it wrote it, any other because it was damaged.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn cut(&self, name: &str, last: Option<usize>) -> Result<(), TrainError> {
        let file = self.dir.join(name);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(TrainError::Read { file, source }),
        };
        let mut kept = Vec::with_capacity(text.len());
        for (number, line) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            let metrics: Option<serde_json::Value> = serde_json::from_slice(line).ok();
            let step = metrics.and_then(|metrics| metrics["step"].as_u64());
            match step.filter(|_| line.ends_with(b"\n")) {
                Some(step) if last.is_some_and(|last| step <= last as u64) => kept.extend_from_slice(line),
                None if line.ends_with(b"\n") => {
                    log::warn!("{}: line {number} is damaged; it was left out", file.display())
                }
                _ => {}
            }
        }
        if kept == text { Ok(()) } else { durable::write(&file, &kept).map_err(TrainError::write(&file)) }
    }

    /// Removes what is left of files and checkpoints that were being written, and the rollouts and journals of steps
    /// after `last`.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn clean(&self, last: usize) -> Result<(), TrainError> {
        let folders = [CHECKPOINTS, "rollouts", "journal", "skipped"].map(|name| self.dir.join(name));
        for dir in folders.iter().chain([&self.dir]) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                let step = |name: &str| name.strip_prefix("step_")?.split('.').next()?.parse::<usize>().ok();
                let later = !path.is_dir() && step(&name).is_some_and(|step| step > last);
                if durable::is_aside(&name) || later {
                    let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                    removed.map_err(TrainError::write(&path))?;
                }
            }
        }
        Ok(())
    }

    /// Writes the rows of an update that was not made, for someone to look at, and returns the file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_skipped(&self, step: usize, update: &str, batch: &serde_json::Value) -> Result<PathBuf, TrainError> {
        let dir = self.dir.join("skipped");
        let file = dir.join(format!("step_{step:06}_{update}.json"));
        if self.lock.is_some() {
            fs::create_dir_all(&dir).map_err(TrainError::write(&dir))?;
            durable::write(&file, batch.to_string().as_bytes()).map_err(TrainError::write(&file))?;
        }
        Ok(file)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.begun {
            return;
        }
        // Best effort: the error that ended the run is the one worth telling.
        let _ = match self.made {
            true => fs::remove_dir_all(&self.dir),
            // It was empty, so all that is in it was made here.
            false => {
                let _ = (fs::remove_dir_all(self.dir.join(DATA)), fs::remove_dir(self.checkpoints()));
                fs::remove_file(self.dir.join(LOCK))
            }
        };
    }
}

/// Keeps other processes out of a folder for as long as what is returned lives.
pub(crate) fn lock(dir: &Path) -> Result<File, TrainError> {
    let file = dir.join(LOCK);
    let failed = |source| TrainError::Write { file: file.clone(), source };
    let lock = File::options().create(true).truncate(false).write(true).open(&file).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(TrainError::RunInUse { dir: dir.into() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_does_not_begin_leaves_what_it_found() {
        let dir = tempfile::tempdir().unwrap();
        let (new, empty) = (dir.path().join("a/new"), dir.path().join("empty"));
        fs::create_dir(&empty).unwrap();
        for folder in [&new, &empty] {
            let run = RunFolder::create(folder.clone()).unwrap();
            fs::create_dir(run.path().join("data")).unwrap();
        }
        assert!(!new.exists());
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_holds_one_run_and_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("run");
        let mut run = RunFolder::create(place.clone()).unwrap();
        assert!(matches!(RunFolder::create(place.clone()), Err(TrainError::RunInUse { .. })));
        assert!(matches!(RunFolder::reopen(place.clone()), Err(TrainError::NoRun { .. })));
        run.begin(&Config::default()).unwrap();
        assert!(matches!(RunFolder::create(place.clone()), Err(TrainError::RunExists { .. })));
        assert!(matches!(RunFolder::reopen(place.clone()), Err(TrainError::RunInUse { .. })));
        drop(run);
        assert!(RunFolder::reopen(place.clone()).is_ok());
        assert!(matches!(RunFolder::create(place), Err(TrainError::RunExists { .. })));
    }

    #[test]
    fn what_a_run_left_that_was_killed_before_it_began_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("run");
        fs::create_dir_all(place.join("data")).unwrap();
        fs::create_dir(place.join("checkpoints")).unwrap();
        fs::write(place.join(".lock"), "").unwrap();
        fs::write(place.join("data/train.parquet"), "half").unwrap();
        fs::write(place.join(".config.toml.partial"), "[ru").unwrap();
        let run = RunFolder::create(place.clone()).unwrap();
        assert!(!place.join("data").exists());
        drop(run);
        fs::write(place.join("notes.txt"), "mine").unwrap();
        assert!(matches!(RunFolder::create(place.clone()), Err(TrainError::RunExists { .. })));
        fs::create_dir_all(place.join("checkpoints/step_000001")).unwrap();
        fs::write(place.join(".lock"), "").unwrap();
        let error = RunFolder::create(place).unwrap_err().to_string();
        assert!(error.contains("config.toml: the file is missing from its run"), "{error}");
    }

    #[test]
    fn metrics_are_cut_after_a_step_and_lose_broken_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = RunFolder::create(dir.path().join("run")).unwrap();
        run.begin(&Config::default()).unwrap();
        let file = run.path().join("metrics.jsonl");
        let text = "{\"step\":0}\n{\"step\":1}\n{\"step\":2}\n";
        fs::write(&file, format!("{text}{{\"st")).unwrap();
        for (last, lines) in [(Some(9), 3), (Some(1), 2), (None, 0)] {
            run.cut("metrics.jsonl", last).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text[..lines * 11]);
        }
        fs::write(&file, text.replace("{\"step\":1}", "\0\u{1}step\":1}")).unwrap();
        run.cut("metrics.jsonl", Some(2)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"step\":0}\n{\"step\":2}\n");
    }
}
