//! GRPO: how much better an answer is than the other answers to the same prompt (arXiv 2402.03300).
//!
//! ```text
//! Âᵢ = (rᵢ − mean) / (std + ε)        mean and unbiased std over the answers of i's group
//! ```
//!
//! Without the division it is Dr. GRPO's (arXiv 2503.20783); with the std of the whole batch instead of the group's it
//! is TRL's `scale_rewards = "batch"` (arXiv 2508.08221).

use super::{AdvantageBatch, AdvantageOptions, Advantages, ScaleRewards, group};
use crate::masked;

/// Guards the division by a group's standard deviation; verl's value, TRL's is 1e-4.
pub(super) const EPSILON: f64 = 1e-6;

/// Group-relative advantages of scores: how much better an answer is than the other answers to the same prompt.
///
/// ```text
/// Âᵢ = (rᵢ − mean) / (std + 1e-6)        mean and unbiased std over the answers of i's group
/// ```
///
/// `groups[i]` names the group of `scores[i]`; the answers of a group may stand anywhere. Without `norm_by_std` the
/// division is left out (Dr. GRPO, arXiv 2503.20783). A group that says nothing (a single answer, or all scores equal)
/// has advantage 0.
///
/// # Panics
/// If the slices differ in length.
pub fn grpo(scores: &[f64], groups: &[usize], norm_by_std: bool) -> Vec<f64> {
    assert_eq!(scores.len(), groups.len(), "every score needs its group");
    match norm_by_std {
        true => normalised(scores, groups, EPSILON),
        false => group::centred(scores, groups),
    }
}

pub(super) fn estimate(batch: &AdvantageBatch, options: &AdvantageOptions) -> Advantages {
    let scores = batch.scores();
    let advantages = match options.scale_rewards {
        _ if !options.norm_adv_by_std_in_grpo => group::centred(&scores, batch.groups),
        ScaleRewards::Group => normalised(&scores, batch.groups, options.epsilon),
        ScaleRewards::Batch => {
            let (_, variance) = masked::mean_and_variance(scores.iter().copied(), batch.collective);
            let scale = variance.sqrt() + options.epsilon;
            let centred = group::centred(&scores, batch.groups);
            centred.into_iter().map(|distance| distance / scale).collect()
        }
    };
    batch.of_rows(&advantages)
}

/// The distance from the group's mean in standard deviations of the group.
pub(super) fn normalised(scores: &[f64], groups: &[usize], epsilon: f64) -> Vec<f64> {
    group::compare(scores, groups, |_, scores| {
        let (mean, scale) = (group::mean(scores), group::deviation(scores) + epsilon);
        scores.iter().map(|score| (score - mean) / scale).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_says_nothing_has_advantage_zero() {
        // 0.1 + 0.1 + 0.1 is not 0.3 in binary: the mean of equal scores differs from them.
        let scores = [0.1, 0.1, 0.1, 5.0, 1.0, 0.0];
        let advantages = grpo(&scores, &[0, 0, 0, 1, 2, 2], true);
        assert_eq!(advantages[..4], [0.0; 4]);
        assert!(advantages[4] > 0.7 && advantages[5] == -advantages[4]);
    }

    #[test]
    fn groups_may_be_interleaved() {
        let scores = [1.0, -1.0, 0.7, -1.0, 1.0, -1.3];
        let interleaved = grpo(&scores, &[7, 3, 7, 3, 7, 3], true);
        let sorted = grpo(&[1.0, 0.7, 1.0, -1.0, -1.0, -1.3], &[0, 0, 0, 1, 1, 1], true);
        assert_eq!([interleaved[0], interleaved[2], interleaved[4]], sorted[..3]);
        assert_eq!([interleaved[1], interleaved[3], interleaved[5]], sorted[3..]);
    }

    #[test]
    fn without_normalisation_it_is_the_distance_to_the_mean() {
        assert_eq!(grpo(&[1.0, 0.0, 0.0, 1.0], &[0; 4], false), [0.5, -0.5, -0.5, 0.5]);
    }
}
