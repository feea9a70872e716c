//! How far a share would move with other prompts: it is computed again for prompts drawn from the same ones.

use luspo_core::{Purpose, RandomKey};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::report::nan_if_null;

/// How often the prompts are drawn.
const RESAMPLES: usize = 1000;

/// The share of resamples that lies outside of an interval, on either side.
const OUTSIDE: f64 = 0.025;

/// An interval; NaN on both sides where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    #[serde(deserialize_with = "nan_if_null")]
    pub low: f64,
    /// Its upper end.
    #[serde(deserialize_with = "nan_if_null")]
    pub high: f64,
}

impl Default for Interval {
    fn default() -> Self {
        Self { low: f64::NAN, high: f64::NAN }
    }
}

/// The percentile intervals, at 95 %, of `shares` shares, from 1000 draws of as many prompts as there are, with
/// repetitions. Each prompt has, for each share, what it adds to the numerator and the denominator, if it counts.
///
/// The draws are those of fixed keys: the interval is a function of the answers alone, and two policies on the same
/// prompts are compared on the same draws.
pub(super) fn bootstrap(prompts: &[Vec<Option<(f64, f64)>>], shares: usize) -> Vec<Interval> {
    let mut drawn: Vec<Vec<f64>> = vec![Vec::with_capacity(RESAMPLES); shares];
    for resample in 0..RESAMPLES as u64 {
        let mut rng = RandomKey::new(0, Purpose::Bootstrap).at(resample).rng();
        let mut sums = vec![(0.0, 0.0); shares];
        for _ in 0..prompts.len() {
            for (sum, part) in sums.iter_mut().zip(&prompts[rng.random_range(0..prompts.len())]) {
                if let Some((above, below)) = part {
                    *sum = (sum.0 + above, sum.1 + below);
                }
            }
        }
        // A draw in which nothing counts has no share.
        for (values, (above, below)) in drawn.iter_mut().zip(sums).filter(|(_, (_, below))| *below > 0.0) {
            values.push(above / below);
        }
    }
    drawn.into_iter().map(interval).collect()
}

fn interval(mut values: Vec<f64>) -> Interval {
    values.sort_by(f64::total_cmp);
    let outside = (OUTSIDE * values.len() as f64) as usize;
    match (values.get(outside), values.len().checked_sub(1 + outside).and_then(|at| values.get(at))) {
        (Some(&low), Some(&high)) => Interval { low, high },
        _ => Interval::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One share, of which each prompt is one part.
    fn of(values: &[f64]) -> Interval {
        bootstrap(&values.iter().map(|value| vec![Some((*value, 1.0))]).collect::<Vec<_>>(), 1)[0]
    }

    #[test]
    fn an_interval_is_as_wide_as_theory_says() {
        let values: Vec<f64> = (0..400).map(|number| f64::from(u8::from(number % 4 == 0))).collect();
        let Interval { low, high } = of(&values);
        // A share of 0.25 of 400 prompts: its standard error is √(0.25 · 0.75 / 400) = 0.02165, 1.96 of which are 0.0424.
        // The ends of 1000 draws are known to some 0.003.
        assert!((low - (0.25 - 0.0424)).abs() < 0.01 && (high - (0.25 + 0.0424)).abs() < 0.01, "{low} to {high}");
        assert_eq!(of(&values), Interval { low, high }, "it is the same every time");
        let few = of(&values[..40]);
        assert!(few.high - few.low > 2.0 * (high - low), "{few:?}");
    }

    #[test]
    fn prompts_weigh_as_much_as_they_have_answers_and_those_without_nothing() {
        let intervals = bootstrap(&[vec![Some((3.0, 4.0)), None], vec![None, None]], 2);
        assert_eq!(intervals[0], Interval { low: 0.75, high: 0.75 });
        assert!(intervals[1].low.is_nan() && intervals[1].high.is_nan());
        assert!(bootstrap(&[], 1)[0].low.is_nan());
        assert_eq!(of(&[1.0]), Interval { low: 1.0, high: 1.0 });
    }
}
