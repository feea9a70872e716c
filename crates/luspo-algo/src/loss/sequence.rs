//! What GSPO and LUSPO have in common: a clipped surrogate with one ratio for all tokens of a sequence.

use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip::{self, ClipRange};
use crate::measure::ppo_kl;
use crate::policy_loss::PolicyLossOutput;
use crate::ratio;

/// −min(sᵢ Âᵢₜ, clip(sᵢ) Âᵢₜ), with log sᵢ at most `log_ratio_clamp`.
pub(super) struct SequenceSurrogate {
    pub range: ClipRange,
    pub log_ratio_clamp: Option<f64>,
    /// See [`Gspo::token_gradient`](super::Gspo::token_gradient).
    pub token_gradient: bool,
}

impl SequenceSurrogate {
    /// The loss: the terms times the batch's token weights, aggregated.
    pub fn aggregate(&self, aggregation: Aggregation, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let log_ratio = if self.token_gradient { ratio::sequence_by_token(batch) } else { ratio::of_row(batch) };
        let moved = ppo_kl(log_ratio.clone(), batch);
        let log_ratio = ratio::clamp_above(log_ratio, self.log_ratio_clamp);
        let mut output = match self.token_gradient {
            true => clip::surrogate(log_ratio, batch, self.range).aggregate(aggregation, batch, totals),
            false => clip::sequence_surrogate(log_ratio, batch, self.range, aggregation, totals),
        };
        // As in verl, without the clamp.
        output.metrics.iter_mut().filter(|(name, _)| *name == moved.0).for_each(|metric| *metric = moved.clone());
        output
    }
}
