//! Sampling answers, one to each prompt.

use std::hint::black_box;

use burn::module::Module;
use luspo::core::{Purpose, RandomKey};
use luspo::model::Qwen2ForCausalLM;
use luspo::rollout::{Engine, Job, Request, generate};

use crate::Args;
use crate::measure::Figures;
use crate::work::Work;
use crate::workload::{ids, sampling};

const PROMPT: usize = 32;

pub fn measure(work: &Work, model: &Qwen2ForCausalLM, args: &Args) -> anyhow::Result<Figures> {
    let Work { rows, tokens, .. } = *work;
    let model = model.valid();
    let prompts: Vec<Vec<u32>> = (0..rows).map(|row| ids(row, PROMPT)).collect();
    let requests: Vec<Request<'_>> =
        (0..).zip(&prompts).map(|(prompt_id, prompt_ids)| Request { prompt_id, prompt_ids, samples: 1 }).collect();
    let (key, sampling) = (RandomKey::new(0, Purpose::Rollout).at(1), sampling(args, tokens));
    Figures::of(args, rows * tokens, || {
        black_box(generate(&model, &requests, &sampling, key, rows)?);
        Ok(())
    })
}

/// The lengths of `rows` answers, from 8 to `most` tokens, in no order. (37 has no divisor in common with usual sizes.)
fn length(row: usize, rows: usize, most: usize) -> usize {
    8 + (row * 37 % rows) * most.saturating_sub(8) / (rows - 1).max(1)
}

/// Answers of very different lengths, all of which are asked for at once; 16 are decoded at a time.
pub fn ragged(work: &Work, model: &Qwen2ForCausalLM, args: &Args) -> anyhow::Result<Figures> {
    const AT_ONCE: usize = 16;
    let Work { rows, tokens, .. } = *work;
    let model = model.valid();
    let key = RandomKey::new(0, Purpose::Rollout).at(1);
    let lengths: Vec<usize> = (0..rows).map(|row| length(row, rows, tokens)).collect();
    let mut engine = Engine::new(AT_ONCE)?;
    Figures::of(args, lengths.iter().sum(), || {
        for (row, length) in lengths.iter().enumerate() {
            let (prompt_ids, sampling) = (ids(row, PROMPT), sampling(args, *length));
            engine.submit(
                Job { prompt_id: row as u64, prompt_ids, samples: 1, sampling, key, top_log_probs: 0 },
                &model,
            )?;
        }
        while engine.open() + engine.waiting() > 0 {
            black_box(engine.step(&model, true)?);
        }
        Ok(())
    })
}
