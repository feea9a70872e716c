//! `luspo export`: a trained policy as a Hugging Face folder for others.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use luspo::model::{SaveOptions, export};

use crate::args::{ExportArgs, Global};

pub fn run(args: ExportArgs, global: &Global) -> Result<()> {
    let source = locate(&args.source)?;
    let options = SaveOptions { dtype: args.dtype, max_shard_bytes: args.max_shard_size };
    let place = Place::new(&args.out)?;
    let dtype = place.fill(|dir| Ok(export(&source.policy, dir, &options)?))?;

    let (mut files, mut bytes) = (Vec::new(), 0);
    for entry in fs::read_dir(&args.out)? {
        let entry = entry?;
        files.push(entry.file_name().to_string_lossy().into_owned());
        bytes += entry.metadata()?.len();
    }
    files.sort();
    let dtype = dtype.map(|dtype| dtype.to_string());
    let mut out = std::io::stdout().lock();
    if global.json {
        let result = serde_json::json!({
            "out": args.out,
            "policy": source.policy,
            "step": source.step,
            "dtype": dtype,
            "files": files,
            "bytes": bytes,
        });
        writeln!(out, "{result}")?;
    } else {
        writeln!(
            out,
            "wrote {} ({}, {} files, {:.1} MB) from {}",
            args.out.display(),
            dtype.as_deref().unwrap_or("several number types"),
            files.len(),
            bytes as f64 / 1e6,
            source.policy.display()
        )?;
    }
    Ok(())
}

/// A policy on the disk.
#[derive(Debug, PartialEq)]
struct Source {
    /// Its Hugging Face folder.
    policy: PathBuf,
    /// The step after which it was saved, where the checkpoint's name says so.
    step: Option<usize>,
}

/// Finds the policy that a path means: a Hugging Face folder is one, a checkpoint has one, a run has that of its newest
/// checkpoint.
fn locate(path: &Path) -> Result<Source> {
    fs::metadata(path).with_context(|| format!("{}: cannot be exported", path.display()))?;
    let policy = if path.join("config.json").is_file() {
        path.to_path_buf()
    } else if path.join("policy").is_dir() {
        path.join("policy")
    } else if path.join("checkpoints").is_dir() {
        newest(&path.join("checkpoints"))?.join("policy")
    } else {
        bail!(
            "{}: is no run, no checkpoint and no Hugging Face folder: it has neither checkpoints/ nor policy/ nor \
             config.json",
            path.display()
        );
    };
    let checkpoint = std::path::absolute(&policy)?.parent().and_then(|parent| number(parent, "step_"));
    Ok(Source { policy, step: checkpoint })
}

/// The last checkpoint of a run: of the highest step, or of the warm-up if there is none of a step.
fn newest(checkpoints: &Path) -> Result<PathBuf> {
    let failed = || format!("{}: cannot be read", checkpoints.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(checkpoints).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let stage = number(&path, "step_").map(|n| (1, n)).or(number(&path, "sft_").map(|n| (0, n)));
        // Without a policy it is not complete.
        if let Some(stage) = stage.filter(|_| path.join("policy").is_dir()) {
            found.push((stage, path));
        }
    }
    let newest = found.into_iter().max().map(|(_, path)| path);
    newest.with_context(|| format!("{}: holds no complete checkpoint yet", checkpoints.display()))
}

/// The number in a name such as `step_000010`.
fn number(path: &Path, prefix: &str) -> Option<usize> {
    let digits = path.file_name()?.to_str()?.strip_prefix(prefix)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A folder that will appear when it is complete.
struct Place<'a> {
    out: &'a Path,
    aside: PathBuf,
}

