//! The optimal token baseline: a baseline for each position, which weighs an answer by the energy that its gradient has
//! gathered so far.
//!
//! ```text
//! Âᵢₜ = Gᵢₜ − Bₜ        Bₜ = Σⱼ Gⱼₜ Wⱼₜ / (Σⱼ Wⱼₜ + 1e-8) over the answers of the group that have a token t
//! Wⱼₜ = Σ_{u≤t} ρ²ⱼᵤ (1 − 2πⱼᵤ + Σπ²ⱼᵤ)        ρ the rollout correction's weight, or 1
//! ```
//!
//! 1 − 2π + Σπ² is the squared norm of the gradient of log π with respect to the logits. G is the sum of the rewards from
//! a token on. Where only one answer of the group has a token t, there is nothing to compare with and Bₜ is 0.
//!
//! `optimal_token_baseline` counts positions from the start of the row; `tir_optimal_token_baseline` (tool-integrated
//! reasoning) counts response tokens, so that a hole does not shift what comes after it. Without holes they are equal.

use super::{AdvantageBatch, Advantages, group};

const EPSILON: f64 = 1e-8;

/// What the positions of two answers have in common.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Position {
    /// The distance from the start of the row.
    InRow,
    /// The number of response tokens before it.
    AmongTokens,
}

pub(super) fn estimate(
    batch: &AdvantageBatch,
    position: Position,
    log_probs: &[Vec<f64>],
    sum_pi_squared: &[Vec<f64>],
) -> Advantages {
    let returns = batch.returns(1.0);
    let energy = |row: usize, t: usize| {
        let weight = batch.rollout_weights.map_or(1.0, |weights| weights[row][t]);
        weight.powi(2) * (1.0 - 2.0 * log_probs[row][t].exp() + sum_pi_squared[row][t])
    };
    let mut advantages: Vec<Vec<f64>> = batch.mask.iter().map(|mask| vec![0.0; mask.len()]).collect();
    for rows in group::members(batch.groups) {
        let answers: Vec<(usize, Vec<usize>)> = rows
            .into_iter()
            .map(|row| (row, places(&batch.mask[row])))
            .filter(|(_, tokens)| !tokens.is_empty())
            .collect();
        let mut returns_of_group = answers.iter().flat_map(|(row, tokens)| tokens.iter().map(|&t| returns[*row][t]));
        let first = returns_of_group.next();
        // A group that says nothing: a single answer, or the same return everywhere.
        if answers.len() < 2 || returns_of_group.all(|other| Some(other) == first) {
            continue;
        }
        let baselines = baselines(&answers, position, &returns, energy);
        for (row, tokens) in &answers {
            for (index, &t) in tokens.iter().enumerate() {
                let place = if position == Position::InRow { t } else { index };
                advantages[*row][t] = returns[*row][t] - baselines[place];
            }
        }
    }
    Advantages { advantages, returns }
}

/// The baseline of each position of a group.
fn baselines(
    answers: &[(usize, Vec<usize>)],
    position: Position,
    returns: &[Vec<f64>],
    energy: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    #[derive(Clone, Copy, Default)]
    struct Sums {
        answers: usize,
        weighted: f64,
        weight: f64,
    }
    let mut sums: Vec<Sums> = Vec::new();
    for (row, tokens) in answers {
        let mut gathered = 0.0;
        for (index, &t) in tokens.iter().enumerate() {
            gathered += energy(*row, t);
            let place = if position == Position::InRow { t } else { index };
            if sums.len() <= place {
                sums.resize(place + 1, Sums::default());
            }
            let of_place = &mut sums[place];
            of_place.answers += 1;
            of_place.weighted += returns[*row][t] * gathered;
            of_place.weight += gathered;
        }
    }
    let of_place = |sums: Sums| if sums.answers > 1 { sums.weighted / (sums.weight + EPSILON) } else { 0.0 };
    sums.into_iter().map(of_place).collect()
}

/// The positions of the response tokens.
fn places(mask: &[bool]) -> Vec<usize> {
    (0..mask.len()).filter(|&t| mask[t]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of three and two tokens with scores 1 and 0, and what stands at each position.
    fn advantages(position: Position, mask: &[Vec<bool>], weights: Option<&[Vec<f64>]>) -> Vec<Vec<f64>> {
        let rewards = [vec![0.0, 0.0, 1.0], vec![0.0, 0.0, 0.0]];
        let log_probs = [vec![0.5f64.ln(), 0.25f64.ln(), 0.0], vec![0.8f64.ln(), 0.5f64.ln(), 0.5f64.ln()]];
        let sum_pi_squared = [vec![0.5, 0.4, 1.0], vec![0.68, 0.5, 0.5]];
        let batch = AdvantageBatch { rollout_weights: weights, ..AdvantageBatch::new(&[0, 0], &rewards, mask) };
        estimate(&batch, position, &log_probs, &sum_pi_squared).advantages
    }

    #[track_caller]
    fn assert_close(got: &[Vec<f64>], expected: [[f64; 3]; 2]) {
        // The 1e-8 beside energies of at least 0.08.
        let close = got.concat().iter().zip(expected.concat()).all(|(got, expected)| (got - expected).abs() < 1e-6);
        assert!(close, "{got:?} instead of {expected:?}");
    }

    #[test]
    fn the_baseline_of_a_position_weighs_returns_by_gathered_energy() {
        let mask = [vec![true; 3], vec![true, true, false]];
        // Energies 1 − 2π + Σπ²: 0.5, 0.9 and 1 − 2 + 1 = 0 of the first, 0.08 and 0.5 of the second.
        let baselines = [0.5 / (0.5 + 0.08), 1.4 / (1.4 + 0.58)];
        // The last token of the longer answer has nothing to be compared with.
        let expected = [[1.0 - baselines[0], 1.0 - baselines[1], 1.0], [-baselines[0], -baselines[1], 0.0]];
        assert_close(&advantages(Position::InRow, &mask, None), expected);
        assert_close(&advantages(Position::AmongTokens, &mask, None), expected);
    }

    #[test]
    fn a_hole_shifts_positions_in_the_row_only() {
        let mask = [vec![true; 3], vec![true, false, true]];
        let second = 1.4 / (1.4 + 0.58);
        let first = 0.5 / (0.5 + 0.08);
        let in_row = [[1.0 - first, 1.0, 1.0 - second], [-first, 0.0, -second]];
        assert_close(&advantages(Position::InRow, &mask, None), in_row);
        let among_tokens = [[1.0 - first, 1.0 - second, 1.0], [-first, 0.0, -second]];
        assert_close(&advantages(Position::AmongTokens, &mask, None), among_tokens);
    }

    #[test]
    fn weights_of_the_rollout_correction_scale_the_energy_by_their_square() {
        let mask = [vec![true; 3], vec![true, true, false]];
        let weights = [vec![2.0, 1.0, 1.0], vec![1.0, 0.0, f64::NAN]];
        let baselines = [2.0 / (2.0 + 0.08), 2.9 / (2.9 + 0.08)];
        let expected = [[1.0 - baselines[0], 1.0 - baselines[1], 1.0], [-baselines[0], -baselines[1], 0.0]];
        assert_close(&advantages(Position::InRow, &mask, Some(&weights)), expected);
    }
}
