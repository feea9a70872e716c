//! The folder of a run.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Config, Metrics, Policy, TrainError};

/// A run's folder: its resolved config, its metrics, its checkpoints.
///
/// Until [`begin`](Self::begin) it is on trial: dropped before that, a folder that was made here is removed again, so
/// that a run that cannot start leaves nothing in the way of the next try.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    begun: bool,
}

impl RunFolder {
    /// Makes the folder.
    ///
    /// # Errors
    /// A folder that exists and is not empty, or that cannot be made.
    pub fn create(dir: PathBuf) -> Result<Self, TrainError> {
        let in_use = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
        if in_use || dir.is_file() {
            return Err(TrainError::RunExists { dir });
        }
        fs::create_dir_all(&dir).map_err(|source| TrainError::Write { file: dir.clone(), source })?;
        Ok(Self { dir, begun: false })
    }

    /// Writes the resolved `config.toml`; from here on the folder stays.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn begin(&mut self, config: &Config) -> Result<(), TrainError> {
        let text = toml::to_string(config).map_err(|e| TrainError::Mismatch(format!("config.toml: {e}")))?;
        write(&self.dir.join("config.toml"), text.as_bytes())?;
        self.begun = true;
        Ok(())
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

    /// Writes a batch whose update was skipped, for its reader to look at, and returns the file.
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
        if !self.begun {
            // Best effort: the error that ended the run is the one worth telling.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    fs::write(file, bytes).map_err(|source| TrainError::Write { file: file.into(), source })
}
