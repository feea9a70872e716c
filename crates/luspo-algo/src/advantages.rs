//! From scores to advantages, on the host.

use std::collections::BTreeMap;

/// Guards the division by a group's standard deviation; verl's value.
const EPSILON: f64 = 1e-6;

/// Group-relative advantages: how much better an answer is than the other answers to the same prompt.
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
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (row, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(row);
    }

    let mut advantages = vec![0.0; scores.len()];
    for rows in members.values() {
        // Equal scores are compared, not subtracted: the rounding of their mean divided by 1e-6 would be noise.
        if rows.iter().all(|&row| scores[row] == scores[rows[0]]) {
            continue;
        }
        let n = rows.len() as f64;
        let mean = rows.iter().map(|&row| scores[row]).sum::<f64>() / n;
        let variance = rows.iter().map(|&row| (scores[row] - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let scale = if norm_by_std { variance.sqrt() + EPSILON } else { 1.0 };
        for &row in rows {
            advantages[row] = (scores[row] - mean) / scale;
        }
    }
    advantages
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
