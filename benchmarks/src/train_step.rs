//! Forward, log-probs, LUSPO loss, backward, clipping, AdamW.

use std::sync::Arc;

use luspo::core::{FinishReason, Rollout, Score};
use luspo::prelude::{BatchTotals, Luspo, Objective};
use luspo::trainer::config::OptimizerConfig;
use luspo::trainer::{AdamW, Sample, gradients};

use crate::measure::Figures;
use crate::workload::{Work, ids, micro, model, options};

pub fn measure(work: &Work, runs: usize) -> anyhow::Result<Figures> {
    let Work { shape, rows, seq } = work;
    let mut model = model(shape)?;
    let samples: Vec<Sample> = (0..*rows).map(|row| sample(row, *seq)).collect();
    let totals = BatchTotals::of_lengths(&vec![seq - 1; *rows]);
    let objective = Objective::new(Arc::new(Luspo::new()));
    let mut optimizer = AdamW::new(OptimizerConfig::default());
    Figures::of(runs, rows * seq, || {
        let update = gradients(&model, &objective, &[], &samples, &totals, &micro(), &options(shape, false));
        optimizer.step(&mut model, update.gradients, 1e-6);
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
