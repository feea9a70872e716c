//! GMPO: geometric-mean policy optimization.
//!
//! ```text
//! L(θ) = 1/G Σᵢ −Āᵢ ρᵢ,   ρᵢ = exp( 1/|yᵢ| Σₜ eᵢₜ ),   Āᵢ = 1/|yᵢ| Σₜ Âᵢₜ
//! eᵢₜ  = min(δᵢₜ, ε_high) where Âᵢₜ > 0,   max(δᵢₜ, −ε_low) where Âᵢₜ < 0,   δᵢₜ = log π(yᵢₜ) − log π_old(yᵢₜ)
//! ```
//!
//! arXiv 2507.20673. The geometric mean of the ratios, each clipped on the pessimistic side before the mean is taken:
//! GSPO's ratio, which clips the mean itself, with the clip of PPO.

use burn::config::Config;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::error::{AlgoError, in_range};
use crate::measure::{ratios, share};
use crate::policy_loss::{PolicyLoss, PolicyLossOutput};
use crate::ratio;

/// Beside a token weight, whose logarithm is taken; verl's value.
const EPSILON: f64 = 1e-10;

/// Sequence-level objective with the geometric mean of clipped token ratios.
///
/// ```text
/// L(θ) = 1/G Σᵢ −Āᵢ exp( 1/|yᵢ| Σₜ eᵢₜ ),   eᵢₜ = δᵢₜ, at most ε_high where Âᵢₜ > 0, at least −ε_low where Âᵢₜ < 0
/// ```
///
/// A row's term is multiplied by the geometric mean of its token weights, as in verl; a weight of 0 counts as 1e-10.
#[derive(Config, Debug)]
pub struct GeoMean {
    /// Largest decrease of a log-prob that counts where the advantage is negative, in nats, at least 0.
    #[config(default = 0.4)]
    pub clip_ratio_low: f64,
    /// Largest increase of a log-prob that counts where the advantage is positive, in nats, at least 0.
    #[config(default = 0.4)]
    pub clip_ratio_high: f64,
}

impl Settings for GeoMean {
    fn check(&self) -> Result<(), AlgoError> {
        in_range("clip_ratio_low", self.clip_ratio_low, self.clip_ratio_low >= 0.0, "finite and at least 0")?;
        in_range("clip_ratio_high", self.clip_ratio_high, self.clip_ratio_high >= 0.0, "finite and at least 0")
    }
}

impl PolicyLoss for GeoMean {
    fn aggregation(&self) -> Aggregation {
        Aggregation::SeqMeanTokenMean // of −Âᵢₜ ρᵢ, whose mean over a row's tokens is −Āᵢ ρᵢ
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let log_ratio = ratio::token(batch);
        let (low, high) = (-self.clip_ratio_low, self.clip_ratio_high);
        let positive = batch.advantages.clone().greater_scalar(0.0);
        let negative = batch.advantages.clone().lower_scalar(0.0);
        let outside = log_ratio.clone().lower_scalar(low).bool_or(log_ratio.clone().greater_scalar(high));
        let mut metrics = vec![
            ("actor/pg_clipfrac", share(outside.clone().bool_and(positive.clone()), batch)),
            ("actor/pg_clipfrac_lower", share(outside.bool_and(negative.clone()), batch)),
        ];
        metrics.extend(ratios(log_ratio.clone(), batch));

        let too_high = log_ratio.clone().greater_scalar(high).bool_and(positive);
        let too_low = log_ratio.clone().lower_scalar(low).bool_and(negative);
        let weightless = batch.advantages.clone().equal_scalar(0.0);
        let clipped = log_ratio.mask_fill(too_high, high).mask_fill(too_low, low).mask_fill(weightless, 0.0);
        let mean = |values: burn::tensor::Tensor<2>| values.sum_dim(1) / batch.lengths();
        let mut log_weight = mean(clipped);
        if let Some(weights) = &batch.token_weights {
            let padding = batch.mask.clone().bool_not();
            log_weight = log_weight + mean((weights.clone() + EPSILON).log().mask_fill(padding, 0.0));
        }
        let terms = -(log_weight.exp() * batch.advantages.clone());
        PolicyLossOutput { loss: self.aggregation().apply(terms, &batch.mask, totals), metrics }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, check_against};

    /// The equation, in scalars, with both bounds at 0.1.
    fn reference(host: &HostBatch) -> f64 {
        let rows = (0..host.rows()).filter(|&row| host.length(row) > 0).map(|row| {
            let tokens = || host.tokens().filter(move |&(r, _)| r == row).map(|(_, t)| t);
            let mean = |of: &dyn Fn(usize) -> f64| tokens().map(of).sum::<f64>() / host.length(row) as f64;
            let clipped = |t: usize| match host.advantages[row][t] {
                advantage if advantage > 0.0 => host.log_ratio(row, t).min(0.1),
                advantage if advantage < 0.0 => host.log_ratio(row, t).max(-0.1),
                _ => 0.0,
            };
            let weight = |t: usize| host.token_weights.as_ref().map_or(0.0, |weights| (weights[row][t] + 1e-10).ln());
            -mean(&|t| host.advantages[row][t]) * (mean(&clipped) + mean(&weight)).exp()
        });
        rows.sum::<f64>() / host.totals().sequences as f64
    }

    fn loss() -> GeoMean {
        GeoMean::new().with_clip_ratio_low(0.1).with_clip_ratio_high(0.1)
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_against(&loss(), &HostBatch::random(6, 7), reference);
        check_against(&loss(), &HostBatch::random(6, 7).with_row_advantages(), reference);
    }

    #[test]
    fn token_weights_count_by_their_geometric_mean() {
        check_against(&loss(), &HostBatch::random(6, 7).with_random_token_weights(), reference);
    }

    #[test]
    fn a_token_without_advantage_has_no_part_in_the_ratio() {
        let mut host = HostBatch::random(6, 7);
        host.advantages[0][1] = 0.0;
        check_against(&loss(), &host, reference);
    }
}
