//! What a step of training and of sampling costs, as one JSON object.
//!
//! ```text
//! cargo run --release -p luspo-benchmarks
//! ```
//!
//! The model has the shape `small`: 256 wide, 4 blocks, 8 heads, 2 key-value heads, vocabulary 8192. Times are the
//! median of five runs after one warm-up, in seconds.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use luspo::core::{FinishReason, Purpose};
use luspo::model::{HeadOptions, ResponseBatch};
use luspo::prelude::*;
use luspo::rollout::{Request, generate};
use luspo::trainer::config::OptimizerConfig;
use luspo::trainer::{AdamW, Sample, gradients};

const ROWS: usize = 8;
const SEQ: usize = 256;
const PROMPT: usize = 32;
const RESPONSE: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let device = Backend::Flex.device()?.autodiff();
    let config = Qwen2Config::new(8192, 256, 704, 4, 8, 2);
    let mut model = Qwen2ForCausalLM::init(&config, RandomKey::new(0, Purpose::Init), &device);
    let head = HeadOptions { temperature: 1.0, chunk: 1024, entropy: true };

    let samples: Vec<Sample> = (0..ROWS).map(sample).collect();
    let lengths: Vec<usize> = samples.iter().map(|s| s.rollout.response_len()).collect();
    let totals = BatchTotals::of_lengths(&lengths);
    let objective = Objective { policy: Arc::new(Luspo::new()), kl: None, entropy_coeff: 0.0 };
    let mut optimizer = AdamW::new(OptimizerConfig::default());
    let train_step = median(|| {
        let result = gradients(&model, &objective, &samples, &totals, ROWS, &head);
        optimizer.step(&mut model, result.gradients, 1e-6);
    });

    let plain = model.valid();
    let pairs: Vec<(&[u32], &[u32])> =
        samples.iter().map(|s| (&s.rollout.prompt_ids[..], &s.rollout.response_ids[..])).collect();
    let batch = ResponseBatch::new(&pairs);
    let log_probs = median(|| {
        black_box(plain.response_stats(&batch, &head).log_probs.into_data());
    });

    let prompts: Vec<Vec<u32>> = (0..ROWS).map(|row| ids(row, PROMPT)).collect();
    let requests: Vec<Request<'_>> = prompts
        .iter()
        .enumerate()
        .map(|(row, prompt_ids)| Request { prompt_id: row as u64, prompt_ids, samples: 1 })
        .collect();
    let sampling = Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        max_response_length: RESPONSE,
        stop_token_ids: vec![],
        vocab_limit: 8192,
    };
    let key = RandomKey::new(0, Purpose::Rollout).at(1);
    generate(&plain, &requests, &sampling, key, ROWS)?;
    let generation = median(|| {
        black_box(generate(&plain, &requests, &sampling, key, ROWS).expect("it could be generated before"));
    });

    println!(
        "{}",
        serde_json::json!({
            "train_step_s": train_step,
            "train_tokens_per_s": (ROWS * SEQ) as f64 / train_step,
            "log_probs_s": log_probs,
            "generation_s": generation,
            "generation_tokens_per_s": (ROWS * RESPONSE) as f64 / generation,
        })
    );
    Ok(())
}

fn ids(row: usize, len: usize) -> Vec<u32> {
    (0..len).map(|t| ((row * 7919 + t * 104_729) % 8192) as u32).collect()
}

fn sample(row: usize) -> Sample {
    let all = ids(row, SEQ);
    let response = SEQ - 1;
    Sample {
        rollout: Rollout {
            prompt_id: row as u64,
            sample: 0,
            prompt_ids: all[..1].to_vec(),
            response_ids: all[1..].to_vec(),
            log_probs: vec![-9.0; response],
            finish: FinishReason::Length,
        },
        score: Score { total: 0.0, components: vec![], correct: false, extracted: None, style: None },
        advantage: if row.is_multiple_of(2) { 1.0 } else { -1.0 },
        old_log_probs: None,
        ref_log_probs: None,
    }
}

/// The median time of five runs after one that is not counted, in seconds.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[2]
}
