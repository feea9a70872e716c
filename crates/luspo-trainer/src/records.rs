//! What a step leaves in the run folder: its metrics, its answers, and the journal that a replay compares with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use luspo_core::durable;
use serde::{Deserialize, Serialize};

use crate::recipe::StepDone;
use crate::session::Session;
use crate::tensorboard::TensorBoard;
use crate::{Metrics, TrainError, rollout_rows, write_rollouts};

/// `journal/step_NNNNNN.json`: what must come out again when a step is repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    pub step: usize,
    /// The run's length at that time, on which a learning rate may depend.
    pub total_training_steps: usize,
    pub generator: GeneratorKey,
    /// Rows of the training data, in the order of the groups.
    pub prompt_ids: Vec<u64>,
    /// The step's answers, relative to the run folder; absent where `logging.rollouts` is off.
    pub rollouts: Option<String>,
    /// SHA-256 of the policy's parameters, or of its adapters', before and after the step.
    pub policy_before: String,
    pub policy_after: String,
    /// What the step measured, validation and times excepted. Text, because a JSON number may be read back one bit off.
    pub metrics: BTreeMap<String, String>,
}

/// The coordinates of the step's random numbers; each answer adds its prompt and its sample, each token its position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GeneratorKey {
    pub seed: u64,
    pub purpose: String,
    pub step: usize,
}

impl Journal {
    /// What a step did that began with the policy `before`.
    pub fn of(run: &Session, done: &StepDone, total_training_steps: usize, before: String) -> Self {
        let rollouts = run.folder.rollouts(done.step);
        let relative = rollouts.strip_prefix(run.folder.path()).unwrap_or(&rollouts).to_string_lossy().into_owned();
        Self {
            step: done.step,
            total_training_steps,
            generator: GeneratorKey { seed: run.config.run.seed, purpose: "rollout".into(), step: done.step },
            prompt_ids: done.prompts.iter().map(|prompt| prompt.id).collect(),
            rollouts: run.config.logging.rollouts.then_some(relative),
            policy_before: before,
            policy_after: run.policy.sha256(),
            metrics: repeatable(&done.log.clone().finish(done.lr)),
        }
    }

    /// Reads a journal.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read(file).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
        serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", file.display()))
    }
}

/// The metrics that come out again, exactly, when the step is repeated.
fn repeatable(metrics: &Metrics) -> BTreeMap<String, String> {
    let timed = |name: &str| {
        // How often a reward's process was replaced depends on which one was given which answer.
        let restart = name.starts_with("reward/errors/") && name.ends_with("/restart");
        name.starts_with("timing_s/") || name.starts_with("perf/") || restart
    };
    metrics.iter().filter(|(name, _)| !timed(name)).map(|(name, value)| (name.into(), value.to_string())).collect()
}

/// The files that grow with every step.
pub(crate) struct Records {
    steps: usize,
    tensorboard: Option<TensorBoard>,
    /// SHA-256 of the policy as it is now.
    policy: String,
}

impl Records {
    /// Begins with the step after those that are done; `steps` is the run's length.
    pub fn open(run: &Session, steps: usize) -> Result<Self, TrainError> {
        let done = run.steps_done() as u64;
        let mut tensorboard = match run.config.logging.tensorboard {
            true => Some(TensorBoard::create(run.folder.path(), if done == 0 { 0 } else { done + 1 })?),
            false => None,
        };
        if let (0, Some(tensorboard), Some(before)) = (done, &mut tensorboard, &run.before) {
            let mut metrics = Metrics::of_step(0);
            metrics.extend(before.metrics());
            tensorboard.write(&metrics)?;
        }
        Ok(Self { steps, tensorboard, policy: run.policy.sha256() })
    }

    /// Writes the step's answers and its journal.
    pub fn journal(&mut self, run: &Session, done: &StepDone) -> Result<(), TrainError> {
        if run.config.logging.rollouts {
            let file = run.folder.rollouts(done.step);
            write_rollouts(&file, &rollout_rows(&run.policy, &done.prompts, &done.samples, run.config.rollout.n)?)?;
        }
        let journal = Journal::of(run, done, self.steps, std::mem::take(&mut self.policy));
        self.policy.clone_from(&journal.policy_after);
        let file = run.folder.journal(done.step);
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).map_err(TrainError::write(dir))?;
        }
        let text = serde_json::to_vec_pretty(&journal).map_err(Into::into);
        text.and_then(|text| durable::write(&file, &text)).map_err(TrainError::write(&file))
    }

    /// Writes the step's metrics.
    pub fn metrics(&mut self, run: &Session, metrics: &Metrics) -> Result<(), TrainError> {
        if run.config.logging.jsonl {
            run.folder.append("metrics.jsonl", metrics)?;
        }
        match &mut self.tensorboard {
            Some(tensorboard) => tensorboard.write(metrics),
            None => Ok(()),
        }
    }
}
