/// How far the sampler's log-probs are from the trainer's, in nats over response tokens.
///
/// Both come from the same parameters, so that the gap is rounding alone: in f32 at most 5e-5 for any token and 2e-6 on
/// average. A wider gap means that sampler and trainer compute different things.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogProbGap {
    /// The largest absolute difference.
    pub max: f64,
    /// The mean absolute difference.
    pub mean: f64,
}

impl LogProbGap {
    /// Measures pairs of the sampler's and the trainer's log-prob of the same token; 0 where there are none.
    ///
    /// A difference that is no number counts as infinite: it must not pass for agreement.
    ///
    /// ```
    /// use luspo_rollout::LogProbGap;
    ///
    /// let gap = LogProbGap::measure([(-1.0, -1.5), (-2.0, -2.0)]);
    /// assert_eq!(gap, LogProbGap { max: 0.5, mean: 0.25 });
    /// ```
    pub fn measure(pairs: impl IntoIterator<Item = (f32, f32)>) -> Self {
        let (mut max, mut sum, mut count) = (0.0_f64, 0.0, 0_usize);
        for (sampler, trainer) in pairs {
            let difference = (f64::from(sampler) - f64::from(trainer)).abs();
            let difference = if difference.is_nan() { f64::INFINITY } else { difference };
            max = max.max(difference);
            sum += difference;
            count += 1;
        }
        Self { max, mean: sum / count.max(1) as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tokens_have_no_gap() {
        assert_eq!(LogProbGap::measure([]), LogProbGap { max: 0.0, mean: 0.0 });
    }

    #[test]
    fn a_difference_that_is_no_number_is_infinite() {
        for pair in [(f32::NAN, -1.0), (-1.0, f32::NAN), (f32::NEG_INFINITY, f32::NEG_INFINITY)] {
            let gap = LogProbGap::measure([(-1.0, -1.0), pair]);
            assert_eq!(gap, LogProbGap { max: f64::INFINITY, mean: f64::INFINITY });
        }
    }
}
