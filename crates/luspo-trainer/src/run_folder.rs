//! The folder of a run.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Config, Metrics, Policy, TrainError};

/// Stands in the folder from its making until the run begins, and keeps a second run out of it.
const STARTING: &str = ".starting";

/// A run's folder: its resolved config, its metrics, its checkpoints.
///
/// Until [`begin`](Self::begin) it is on trial: dropped before that, everything made here is removed again, so that a
/// run that cannot start leaves nothing in the way of the next try.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    /// Whether the folder itself was made here, and not only what is in it.
    made: bool,
    begun: bool,
}

impl RunFolder {
    /// Makes the folder, or takes an empty one.
    ///
    /// # Errors
    /// A folder that is not empty, or that cannot be made.
    pub fn create(dir: PathBuf) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Write { file: dir.clone(), source };
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let made = match fs::create_dir(&dir) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none()) {
                    false
                } else {
                    return Err(TrainError::RunExists { dir });
                }
            }
            Err(source) => return Err(failed(source)),
        };
        match File::create_new(dir.join(STARTING)) {
            Ok(_) => Ok(Self { dir, made, begun: false }),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(TrainError::RunExists { dir }),
            Err(source) => Err(failed(source)),
        }
    }

    /// Writes the resolved `config.toml`; from here on the folder stays.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn begin(&mut self, config: &Config) -> Result<(), TrainError> {
        let text = toml::to_string(config).map_err(|e| TrainError::Mismatch(format!("config.toml: {e}")))?;
        write(&self.dir.join("config.toml"), text.as_bytes())?;
        self.begun = true;
        let starting = self.dir.join(STARTING);
        fs::remove_file(&starting).map_err(|source| TrainError::Write { file: starting, source })
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Appends one line to a JSON-lines file of the folder.
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
            .and_then(|mut f| f.write_all(line.as_bytes()))
            .map_err(|source| TrainError::Write { file, source })
    }

    /// Writes `checkpoints/step_NNNNNN/policy`, aside first and then renamed, and returns that path.
    ///
    /// # Errors
    /// A folder that cannot be written; no checkpoint of that step appears then.
    pub fn save_policy(&self, step: usize, policy: &Policy) -> Result<PathBuf, TrainError> {
        let checkpoints = self.dir.join("checkpoints");
        let place = checkpoints.join(format!("step_{step:06}"));
        let aside = checkpoints.join(format!(".step_{step:06}.partial"));
        policy.save(&aside.join("policy"))?;
        fs::rename(&aside, &place).map_err(|source| TrainError::Write { file: place.clone(), source })?;
        Ok(place.join("policy"))
    }

    /// Writes the rows of an update that was not made, for someone to look at, and returns the file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save_skipped(&self, step: usize, update: usize, batch: &serde_json::Value) -> Result<PathBuf, TrainError> {
        let dir = self.dir.join("skipped");
        fs::create_dir_all(&dir).map_err(|source| TrainError::Write { file: dir.clone(), source })?;
        let file = dir.join(format!("step_{step:06}_update_{update}.json"));
        write(&file, batch.to_string().as_bytes())?;
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
            false => fs::remove_dir_all(self.dir.join("data")).or(Ok(())).and(fs::remove_file(self.dir.join(STARTING))),
        };
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    fs::write(file, bytes).map_err(|source| TrainError::Write { file: file.into(), source })
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
    fn a_folder_holds_one_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = RunFolder::create(dir.path().join("run")).unwrap();
        assert!(matches!(RunFolder::create(dir.path().join("run")), Err(TrainError::RunExists { .. })));
        run.begin(&Config::default()).unwrap();
        drop(run);
        assert!(dir.path().join("run/config.toml").is_file());
        assert!(matches!(RunFolder::create(dir.path().join("run")), Err(TrainError::RunExists { .. })));
    }
}
