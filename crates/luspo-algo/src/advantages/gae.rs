//! GAE: generalised advantage estimation with a critic (arXiv 1506.02438), whitened over the batch.
//!
//! ```text
//! δₜ = rₜ + γ V(t+1) − V(t)        Âₜ = Σ_u (γλ)^u δ_{t+u}        returns = Â + V
//! ```
//!
//! Positions outside the mask are skipped: the token before a hole is followed by the token after it. The returns are
//! those before the whitening.

use super::{AdvantageBatch, AdvantageOptions, Advantages};
use crate::masked;

pub(super) fn estimate(batch: &AdvantageBatch, options: &AdvantageOptions, values: &[Vec<f64>]) -> Advantages {
    let of_row = |row: usize| {
        let (rewards, values, mask) = (&batch.rewards[row], &values[row], &batch.mask[row]);
        let mut advantages = vec![0.0; mask.len()];
        let (mut next_value, mut next_advantage) = (0.0, 0.0);
        for t in (0..mask.len()).rev().filter(|&t| mask[t]) {
            let delta = rewards[t] + options.gamma * next_value - values[t];
            advantages[t] = delta + options.gamma * options.lam * next_advantage;
            (next_value, next_advantage) = (values[t], advantages[t]);
        }
        advantages
    };
    let advantages: Vec<Vec<f64>> = (0..batch.mask.len()).map(of_row).collect();
    Advantages {
        returns: masked::fill(batch.mask, |row, t| advantages[row][t] + values[row][t]),
        advantages: masked::whiten(&advantages, batch.mask, batch.collective),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_the_values_and_the_sum_over_what_follows() {
        let (rewards, values) = ([vec![0.5, 0.0, 0.0, 1.0]], [vec![0.3, -0.2, 0.8, 0.1]]);
        let options = AdvantageOptions { gamma: 0.9, lam: 0.7, ..AdvantageOptions::default() };
        let mask = [vec![true; 4]];
        let got = estimate(&AdvantageBatch::new(&[0], &rewards, &mask), &options, &values);
        let delta = |t: usize| rewards[0][t] + 0.9 * values[0].get(t + 1).unwrap_or(&0.0) - values[0][t];
        let advantage = |t: usize| (t..4).map(|u| (0.9f64 * 0.7).powi((u - t) as i32) * delta(u)).sum::<f64>();
        let expected = [0, 1, 2, 3].map(advantage);
        let mean = expected.iter().sum::<f64>() / 4.0;
        let variance = expected.iter().map(|advantage| (advantage - mean).powi(2)).sum::<f64>() / 3.0;
        for (t, advantage) in expected.into_iter().enumerate() {
            assert!((got.returns[0][t] - values[0][t] - advantage).abs() < 1e-12);
            // The whitening adds 1e-8 to a variance of about 0.1.
            assert!((got.advantages[0][t] - (advantage - mean) / variance.sqrt()).abs() < 1e-6);
        }
    }
}
