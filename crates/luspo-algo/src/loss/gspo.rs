//! GSPO: group sequence policy optimization.
//!
//! ```text
//! L(θ) = 1/G Σᵢ −min(sᵢ Âᵢ, clip(sᵢ, 1−ε_low, 1+ε_high) Âᵢ)
//! sᵢ   = exp( 1/|yᵢ| Σₜ log π(yᵢₜ) − log π_old(yᵢₜ) )
//! ```
//!
//! arXiv 2507.18071. With advantages that vary within a row the term of a row is the mean of
//! min(sᵢ Âᵢₜ, clip(sᵢ) Âᵢₜ) over its tokens.

use burn::config::Config;

use super::sequence::SequenceSurrogate;
use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip::ClipRange;
use crate::error::AlgoError;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput};

/// Sequence-level clipped objective.
///
/// ```text
/// L(θ) = 1/G Σᵢ −min(sᵢ Âᵢ, clip(sᵢ, 1−ε_low, 1+ε_high) Âᵢ),   sᵢ = exp( 1/|yᵢ| Σₜ log π(yᵢₜ) − log π_old(yᵢₜ) )
/// ```
#[derive(Config, Debug)]
pub struct Gspo {
    /// Distance of the lower clip bound from 1, in [0, 1).
    #[config(default = 3e-4)]
    pub clip_ratio_low: f64,
    /// Distance of the upper clip bound from 1, at least 0.
    #[config(default = 4e-4)]
    pub clip_ratio_high: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::SeqMeanTokenMean")]
    pub loss_agg_mode: Aggregation,
    /// Upper bound of log sᵢ, above which a row has no gradient; `None` for no bound. verl's value by default.
    #[config(default = "Some(10.0)")]
    pub log_ratio_clamp: Option<f64>,
    /// Lets each token's own advantage and weight reach its own log-prob, instead of their mean reaching all of a row's
    /// (GSPO-token, arXiv 2507.18071; what verl computes). The value is the same, and so is the gradient
    /// while advantages and token weights are constant within a row.
    #[config(default = false)]
    pub token_gradient: bool,
    /// Upper bound of the ratio in the unclipped term, above 0 (`delta` of two-sided GRPO); `None` for none. See
    /// [`ClipRange::cap`].
    pub delta: Option<f64>,
}

impl Gspo {
    fn range(&self) -> ClipRange {
        ClipRange::new(self.clip_ratio_low, self.clip_ratio_high).with_cap(self.delta)
    }
}

impl Settings for Gspo {
    fn check(&self) -> Result<(), AlgoError> {
        self.range().check()
    }
}

impl PolicyLoss for Gspo {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let surrogate = SequenceSurrogate {
            range: self.range(),
            log_ratio_clamp: self.log_ratio_clamp,
            token_gradient: self.token_gradient,
        };
        surrogate.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, assert_close, check_against, devices, gradients, scalar, values};
    use crate::loss::Grpo;

    /// The equation, in scalars.
    fn reference(host: &HostBatch) -> f64 {
        let rows = (0..host.rows()).filter(|&row| host.length(row) > 0).map(|row| {
            let ratio = host.sequence_log_ratio(row).exp();
            let terms = host.tokens().filter(|&(r, _)| r == row).map(|(_, t)| {
                let advantage = host.advantages[row][t];
                -(ratio * advantage).min(ratio.clamp(1.0 - 3e-4, 1.0 + 4e-4) * advantage)
            });
            terms.sum::<f64>() / host.length(row) as f64
        });
        rows.sum::<f64>() / host.totals().sequences as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_against(&Gspo::new(), &HostBatch::random(6, 7), reference);
        check_against(&Gspo::new(), &HostBatch::random(6, 7).with_row_advantages(), reference);
    }

    #[test]
    fn with_one_token_a_row_it_is_grpo() {
        let host = HostBatch::random(6, 1);
        let grpo = Grpo::new().with_clip_ratio_low(0.05).with_clip_ratio_high(0.1);
        let gspo = Gspo::new().with_clip_ratio_low(0.05).with_clip_ratio_high(0.1);
        for device in devices() {
            let (token, sequence) = (gradients(&grpo, &host, &device), gradients(&gspo, &host, &device));
            // One division by 1 more.
            assert_close(&[scalar(sequence.loss)], &[scalar(token.loss)], 1e-6, 1e-7);
            for (got, expected) in values(sequence.log_probs).iter().zip(&values(token.log_probs)) {
                assert_close(got, expected, 1e-6, 1e-7);
            }
        }
    }

    #[test]
    fn the_token_gradient_differs_only_where_tokens_of_a_row_do() {
        let by_token = Gspo::new().with_token_gradient(true);
        let host = HostBatch::random(6, 7);
        for device in devices() {
            for (host, same) in [(host.clone(), false), (host.clone().with_row_advantages(), true)] {
                let (row, token) = (gradients(&Gspo::new(), &host, &device), gradients(&by_token, &host, &device));
                // The same sums, in another order.
                assert_close(&[scalar(token.loss)], &[scalar(row.loss)], 1e-5, 1e-7);
                let (row, token) = (values(row.log_probs).concat(), values(token.log_probs).concat());
                let gap = row.iter().zip(&token).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert_eq!(gap < 1e-6, same, "largest difference {gap}");
            }
        }
    }
}
