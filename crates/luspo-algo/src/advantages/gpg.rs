//! GPG: the distance from the group's mean, scaled up by the share of rows that score at all (arXiv 2504.02546).
//!
//! ```text
//! Âᵢ = α (rᵢ − mean)        α = rows / rows with a score other than 0, over the whole batch
//! ```

use super::{AdvantageBatch, Advantages, group};

pub(super) fn estimate(batch: &AdvantageBatch) -> Advantages {
    let scores = batch.scores();
    let scoring = scores.iter().filter(|&&score| score != 0.0).count();
    let mut totals = [scores.len() as f64, scoring as f64];
    batch.collective.all_reduce_sum(&mut totals);
    let alpha = totals[0] / totals[1].max(1.0);
    let centred = group::centred(&scores, batch.groups);
    batch.of_rows(&centred.into_iter().map(|distance| alpha * distance).collect::<Vec<_>>())
}
