//! DPPO: PPO with a bound on the divergence in place of one on the ratio.
//!
//! ```text
//! L(θ) = agg[ −sg(min(rₜ, c)) Âₜ log π(yₜ) ]   over the tokens that are near enough or on their way back
//! ```
//!
//! arXiv 2602.04879. A token takes part unless its probability p has already gone further from p_old than the bound, in
//! the direction in which its advantage pushes it. The divergence is that of two events, the token and all others:
//!
//! ```text
//! dppo_tv:  |p − p_old|          dppo_kl:  p_old log(p_old/p) + (1−p_old) log((1−p_old)/(1−p))
//! ```

use burn::config::Config;
use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Bool, Tensor};

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip;
use crate::error::{AlgoError, in_range};
use crate::measure::{ratios, share};
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
use crate::ratio;

/// Beside a probability whose logarithm is taken; verl's value.
const EPSILON: f64 = 1e-8;

/// How the distance of a token's probability from its old one is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "kebab-case")]
pub enum Divergence {
    /// |p − p_old|.
    TotalVariation,
    /// p_old log(p_old/p) + (1−p_old) log((1−p_old)/(1−p)).
    KullbackLeibler,
}

/// Token-level policy gradient over tokens within a trust region.
///
/// ```text
/// L(θ) = agg[ −sg(min(rₜ, c)) Âₜ log π(yₜ) ]   without the tokens that the advantage pushes further out of it
/// ```
#[derive(Config, Debug)]
pub struct Dppo {
    /// What is bounded.
    pub divergence: Divergence,
    /// Largest divergence of a token whose probability falls, in (0, ∞).
    #[config(default = 0.2)]
    pub clip_ratio_low: f64,
    /// Largest divergence of a token whose probability rises, in (0, ∞).
    #[config(default = 0.2)]
    pub clip_ratio_high: f64,
    /// Largest importance weight c, above 1.
    #[config(default = 20.0)]
    pub clip_ratio_c: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::TokenMean")]
    pub loss_agg_mode: Aggregation,
    /// Bound of |log rₜ| in the importance weight; `None` for no bound. verl's value by default.
    #[config(default = "Some(20.0)")]
    pub log_ratio_clamp: Option<f64>,
}

impl Dppo {
    /// The tokens that take part.
    fn within(&self, batch: &PolicyBatch) -> Tensor<2, Bool> {
        let (log_probs, old_log_probs) = (batch.log_probs.clone().without_autodiff(), batch.old_log_probs.clone());
        let (p, old) = (log_probs.clone().exp(), old_log_probs.clone().exp());
        let rise = p.clone() - old.clone();
        let (near_above, near_below) = match self.divergence {
            Divergence::TotalVariation => (
                rise.clone().lower_equal_scalar(self.clip_ratio_high),
                rise.clone().greater_equal_scalar(-self.clip_ratio_low),
            ),
            Divergence::KullbackLeibler => {
                let (not_p, not_old) = (complement(log_probs.clone()), complement(old_log_probs.clone()));
                let others = not_old.clone() * ((not_old + EPSILON) / (not_p + EPSILON)).log();
                let divergence = old * (old_log_probs - log_probs) + others;
                (
                    divergence
                        .clone()
                        .lower_equal_scalar(self.clip_ratio_high)
                        .bool_or(rise.clone().lower_equal_scalar(0.0)),
                    divergence.lower_equal_scalar(self.clip_ratio_low).bool_or(rise.greater_equal_scalar(0.0)),
                )
            }
        };
        let up = batch.advantages.clone().greater_scalar(0.0);
        near_above.bool_and(up.clone()).bool_or(near_below.bool_and(up.bool_not()))
    }
}

/// 1 − eˡ for l ≤ 0, without the cancellation near l = 0: −tanh(l/2) (1 + eˡ).
fn complement(log_prob: Tensor<2>) -> Tensor<2> {
    -((log_prob.clone() / 2.0).tanh() * (log_prob.exp() + 1.0))
}

