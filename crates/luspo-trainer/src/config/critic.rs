//! The `[critic]` section.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LrSchedule, OptimizerConfig};

/// `[critic]`: the value model of `adv_estimator = "gae"`, a trunk like the policy's with a scalar head; it goes through
/// a step's answers in the same updates as the policy. Without `gae` there is none, and the section is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CriticConfig {
    /// A Hugging Face folder to start from, or a model's name as in `model.path`; default: the policy's trunk as it is before the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_path: Option<PathBuf>,
    /// How far a value may move from the one before the step, before its loss is no longer improved.
    pub cliprange_value: f64,
    /// How token terms become a loss.
    pub value_agg_mode: String,
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
}

impl Default for CriticConfig {
    fn default() -> Self {
        Self {
            model_path: None,
            cliprange_value: 0.5,
            value_agg_mode: "token-mean".into(),
            lr: 1e-5,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            lr_warmup_steps: 0,
            lr_schedule: LrSchedule::Constant,
            grad_clip: 1.0,
        }
    }
}

impl CriticConfig {
    /// The critic's optimizer.
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
