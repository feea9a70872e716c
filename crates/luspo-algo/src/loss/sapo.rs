//! SAPO: soft adaptive policy optimization.
//!
//! ```text
//! L(θ) = 1/G Σᵢ 1/|yᵢ| Σₜ −fᵢₜ Âᵢₜ,   fᵢₜ = 4/τ · σ( τ (rᵢₜ − 1) ),   τ = τ_pos where Âᵢₜ > 0, else τ_neg
//! rᵢₜ  = π(yᵢₜ) / π_old(yᵢₜ)
//! ```
//!
//! arXiv 2511.20347. The gate f has slope 1 at r = 1 and goes flat smoothly on both sides, where a clip cuts off.

use burn::config::Config;
use burn::tensor::activation::sigmoid;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::error::{AlgoError, in_range};
use crate::measure::ratios;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
use crate::ratio;

/// Above this log-ratio r does not fit in f32 squared, while the gate is 1 for any sensible temperature.
const SATURATED: f64 = 40.0;

/// Token-level objective with a soft gate in place of a clip.
///
/// ```text
/// L(θ) = 1/G Σᵢ 1/|yᵢ| Σₜ −fᵢₜ Âᵢₜ,   fᵢₜ = 4/τ · σ( τ (rᵢₜ − 1) ),   τ = τ_pos where Âᵢₜ > 0, else τ_neg
/// ```
#[derive(Config, Debug)]
pub struct Sapo {
    /// Temperature of positive advantages, above 0.
    #[config(default = 1.0)]
    pub tau_pos: f64,
    /// Temperature of the others, above 0; the higher, the sooner a ratio away from 1 loses its gradient.
    #[config(default = 1.05)]
    pub tau_neg: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::SeqMeanTokenMean")]
    pub loss_agg_mode: Aggregation,
    /// Bound of |log rᵢₜ|, beyond which a token has no gradient; `None` for no bound. verl's value by default.
    #[config(default = "Some(20.0)")]
    pub log_ratio_clamp: Option<f64>,
}

impl Settings for Sapo {
    fn check(&self) -> Result<(), AlgoError> {
        in_range("tau_pos", self.tau_pos, self.tau_pos > 0.0, "finite and above 0")?;
        in_range("tau_neg", self.tau_neg, self.tau_neg > 0.0, "finite and above 0")
    }
}

impl PolicyLoss for Sapo {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let log_ratio = ratio::clamp(ratio::token(batch), self.log_ratio_clamp);
        let metrics = ratios(log_ratio.clone(), batch).into();
        let positive = batch.advantages.clone().greater_scalar(0.0);
        let tau = batch.advantages.full_like(self.tau_neg).mask_fill(positive, self.tau_pos);

        let distance = log_ratio.clamp_max(SATURATED).exp() - 1.0;
        let gate = sigmoid(tau.clone() * distance) * 4.0 / tau;
        Terms { terms: -(gate * batch.advantages.clone()), metrics }.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, assert_close, check_against, devices, gradients, values};

    /// The equation, in scalars.
    fn reference(host: &HostBatch) -> f64 {
        let tokens = host.tokens().map(|(row, t)| {
            let advantage = host.advantages[row][t];
            let tau = if advantage > 0.0 { 1.0 } else { 1.05 };
            let gate = 4.0 / tau / (1.0 + (-tau * (host.log_ratio(row, t).exp() - 1.0)).exp());
            -gate * advantage / host.length(row) as f64
        });
        tokens.sum::<f64>() / host.totals().sequences as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_against(&Sapo::new(), &HostBatch::random(5, 7), reference);
    }

    #[test]
    fn without_a_clamp_the_gate_is_flat_at_any_ratio() {
        let mut host = HostBatch::random(2, 3);
        host.old_log_probs[0] = host.log_probs[0].iter().map(|log_prob| log_prob - 1000.0).collect();
        for device in devices() {
            let gradient = values(gradients(&Sapo::new().with_log_ratio_clamp(None), &host, &device).log_probs);
            assert_close(&gradient[0], &[0.0; 3], 0.0, 0.0);
        }
    }
}
