//! The tables below `[algorithm]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[algorithm.policy_loss]`: what single objectives have beside the clip range. A key that the objective does not read
/// is an error; an absent one takes the objective's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyLossConfig {
    /// A cap on the ratio for either sign of the advantage (TRL's `delta`), of the clipped objectives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Temperature of `sapo` for positive advantages; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau_pos: Option<f64>,
    /// Temperature of `sapo` for negative advantages; default 1.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau_neg: Option<f64>,
    /// The largest ratio of `cispo`, itself and not a distance from 1 (TRL's convention), instead of the clip range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cispo_max_ratio: Option<f64>,
    /// Share of an update's tokens that `clip_cov` drops; default 2e-4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_cov_ratio: Option<f64>,
    /// Lower bound of the covariances that `clip_cov` chooses from; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_cov_lb: Option<f64>,
    /// Upper bound of the covariances that `clip_cov` chooses from; default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_cov_ub: Option<f64>,
    /// Share of an update's tokens that `kl_cov` penalises; default 2e-4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_cov_ratio: Option<f64>,
    /// Factor of the penalty of `kl_cov`; default 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo_kl_coef: Option<f64>,
    /// The β of `dro`, which has no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dro_beta: Option<f64>,
    /// Exponent k of `vespo` for advantages of at least 0; default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vespo_k_pos: Option<f64>,
    /// Rate λ of `vespo` for advantages of at least 0; default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vespo_lambda_pos: Option<f64>,
    /// Exponent k of `vespo` for negative advantages; default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vespo_k_neg: Option<f64>,
    /// Rate λ of `vespo` for negative advantages; default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vespo_lambda_neg: Option<f64>,
}

/// Whether a coefficient moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ControlKind {
    /// It stays.
    #[default]
    Fixed,
    /// It moves towards a target.
    Adaptive,
}

/// `[algorithm.kl_ctrl]`: the factor of the KL penalty in the reward (arXiv 1909.08593).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KlControlConfig {
    /// Whether the factor moves.
    #[serde(rename = "type")]
    pub kind: ControlKind,
    /// The factor, or its first value.
    pub kl_coef: f64,
    /// The KL, in nats a token, that an adaptive factor moves towards.
    pub target_kl: f64,
    /// Answers after which an adaptive factor has changed by one error, about.
    pub horizon: f64,
}

impl Default for KlControlConfig {
    fn default() -> Self {
        Self { kind: ControlKind::Fixed, kl_coef: 0.001, target_kl: 0.1, horizon: 10_000.0 }
    }
}

/// `[algorithm.entropy_ctrl]`: the weight of the entropy bonus rises after each update whose entropy is at or below a
/// target, and falls after the others; the bonus is applied in the former case alone. Absent: the weight stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EntropyControlConfig {
    /// The entropy to keep, in nats a token.
    pub target: f64,
    /// By how much the weight moves after an update.
    pub delta: f64,
    /// The least weight.
    pub min: f64,
    /// The largest weight.
    pub max: f64,
}

impl Default for EntropyControlConfig {
    fn default() -> Self {
        Self { target: 0.2, delta: 0.005, min: 0.0, max: 1.0 }
    }
}

/// `[algorithm.rollout_correction]`: for samplers whose log-probs are not the trainer's. Off by default: the built-in
/// sampler's are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutCorrectionConfig {
    /// Weighs tokens by π_old / π_sampler: `token`, or `sequence` for the product over the answer; absent: no weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_is: Option<String>,
    /// The largest weight (larger ones become it), or `LOW_HIGH`: weights outside become 0 (IcePop); default `"2.0"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_is_threshold: Option<String>,
    /// What becomes of weights beyond the threshold: `truncate` or `mask`; default: truncated above one number, masked
    /// outside of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_is_mode: Option<String>,
    /// Whether weights are divided by their mean.
    pub rollout_is_batch_normalize: bool,
    /// What is left out of the update, by comma: `token_k1`, `seq_sum_k1`, `seq_mean_k1` and the same with `k2` and
    /// `k3`, `seq_max_k2`, `seq_max_k3`; absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_rs: Option<String>,
    /// Their bounds, by comma: one upper bound each, or for `k1` also `LOW_HIGH` in ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_rs_threshold: Option<String>,
}

/// What makes a group of answers say something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupMetric {
    /// Right and wrong answers in it, whatever the shaping says.
    #[default]
    Acc,
    /// Different total rewards in it.
    Score,
}

/// `[algorithm.filter_groups]`: replaces groups of answers that say nothing, DAPO's dynamic sampling (arXiv 2503.14476,
/// 3.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilterGroupsConfig {
    /// Whether groups that say nothing are replaced by those of further prompts.
    pub enable: bool,
    /// What a group needs variance in.
    pub metric: GroupMetric,
    /// Batches of prompts that a step may sample. A step that has too few groups by then, or after every prompt, is
    /// filled up with the ones it filtered, and says so.
    pub max_num_gen_batches: usize,
}

impl Default for FilterGroupsConfig {
    fn default() -> Self {
        Self { enable: false, metric: GroupMetric::Acc, max_num_gen_batches: 10 }
    }
}
