//! The forward pass alone, as for a reference policy.

use std::hint::black_box;

use burn::module::Module;
use luspo::model::{Qwen2ForCausalLM, ResponseBatch};

use crate::Args;
use crate::measure::Figures;
use crate::work::Work;
use crate::workload::ids;

pub fn measure(work: &Work, model: &Qwen2ForCausalLM, args: &Args) -> anyhow::Result<Figures> {
    let Work { rows, tokens, .. } = *work;
    let model = model.valid();
    let all: Vec<Vec<u32>> = (0..rows).map(|row| ids(row, tokens)).collect();
    let pairs: Vec<(&[u32], &[u32])> = all.iter().map(|row| row.split_at(1)).collect();
    let (batch, options) = (ResponseBatch::new(&pairs), args.shape.options(false));
    Figures::of(args, rows * tokens, || {
        black_box(model.response_stats(&batch, &options).log_probs.into_data());
        Ok(())
    })
}
