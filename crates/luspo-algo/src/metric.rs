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
        // Two numbers a metric in one tensor: the device is waited for once.
        let pairs = self.metrics.iter().flat_map(|(_, metric)| match metric.clone() {
            Metric::Mean { sum, count } => [sum, count],
            Metric::Sum(value) | Metric::Min(value) | Metric::Max(value) => [value.clone(), value],
        });
        let numbers: Vec<f64> = Tensor::cat(pairs.collect(), 0).into_data().iter::<f64>().collect();
        let read = self.metrics.iter().zip(numbers.chunks(2)).filter_map(|((name, metric), pair)| {
            let value = match metric {
                Metric::Mean { .. } => (pair[1] > 0.0).then(|| pair[0] / pair[1]),
                Metric::Sum(_) => Some(pair[0]),
                Metric::Min(_) => (pair[0] != f64::INFINITY).then_some(pair[0]),
                Metric::Max(_) => (pair[0] != f64::NEG_INFINITY).then_some(pair[0]),
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
            let mut metrics = MetricAccumulator::default();
            for (sum, count, extreme) in [(1.0, 1.0, 5.0), (8.0, 2.0, -3.0), (0.0, 0.0, 0.5)] {
                metrics.add(vec![
                    ("mean", Metric::Mean { sum: one(sum), count: one(count) }),
                    ("sum", Metric::Sum(one(sum))),
                    ("min", Metric::Min(one(extreme))),
                    ("max", Metric::Max(one(extreme))),
                ]);
            }
            assert_eq!(metrics.finish(), [("mean", 3.0), ("sum", 9.0), ("min", -3.0), ("max", 5.0)]);
        }
    }

    #[test]
    fn what_was_never_measured_is_left_out() {
        for device in devices() {
            let one = |value: f32| Tensor::<1>::from_data([value], &device);
            let mut metrics = MetricAccumulator::default();
            metrics.add(vec![
                ("mean", Metric::Mean { sum: one(0.0), count: one(0.0) }),
                ("max", Metric::Max(one(f32::NEG_INFINITY))),
                ("sum", Metric::Sum(one(0.0))),
            ]);
            assert_eq!(metrics.finish(), [("sum", 0.0)]);
        }
        assert!(MetricAccumulator::default().finish().is_empty());
    }
}
