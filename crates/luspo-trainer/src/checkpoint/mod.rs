//! Checkpoints are transactions: written aside, flushed, hashed, renamed. One that is there is whole, or says where it
//! is not.

mod manifest;
mod point;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use point::Point;

use crate::fingerprint::DataHashes;
use crate::{AdamW, Evaluation, Policy, TrainError, durable};

pub(crate) use manifest::hex;

/// What a checkpoint says beside its weights and moments.
///
/// Nothing else is needed: prompts, their order, the learning rate and every random number are functions of the
/// configuration, the seed and the step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// After which step.
    pub after: Point,
    /// Seed of the generator; with the step it is the generator's state.
    pub seed: u64,
    /// Updates that the optimizer has made, t of the bias correction.
    pub optimizer_updates: i32,
    /// Updates that were skipped in a row before this point.
    pub skipped_in_a_row: usize,
    /// SHA-256 of the data in the order in which the run reads it; data that changed cannot be gone on with.
    pub data: DataHashes,
    /// SHA-256 of the frozen reference policy, where a KL term needs it.
    pub reference: Option<String>,
    /// The validation before the first step, for the summary at the end.
    pub before: Option<Evaluation>,
    /// The newest validation, for the same.
    pub validation: Option<Evaluation>,
}

/// A checkpoint on disk whose files are what was written.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// What it says beside its weights.
    pub state: State,
}

impl Checkpoint {
    /// Writes a checkpoint into the folder `checkpoints`, which is made where it is missing, and returns its place.
    ///
    /// # Errors
    /// A folder that cannot be written; nothing of the new checkpoint is left then, and the others are as they were.
    pub fn save(
        checkpoints: &Path,
        policy: &Policy,
        optimizer: Option<&AdamW>,
        state: &State,
    ) -> Result<PathBuf, TrainError> {
        let place = checkpoints.join(state.after.folder());
        let aside = durable::aside(&place);
        let written = write(&aside, policy, optimizer, state).and_then(|()| durable::rename(&aside, &place));
        if written.is_err() {
            // What is half written may hold the space that is missing.
            let _ = fs::remove_dir_all(&aside);
        }
        written.map(|()| place)
    }

    /// Opens a checkpoint after reading and hashing every file of it.
    ///
    /// # Errors
    /// [`TrainError::CheckpointDamaged`], which names the file.
    pub fn open(dir: &Path) -> Result<Self, TrainError> {
        let damaged = |problem: String| TrainError::CheckpointDamaged { dir: dir.into(), problem };
        manifest::verify(dir).map_err(damaged)?;
        let text = fs::read(dir.join(STATE)).map_err(|e| damaged(format!("{STATE} cannot be read: {e}")))?;
        let state = serde_json::from_slice(&text).map_err(|e| damaged(format!("{STATE}: {e}")))?;
        Ok(Self { dir: dir.into(), state })
    }

    /// The checkpoints of a folder, oldest first, whole or not; none where there is no such folder.
    pub fn list(checkpoints: &Path) -> Vec<Point> {
        let names = fs::read_dir(checkpoints).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut points: Vec<Point> = names.filter_map(|name| Point::of_folder(name.to_str()?)).collect();
        points.sort_unstable();
        points
    }

    /// The newest whole checkpoint at or before `limit`, and the damaged ones after it, each of which is logged; none
    /// where there is no checkpoint at all.
    ///
    /// # Errors
    /// Where there are checkpoints and all of them are damaged: what is wrong with the newest.
    pub fn newest(checkpoints: &Path, limit: Point) -> Result<(Option<Self>, Vec<PathBuf>), TrainError> {
        let mut damaged = Vec::new();
        for point in Self::list(checkpoints).into_iter().rev().filter(|point| *point <= limit) {
            match Self::open(&checkpoints.join(point.folder())) {
                Ok(checkpoint) => {
                    for error in &damaged {
                        log::warn!("{error}; {} is used instead", checkpoint.dir.display());
                    }
                    let dirs = damaged.into_iter().filter_map(|error| match error {
                        TrainError::CheckpointDamaged { dir, .. } => Some(dir),
                        _ => None,
                    });
                    return Ok((Some(checkpoint), dirs.collect()));
                }
                Err(error) => damaged.push(error),
            }
        }
        match damaged.into_iter().next() {
            None => Ok((None, Vec::new())),
            Some(newest) => Err(newest),
        }
    }

    /// Removes all but the `keep` newest checkpoints and that of step 0, which the KL term and replays start from.
    ///
    /// # Errors
    /// A folder that cannot be removed.
    pub fn prune(checkpoints: &Path, keep: usize) -> Result<(), TrainError> {
        let points: Vec<Point> = Self::list(checkpoints).into_iter().filter(|p| *p != Point::Step(0)).collect();
        for point in &points[..points.len().saturating_sub(keep)] {
            let place = checkpoints.join(point.folder());
            // Renamed first: what is cut short while it is removed is no checkpoint any more.
            let aside = durable::aside(&place);
            durable::rename(&place, &aside)?;
            fs::remove_dir_all(&aside).map_err(|source| TrainError::Write { file: place, source })?;
        }
        Ok(())
    }

    /// Moves a damaged checkpoint out of the way and returns where it is now.
    ///
    /// # Errors
    /// A folder that cannot be renamed.
    pub fn set_aside(dir: &Path) -> Result<PathBuf, TrainError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let free = |n: usize| dir.with_file_name(format!("damaged_{n}_{name}"));
        let place = (1..).map(free).find(|place| !place.exists()).unwrap_or_else(|| free(0));
        durable::rename(dir, &place)?;
        Ok(place)
    }

    /// The checkpoint's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The policy, a Hugging Face folder.
    pub fn policy(&self) -> PathBuf {
        self.dir.join(POLICY)
    }

    /// The optimizer's moments; there are none at the start of a stage.
    pub fn optimizer(&self) -> Option<PathBuf> {
        Some(self.dir.join(OPTIMIZER)).filter(|file| file.exists())
    }
}

const POLICY: &str = "policy";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

fn write(aside: &Path, policy: &Policy, optimizer: Option<&AdamW>, state: &State) -> Result<(), TrainError> {
    let failed = |source| TrainError::Write { file: aside.into(), source };
    if aside.exists() {
        fs::remove_dir_all(aside).map_err(failed)?;
    }
    policy.save(&aside.join(POLICY))?;
    if let Some(optimizer) = optimizer {
        optimizer.save(&aside.join(OPTIMIZER), &policy.model)?;
    }
    let text = serde_json::to_vec_pretty(state).map_err(|e| failed(e.into()))?;
    fs::write(aside.join(STATE), text).map_err(failed)?;
    manifest::write(aside)?;
    durable::sync_tree(aside).map_err(failed)
}
