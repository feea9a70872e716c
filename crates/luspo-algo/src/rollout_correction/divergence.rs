//! How far the sampler's policy is from the trainer's.

use super::{Metrics, SAFETY_BOUND, largest, smallest};
use crate::masked;

/// Perplexities, estimates of KL(π_rollout, π_old), and χ² of the ratio π_old/π_rollout, per token and per sequence.
pub(super) fn measure(old: &[Vec<f64>], rollout: &[Vec<f64>], mask: &[Vec<bool>], metrics: &mut Metrics) {
    let log_ratio = masked::fill(mask, |row, t| old[row][t] - rollout[row][t]);
    let (of_old, of_rollout) = (masked::row_means(old, mask), masked::row_means(rollout, mask));
    let rows_of = |means: &[f64], f: fn(f64) -> f64| masked::mean_of(means.iter().map(|&mean| f(mean)));
    metrics.push("training_ppl", rows_of(&of_old, |mean| (-mean).exp()));
    metrics.push("training_log_ppl", rows_of(&of_old, |mean| -mean));
    metrics.push("rollout_ppl", rows_of(&of_rollout, |mean| (-mean).exp()));
    metrics.push("rollout_log_ppl", rows_of(&of_rollout, |mean| -mean));

    let tokens = masked::tokens(&log_ratio, mask);
    metrics.push("kl", masked::mean_of(tokens.clone().map(|rho| -rho)));
    metrics.push("k3_kl", masked::mean_of(tokens.clone().map(|rho| rho.exp() - rho - 1.0)));

    let differences: Vec<f64> = of_rollout.iter().zip(&of_old).map(|(rollout, old)| rollout - old).collect();
    metrics.push("log_ppl_diff", rows_of(&differences, |difference| difference));
    metrics.push("log_ppl_abs_diff", rows_of(&differences, f64::abs));
    metrics.push("log_ppl_diff_max", largest(differences.iter().copied()));
    metrics.push("log_ppl_diff_min", smallest(differences.iter().copied()));
    metrics.push("ppl_ratio", rows_of(&differences, f64::exp));

    let squared = |rho: f64| (2.0 * rho.clamp(-SAFETY_BOUND, SAFETY_BOUND)).exp();
    metrics.push("chi2_token", masked::mean_of(tokens.map(squared)) - 1.0);
    let sums = log_ratio.iter().map(|row| row.iter().sum());
    metrics.push("chi2_seq", masked::mean_of(sums.map(squared)) - 1.0);
}
