//! The LUSPO loss of an update and its gradient by log-prob, apart from any model.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use luspo::algo::MetricAccumulator;
use luspo::prelude::{BatchTotals, Luspo, Objective, PolicyBatch};

use crate::Args;
use crate::measure::Figures;
use crate::work::Work;

pub fn measure(work: &Work, args: &Args) -> anyhow::Result<Figures> {
    let Work { rows, tokens, .. } = *work;
    let device = args.backend.device()?;
    // From 1 to `tokens`, in no order.
    let length = |row: usize| 1 + row * 2039 % tokens;
    let lengths: Vec<usize> = (0..rows).map(length).collect();
    let table = |value: &dyn Fn(usize, usize) -> f32| {
        let values: Vec<f32> = (0..rows).flat_map(|row| (0..tokens).map(move |t| value(row, t))).collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, tokens]), &device)
    };
    let old_log_probs = table(&|row, t| ((row * 31 + t * 17) % 97) as f32 / -32.0);
    let log_probs = old_log_probs.clone() + table(&|row, t| ((row * 13 + t * 7) % 11) as f32 / 1000.0 - 0.005);
    let advantages = table(&|row, _| (row % 7) as f32 / 3.0 - 1.0);
    let mask = table(&|row, t| f32::from(u8::from(t < length(row)))).greater_scalar(0.5);
    let totals = BatchTotals::of_lengths(&lengths);
    let objective = Objective::new(Arc::new(Luspo::new()));

    Figures::of(args, lengths.iter().sum(), || {
        let batch = PolicyBatch::new(log_probs.clone(), old_log_probs.clone(), advantages.clone(), mask.clone());
        let result = objective.gradients(batch, None, &totals);
        let mut metrics = MetricAccumulator::default();
        metrics.add(result.metrics);
        metrics.finish();
        Ok(())
    })
}
