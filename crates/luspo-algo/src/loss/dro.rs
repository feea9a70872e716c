//! DRO: direct reward optimization.
//!
//! ```text
//! L(θ) = agg[ −( Âₜ log π(yₜ) − β/2 · δₜ² ) ],   δₜ = log π(yₜ) − log π_old(yₜ)
//! ```
//!
//! arXiv 2405.19107, as verl writes it: a policy gradient whose distance from the old policy is bounded by a quadratic
//! penalty instead of a clip.

use burn::config::Config;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::error::{AlgoError, in_range};
use crate::measure::ppo_kl;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
use crate::ratio;

/// Token-level policy gradient with a quadratic penalty of the log-ratio.
///
/// ```text
/// L(θ) = agg[ −( Âₜ log π(yₜ) − β/2 · δₜ² ) ],   δₜ = log π(yₜ) − log π_old(yₜ)
/// ```
#[derive(Config, Debug)]
pub struct Dro {
    /// β, above 0. The scale of the rewards decides what is much, hence there is no default.
    pub dro_beta: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::TokenMean")]
    pub loss_agg_mode: Aggregation,
}

impl Settings for Dro {
    fn check(&self) -> Result<(), AlgoError> {
        in_range("dro_beta", self.dro_beta, self.dro_beta > 0.0, "finite and above 0")
    }
}

impl PolicyLoss for Dro {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let log_ratio = ratio::token(batch);
        let metrics = vec![ppo_kl(log_ratio.clone(), batch)];
        let penalty = log_ratio.square() * (0.5 * self.dro_beta);
        let terms = penalty - batch.advantages.clone() * batch.log_probs.clone();
        Terms { terms, metrics }.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, check_against};

    /// The equation, in scalars.
    fn reference(host: &HostBatch) -> f64 {
        let tokens = host.tokens().map(|(row, t)| {
            let delta = host.log_ratio(row, t);
            -(host.advantages[row][t] * host.log_probs[row][t] - 0.5 * 0.7 * delta * delta)
        });
        tokens.sum::<f64>() / host.totals().tokens as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_against(&Dro::new(0.7), &HostBatch::random(5, 7), reference);
    }
}
