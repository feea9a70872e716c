//! The configuration of a run: TOML sections whose words are verl's where verl has the thing.

mod check;
mod keys;
mod load;
mod sections;

pub use sections::{
    AlgorithmConfig, DataConfig, EvalConfig, InitConfig, LoggingConfig, LrSchedule, ModelConfig, OldLogProbs,
    OptimizerConfig, RolloutConfig, RunConfig, SftConfig, TrainerConfig,
};

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
    /// How gradients become an update.
    pub optimizer: OptimizerConfig,
    /// Sizes and frequencies of the loop.
    pub trainer: TrainerConfig,
    /// How validation answers are sampled.
    pub eval: EvalConfig,
    /// What a run tells of itself.
    pub logging: LoggingConfig,
}
