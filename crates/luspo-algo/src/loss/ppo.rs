//! PPO: proximal policy optimization, with the dual clip.
//!
//! ```text
//! L(θ) = agg[ −min(rₜ Âₜ, clip(rₜ, 1−ε_low, 1+ε_high) Âₜ) ],   and where Âₜ < 0 not above −c Âₜ
//! rₜ   = π(yₜ) / π_old(yₜ)
//! ```
//!
//! Clipped surrogate: arXiv 1707.06347, eq. 7. Dual clip: arXiv 1912.09729. With `token-mean` and asymmetric
//! bounds this is DAPO's objective (arXiv 2503.14476), with `seq-mean-token-sum-norm` Dr. GRPO's (arXiv 2503.20783).

use burn::config::Config;

use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip::{self, ClipRange};
use crate::error::AlgoError;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput};
use crate::ratio;

/// Token-level clipped objective with the dual clip.
///
/// ```text
/// L(θ) = agg[ −min(rₜ Âₜ, clip(rₜ, 1−ε_low, 1+ε_high) Âₜ) ],   and where Âₜ < 0 not above −c Âₜ
/// ```
#[derive(Config, Debug)]
pub struct Ppo {
    /// Distance of the lower clip bound from 1, in [0, 1).
    #[config(default = 0.2)]
    pub clip_ratio_low: f64,
    /// Distance of the upper clip bound from 1, at least 0.
    #[config(default = 0.2)]
    pub clip_ratio_high: f64,
    /// The largest ratio that a negative advantage is multiplied by, above 1.
    #[config(default = 3.0)]
    pub clip_ratio_c: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::TokenMean")]
    pub loss_agg_mode: Aggregation,
    /// Bound of |log rₜ|, beyond which a token has no gradient; `None` for no bound. verl's value by default.
    #[config(default = "Some(20.0)")]
    pub log_ratio_clamp: Option<f64>,
    /// Upper bound of the ratio in the unclipped term, above 0 (`delta` of two-sided GRPO); `None` for none. See
    /// [`ClipRange::cap`].
    pub delta: Option<f64>,
}

impl Ppo {
    fn range(&self) -> ClipRange {
        ClipRange::new(self.clip_ratio_low, self.clip_ratio_high).with_dual(self.clip_ratio_c).with_cap(self.delta)
    }
}

impl Settings for Ppo {
    fn check(&self) -> Result<(), AlgoError> {
        self.range().check()
    }
}

impl PolicyLoss for Ppo {
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
            let surrogate = (ratio * advantage).min(ratio.clamp(0.8, 1.2) * advantage);
            if advantage < 0.0 { -surrogate.max(3.0 * advantage) } else { -surrogate }
        });
        tokens.sum::<f64>() / host.totals().tokens as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        let mut host = HostBatch::random(5, 7);
        // Ratios on both sides of the dual clip, with both signs of the advantage.
        host.old_log_probs[0][0] = host.log_probs[0][0] - 1.5;
        host.advantages[0][0] = -1.3;
        host.old_log_probs[0][1] = host.log_probs[0][1] - 1.5;
        host.advantages[0][1] = 0.7;
        host.old_log_probs[1][0] = host.log_probs[1][0] - 0.9;
        host.advantages[1][0] = -0.4;
        check_against(&Ppo::new(), &host, reference);
    }
}
