//! The LUSPO loss of an update and its gradient by log-prob, apart from any model.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use luspo::algo::MetricAccumulator;
use luspo::prelude::{BatchTotals, Luspo, Objective, PolicyBatch};

use crate::measure::Figures;

const ROWS: usize = 512;
const SEQ: usize = 4096;

pub fn measure(runs: usize) -> anyhow::Result<Figures> {
    let device = Device::flex();
    let lengths: Vec<usize> = (0..ROWS).map(length).collect();
    let table = |value: fn(usize, usize) -> f32| {
        let values: Vec<f32> = (0..ROWS).flat_map(|row| (0..SEQ).map(move |t| value(row, t))).collect();
        Tensor::<2>::from_data(TensorData::new(values, [ROWS, SEQ]), &device)
    };
    let old_log_probs = table(|row, t| ((row * 31 + t * 17) % 97) as f32 / -32.0);
    let log_probs = old_log_probs.clone() + table(|row, t| ((row * 13 + t * 7) % 11) as f32 / 1000.0 - 0.005);
    let advantages = table(|row, _| (row % 7) as f32 / 3.0 - 1.0);
    let mask = table(|row, t| f32::from(u8::from(t < length(row)))).greater_scalar(0.5);
    let totals = BatchTotals::of_lengths(&lengths);
    let objective = Objective::new(Arc::new(Luspo::new()));

    Figures::of(runs, lengths.iter().sum(), || {
        let batch = PolicyBatch::new(log_probs.clone(), old_log_probs.clone(), advantages.clone(), mask.clone());
        let result = objective.gradients(batch, None, &totals);
        let mut metrics = MetricAccumulator::default();
        metrics.add(result.metrics);
        metrics.finish();
        Ok(())
    })
}

/// From 1 to `SEQ`, in no order.
fn length(row: usize) -> usize {
    1 + row * 2039 % SEQ
}
