//! OPO: the baseline of a group is its mean score weighted by length, which minimises the gradient's variance where
//! every token contributes alike (arXiv 2505.23585).
//!
//! ```text
//! Âᵢ = rᵢ − Σⱼ |yⱼ| rⱼ / Σⱼ |yⱼ|
//! ```

use super::{AdvantageBatch, Advantages, group};

pub(super) fn estimate(batch: &AdvantageBatch) -> Advantages {
    let length = |row: usize| batch.mask[row].iter().filter(|&&inside| inside).count() as f64;
    let advantages = group::compare(&batch.scores(), batch.groups, |rows, scores| {
        let tokens: f64 = rows.iter().map(|&row| length(row)).sum();
        let weighted: f64 = rows.iter().zip(scores).map(|(&row, score)| length(row) * score).sum();
        // Without a token in the whole group there is nothing to give an advantage to.
        let baseline = weighted / tokens.max(1.0);
        scores.iter().map(|score| score - baseline).collect()
    });
    batch.of_rows(&advantages)
}
