//! GRPO: group relative policy optimization.
//!
//! ```text
//! L(θ) = 1/G Σᵢ 1/|yᵢ| Σₜ −min(rᵢₜ Âᵢₜ, clip(rᵢₜ, 1−ε_low, 1+ε_high) Âᵢₜ)
//! rᵢₜ  = π(yᵢₜ) / π_old(yᵢₜ)
//! ```
//!
//! arXiv 2402.03300, eq. 3, without its KL term, which is [`Objective`](crate::Objective)'s. The advantages are those of
//! [`advantages::grpo`](crate::advantages::grpo).

use burn::config::Config;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip::{self, ClipRange};
use crate::error::AlgoError;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput};
use crate::ratio;

/// Token-level clipped objective, averaged within each sequence.
///
/// ```text
/// L(θ) = 1/G Σᵢ 1/|yᵢ| Σₜ −min(rᵢₜ Âᵢₜ, clip(rᵢₜ, 1−ε_low, 1+ε_high) Âᵢₜ)
/// ```
#[derive(Config, Debug)]
pub struct Grpo {
    /// Distance of the lower clip bound from 1, in [0, 1).
    #[config(default = 0.2)]
    pub clip_ratio_low: f64,
    /// Distance of the upper clip bound from 1, at least 0.
    #[config(default = 0.2)]
    pub clip_ratio_high: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::SeqMeanTokenMean")]
    pub loss_agg_mode: Aggregation,
    /// Bound of |log rᵢₜ|, beyond which a token has no gradient; `None` for no bound. verl's value by default.
    #[config(default = "Some(20.0)")]
    pub log_ratio_clamp: Option<f64>,
    /// Upper bound of the ratio in the unclipped term, above 0 (`delta` of two-sided GRPO); `None` for none. See
    /// [`ClipRange::cap`].
    pub delta: Option<f64>,
}

impl Grpo {
    fn range(&self) -> ClipRange {
        ClipRange::new(self.clip_ratio_low, self.clip_ratio_high).with_cap(self.delta)
    }
}

impl Settings for Grpo {
    fn check(&self) -> Result<(), AlgoError> {
        self.range().check()
    }
}

impl PolicyLoss for Grpo {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let log_ratio = ratio::clamp(ratio::token(batch), self.log_ratio_clamp);
        clip::surrogate(log_ratio, batch, self.range()).aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, check_against};

    /// The equation, in scalars.
    fn reference(host: &HostBatch) -> f64 {
        let tokens = host.tokens().map(|(row, t)| {
            let (ratio, advantage) = (host.log_ratio(row, t).exp(), host.advantages[row][t]);
            -(ratio * advantage).min(ratio.clamp(0.8, 1.2) * advantage) / host.length(row) as f64
        });
        tokens.sum::<f64>() / host.totals().sequences as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_against(&Grpo::new(), &HostBatch::random(5, 7), reference);
    }

    #[test]
    fn without_a_dual_clip_a_negative_advantage_sees_the_whole_ratio() {
        let mut host = HostBatch::random(5, 7);
        host.old_log_probs[0][0] = host.log_probs[0][0] - 4.0;
        host.advantages[0][0] = -1.3;
        check_against(&Grpo::new(), &host, reference);
    }
}
