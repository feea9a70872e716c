//! Sampling answers, one to each prompt.

use std::hint::black_box;

use burn::module::Module;
use luspo::core::{Purpose, RandomKey};
use luspo::rollout::{Request, generate};

use crate::measure::Figures;
use crate::workload::{ROWS, config, ids, model, sampling};

const PROMPT: usize = 32;
const RESPONSE: usize = 128;

pub fn measure(runs: usize) -> anyhow::Result<Figures> {
    let model = model(&config())?.valid();
    let prompts: Vec<Vec<u32>> = (0..ROWS).map(|row| ids(row, PROMPT)).collect();
    let requests: Vec<Request<'_>> =
        (0..).zip(&prompts).map(|(prompt_id, prompt_ids)| Request { prompt_id, prompt_ids, samples: 1 }).collect();
    let key = RandomKey::new(0, Purpose::Rollout).at(1);
    Figures::of(runs, ROWS * RESPONSE, || {
        black_box(generate(&model, &requests, &sampling(RESPONSE), key, ROWS)?);
        Ok(())
    })
}
