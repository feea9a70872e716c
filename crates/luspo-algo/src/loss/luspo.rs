//! LUSPO: length-unbiased sequence policy optimization.
//!
//! ```text
//! L(θ) = 1/G Σᵢ −|yᵢ| · min(sᵢ Âᵢ, clip(sᵢ, 1−ε_low, 1+ε_high) Âᵢ)
//! sᵢ   = exp( 1/|yᵢ| Σₜ log π(yᵢₜ) − log π_old(yᵢₜ) )
//! ```
//!
//! The factor |yᵢ| cancels the 1/|yᵢ| that GSPO's sequence ratio puts into the gradient, so a token weighs the same in a
//! short answer and in a long one (arXiv 2602.05261, eq. 7 and 8):
//!
//! ```text
//! ∇L = −1/G Σᵢ sᵢ Âᵢ Σₜ ∇ log π(yᵢₜ)      where sᵢ is not clipped
//! ```
//!
//! With advantages that vary within a row, |yᵢ| times the row's term is Σₜ min(sᵢ Âᵢₜ, clip(sᵢ) Âᵢₜ).

use burn::config::Config;

use super::sequence::SequenceSurrogate;
use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip::ClipRange;
use crate::error::AlgoError;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput};

/// Length-unbiased sequence-level objective.
///
/// ```text
/// L(θ) = 1/G Σᵢ −|yᵢ| · min(sᵢ Âᵢ, clip(sᵢ, 1−ε_low, 1+ε_high) Âᵢ)
/// sᵢ   = exp( 1/|yᵢ| Σₜ log π(yᵢₜ) − log π_old(yᵢₜ) )
/// ```
///
/// The weight of a sequence is |yᵢ| whatever stands beside the objective: a KL term, an entropy term or token weights
/// are summed over the same tokens and never multiplied by |yᵢ| again.
#[derive(Config, Debug)]
pub struct Luspo {
    /// Distance of the lower clip bound from 1, in [0, 1).
    #[config(default = 2e-3)]
    pub clip_ratio_low: f64,
    /// Distance of the upper clip bound from 1, at least 0.
    #[config(default = 2.5e-3)]
    pub clip_ratio_high: f64,
    /// Upper bound of log sᵢ, above which a row has no gradient; `None` for no bound, as in the paper. verl's value for
    /// GSPO by default.
    #[config(default = "Some(10.0)")]
    pub log_ratio_clamp: Option<f64>,
    /// Lets each token's own advantage and weight reach its own log-prob; see [`Gspo`](crate::Gspo::token_gradient).
    #[config(default = false)]
    pub token_gradient: bool,
    /// Upper bound of the ratio in the unclipped term, above 0 (`delta` of two-sided GRPO); `None` for none. See
    /// [`ClipRange::cap`].
    pub delta: Option<f64>,
}

impl Luspo {
    fn range(&self) -> ClipRange {
        ClipRange::new(self.clip_ratio_low, self.clip_ratio_high).with_cap(self.delta)
    }
}

impl Settings for Luspo {
    fn check(&self) -> Result<(), AlgoError> {
        self.range().check()
    }
}

impl PolicyLoss for Luspo {
    fn aggregation(&self) -> Aggregation {
        Aggregation::SeqMeanTokenSum // Σₜ over |yᵢ| equal terms is the factor |yᵢ|
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
    use crate::loss::Gspo;

    /// The equation, in scalars; token weights and varying advantages inside the sum that is |yᵢ|.
    fn reference(host: &HostBatch) -> f64 {
        let tokens = host.tokens().map(|(row, t)| {
            let (ratio, advantage) = (host.sequence_log_ratio(row).exp(), host.advantages[row][t]);
            let term = -(ratio * advantage).min(ratio.clamp(1.0 - 2e-3, 1.0 + 2.5e-3) * advantage);
            term * host.token_weights.as_ref().map_or(1.0, |weights| weights[row][t])
        });
        tokens.sum::<f64>() / host.totals().sequences as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        check_against(&Luspo::new(), &HostBatch::random(6, 7), reference);
        check_against(&Luspo::new(), &HostBatch::random(6, 7).with_row_advantages(), reference);
    }

    #[test]
    fn token_weights_do_not_change_a_sequence_weight() {
        // Were the weighted terms multiplied by |y| once more, the reference's single sum would not match.
        check_against(&Luspo::new(), &HostBatch::random(6, 7).with_random_token_weights(), reference);
    }

    #[test]
    fn its_terms_are_the_length_times_those_of_gspo() {
        let host = HostBatch::random(6, 7).with_row_advantages();
        let gspo = Gspo::new().with_clip_ratio_low(2e-3).with_clip_ratio_high(2.5e-3);
        for device in devices() {
            for row in 0..host.rows() {
                let alone = host.only(row);
                let (long, mean) = (gradients(&Luspo::new(), &alone, &device), gradients(&gspo, &alone, &device));
                let length = host.length(row) as f64;
                // Sums of at most seven f32 numbers.
                assert_close(&[scalar(long.loss)], &[length * scalar(mean.loss)], 1e-5, 1e-7);
                let expected: Vec<f64> = values(mean.log_probs)[0].iter().map(|g| g * length).collect();
                assert_close(&values(long.log_probs)[0], &expected, 1e-5, 1e-7);
            }
        }
    }

    #[test]
    fn a_token_weighs_the_same_in_a_short_and_in_a_long_answer() {
        // On-policy, equal advantages: every token's gradient is −Â / G, whatever the lengths.
        let mut host = HostBatch::random(4, 9);
        host.old_log_probs = host.log_probs.clone();
        host.advantages = vec![vec![0.5; 9]; 4];
        host.poison_padding();
        for device in devices() {
            let gradient = values(gradients(&Luspo::new(), &host, &device).log_probs);
            for (row, t) in host.tokens() {
                assert_close(&[gradient[row][t]], &[-0.5 / host.totals().sequences as f64], 1e-6, 0.0);
            }
        }
    }
}
