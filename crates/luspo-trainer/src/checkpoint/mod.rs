//! Checkpoints are transactions: written aside, flushed, hashed, renamed. One that is there is whole, or says where it
//! is not.

mod manifest;
mod point;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use luspo_core::durable;
use serde::{Deserialize, Serialize};

pub use point::Point;

use crate::critic::Critic;
use crate::fingerprint::DataHashes;
use crate::learner::LearnerState;
use crate::{AdamW, Config, Evaluation, Policy, TrainError};

pub(crate) use manifest::{hex, sha256_of};

/// What a checkpoint says beside its weights and moments.
///
/// Nothing else is needed: the order of the prompts, the learning rate and every random number are functions of the
/// configuration, the seed, the step, and how many batches of prompts were drawn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// After which step.
    pub after: Point,
    /// Seed of the generator; with the step it is the generator's state.
    pub seed: u64,
    /// Batches of training prompts that were drawn; one a step, and more with dynamic sampling.
    pub batches_drawn: u64,
    /// Counts and coefficients of what learns.
    pub learner: LearnerState,
    /// SHA-256 of the data in the order in which the run reads it; data that changed cannot be gone on with.
    pub data: DataHashes,
    /// SHA-256 of the frozen reference policy, where a KL term needs it.
    pub reference: Option<String>,
    /// Fingerprint of the frozen base, where adapters are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Commits of the models that the configuration names by their name at the hub, by that name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub commits: BTreeMap<String, String>,
    /// The validation before the first step, for the summary at the end.
    pub before: Option<Evaluation>,
    /// The newest validation, for the same.
    pub validation: Option<Evaluation>,
}

/// What a checkpoint holds of models and their optimizers.
pub(crate) struct Models<'a> {
    pub policy: &'a Policy,
    pub optimizer: Option<&'a AdamW>,
    pub critic: Option<&'a Critic>,
}

/// A checkpoint on disk whose files are what was written.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// What it says beside its weights.
    pub state: State,
}

impl Checkpoint {
    /// Writes a checkpoint of a run of this configuration into the folder `checkpoints`, and returns its place.
    ///
    /// # Errors
    /// A folder that cannot be written; nothing of the new checkpoint is left then, and the others are as they were.
    pub(crate) fn save(
        checkpoints: &Path,
        config: &Config,
        models: &Models<'_>,
        state: &State,
    ) -> Result<PathBuf, TrainError> {
        let place = checkpoints.join(state.after.folder());
        let aside = durable::aside(&place);
        let written = write(&aside, config, models, state)
            .and_then(|()| durable::rename(&aside, &place).map_err(TrainError::write(&place)));
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

    /// The checkpoints of a folder, oldest first, whole or not.
    ///
    /// # Errors
    /// A folder that is missing or cannot be read.
    pub fn list(checkpoints: &Path) -> Result<Vec<Point>, TrainError> {
        let names = || fs::read_dir(checkpoints)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
        let names = names().map_err(|source| TrainError::NoCheckpoints { dir: checkpoints.into(), source })?;
        let mut points: Vec<Point> = names.iter().filter_map(|name| Point::of_folder(name.to_str()?)).collect();
        points.sort_unstable();
        Ok(points)
    }

    /// The newest whole checkpoint at or before `limit`, and the damaged ones after it, each of which is logged; none
    /// where there is no checkpoint at all.
    ///
    /// # Errors
    /// A folder that cannot be read. Where there are checkpoints and all of them are damaged: what is wrong with the
    /// newest.
    pub fn newest(checkpoints: &Path, limit: Point) -> Result<(Option<Self>, Vec<PathBuf>), TrainError> {
        let mut damaged = Vec::new();
        for point in Self::list(checkpoints)?.into_iter().rev().filter(|point| *point <= limit) {
            match Self::open(&checkpoints.join(point.folder())) {
                Ok(Self { dir, state }) if state.after != point => {
                    let problem = format!("it holds the checkpoint of {}", state.after);
                    damaged.push(TrainError::CheckpointDamaged { dir, problem });
                }
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
        let points: Vec<Point> = Self::list(checkpoints)?.into_iter().filter(|p| *p != Point::Step(0)).collect();
        for point in &points[..points.len().saturating_sub(keep)] {
            let place = checkpoints.join(point.folder());
            // Renamed first: what is cut short while it is removed is no checkpoint any more.
            let aside = durable::aside(&place);
            durable::rename(&place, &aside)
                .and_then(|()| fs::remove_dir_all(&aside))
                .map_err(TrainError::write(&place))?;
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
        durable::rename(dir, &place).map_err(TrainError::write(&place))?;
        Ok(place)
    }

    /// The checkpoint's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The run's configuration as it was then.
    pub fn config(&self) -> PathBuf {
        self.dir.join(CONFIG)
    }

    /// The policy, a Hugging Face folder, or where adapters are trained that of the adapter.
    pub fn policy(&self) -> PathBuf {
        self.dir.join(POLICY)
    }

    /// The optimizer's moments; there are none at the start of a stage.
    pub fn optimizer(&self) -> Option<PathBuf> {
        Some(self.dir.join(OPTIMIZER)).filter(|file| file.exists())
    }

    /// The critic, a Hugging Face folder, where the run has one.
    pub fn critic(&self) -> Option<PathBuf> {
        Some(self.dir.join(CRITIC)).filter(|dir| dir.exists())
    }

    /// The moments of the critic's optimizer.
    pub fn critic_optimizer(&self) -> Option<PathBuf> {
        Some(self.dir.join(CRITIC_OPTIMIZER)).filter(|file| file.exists())
    }

    /// Data that changed since the checkpoint would make another run of it.
    pub(crate) fn check_data(&self, data: &DataHashes) -> Result<(), TrainError> {
        match self.state.data.difference(data) {
            None => Ok(()),
            Some(part) => Err(TrainError::Mismatch(format!(
                "the {part} are not those that this run began with (their hash in {} differs); put the files back, or \
                 start a new run",
                self.dir.display()
            ))),
        }
    }
}

const CONFIG: &str = "config.toml";
const POLICY: &str = "policy";
const OPTIMIZER: &str = "optimizer.safetensors";
const CRITIC: &str = "critic";
const CRITIC_OPTIMIZER: &str = "critic_optimizer.safetensors";
const STATE: &str = "state.json";

fn write(aside: &Path, config: &Config, models: &Models<'_>, state: &State) -> Result<(), TrainError> {
    if aside.exists() {
        fs::remove_dir_all(aside).map_err(TrainError::write(aside))?;
    }
    let Models { policy, optimizer, critic } = models;
    policy.save(&aside.join(POLICY))?;
    if let Some(optimizer) = optimizer {
        optimizer.save(&aside.join(OPTIMIZER), policy.model.parameter_names())?;
    }
    if let Some(critic) = critic {
        critic.save(&aside.join(CRITIC), &policy.config)?;
        critic.optimizer.save(&aside.join(CRITIC_OPTIMIZER), critic.model.parameter_names())?;
    }
    let file = aside.join(CONFIG);
    fs::write(&file, config.to_toml()?).map_err(TrainError::write(&file))?;
    let (file, text) = (aside.join(STATE), serde_json::to_vec_pretty(state).map_err(Into::into));
    text.and_then(|text| fs::write(&file, text)).map_err(TrainError::write(&file))?;
    manifest::write(aside)?;
    durable::sync_tree(aside).map_err(TrainError::write(aside))
}
