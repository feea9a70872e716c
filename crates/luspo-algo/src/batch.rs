//! What an objective sees of a batch: per-token numbers of some rows, and how much there is in the whole update.

use burn::tensor::{Bool, Tensor};

/// Per-token numbers of some rows of an update, all `[batch, seq]` over response tokens, right-padded.
///
/// A row may have holes in its mask and may be empty. The constructors set every tensor to zero outside the mask, once
/// and by selection, so that whatever stands in padding (NaN and infinities included) has no effect on an objective's
/// value or gradient; an objective can rely on finding zeros there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PolicyBatch {
    /// Log-probs of the response tokens under the policy that is trained, in nats.
    pub log_probs: Tensor<2>,
    /// Log-probs of the same tokens under the policy that the step began with.
    pub old_log_probs: Tensor<2>,
    /// How much better than expected each token's answer was.
    pub advantages: Tensor<2>,
    /// Which positions hold response tokens; |y| of a row is the number of its `true`s.
    pub mask: Tensor<2, Bool>,
    /// Factors of a token's term in the policy loss (importance weights of another sampler, token filters). They change
    /// neither |y| nor the ratio.
    pub token_weights: Option<Tensor<2>>,
    /// Log-probs of the same tokens as the sampler reported them: for losses with rollout correction, and for the
    /// off-policy mask of the [token filters](crate::TokenFilters). No built-in loss reads them.
    pub rollout_log_probs: Option<Tensor<2>>,
    /// Entropy of the policy's next-token distribution at each position, in nats.
    pub entropy: Option<Tensor<2>>,
    /// |y| of each row, `[batch, 1]`.
    pub(crate) counts: Tensor<2>,
}

impl PolicyBatch {
    /// A batch without the optional parts. Everything is `[batch, seq]` and nothing may be of size 0.
    ///
    /// # Panics
    /// If the shapes differ, or a dimension is 0.
    pub fn new(log_probs: Tensor<2>, old_log_probs: Tensor<2>, advantages: Tensor<2>, mask: Tensor<2, Bool>) -> Self {
        let [batch, seq] = mask.dims();
        assert!(batch > 0 && seq > 0, "a batch of shape [{batch}, {seq}] holds nothing");
        Self {
            log_probs: zero_padding("log_probs", log_probs, &mask),
            old_log_probs: zero_padding("old_log_probs", old_log_probs, &mask),
            advantages: zero_padding("advantages", advantages, &mask),
            counts: mask.clone().float().sum_dim(1),
            mask,
            token_weights: None,
            rollout_log_probs: None,
            entropy: None,
        }
    }

    /// The batch with [`token_weights`](Self::token_weights), `[batch, seq]`.
    ///
    /// # Panics
    /// If the shape is not the batch's.
    pub fn with_token_weights(mut self, token_weights: Tensor<2>) -> Self {
        self.token_weights = Some(zero_padding("token_weights", token_weights, &self.mask));
        self
    }

    /// The batch with [`rollout_log_probs`](Self::rollout_log_probs), `[batch, seq]`.
    ///
    /// # Panics
    /// If the shape is not the batch's.
    pub fn with_rollout_log_probs(mut self, rollout_log_probs: Tensor<2>) -> Self {
        self.rollout_log_probs = Some(zero_padding("rollout_log_probs", rollout_log_probs, &self.mask));
        self
    }

    /// The batch with [`entropy`](Self::entropy), `[batch, seq]`.
    ///
    /// # Panics
    /// If the shape is not the batch's.
    pub fn with_entropy(mut self, entropy: Tensor<2>) -> Self {
        self.entropy = Some(zero_padding("entropy", entropy, &self.mask));
        self
    }

    /// |y| of each row as a divisor, `[batch, 1]`: 1 for an empty row, whose terms are all zero.
    pub fn lengths(&self) -> Tensor<2> {
        self.counts.clone().clamp_min(1.0)
    }

    /// The number of response tokens, `[1]`.
    pub(crate) fn token_count(&self) -> Tensor<1> {
        self.counts.clone().sum()
    }
}

/// |y| of each row of `mask`, at least 1, `[batch, 1]`.
pub(crate) fn lengths(mask: &Tensor<2, Bool>) -> Tensor<2> {
    mask.clone().float().sum_dim(1).clamp_min(1.0)
}

/// `tensor` inside the mask, zero outside. A selection, not a product: NaN times zero is NaN.
pub(crate) fn zero_padding(name: &str, tensor: Tensor<2>, mask: &Tensor<2, Bool>) -> Tensor<2> {
    assert_eq!(tensor.dims(), mask.dims(), "{name} and mask differ in shape");
    tensor.mask_fill(mask.clone().bool_not(), 0.0)
}

/// How much there is in a whole update, all its micro-batches and ranks together: the denominators of the means.
///
/// Counted once, before the first micro-batch, so that an update does not depend on how its rows are split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTotals {
    /// Rows, empty ones included.
    pub rows: usize,
    /// Rows with at least one response token.
    pub sequences: usize,
    /// Response tokens.
    pub tokens: usize,
}

impl BatchTotals {
    /// The totals of an update whose rows have these numbers of response tokens.
    pub fn of_lengths(lengths: &[usize]) -> Self {
        Self {
            rows: lengths.len(),
            sequences: lengths.iter().filter(|&&length| length > 0).count(),
            tokens: lengths.iter().sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_row_is_a_row_but_no_sequence() {
        let totals = BatchTotals::of_lengths(&[3, 0, 5]);
        assert_eq!(totals, BatchTotals { rows: 3, sequences: 2, tokens: 8 });
        assert_eq!(BatchTotals::of_lengths(&[]), BatchTotals::default());
    }

    #[test]
    #[should_panic(expected = "advantages and mask differ in shape")]
    fn shapes_must_agree() {
        let device = burn::tensor::Device::flex();
        let wide = Tensor::<2>::zeros([2, 3], &device);
        let narrow = Tensor::<2>::zeros([2, 1], &device);
        PolicyBatch::new(wide.clone(), wide.clone(), narrow, wide.equal_scalar(0.0));
    }
}
