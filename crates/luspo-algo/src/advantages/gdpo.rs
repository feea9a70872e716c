//! GDPO: several rewards, each normalised within its group before they are summed, so that a reward of large variance
//! does not drown the others (arXiv 2601.05242).
//!
//! ```text
//! Âᵢ = normalise( Σₖ wₖ (rₖᵢ − meanₖ) / (stdₖ + ε) )        mean and std of reward k over the answers of i's group
//! ```
//!
//! `gdpo` whitens the sum over the response tokens of the batch, as verl does. `normalize_then_sum` normalises it over the
//! rows of the batch, each counted once whatever its length, and divides by std + ε, as TRL does.

use super::{AdvantageBatch, AdvantageOptions, Advantages, group, grpo};
use crate::masked;

pub(super) fn estimate(batch: &AdvantageBatch, options: &AdvantageOptions) -> Advantages {
    let sum = batch.of_rows(&summed(batch, options)).advantages;
    Advantages::without_returns(masked::whiten(&sum, batch.mask, batch.collective))
}

pub(super) fn estimate_over_rows(batch: &AdvantageBatch, options: &AdvantageOptions) -> Advantages {
    let sum = summed(batch, options);
    let (mean, variance) = masked::mean_and_variance(sum.iter().copied(), batch.collective);
    let scale = variance.sqrt() + options.epsilon;
    batch.of_rows(&sum.into_iter().map(|value| (value - mean) / scale).collect::<Vec<_>>())
}

/// The weighted sum of the normalised rewards of each row.
fn summed(batch: &AdvantageBatch, options: &AdvantageOptions) -> Vec<f64> {
    let mut sum = vec![0.0; batch.groups.len()];
    for (scores, weight) in batch.components {
        let normalised = match options.norm_adv_by_std_in_grpo {
            true => grpo::normalised(scores, batch.groups, options.epsilon),
            false => group::centred(scores, batch.groups),
        };
        for (sum, normalised) in sum.iter_mut().zip(normalised) {
            *sum += weight * normalised;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_are_normalised_apart_and_their_sum_over_rows() {
        let components = [(vec![1.0, 0.0, 100.0, 300.0], 2.0), (vec![0.1, 0.3, 0.0, 0.0], 1.0)];
        let (rewards, mask) = (vec![vec![0.0]; 4], vec![vec![true]; 4]);
        let batch = AdvantageBatch { components: &components, ..AdvantageBatch::new(&[0, 0, 1, 1], &rewards, &mask) };
        let options = AdvantageOptions { epsilon: 0.0, ..AdvantageOptions::default() };
        // Two scores are ±1/√2 of their deviation apart from their mean, however far apart they are.
        let unit = 0.5f64.sqrt();
        let sum = [2.0 * unit - unit, -2.0 * unit + unit, -2.0 * unit, 2.0 * unit];
        let deviation = (sum.iter().map(|value| value * value).sum::<f64>() / 3.0).sqrt();
        let got = estimate_over_rows(&batch, &options).advantages.concat();
        let whitened = estimate(&batch, &options).advantages.concat();
        for row in 0..4 {
            assert!((got[row] - sum[row] / deviation).abs() < 1e-12, "row {row}: {}", got[row]);
            // Rows of one token are tokens; the whitening adds 1e-8 to the variance.
            assert!((whitened[row] - got[row]).abs() < 1e-7);
        }
    }
}
