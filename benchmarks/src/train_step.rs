//! Forward, log-probs, LUSPO loss, backward, clipping, AdamW.

use std::sync::Arc;

use luspo::core::{FinishReason, Rollout, Score};
use luspo::prelude::{BatchTotals, Luspo, Objective};
use luspo::trainer::config::OptimizerConfig;
use luspo::trainer::{AdamW, Sample, gradients};

use crate::measure::Figures;
use crate::workload::{ROWS, head, ids, model};

const SEQ: usize = 256;

pub fn measure(runs: usize) -> anyhow::Result<Figures> {
    let mut model = model()?;
    let samples: Vec<Sample> = (0..ROWS).map(sample).collect();
    let totals = BatchTotals::of_lengths(&[SEQ - 1; ROWS]);
    let objective = Objective::new(Arc::new(Luspo::new()));
    let mut optimizer = AdamW::new(OptimizerConfig::default());
    Figures::of(runs, ROWS * SEQ, || {
        let update = gradients(&model, &objective, &[], &samples, &totals, ROWS, &head(false));
        optimizer.step(&mut model, update.gradients, 1e-6);
        Ok(())
    })
}

/// An answer of `SEQ` − 1 tokens to a prompt of one.
fn sample(row: usize) -> Sample {
    let all = ids(row, SEQ);
    let rollout = Rollout {
        prompt_id: row as u64,
        sample: 0,
        prompt_ids: all[..1].to_vec(),
        response_ids: all[1..].to_vec(),
        log_probs: vec![-9.0; SEQ - 1],
        finish: FinishReason::Length,
    };
    let score = Score { total: 0.0, components: vec![], correct: false, extracted: None, style: None };
    let advantage = if row.is_multiple_of(2) { 1.0 } else { -1.0 };
    Sample { advantages: vec![advantage; SEQ - 1], ..Sample::new(rollout, score) }
}
