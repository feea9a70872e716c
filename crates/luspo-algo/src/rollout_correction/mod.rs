//! Correction for a sampler whose log-probs are not the trainer's: another engine, another precision, older weights.
//!
//! With ρₜ = log π_old(yₜ) − log π_rollout(yₜ):
//!
//! - [importance weights](RolloutCorrectionOptions::rollout_is) multiply a token's term in the policy loss, per token
//!   exp(ρₜ) or per sequence exp(Σ ρₜ), bounded by truncation or by a mask (IcePop);
//! - [rejection](RolloutCorrectionOptions::rollout_rs) takes tokens or whole sequences out of the mask.
//!
//! Names, thresholds and metrics are verl's; TRL's four modes are reached through
//! [`rollout_is_mode`](RolloutCorrectionOptions::rollout_is_mode).

mod divergence;
mod importance;
mod rejection;
#[cfg(test)]
mod tests;
mod threshold;

use luspo_core::Collective;

use crate::error::AlgoError;
use crate::masked;
use importance::Importance;
use rejection::Rule;

/// Bound on a log-ratio before it is exponentiated.
const SAFETY_BOUND: f64 = 20.0;

/// What a config says of the correction. Without `rollout_is` and `rollout_rs` the mismatch is measured only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutCorrectionOptions {
    /// Level of the importance weights, `token` or `sequence`; absent for none.
    pub rollout_is: Option<String>,
    /// Bounds of the weights: one number, the upper bound (2.0 if absent), or `lower_upper` as in `0.5_5.0`. `inf` is an
    /// upper bound that never binds.
    pub rollout_is_threshold: Option<String>,
    /// What happens to a weight outside its bounds: `truncate` sets it to the bound, `mask` to 0. If absent, an upper
    /// bound truncates and two bounds mask, as in verl.
    pub rollout_is_mode: Option<String>,
    /// Whether the weights are divided by their mean over the batch: over tokens at token level, over sequences at
    /// sequence level.
    pub rollout_is_batch_normalize: bool,
    /// Rules of rejection, a comma list of `{token,seq_sum,seq_mean}_{k1,k2,k3}` and `seq_max_{k2,k3}`: the divergence k1
    /// = −ρ, k2 = ρ²/2 or k3 = e^ρ − 1 − ρ of a token, or its sum, mean or maximum over a sequence. A token stays if
    /// all rules let it.
    pub rollout_rs: Option<String>,
    /// The largest divergence that each rule lets pass, a comma list, or one for all. For k1 it bounds the ratio
    /// π_rollout/π_old: `lower_upper`, or `u` for `1/u` to `u`.
    pub rollout_rs_threshold: Option<String>,
}

/// A correction ready to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutCorrection {
    importance: Option<Importance>,
    rules: Vec<Rule>,
}

/// What a correction says of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Correction {
    /// Factors of the tokens' terms, for [`PolicyBatch::with_token_weights`](crate::PolicyBatch::with_token_weights); 0
    /// outside the mask. They are constants: no gradient goes through them.
    pub weights: Option<Vec<Vec<f64>>>,
    /// The mask without what was rejected.
    pub mask: Vec<Vec<bool>>,
    /// Measurements of this process's rows, named `rollout_corr/…` as in verl: means over rows count a row without
    /// response tokens too, with ratio 1 and weight 0. Empty for a batch without any response token.
    pub metrics: Vec<(String, f64)>,
}

impl RolloutCorrection {
    /// The correction of a config.
    ///
    /// # Errors
    /// If a name is unknown, a threshold is missing or cannot be read, or an option is given that has no effect.
    pub fn new(options: &RolloutCorrectionOptions) -> Result<Self, AlgoError> {
        Ok(Self { importance: Importance::new(options)?, rules: rejection::rules(options)? })
    }

    /// Compares the log-probs of a step's tokens under the trainer's policy with those that the sampler reported, in
    /// nats. A token whose sampler's log-prob is NaN (not reported) counts as having the trainer's.
    ///
    /// # Errors
    /// If the shapes differ, or another log-prob of a response token is not finite.
    pub fn apply(
        &self,
        old_log_probs: &[Vec<f64>],
        rollout_log_probs: &[Vec<f64>],
        mask: &[Vec<bool>],
        collective: &dyn Collective,
    ) -> Result<Correction, AlgoError> {
        masked::check_shape("old_log_probs", old_log_probs, mask)?;
        masked::check_shape("rollout_log_probs", rollout_log_probs, mask)?;
        masked::check_finite("old_log_probs", old_log_probs, mask)?;
        let rollout = masked::fill(mask, |row, t| match rollout_log_probs[row][t] {
            missing if missing.is_nan() => old_log_probs[row][t],
            reported => reported,
        });
        masked::check_finite("rollout_log_probs", &rollout, mask)?;
        let log_ratio = masked::fill(mask, |row, t| old_log_probs[row][t] - rollout[row][t]);

        let mut metrics = Metrics::default();
        let weights = self.importance.as_ref().map(|importance| {
            let weights = importance.weights(&log_ratio, mask, &mut metrics);
            importance.normalised(weights, mask, collective, &mut metrics)
        });
        let kept = rejection::keep(&self.rules, &log_ratio, mask, &mut metrics);
        divergence::measure(old_log_probs, &rollout, mask, &mut metrics);
        if !mask.iter().flatten().any(|&inside| inside) {
            metrics.0.clear();
        }
        Ok(Correction { weights, mask: kept, metrics: metrics.0 })
    }
}

/// Measurements under verl's names.
#[derive(Default)]
struct Metrics(Vec<(String, f64)>);

impl Metrics {
    fn push(&mut self, name: impl AsRef<str>, value: f64) {
        self.0.push((format!("rollout_corr/{}", name.as_ref()), value));
    }
}

/// The share of numbers that `holds` is true for.
fn share(values: impl Iterator<Item = f64>, holds: impl Fn(f64) -> bool) -> f64 {
    masked::mean_of(values.map(|value| f64::from(u8::from(holds(value)))))
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, f64::max)
}

fn smallest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

/// The standard deviation of numbers after they were brought into bounds.
fn bounded_deviation(values: impl Iterator<Item = f64> + Clone, lower: f64, upper: f64) -> f64 {
    let bounded = values.map(|value| value.clamp(lower, upper));
    let mean = masked::mean_of(bounded.clone());
    masked::mean_of(bounded.map(|value| (value - mean).powi(2))).sqrt()
}

/// The unbiased standard deviation; 0 of a single number.
fn deviation(values: impl Iterator<Item = f64> + Clone) -> f64 {
    masked::mean_and_variance(values, &luspo_core::Local).1.sqrt()
}
