//! Pass@k: only the best answer of a group counts, by how much it beats the second best (arXiv 2503.19595).
//!
//! ```text
//! Âᵢ = (r₍₁₎ − r₍₂₎) [/ (std + ε)]   for the best answer i,   0 for the others
//! ```

use super::{AdvantageBatch, AdvantageOptions, Advantages, group};

pub(super) fn estimate(batch: &AdvantageBatch, options: &AdvantageOptions) -> Advantages {
    let advantages = group::compare(&batch.scores(), batch.groups, |_, scores| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let scale = if options.norm_adv_by_std_in_grpo { group::deviation(scores) + options.epsilon } else { 1.0 };
        let mut advantages = vec![0.0; scores.len()];
        advantages[order[0]] = (scores[order[0]] - scores[order[1]]) / scale;
        advantages
    });
    batch.of_rows(&advantages)
}