impl Settings for Dppo {
    fn check(&self) -> Result<(), AlgoError> {
        in_range("clip_ratio_low", self.clip_ratio_low, self.clip_ratio_low > 0.0, "finite and above 0")?;
        in_range("clip_ratio_high", self.clip_ratio_high, self.clip_ratio_high > 0.0, "finite and above 0")?;
        in_range("clip_ratio_c", self.clip_ratio_c, self.clip_ratio_c > 1.0, "finite and above 1")
    }
}

impl PolicyLoss for Dppo {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let log_ratio = ratio::clamp(ratio::token(batch), self.log_ratio_clamp).without_autodiff();
        let within = self.within(batch);
        let too_high = log_ratio.clone().greater_scalar(self.clip_ratio_c.ln());
        let mut metrics = vec![
            ("actor/pg_clipfrac", share(within.clone().bool_not(), batch)),
            ("actor/pg_clipfrac_lower", share(too_high.bool_and(within.clone()), batch)),
        ];
        metrics.extend(ratios(log_ratio.clone(), batch));

        let weight = clip::weight(log_ratio, 0.0, self.clip_ratio_c).mask_fill(within.bool_not(), 0.0);
        let terms = -(weight * batch.advantages.clone() * batch.log_probs.clone());
        Terms { terms, metrics }.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, assert_close, check_with_weights, devices, tensor, values};

    /// sg(min(r, c)) of the tokens that take part, 0 of the others, with the bounds 0.02 and 0.03.
    fn weight(host: &HostBatch, row: usize, t: usize, divergence: Divergence) -> f64 {
        let (p, old) = (host.log_probs[row][t].exp(), host.old_log_probs[row][t].exp());
        let distance = match divergence {
            Divergence::TotalVariation => (p - old).abs(),
            Divergence::KullbackLeibler => {
                old * (old / p).ln() + (1.0 - old) * ((1.0 - old + 1e-8) / (1.0 - p + 1e-8)).ln()
            }
        };
        let upwards = host.advantages[row][t] > 0.0;
        let bound = if upwards { 0.03 } else { 0.02 };
        let leaves = distance > bound && (p > old) == upwards;
        if leaves { 0.0 } else { (p / old).min(20.0) }
    }

    /// The equation, in scalars, with `weights` in place of what has no gradient.
    fn reference(host: &HostBatch, weights: &[Vec<f64>]) -> f64 {
        let tokens = host.tokens().map(|(row, t)| -weights[row][t] * host.advantages[row][t] * host.log_probs[row][t]);
        tokens.sum::<f64>() / host.totals().tokens as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        // Log-probs must be below 0 here, ratios alone would not do.
        let mut host = HostBatch::random(6, 7);
        for (row, t) in host.clone().tokens() {
            host.old_log_probs[row][t] -= 0.35;
            host.log_probs[row][t] -= 0.35;
        }
        host.old_log_probs[0][0] = -5.0;
        host.log_probs[0][0] = -0.5; // a ratio of e⁴·⁵, above c
        for divergence in [Divergence::TotalVariation, Divergence::KullbackLeibler] {
            let loss = Dppo::new(divergence).with_clip_ratio_low(0.02).with_clip_ratio_high(0.03);
            check_with_weights(&loss, &host, |host, row, t| weight(host, row, t, divergence), reference);
        }
    }

    #[test]
    fn the_complement_of_a_probability_near_one_is_exact() {
        for device in devices() {
            let log_probs = vec![-1e-6, -1e-3, -0.5, -3.0, -60.0];
            let expected: Vec<f64> = log_probs.iter().map(|l: &f64| -l.exp_m1()).collect();
            let got = values(complement(tensor(&[log_probs], &device)));
            // 1 − eˡ in f32 would be off by 5 % at −1e-6.
            assert_close(&got[0], &expected, 1e-5, 0.0);
        }
    }
}
