//! The softmax of attention in place. The equations are those of [`softmax`](crate::tape).

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::exp::{dot, exp, max, sum_of};
use super::{ROWS, Values, read, vectorised};
use crate::tape::Seen;

/// How many keys the row at `index` of `[rows, heads, queries, keys]` sees.
fn seen_of(seen: &Seen, rows: usize, index: usize, keys: usize) -> usize {
    let of_row = rows / seen.first.len();
    // In the padding of queries the rule would go on beyond the last key.
    (seen.first[index / of_row] + index % seen.queries).min(keys)
}

/// See [`Seen::softmax`].
pub(crate) fn softmax_forward(seen: &Seen, scores: Tensor<4>, scale: f32) -> Tensor<4> {
    let [rows, heads, queries, keys] = scores.dims();
    let all = rows * heads * queries;
    let mut values = Values::of(scores);
    values.as_mut_slice().par_chunks_mut(ROWS * keys).enumerate().for_each(|(piece, rows)| {
        vectorised(|| {
            for (row, scores) in rows.chunks_exact_mut(keys).enumerate() {
                let (seen, unseen) = scores.split_at_mut(seen_of(seen, all, piece * ROWS + row, keys));
                let highest = max(seen);
                let total = sum_of(seen, |score| {
                    *score = exp((*score - highest) * scale);
                    *score
                });
                let share = (1.0 / total) as f32;
                seen.iter_mut().for_each(|weight| *weight *= share);
                unseen.fill(0.0);
            }
        });
    });
    values.into_tensor()
}

/// See [`Seen::backward`].
pub(crate) fn softmax_backward(seen: &Seen, weights: &mut Tensor<4>, gradient: Tensor<4>, scale: f32) -> Tensor<4> {
    let [rows, heads, queries, keys] = gradient.dims();
    let all = rows * heads * queries;
    let mut gradient = Values::of(gradient);
    read(weights, |weights| {
        let rows = gradient.as_mut_slice().par_chunks_mut(ROWS * keys).zip(weights.par_chunks(ROWS * keys));
        rows.enumerate().for_each(|(piece, (gradient, weights))| {
            vectorised(|| {
                let rows = gradient.chunks_exact_mut(keys).zip(weights.chunks_exact(keys));
                for (row, (gradient, weights)) in rows.enumerate() {
                    let (seen, unseen) = gradient.split_at_mut(seen_of(seen, all, piece * ROWS + row, keys));
                    let along = dot(seen, &weights[..seen.len()]);
                    for (gradient, weight) in seen.iter_mut().zip(weights) {
                        *gradient = weight * (*gradient - along) * scale;
                    }
                    unseen.fill(0.0);
                }
            });
        });
    });
    gradient.into_tensor()
}
