//! Answers to the same prompt, compared with each other.

use std::collections::BTreeMap;

/// What `compare` says of the rows of each group; it sees the rows' numbers and their scores.
///
/// A group that says nothing (a single answer, or all scores equal) is not asked and has 0. Equal scores are compared,
/// not subtracted: the rounding of their mean divided by 1e-6 would be noise.
pub(super) fn compare(scores: &[f64], groups: &[usize], compare: impl Fn(&[usize], &[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut advantages = vec![0.0; scores.len()];
    for rows in members(groups) {
        let of_group: Vec<f64> = rows.iter().map(|&row| scores[row]).collect();
        if of_group.iter().all(|&score| score == of_group[0]) {
            continue;
        }
        for (&row, advantage) in rows.iter().zip(compare(&rows, &of_group)) {
            advantages[row] = advantage;
        }
    }
    advantages
}

/// The distance of each score from its group's mean.
pub(super) fn centred(scores: &[f64], groups: &[usize]) -> Vec<f64> {
    compare(scores, groups, |_, scores| {
        let mean = mean(scores);
        scores.iter().map(|score| score - mean).collect()
    })
}

/// The rows of each group.
pub(super) fn members(groups: &[usize]) -> Vec<Vec<usize>> {
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (row, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(row);
    }
    members.into_values().collect()
}

pub(super) fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len() as f64
}

/// The unbiased standard deviation of at least two scores.
pub(super) fn deviation(scores: &[f64]) -> f64 {
    let mean = mean(scores);
    let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
    (squares / (scores.len() - 1) as f64).sqrt()
}
