//! What can be said of a run before its weights load: the arithmetic of its batches, the memory that it takes, and what
//! it needs that is not there.

mod batches;
mod data;
mod disk;
mod fit;
mod memory;
mod published;
mod sources;

use luspo_model::Qwen2Config;
use serde::Serialize;

use crate::{Config, TrainError};

pub use batches::Batches;
pub use data::{DataPlan, Prompts};
pub use disk::Disk;
pub(crate) use disk::disk_warning;
pub use fit::{Machine, Saving, size};
pub use memory::{Held, Memory, Phase};

/// What can be said of a run before its weights load.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The policy, where its shape is known.
    pub model: Option<ModelPlan>,
    /// How a step's answers are sampled and gone through.
    pub batches: Batches,
    /// The memory that the run takes with rows as long as they may be, where the policy's shape is known.
    pub memory: Option<Memory>,
    /// Settings that would take less of it, the one that saves most first.
    pub savings: Vec<Saving>,
    /// The space that its checkpoints take, where the policy's shape is known.
    pub disk: Option<Disk>,
    /// What the run needs and is not there, a sentence each.
    pub missing: Vec<String>,
}

/// The policy of a run.
#[derive(Clone, Debug, Serialize)]
pub struct ModelPlan {
    /// Where its shape comes from.
    pub source: String,
    /// Number of parameters.
    pub parameters: usize,
    /// Their number type.
    pub dtype: String,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The backend that the run computes on.
    pub backend: String,
}

impl Plan {
    /// The plan of a configuration's run. Reads no data, no tokenizer but one whose size it needs, and of
    /// weights nothing but the number types of a base of adapters.
    ///
    /// # Errors
    /// A model's `config.json` that is damaged or not supported; sizes that do not go together.
    pub fn of(config: &Config) -> Result<Self, TrainError> {
        let mut missing = sources::missing(config);
        let policy = sources::policy(config)?;
        let mut plan = Self {
            model: None,
            batches: Batches::of(config),
            memory: None,
            savings: Vec::new(),
            disk: None,
            missing: Vec::new(),
        };
        if let Some((source, policy)) = policy {
            let mut config = config.clone();
            config.settle(&policy);
            let config = &config;
            let critic = sources::critic(config)?.unwrap_or_else(|| policy.clone());
            let lengths = Lengths::of(config);
            let memory = Memory::of(config, &policy, &critic, &lengths);
            plan.savings = fit::savings(config, [&policy, &critic], &lengths, &memory);
            plan.memory = Some(memory);
            plan.disk = Some(Disk::of(config, &policy, &critic));
            plan.model = Some(ModelPlan::of(config, source, &policy));
        } else {
            missing.push("the shape of the policy is not known, so that its memory cannot be predicted".into());
        }
        plan.missing = missing;
        Ok(plan)
    }

    /// Refuses a run that takes more memory than `machine` has.
    ///
    /// # Errors
    /// [`TrainError::Memory`].
    pub fn check_memory(&self, machine: &Machine) -> Result<(), TrainError> {
        self.memory.as_ref().map_or(Ok(()), |memory| memory.check(machine, &self.savings))
    }
}

impl ModelPlan {
    fn of(config: &Config, source: String, shape: &Qwen2Config) -> Self {
        Self {
            source,
            parameters: shape.num_params(),
            dtype: config.dtype().to_string(),
            num_hidden_layers: shape.num_hidden_layers,
            hidden_size: shape.hidden_size,
            vocab_size: shape.vocab_size,
            backend: config.run.backend.to_string(),
        }
    }
}

/// The longest there is of each, in tokens, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Of the prompts.
    pub prompt: usize,
    /// Of the answers.
    pub response: usize,
    /// Of the warm-up's examples, prompt and answer together.
    pub example: usize,
    /// Answers that a validation samples.
    pub validation: usize,
}

impl Lengths {
    /// What a configuration allows.
    pub fn of(config: &Config) -> Self {
        let (prompt, response) = (config.data.max_prompt_length, config.data.max_response_length);
        let validation = match &config.data.task {
            Some(task) => task.val_prompts().saturating_mul(config.eval.val_n),
            None if config.data.val_files.is_empty() => 0,
            None => usize::MAX,
        };
        Self { prompt, response, example: prompt + response, validation }
    }

    /// No longer than this configuration allows.
    pub fn within(&self, config: &Config) -> Self {
        let most = Self::of(config);
        Self {
            prompt: self.prompt.min(most.prompt),
            response: self.response.min(most.response),
            example: self.example.min(most.example),
            validation: self.validation,
        }
    }
}

/// Refuses a run that takes more memory than there is, before anything large is made.
pub(crate) fn check_memory(config: &Config, policy: &Qwen2Config, lengths: &Lengths) -> Result<(), TrainError> {
    let critic = sources::critic(config)?.unwrap_or_else(|| policy.clone());
    let memory = Memory::of(config, policy, &critic, lengths);
    let machine = Machine::here(config.run.backend);
    match memory.check(&machine, &[]) {
        Ok(()) => Ok(()),
        Err(_) => memory.check(&machine, &fit::savings(config, [policy, &critic], lengths, &memory)),
    }
}
