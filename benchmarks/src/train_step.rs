//! Forward, log-probs, LUSPO loss and backward; clipping and AdamW.

use std::sync::Arc;

use luspo::core::{FinishReason, Rollout, Score};
use luspo::model::Qwen2ForCausalLM;
use luspo::prelude::{BatchTotals, Luspo, Objective};
use luspo::trainer::config::OptimizerConfig;
use luspo::trainer::{AdamW, Sample, gradients};

use crate::Args;
use crate::measure::Figures;
use crate::work::Work;
use crate::workload::{ids, micro};

/// With clipping and AdamW if there is an `update`.
pub fn measure(work: &Work, model: &mut Qwen2ForCausalLM, args: &Args, update: bool) -> anyhow::Result<Figures> {
    let Work { rows, tokens, .. } = *work;
    let samples: Vec<Sample> = (0..rows).map(|row| sample(row, tokens)).collect();
    let totals = BatchTotals::of_lengths(&vec![tokens - 1; rows]);
    let objective = Objective::new(Arc::new(Luspo::new()));
    let config = OptimizerConfig { offload: args.offload, ..OptimizerConfig::default() };
    let mut optimizer = update.then(|| AdamW::new(config));
    let (device, options) = (model.device(), args.shape.options(false));
    Figures::of(args, rows * tokens, || {
        let update = gradients(model, &objective, &[], &samples, &totals, &micro(rows), &options);
        if let Some(optimizer) = &mut optimizer {
            optimizer.step(model, update.gradients, 1e-6);
        }
        device.sync()?;
        Ok(())
    })
}

/// An answer of `seq` − 1 tokens to a prompt of one.
fn sample(row: usize, seq: usize) -> Sample {
    let all = ids(row, seq);
    let rollout = Rollout {
        prompt_id: row as u64,
        sample: 0,
        prompt_ids: all[..1].to_vec(),
        response_ids: all[1..].to_vec(),
        log_probs: vec![-9.0; seq - 1],
        finish: FinishReason::Length,
    };
    let score = Score { total: 0.0, components: vec![], correct: false, extracted: None, style: None };
    let advantage = if row.is_multiple_of(2) { 1.0 } else { -1.0 };
    Sample { advantages: vec![advantage; seq - 1], ..Sample::new(rollout, score) }
}
