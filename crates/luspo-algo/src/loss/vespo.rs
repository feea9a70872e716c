//! VESPO: a sequence-level policy gradient with a smooth weight.
//!
//! ```text
//! L(θ) = agg[ −sg(φ(wᵢ)) Âᵢₜ log π(yᵢₜ) ],   φ(w) = w^k · e^{λ (1 − w)},   log wᵢ = Σₜ δᵢₜ
//! δᵢₜ  = log π(yᵢₜ) − log π_old(yᵢₜ)
//! ```
//!
//! arXiv 2602.10693, as TRL has it: φ is 1 at w = 1, has its maximum at w = k/λ and falls off on both sides, with k and λ by the sign of
//! the advantage. The ratio w is that of the whole sequence, without a root.

use burn::config::Config;
use burn::tensor::Tensor;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::error::{AlgoError, in_range};
use crate::measure::ratios;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
use crate::ratio;

/// Smallest ratio of a sequence; TRL's value.
const MIN_RATIO: f64 = 1e-8;

/// Policy gradient with a weight that rises and falls with the sequence's ratio.
///
/// ```text
/// L(θ) = agg[ −sg(φ(wᵢ)) Âᵢₜ log π(yᵢₜ) ],   φ(w) = w^k · e^{λ (1 − w)},   log wᵢ = Σₜ log rᵢₜ
/// ```
#[derive(Config, Debug)]
pub struct Vespo {
    /// k where the advantage is not negative, at least 0.
    #[config(default = 2.0)]
    pub vespo_k_pos: f64,
    /// λ where the advantage is not negative, above 0.
    #[config(default = 3.0)]
    pub vespo_lambda_pos: f64,
    /// k where the advantage is negative, at least 0.
    #[config(default = 3.0)]
    pub vespo_k_neg: f64,
    /// λ where the advantage is negative, above 0.
    #[config(default = 2.0)]
    pub vespo_lambda_neg: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::TokenMean")]
    pub loss_agg_mode: Aggregation,
    /// Bound of |log rᵢₜ|, and from above of log wᵢ; `None` for no bound. TRL's value by default.
    #[config(default = "Some(20.0)")]
    pub log_ratio_clamp: Option<f64>,
}

impl Vespo {
    /// φ(wᵢ) with the k and λ of each token's advantage, `[batch, seq]`, without a gradient.
    pub fn weights(&self, batch: &PolicyBatch) -> Tensor<2> {
        let log_ratio = ratio::clamp(ratio::token(batch), self.log_ratio_clamp).without_autodiff();
        let log_w = ratio::clamp_above(log_ratio.sum_dim(1).clamp_min(MIN_RATIO.ln()), self.log_ratio_clamp);
        let phi = |k: f64, lambda: f64| (log_w.clone() * k - (log_w.clone().exp() - 1.0) * lambda).exp();
        let shape = batch.mask.dims();
        let negative = batch.advantages.clone().lower_scalar(0.0);
        let of_negative = phi(self.vespo_k_neg, self.vespo_lambda_neg).expand(shape);
        phi(self.vespo_k_pos, self.vespo_lambda_pos).expand(shape).mask_where(negative, of_negative)
    }
}

impl Settings for Vespo {
    fn check(&self) -> Result<(), AlgoError> {
        in_range("vespo_k_pos", self.vespo_k_pos, self.vespo_k_pos >= 0.0, "finite and at least 0")?;
        in_range("vespo_lambda_pos", self.vespo_lambda_pos, self.vespo_lambda_pos > 0.0, "finite and above 0")?;
        in_range("vespo_k_neg", self.vespo_k_neg, self.vespo_k_neg >= 0.0, "finite and at least 0")?;
        in_range("vespo_lambda_neg", self.vespo_lambda_neg, self.vespo_lambda_neg > 0.0, "finite and above 0")
    }
}

impl PolicyLoss for Vespo {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let metrics = ratios(ratio::token(batch), batch).into();
        let terms = -(self.weights(batch) * batch.advantages.clone() * batch.log_probs.clone());
        Terms { terms, metrics }.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, assert_close, check_with_weights, devices, values};

    fn weight(host: &HostBatch, row: usize, t: usize) -> f64 {
        let (k, lambda) = if host.advantages[row][t] >= 0.0 { (2.0, 3.0) } else { (3.0, 2.0) };
        let w = (host.sequence_log_ratio(row) * host.length(row) as f64).exp();
        w.powf(k) * (lambda * (1.0 - w)).exp()
    }

    /// The equation, in scalars, with `weights` in place of sg(φ).
    fn reference(host: &HostBatch, weights: &[Vec<f64>]) -> f64 {
        let tokens = host.tokens().map(|(row, t)| -weights[row][t] * host.advantages[row][t] * host.log_probs[row][t]);
        tokens.sum::<f64>() / host.totals().tokens as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_with_weights(&Vespo::new(), &HostBatch::random(5, 7), weight, reference);
    }

    #[test]
    fn a_weight_far_from_one_vanishes() {
        let mut host = HostBatch::random(3, 4);
        for (row, shift) in [(0, 1000.0), (1, -1000.0)] {
            host.old_log_probs[row] = host.log_probs[row].iter().map(|log_prob| log_prob - shift).collect();
        }
        for clamp in [None, Some(20.0)] {
            for device in devices() {
                let weights = values(Vespo::new().with_log_ratio_clamp(clamp).weights(&host.batch(&device)));
                // The smallest ratio, 1e-8, squared, times e³.
                assert_close(&weights[..2].concat(), &[0.0; 8], 0.0, 1e-14);
            }
        }
    }
}
