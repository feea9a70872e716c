//! RLOO: the baseline of an answer is the mean of the other answers to the same prompt (arXiv 2402.14740).
//!
//! ```text
//! Âᵢ = rᵢ − 1/(n−1) Σ_{j≠i} rⱼ = n/(n−1) · (rᵢ − mean)
//! ```

use super::{AdvantageBatch, Advantages, group};

pub(super) fn estimate(batch: &AdvantageBatch) -> Advantages {
    let advantages = group::compare(&batch.scores(), batch.groups, |_, scores| {
        let (n, mean) = (scores.len() as f64, group::mean(scores));
        scores.iter().map(|score| n / (n - 1.0) * (score - mean)).collect()
    });
    batch.of_rows(&advantages)
}
