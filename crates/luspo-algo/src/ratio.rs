//! How far the policy has moved from the one that sampled: log π(y_t) − log π_old(y_t), by token or by sequence.
//!
//! Everything here stays in logarithms. The ratio itself is taken in [`clip`](crate::clip), where it is known which
//! ratios are clipped and must not overflow.

use burn::tensor::Tensor;

use crate::batch::PolicyBatch;

/// δ_it = log π(y_it) − log π_old(y_it), `[batch, seq]`, 0 in padding.
pub fn token(batch: &PolicyBatch) -> Tensor<2> {
    batch.log_probs.clone() - batch.old_log_probs.clone()
}

/// log s_i = 1/|y_i| Σ_t δ_it, the same in every column, `[batch, seq]` (arXiv 2507.18071).
pub fn sequence(batch: &PolicyBatch) -> Tensor<2> {
    of_row(batch).expand(batch.mask.dims())
}

/// log s_i once a row, `[batch, 1]`; see [`sequence`].
pub(crate) fn of_row(batch: &PolicyBatch) -> Tensor<2> {
    token(batch).sum_dim(1) / batch.lengths()
}

/// log s_it = sg(log s_i) + log π(y_it) − sg(log π(y_it)): the value of [`sequence`], the gradient of [`token`]
/// (GSPO-token of arXiv 2507.18071), `[batch, seq]`.
pub fn sequence_by_token(batch: &PolicyBatch) -> Tensor<2> {
    let value = sequence(batch).detach();
    value + (batch.log_probs.clone() - batch.log_probs.clone().detach())
}

/// `log_ratio` within ±`bound`; beyond, a token has no gradient. `None` leaves it as it is.
pub fn clamp(log_ratio: Tensor<2>, bound: Option<f64>) -> Tensor<2> {
    match bound {
        Some(bound) => log_ratio.clamp(-bound, bound),
        None => log_ratio,
    }
}

/// `log_ratio` up to `bound`; above, a row has no gradient. `None` leaves it as it is.
pub fn clamp_above(log_ratio: Tensor<2>, bound: Option<f64>) -> Tensor<2> {
    match bound {
        Some(bound) => log_ratio.clamp_max(bound),
        None => log_ratio,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, assert_close, devices, values};

    #[test]
    fn a_sequence_ratio_is_the_geometric_mean_of_its_tokens() {
        let host = HostBatch::random(3, 5);
        for device in devices() {
            let batch = host.batch(&device);
            for log_ratio in [sequence(&batch), sequence_by_token(&batch)] {
                for (row, got) in values(log_ratio).iter().enumerate() {
                    let expected = host.sequence_log_ratio(row);
                    // Means of a few f32 numbers of order 1.
                    assert_close(got, &vec![expected; got.len()], 1e-5, 1e-6);
                }
            }
        }
    }

    #[test]
    fn an_empty_row_has_ratio_one() {
        let mut host = HostBatch::random(2, 4);
        host.mask[1] = vec![false; 4];
        host.poison_padding();
        for device in devices() {
            let batch = host.batch(&device);
            assert_eq!(values(sequence(&batch))[1], vec![0.0; 4]);
            assert_eq!(values(token(&batch))[1], vec![0.0; 4]);
        }
    }
}
