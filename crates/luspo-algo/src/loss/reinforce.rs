//! REINFORCE.
//!
//! ```text
//! L(θ) = 1/G Σᵢ Σₜ −wᵢₜ Âᵢₜ log π(yᵢₜ)
//! ```
//!
//! Williams, Machine Learning 8, 1992. The weights w are the batch's
//! [`token_weights`](crate::PolicyBatch::token_weights), 1 if it has none: with the importance weights of the policy
//! against the sampler in their place, the gradient is right for samples of another policy too.

use burn::config::Config;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::error::AlgoError;
use crate::measure::ppo_kl;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
use crate::ratio;

/// The policy gradient of whole sequences; the old log-probs are only measured against.
///
/// ```text
/// L(θ) = 1/G Σᵢ Σₜ −wᵢₜ Âᵢₜ log π(yᵢₜ)
/// ```
#[derive(Config, Debug)]
pub struct Reinforce {
    /// What a token weighs.
    #[config(default = "Aggregation::SeqMeanTokenSum")]
    pub loss_agg_mode: Aggregation,
}

impl Settings for Reinforce {
    fn check(&self) -> Result<(), AlgoError> {
        Ok(())
    }
}

impl PolicyLoss for Reinforce {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let metrics = vec![ppo_kl(ratio::token(batch), batch)];
        let terms = -(batch.advantages.clone() * batch.log_probs.clone());
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
            let weight = host.token_weights.as_ref().map_or(1.0, |weights| weights[row][t]);
            -weight * host.advantages[row][t] * host.log_probs[row][t]
        });
        tokens.sum::<f64>() / host.totals().sequences as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_against(&Reinforce::new(), &HostBatch::random(5, 7), reference);
        check_against(&Reinforce::new(), &HostBatch::random(5, 7).with_random_token_weights(), reference);
    }
}
