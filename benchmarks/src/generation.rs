//! Sampling answers, one to each prompt.

use std::hint::black_box;

use burn::module::Module;
use luspo::core::{Purpose, RandomKey};
use luspo::model::Qwen2ForCausalLM;
use luspo::rollout::{Request, generate};

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
