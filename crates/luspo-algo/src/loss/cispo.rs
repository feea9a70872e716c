//! CISPO: clipped importance sampling policy optimization.
//!
//! ```text
//! L(θ) = agg[ −sg(ŵₜ) Âₜ log π(yₜ) ],   ŵₜ = clip(rₜ, 1−ε_low, 1+ε_high)
//! rₜ   = π(yₜ) / π_old(yₜ)
//! ```
//!
//! arXiv 2506.13585. Not the term but the importance weight is clipped, so that every token keeps a gradient. There are
//! two conventions of its bounds: verl's are distances from 1 (above), TRL's is the largest weight itself, without a
//! smallest one, ŵₜ = min(rₜ, `cispo_max_ratio`).

use burn::config::Config;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip::{self, ClipRange};
use crate::error::{AlgoError, in_range};
use crate::measure::{ratios, share};
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
use crate::ratio;

/// Token-level policy gradient with a clipped importance weight.
///
/// ```text
/// L(θ) = agg[ −sg(ŵₜ) Âₜ log π(yₜ) ],   ŵₜ = clip(rₜ, 1−ε_low, 1+ε_high), or min(rₜ, cispo_max_ratio)
/// ```
#[derive(Config, Debug)]
pub struct Cispo {
    /// Distance of the smallest weight from 1, in [0, 1).
    #[config(default = 0.2)]
    pub clip_ratio_low: f64,
    /// Distance of the largest weight from 1, at least 0.
    #[config(default = 0.2)]
    pub clip_ratio_high: f64,
    /// The largest weight, above 0; in place of the other two bounds.
    pub cispo_max_ratio: Option<f64>,
    /// What a token weighs.
    #[config(default = "Aggregation::TokenMean")]
    pub loss_agg_mode: Aggregation,
    /// Bound of |log rₜ| before the weight is clipped; `None` for no bound. verl's value by default.
    #[config(default = "Some(20.0)")]
    pub log_ratio_clamp: Option<f64>,
}

impl Cispo {
    /// The smallest and the largest weight.
    fn bounds(&self) -> (f64, f64) {
        self.cispo_max_ratio.map_or((1.0 - self.clip_ratio_low, 1.0 + self.clip_ratio_high), |max| (0.0, max))
    }
}

impl Settings for Cispo {
    fn check(&self) -> Result<(), AlgoError> {
        ClipRange::new(self.clip_ratio_low, self.clip_ratio_high).check()?;
        self.cispo_max_ratio.map_or(Ok(()), |max| in_range("cispo_max_ratio", max, max > 0.0, "finite and above 0"))
    }

    fn overridden(&self) -> &'static [(&'static str, &'static str)] {
        const BY_MAX: [(&str, &str); 2] =
            [("clip_ratio_low", "cispo_max_ratio"), ("clip_ratio_high", "cispo_max_ratio")];
        if self.cispo_max_ratio.is_some() { &BY_MAX } else { &[] }
    }
}

impl PolicyLoss for Cispo {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let (lower, upper) = self.bounds();
        let log_ratio = ratio::clamp(ratio::token(batch), self.log_ratio_clamp).without_autodiff();
        let weight = clip::weight(log_ratio.clone(), lower, upper);
        let above = log_ratio.clone().greater_scalar(upper.ln());
        let clipped = log_ratio.clone().lower_scalar(lower.ln()).bool_or(above);

        let mut metrics = vec![("actor/pg_clipfrac", share(clipped, batch))];
        metrics.extend(ratios(log_ratio, batch));
        let terms = -(weight * batch.advantages.clone() * batch.log_probs.clone());
        Terms { terms, metrics }.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, check_with_weights};

    fn weight(host: &HostBatch, row: usize, t: usize) -> f64 {
        host.log_ratio(row, t).exp().clamp(0.8, 1.2)
    }

    /// The equation, in scalars, with `weights` in place of sg(ŵ).
    fn reference(host: &HostBatch, weights: &[Vec<f64>]) -> f64 {
        let tokens = host.tokens().map(|(row, t)| -weights[row][t] * host.advantages[row][t] * host.log_probs[row][t]);
        tokens.sum::<f64>() / host.totals().tokens as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_with_weights(&Cispo::new(), &HostBatch::random(5, 7), weight, reference);
    }

    #[test]
    fn an_absolute_bound_replaces_both_relative_ones() {
        let loss = Cispo::new().with_cispo_max_ratio(Some(1.1));
        let weight = |host: &HostBatch, row, t| host.log_ratio(row, t).exp().min(1.1);
        check_with_weights(&loss, &HostBatch::random(5, 7), weight, reference);
    }
}
