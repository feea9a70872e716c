//! Measurements that micro-batches contribute to and that are read once an update.

use burn::tensor::Tensor;

/// What some rows contribute to a measurement. Tensors are `[1]`; nothing is read from the device.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // a dozen of them live at a time
pub enum Metric {
    /// A mean over everything that was counted, whatever the split into micro-batches.
    Mean {
        /// The sum of what is averaged.
        sum: Tensor<1>,
        /// How many there were.
        count: Tensor<1>,
    },
    /// The effective sample size of weights w as a share of their number, (Σw)² / (n Σw²) (Kish).
    EffectiveShare {
        /// Σw.
        sum: Tensor<1>,
        /// Σw².
        sum_of_squares: Tensor<1>,
        /// n, how many there were.
        count: Tensor<1>,
    },
    /// A sum over micro-batches; right for losses, which carry their denominator already.
    Sum(Tensor<1>),
    /// The smallest value; +∞ for rows without any.
    Min(Tensor<1>),
    /// The largest value; −∞ for rows without any.
    Max(Tensor<1>),
}

impl Metric {
    pub(crate) fn detached(self) -> Self {
        match self {
            Self::Mean { sum, count } => Self::Mean { sum: sum.without_autodiff(), count: count.without_autodiff() },
            Self::EffectiveShare { sum, sum_of_squares, count } => Self::EffectiveShare {
                sum: sum.without_autodiff(),
                sum_of_squares: sum_of_squares.without_autodiff(),
                count: count.without_autodiff(),
            },
            Self::Sum(sum) => Self::Sum(sum.without_autodiff()),
            Self::Min(min) => Self::Min(min.without_autodiff()),
            Self::Max(max) => Self::Max(max.without_autodiff()),
        }
    }

    fn merge(self, other: Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Mean { sum, count }, Self::Mean { sum: more, count: counted }) => {
                Self::Mean { sum: sum + more, count: count + counted }
            }
            (
                Self::EffectiveShare { sum, sum_of_squares, count },
                Self::EffectiveShare { sum: more, sum_of_squares: squares, count: counted },
            ) => Self::EffectiveShare {
                sum: sum + more,
                sum_of_squares: sum_of_squares + squares,
                count: count + counted,
            },
            (Self::Sum(sum), Self::Sum(more)) => Self::Sum(sum + more),
            (Self::Min(least), Self::Min(other)) => Self::Min(least.min_pair(other)),
            (Self::Max(most), Self::Max(other)) => Self::Max(most.max_pair(other)),
            _ => return None,
        })
    }
}

/// Collects the metrics of an update's micro-batches, and reads them at the end.
#[derive(Debug, Default)]
pub struct MetricAccumulator {
    metrics: Vec<(&'static str, Metric)>,
}

impl MetricAccumulator {
    /// Adds what one micro-batch contributes. Waits for nothing.
    ///
    /// # Panics
    /// If a name was added before as another kind of [`Metric`].
    pub fn add(&mut self, metrics: Vec<(&'static str, Metric)>) {
        for (name, metric) in metrics {
            let metric = metric.detached();
            match self.metrics.iter_mut().find(|(known, _)| *known == name) {
                Some((_, total)) => {
                    *total = total.clone().merge(metric).unwrap_or_else(|| panic!("{name} changed its kind of metric"));
                }
                None => self.metrics.push((name, metric)),
            }
        }
    }

    /// The values, in the order in which the names first came. A mean or extreme over nothing is left out.
    pub fn finish(self) -> Vec<(&'static str, f64)> {
        if self.metrics.is_empty() {
            return Vec::new();
        }
        // All numbers in one tensor: the device is waited for once.
        let numbers = self.metrics.iter().flat_map(|(_, metric)| match metric.clone() {
            Metric::Mean { sum, count } => vec![sum, count],
            Metric::EffectiveShare { sum, sum_of_squares, count } => vec![sum, sum_of_squares, count],
            Metric::Sum(value) | Metric::Min(value) | Metric::Max(value) => vec![value],
        });
        let data = Tensor::cat(numbers.collect(), 0).into_data();
        let mut numbers = data.iter::<f64>();
        let mut next = || numbers.next().expect("as many numbers as were written");
        let read = self.metrics.iter().filter_map(|(name, metric)| {
            let value = match metric {
                Metric::Mean { .. } => {
                    let (sum, count) = (next(), next());
                    (count > 0.0).then(|| sum / count)
                }
                Metric::EffectiveShare { .. } => {
                    let (sum, sum_of_squares, count) = (next(), next(), next());
                    (count > 0.0).then(|| sum * sum / (count * sum_of_squares))
                }
                Metric::Sum(_) => Some(next()),
                Metric::Min(_) => Some(next()).filter(|least| *least != f64::INFINITY),
                Metric::Max(_) => Some(next()).filter(|most| *most != f64::NEG_INFINITY),
            };
            Some((*name, value?))
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::devices;

    #[test]
    fn micro_batches_merge_exactly() {
        for device in devices() {
            let one = |value: f32| Tensor::<1>::from_data([value], &device);
            let share = |[sum, sum_of_squares, count]: [f32; 3]| Metric::EffectiveShare {
                sum: one(sum),
                sum_of_squares: one(sum_of_squares),
                count: one(count),
            };
            let mut metrics = MetricAccumulator::default();
            for (sum, count, extreme) in [(1.0, 1.0, 5.0), (8.0, 2.0, -3.0), (0.0, 0.0, 0.5)] {
                metrics.add(vec![
                    ("mean", Metric::Mean { sum: one(sum), count: one(count) }),
                    ("share", share([sum, sum * sum, count])),
                    ("sum", Metric::Sum(one(sum))),
                    ("min", Metric::Min(one(extreme))),
                    ("max", Metric::Max(one(extreme))),
                ]);
            }
            let expected = [("mean", 3.0), ("share", 81.0 / (3.0 * 65.0)), ("sum", 9.0), ("min", -3.0), ("max", 5.0)];
            assert_eq!(metrics.finish(), expected);
        }
    }

    #[test]
    fn what_was_never_measured_is_left_out() {
        for device in devices() {
            let one = |value: f32| Tensor::<1>::from_data([value], &device);
            let mut metrics = MetricAccumulator::default();
            metrics.add(vec![
                ("mean", Metric::Mean { sum: one(0.0), count: one(0.0) }),
                ("share", Metric::EffectiveShare { sum: one(0.0), sum_of_squares: one(0.0), count: one(0.0) }),
                ("max", Metric::Max(one(f32::NEG_INFINITY))),
                ("sum", Metric::Sum(one(0.0))),
            ]);
            assert_eq!(metrics.finish(), [("sum", 0.0)]);
        }
        assert!(MetricAccumulator::default().finish().is_empty());
    }
}
