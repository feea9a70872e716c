//! Importance weights π_old/π_rollout, bounded.

use luspo_core::Collective;

use super::{Metrics, RolloutCorrectionOptions, SAFETY_BOUND, threshold};
use super::{bounded_deviation, deviation, largest, share, smallest};
use crate::error::AlgoError;
use crate::masked;

/// How weights are computed and bounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Importance {
    level: Level,
    lower: Option<f64>,
    upper: f64,
    mode: Mode,
    normalise: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Token,
    Sequence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Truncate,
    Mask,
}

/// A mean weight below this is no divisor; verl's value.
const SMALLEST_MEAN: f64 = 1e-8;

impl Importance {
    pub(super) fn new(options: &RolloutCorrectionOptions) -> Result<Option<Self>, AlgoError> {
        let RolloutCorrectionOptions { rollout_is, rollout_is_threshold, rollout_is_mode, .. } = options;
        let normalise = options.rollout_is_batch_normalize;
        let Some(level) = rollout_is else {
            let given = [
                ("rollout_is_threshold", rollout_is_threshold.is_some()),
                ("rollout_is_mode", rollout_is_mode.is_some()),
                ("rollout_is_batch_normalize", normalise),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                None => Ok(None),
                Some((key, _)) => Err(AlgoError::WithoutEffect { key, needs: "rollout_is" }),
            };
        };
        let unknown =
            |key, name: &String, known: &str| AlgoError::UnknownName { key, name: name.clone(), known: known.into() };
        let level = match level.as_str() {
            "token" => Level::Token,
            "sequence" => Level::Sequence,
            _ => return Err(unknown("rollout_is", level, "token, sequence")),
        };
        let text = rollout_is_threshold.as_deref().unwrap_or("2.0");
        let (lower, upper) = threshold::bounds("rollout_is_threshold", text)?;
        let mode = match rollout_is_mode {
            None if lower.is_some() => Mode::Mask,
            None => Mode::Truncate,
            Some(mode) => match mode.as_str() {
                "truncate" => Mode::Truncate,
                "mask" => Mode::Mask,
                _ => return Err(unknown("rollout_is_mode", mode, "truncate, mask")),
            },
        };
        Ok(Some(Self { level, lower, upper, mode, normalise }))
    }

    /// The bounded weights, 0 outside the mask.
    pub(super) fn weights(&self, log_ratio: &[Vec<f64>], mask: &[Vec<bool>], metrics: &mut Metrics) -> Vec<Vec<f64>> {
        let sums: Vec<f64> = log_ratio.iter().map(|row| row.iter().sum()).collect();
        let raw = masked::fill(mask, |row, t| {
            let log_ratio = match self.level {
                Level::Token => log_ratio[row][t],
                Level::Sequence => sums[row],
            };
            log_ratio.clamp(-SAFETY_BOUND, SAFETY_BOUND).exp()
        });
        let weights = masked::fill(mask, |row, t| self.bounded(raw[row][t]));
        self.measure(&weights, &raw, &sums, mask, metrics);
        weights
    }

    fn bounded(&self, weight: f64) -> f64 {
        let bound = weight.clamp(self.lower.unwrap_or(0.0), self.upper);
        if self.mode == Mode::Mask && bound != weight { 0.0 } else { bound }
    }

    /// The weights divided by their mean, where that is asked for.
    pub(super) fn normalised(
        &self,
        mut weights: Vec<Vec<f64>>,
        mask: &[Vec<bool>],
        collective: &dyn Collective,
        metrics: &mut Metrics,
    ) -> Vec<Vec<f64>> {
        if !self.normalise {
            return weights;
        }
        let mean = match self.level {
            Level::Token => masked::mean(&weights, mask, collective),
            Level::Sequence => {
                let of_sequences = masked::sequence_means(&weights, mask);
                masked::mean_and_variance(of_sequences.into_iter(), collective).0
            }
        };
        let factor = if mean > SMALLEST_MEAN { mean } else { 1.0 };
        weights.iter_mut().flatten().for_each(|weight| *weight /= factor);
        metrics.push("rollout_is_batch_norm_factor", factor);
        weights
    }

    fn measure(
        &self,
        weights: &[Vec<f64>],
        raw: &[Vec<f64>],
        log_ratios: &[f64],
        mask: &[Vec<bool>],
        metrics: &mut Metrics,
    ) {
        let (lower, upper) = (self.lower.unwrap_or(1.0 / self.upper), self.upper);
        let tokens = masked::tokens(weights, mask);
        let raw_tokens = masked::tokens(raw, mask);
        metrics.push("rollout_is_mean", masked::mean_of(tokens.clone()));
        let (high, low, max, min) = match self.level {
            Level::Token => (
                share(raw_tokens.clone(), |weight| weight > upper),
                share(raw_tokens.clone(), |weight| weight < lower),
                largest(tokens.clone()),
                smallest(tokens.clone()),
            ),
            Level::Sequence => {
                let rows = log_ratios.iter().copied();
                (
                    share(rows.clone(), |log_ratio| log_ratio > upper.ln()),
                    share(rows.clone(), |log_ratio| log_ratio < lower.ln()),
                    largest(rows.clone()).min(SAFETY_BOUND).exp(),
                    smallest(rows).exp(),
                )
            }
        };
        metrics.push("rollout_is_max", max);
        metrics.push("rollout_is_min", min);
        metrics.push("rollout_is_ratio_fraction_high", high);
        metrics.push("rollout_is_ratio_fraction_low", low);
        if self.mode == Mode::Mask {
            let outside = |weight| weight > upper || self.lower.is_some_and(|lower| weight < lower);
            metrics.push("rollout_is_oob_ratio", share(raw_tokens, outside));
        }
        metrics.push("rollout_is_std", bounded_deviation(tokens.clone(), 0.0, upper));
        let (mean, square) = (masked::mean_of(tokens.clone()), masked::mean_of(tokens.map(|weight| weight * weight)));
        metrics.push("rollout_is_eff_sample_size", if square > 0.0 { mean * mean / square } else { 0.0 });

        let (of_rows, raw_of_rows) = (masked::row_means(weights, mask), masked::row_means(raw, mask));
        let (rows, raw_rows) = (of_rows.iter().copied(), raw_of_rows.iter().copied());
        metrics.push("rollout_is_seq_mean", masked::mean_of(rows.clone()));
        metrics.push("rollout_is_seq_std", deviation(rows.clone()));
        metrics.push("rollout_is_seq_max", largest(rows.clone()));
        metrics.push("rollout_is_seq_min", smallest(rows.clone()));
        metrics.push("rollout_is_seq_max_deviation", largest(rows.map(|weight| (weight - 1.0).abs())));
        metrics.push("rollout_is_seq_fraction_high", share(raw_rows.clone(), |weight| weight > upper));
        metrics.push("rollout_is_seq_fraction_low", share(raw_rows, |weight| weight < lower));
    }
}
