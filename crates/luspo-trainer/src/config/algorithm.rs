//! The `[algorithm]` section: how scores become advantages, and advantages a loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::algorithm_parts::{
    EntropyControlConfig, FilterGroupsConfig, KlControlConfig, PolicyLossConfig, RolloutCorrectionConfig,
};

/// Which log-probs stand in the denominator of the importance ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OldLogProbs {
    /// The trainer computes them again before the step's first update (simply detached when a step has one update).
    #[default]
    Trainer,
    /// The sampler's own; saves a forward pass.
    Sampler,
}

/// Over which rewards the deviation is taken that advantages are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// Those of the answers to the same prompt.
    #[default]
    Group,
    /// Those of all answers of the step.
    Batch,
}

/// Which importance ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatioLevel {
    /// That of the token.
    Token,
    /// The geometric mean over the sequence.
    Sequence,
}

/// `[algorithm]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AlgorithmConfig {
    /// How scores become advantages: `grpo`, `grpo_passk`, `rloo`, `opo`, `reinforce_plus_plus`,
    /// `reinforce_plus_plus_baseline`, `remax`, `gpg`, `gae` (with a critic), `optimal_token_baseline`, `gdpo` or
    /// `normalize_then_sum`.
    pub adv_estimator: String,
    /// Whether `grpo` and its kin divide by a standard deviation (false: Dr.GRPO).
    pub norm_adv_by_std_in_grpo: bool,
    /// Whose standard deviation that is.
    pub scale_rewards: ScaleRewards,
    /// Discount of later rewards, of `gae` and `reinforce_plus_plus`.
    pub gamma: f64,
    /// The λ of `gae`: 1 trusts the rewards, 0 the critic.
    pub lam: f64,
    /// The objective: `vanilla` (`ppo`), `grpo`, `dr_grpo`, `dapo`, `bnpo`, `gspo`, `gspo_token`, `luspo`, `cispo`,
    /// `sapo`, `geo_mean` (`gmpo`), `gpg`, `clip_cov`, `kl_cov`, `dppo_tv`, `dppo_kl`, `dro`, `vespo` or `reinforce`;
    /// `custom` is one that a program brings along.
    pub loss_mode: String,
    /// How token terms become a loss; default: the objective's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_agg_mode: Option<String>,
    /// Distance of the lower clip bound from 1 (of the log-ratio from 0 for `geo_mean`, a divergence for `dppo_tv` and
    /// `dppo_kl`); default: the objective's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_ratio_low: Option<f64>,
    /// The same of the upper clip bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_ratio_high: Option<f64>,
    /// The dual clip of `vanilla`, default 3, or the largest importance weight of `dppo_tv` and `dppo_kl`, default 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_ratio_c: Option<f64>,
    /// Bound on the log-ratio before it is exponentiated, verl's guard against overflow: ±20 for ratios of tokens, 10
    /// from above for those of sequences; 0 turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_ratio_clamp: Option<f64>,
    /// Divisor of `seq-mean-token-sum-norm`; default `data.max_response_length`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale_factor: Option<f64>,
    /// What single objectives have beside the clip range.
    pub policy_loss: PolicyLossConfig,
    /// Whether a KL term to the frozen starting policy is added to the loss.
    pub use_kl_loss: bool,
    /// Weight of the KL term.
    pub kl_loss_coef: f64,
    /// Its estimator: `k1` (`kl`), `abs`, `k2` (`mse`), `k3` (`low_var_kl`) or `k3_unbounded`; with a `+`, the value of
    /// that one and the gradient of k2.
    pub kl_loss_type: String,
    /// Multiplies a token's KL term by the importance ratio (TRL's `use_bias_correction_kl`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_loss_ratio: Option<RatioLevel>,
    /// Whether a KL penalty to the frozen starting policy is taken off the rewards.
    pub use_kl_in_reward: bool,
    /// The estimator of that penalty, as `kl_loss_type`.
    pub kl_penalty: String,
    /// The factor of the KL penalty in the reward.
    pub kl_ctrl: KlControlConfig,
    /// Weight of the entropy bonus; with `entropy_ctrl`, its first value.
    pub entropy_coeff: f64,
    /// How the bonus is aggregated; default: as the objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_agg_mode: Option<String>,
    /// Moves the weight of the entropy bonus towards an entropy; absent: it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_ctrl: Option<EntropyControlConfig>,
    /// Which log-probs the ratio is taken against.
    pub old_log_probs: OldLogProbs,
    /// Weighs or drops what the trainer would have sampled otherwise than the sampler did.
    pub rollout_correction: RolloutCorrectionConfig,
    /// Drops an answer with a negative advantage whose tokens have become less likely than this on average, in nats,
    /// since they were sampled (TRL's off-policy mask); absent: none is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_policy_mask_threshold: Option<f64>,
    /// Trains on this share of an update's tokens, those of highest entropy (arXiv 2506.01939); absent: on all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_entropy_quantile: Option<f64>,
    /// Whether answers that were cut off at `data.max_response_length` are left out of the updates.
    pub mask_truncated_completions: bool,
    /// Replaces groups of answers that say nothing (DAPO's dynamic sampling).
    pub filter_groups: FilterGroupsConfig,
}

impl Default for AlgorithmConfig {
    fn default() -> Self {
        Self {
            adv_estimator: "grpo".into(),
            norm_adv_by_std_in_grpo: true,
            scale_rewards: ScaleRewards::Group,
            gamma: 1.0,
            lam: 1.0,
            loss_mode: "luspo".into(),
            loss_agg_mode: None,
            clip_ratio_low: None,
            clip_ratio_high: None,
            clip_ratio_c: None,
            log_ratio_clamp: None,
            loss_scale_factor: None,
            policy_loss: PolicyLossConfig::default(),
            use_kl_loss: false,
            kl_loss_coef: 0.001,
            kl_loss_type: "low_var_kl".into(),
            kl_loss_ratio: None,
            use_kl_in_reward: false,
            kl_penalty: "kl".into(),
            kl_ctrl: KlControlConfig::default(),
            entropy_coeff: 0.0,
            entropy_agg_mode: None,
            entropy_ctrl: None,
            old_log_probs: OldLogProbs::Trainer,
            rollout_correction: RolloutCorrectionConfig::default(),
            off_policy_mask_threshold: None,
            top_entropy_quantile: None,
            mask_truncated_completions: false,
            filter_groups: FilterGroupsConfig::default(),
        }
    }
}
