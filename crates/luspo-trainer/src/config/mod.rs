//! The configuration of a run: TOML sections whose words are verl's where verl has the thing.

mod algorithm;
mod algorithm_parts;
mod check;
mod check_algorithm;
mod critic;
mod keys;
mod learning;
mod load;
mod lora;
mod rollout;
mod sections;

pub use algorithm::{AlgorithmConfig, OldLogProbs, RatioLevel, ScaleRewards};
pub use algorithm_parts::{
    ControlKind, EntropyControlConfig, FilterGroupsConfig, GroupMetric, KlControlConfig, PolicyLossConfig,
    RolloutCorrectionConfig,
};
pub use critic::CriticConfig;
pub use learning::{LrSchedule, OptimizerConfig, SftConfig};
pub use lora::LoraConfig;
pub use rollout::{AnswersKind, EngineKind, OpenAiConfig, RolloutConfig, WeightUpdates};
pub use sections::{DataConfig, EvalConfig, InitConfig, LoggingConfig, ModelConfig, RunConfig, TrainerConfig};

use luspo_reward::RewardConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that decides what a run does.
///
/// Read it with [`Config::load`]; paths are relative to the working directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name, folder, seed and backend.
    pub run: RunConfig,
    /// The policy to start from.
    pub model: ModelConfig,
    /// Prompts, and the lengths they are cut to.
    pub data: DataConfig,
    /// Supervised warm-up before the first step; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft: Option<SftConfig>,
    /// How answers are sampled.
    pub rollout: RolloutConfig,
    /// How answers are scored.
    pub reward: RewardConfig,
    /// How scores become a loss.
    pub algorithm: AlgorithmConfig,
    /// The value model, where the advantages need one.
    pub critic: CriticConfig,
    /// How gradients become an update.
    pub optimizer: OptimizerConfig,
    /// Sizes and frequencies of the loop.
    pub trainer: TrainerConfig,
    /// How validation answers are sampled.
    pub eval: EvalConfig,
    /// What a run tells of itself.
    pub logging: LoggingConfig,
}
