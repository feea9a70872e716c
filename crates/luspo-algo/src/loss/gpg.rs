//! GPG: group policy gradient.
//!
//! ```text
//! L(θ) = agg[ −Âₜ log π(yₜ) ]
//! ```
//!
//! arXiv 2504.02546. The plain policy gradient, without a ratio; what makes the method are its advantages and the mean
//! over all tokens.

use burn::config::Config;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::error::AlgoError;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};

/// Token-level policy gradient without a ratio; it never looks at the old log-probs.
///
/// ```text
/// L(θ) = agg[ −Âₜ log π(yₜ) ]
/// ```
#[derive(Config, Debug)]
pub struct Gpg {
    /// What a token weighs.
    #[config(default = "Aggregation::TokenMean")]
    pub loss_agg_mode: Aggregation,
}

impl Settings for Gpg {
    fn check(&self) -> Result<(), AlgoError> {
        Ok(())
    }
}

impl PolicyLoss for Gpg {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let terms = -(batch.advantages.clone() * batch.log_probs.clone());
        Terms { terms, metrics: Vec::new() }.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, check_against};

    /// The equation, in scalars.
    fn reference(host: &HostBatch) -> f64 {
        let tokens = host.tokens().map(|(row, t)| -host.advantages[row][t] * host.log_probs[row][t]);
        tokens.sum::<f64>() / host.totals().tokens as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_against(&Gpg::new(), &HostBatch::random(5, 7), reference);
    }
}
