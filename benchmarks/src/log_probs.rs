//! The forward pass alone, as for a reference policy.

use std::hint::black_box;

use burn::module::Module;
use luspo::model::ResponseBatch;

use crate::measure::Figures;
use crate::workload::{ROWS, head, ids, model};

const SEQ: usize = 256;

pub fn measure(runs: usize) -> anyhow::Result<Figures> {
    let model = model()?.valid();
    let rows: Vec<Vec<u32>> = (0..ROWS).map(|row| ids(row, SEQ)).collect();
    let pairs: Vec<(&[u32], &[u32])> = rows.iter().map(|row| row.split_at(1)).collect();
    let batch = ResponseBatch::new(&pairs);
    Figures::of(runs, ROWS * SEQ, || {
        black_box(model.response_stats(&batch, &head(false)).log_probs.into_data());
        Ok(())
    })
}