impl<'a> Place<'a> {
    /// Refuses a folder that is not empty.
    fn new(out: &'a Path) -> Result<Self> {
        match fs::read_dir(out) {
            Ok(mut entries) => {
                ensure!(
                    entries.next().is_none(),
                    "{}: is not empty, and nothing is overwritten; choose another --out",
                    out.display()
                );
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be --out", out.display())),
        }
        let whole = std::path::absolute(out)?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            bail!("{}: cannot be --out; give the name of a folder that is to appear", out.display());
        };
        fs::create_dir_all(parent).with_context(|| format!("{}: cannot be made", parent.display()))?;
        let aside = parent.join(format!(".{}.partial", name.to_string_lossy()));
        match fs::create_dir(&aside) {
            Ok(()) => Ok(Self { out, aside }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!(
                    "{}: is left of an export that is running or was cut off; remove it to begin again",
                    aside.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("{}: cannot be made", aside.display())),
        }
    }

    /// Writes into the folder aside and gives it its name; where either fails nothing is left.
    fn fill<T>(self, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let appear = || {
            // An empty folder may be in the way.
            match fs::remove_dir(self.out) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => fs::rename(&self.aside, self.out),
            }
            .with_context(|| format!("{}: cannot be written", self.out.display()))
        };
        let result = write(&self.aside).and_then(|written| appear().map(|()| written));
        if result.is_err() {
            // The error that ended the export is the one worth telling.
            let _ = fs::remove_dir_all(&self.aside);
        }
        result
    }
}

/// Bytes from a number with a unit: powers of 1000 (`5GB`) or of 1024 (`5GiB`).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1000),
        "mb" => Some(1000_u64.pow(2)),
        "gb" => Some(1000_u64.pow(3)),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse().ok().zip(unit).and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes > 0).ok_or("write a whole number and a unit, such as 5GB or 500MiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        dir
    }

    #[test]
    fn a_run_means_its_highest_complete_step() {
        let run = folder(&[
            "checkpoints/step_000002/policy",
            "checkpoints/step_000010/policy",
            "checkpoints/step_1000000/policy",
            "checkpoints/step_2000000",
            "checkpoints/.step_3000000.partial/policy",
            "checkpoints/step_4000000.damaged/policy",
            "checkpoints/step_/policy",
            "checkpoints/sft_9000000/policy",
        ]);
        let found = locate(run.path()).unwrap();
        let policy = run.path().join("checkpoints/step_1000000/policy");
        assert_eq!(found, Source { policy, step: Some(1_000_000) });
    }

    #[test]
    fn a_run_in_its_warm_up_means_the_last_checkpoint_of_that() {
        let run = folder(&["checkpoints/sft_000010/policy", "checkpoints/sft_000009/policy"]);
        let policy = run.path().join("checkpoints/sft_000010/policy");
        assert_eq!(locate(run.path()).unwrap(), Source { policy, step: None });
    }

    #[test]
    fn a_checkpoint_and_its_policy_mean_the_same() {
        let run = folder(&["step_000007/policy"]);
        let checkpoint = run.path().join("step_000007");
        fs::write(checkpoint.join("policy/config.json"), "{}").unwrap();
        let expected = Source { policy: checkpoint.join("policy"), step: Some(7) };
        assert_eq!(locate(&checkpoint).unwrap(), expected);
        assert_eq!(locate(&checkpoint.join("policy")).unwrap(), expected);
    }

    #[test]
    fn what_holds_no_policy_is_named() {
        let empty = folder(&["checkpoints/.step_000001.partial/policy"]);
        for (path, words) in [
            ("checkpoints", "no Hugging Face folder"),
            ("", "no complete checkpoint"),
            ("nowhere", "cannot be exported"),
        ] {
            let path = empty.path().join(path);
            let error = format!("{:#}", locate(&path).unwrap_err());
            assert!(error.contains(words) && error.contains(&*empty.path().to_string_lossy()), "{error}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("500 MiB", 500 << 20), ("1kb", 1000), ("77", 77), ("8B", 8)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "0MB", "-1", "1.5GB", "5XB", "99999999999GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_fails_leaves_nothing_behind() {
        let dir = folder(&["empty"]);
        for name in ["new", "empty"] {
            let out = dir.path().join(name);
            let failed = Place::new(&out).unwrap().fill(|aside| -> Result<()> {
                fs::write(aside.join("half"), "")?;
                bail!("the disk is full")
            });
            assert!(failed.is_err());
            assert_eq!(out.exists(), name == "empty");
            Place::new(&out).unwrap().fill(|aside| Ok(fs::write(aside.join("whole"), "")?)).unwrap();
            assert!(out.join("whole").is_file());
            assert!(Place::new(&out).is_err(), "it is not empty any more");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
