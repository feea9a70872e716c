//! The sections of a [`Config`](super::Config) with an optimizer: the warm-up and the steps of reinforcement learning.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[sft]`: supervised fine-tuning on worked answers, before the first step or alone (`luspo sft`); absent: none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Files in verl's schema whose `extra_info` holds the worked answer; default: the built-in task's.
    pub files: Vec<PathBuf>,
    /// Key of the worked answer in `extra_info`.
    pub answer_key: String,
    /// Optimizer steps.
    pub steps: usize,
    /// Examples an optimizer step.
    pub batch_size: usize,
    /// Examples that are in memory at once; does not change the update. Default: the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Peak learning rate.
    pub lr: f64,
    /// AdamW's decay of the first and second moment.
    pub betas: [f64; 2],
    /// AdamW's ε.
    pub eps: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Steps over which the rate rises linearly from 0.
    pub lr_warmup_steps: usize,
    /// The rate after the warm-up.
    pub lr_schedule: LrSchedule,
    /// Largest global norm of the gradient.
    pub grad_clip: f64,
    /// Save a checkpoint every so many steps of the warm-up; 0: only after the last.
    pub checkpoint_freq: usize,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            answer_key: "answer".into(),
            steps: 1000,
            batch_size: 32,
            micro_batch_size: None,
            lr: 1e-5,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            lr_warmup_steps: 0,
            lr_schedule: LrSchedule::Constant,
            grad_clip: 1.0,
            checkpoint_freq: 0,
        }
    }
}

impl SftConfig {
    /// The warm-up's optimizer.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            lr: self.lr,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            lr_warmup_steps: self.lr_warmup_steps,
            lr_schedule: self.lr_schedule,
            grad_clip: self.grad_clip,
            ..OptimizerConfig::default()
        }
    }
}

/// The learning rate after its warm-up, as a share of its peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// 1 throughout.
    #[default]
    Constant,
    /// From 1 to 0 over the steps after the warm-up, in a straight line.
    Linear,
    /// From 1 to 0 over the steps after the warm-up, along half a cosine.
    Cosine,
    /// 1 until 60 % of all steps, then to 0.05 in a straight line (warm-up, stable, decay).
    Wsd,
}

/// `[optimizer]`: AdamW for the steps of reinforcement learning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, on every parameter as verl does.
    pub weight_decay: f64,
    /// Steps over which the rate rises linearly from 0.
    pub lr_warmup_steps: usize,
    /// The rate after the warm-up.
    pub lr_schedule: LrSchedule,
    /// Largest global norm of the gradient; longer gradients are scaled down to it.
    pub grad_clip: f64,
    /// Keep what AdamW remembers of the parameters (two moments, and with `model.dtype = "bf16"` the f32 masters) in host
    /// memory and compute the update there; one gradient at a time comes from the device, and the new parameter goes back.
    /// The arithmetic is the same, device memory is less, an update takes longer. Of every optimizer of the run: the
    /// critic's and the warm-up's too. On a CPU it is so anyway.
    pub offload: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            lr: 1e-6,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            lr_warmup_steps: 0,
            lr_schedule: LrSchedule::Constant,
            grad_clip: 1.0,
            offload: false,
        }
    }
}

impl OptimizerConfig {
    /// The same, with its state where `offload` says.
    pub(crate) fn offloaded(self, offload: bool) -> Self {
        Self { offload, ..self }
    }
}
