//! The forward pass alone, as for a reference policy.

use std::hint::black_box;

use burn::module::Module;
use luspo::model::ResponseBatch;

use crate::measure::Figures;
use crate::workload::{Work, ids, model, options};

pub fn measure(work: &Work, runs: usize) -> anyhow::Result<Figures> {
    let Work { shape, rows, seq } = work;
    let model = model(shape)?.valid();
    let all: Vec<Vec<u32>> = (0..*rows).map(|row| ids(row, *seq)).collect();
    let pairs: Vec<(&[u32], &[u32])> = all.iter().map(|row| row.split_at(1)).collect();
    let batch = ResponseBatch::new(&pairs);
    Figures::of(runs, rows * seq, || {
        black_box(model.response_stats(&batch, &options(shape, false)).log_probs.into_data());
        Ok(())
    })
}
