//! Attention weights: softmax over the keys that a query may see, in place.
//!
//! ```text
//! pⱼ = exp(sⱼ − max s) / Σ exp(sⱼ − max s) for j ≤ the query's position, else 0
//! ∂L/∂sⱼ = pⱼ (gⱼ − Σₖ gₖ pₖ)
//! ```

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::exp::{dot, exp, max, sum_of};
use super::{ROWS, Values, read, vectorised};

/// `[.., rows, seq]`, where row i is the query at position i mod seq.
pub(super) fn forward(scores: Tensor<4>) -> Tensor<4> {
    let [.., seq] = scores.dims();
    let mut values = Values::of(scores);
    values.as_mut_slice().par_chunks_mut(ROWS * seq).enumerate().for_each(|(piece, rows)| {
        vectorised(|| {
            for (row, scores) in rows.chunks_exact_mut(seq).enumerate() {
                let (seen, unseen) = scores.split_at_mut((piece * ROWS + row) % seq + 1);
                let highest = max(seen);
                let total = sum_of(seen, |score| {
                    *score = exp(*score - highest);
                    *score
                });
                let scale = (1.0 / total) as f32;
                seen.iter_mut().for_each(|weight| *weight *= scale);
                unseen.fill(0.0);
            }
        });
    });
    values.into_tensor()
}

/// The gradient of the scores, from the weights and their gradient.
pub(super) fn backward(weights: &mut Tensor<4>, gradient: Tensor<4>) -> Tensor<4> {
    let [.., seq] = gradient.dims();
    let mut gradient = Values::of(gradient);
    read(weights, |weights| {
        let rows = gradient.as_mut_slice().par_chunks_mut(ROWS * seq).zip(weights.par_chunks(ROWS * seq));
        rows.enumerate().for_each(|(piece, (gradient, weights))| {
            vectorised(|| {
                let rows = gradient.chunks_exact_mut(seq).zip(weights.chunks_exact(seq));
                for (row, (gradient, weights)) in rows.enumerate() {
                    let (seen, unseen) = gradient.split_at_mut((piece * ROWS + row) % seq + 1);
                    let along = dot(seen, &weights[..seen.len()]);
                    for (gradient, weight) in seen.iter_mut().zip(weights) {
                        *gradient = weight * (*gradient - along);
                    }
                    unseen.fill(0.0);
                }
            });
        });
    });
    gradient.into_tensor()
}
