//! Answers to prompts of 32 tokens, by candle's Qwen2 with its KV cache and its sampler. Weights are random, f32.
//!
//! Takes the arguments of the other peers; its work is `--work generation:ROWSxTOKENS` alone. Prints one line of JSON.

#[path = "../../../src/process.rs"]
mod process;

use std::time::Instant;

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::{Activation, VarBuilder, VarMap};
use candle_transformers::generation::LogitsProcessor;
use candle_transformers::models::qwen2::{Config, ModelForCausalLM};
use process::{cpu_seconds, peak_memory};

const PROMPT: usize = 32;
const VOCAB: usize = 8192;

fn config(shape: &str) -> anyhow::Result<Config> {
    let (vocab_size, hidden_size, intermediate_size, num_hidden_layers, heads, kv_heads) = match shape {
        "small" => (VOCAB, 256, 704, 4, 8, 2),
        "0.5b" => (151_936, 896, 4864, 24, 14, 2),
        _ => bail!("--shape {shape}: small or 0.5b"),
    };
    Ok(Config {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        max_position_embeddings: 2048,
        sliding_window: 2048,
        max_window_layers: num_hidden_layers,
        tie_word_embeddings: true,
        rope_theta: 1e6,
        rms_norm_eps: 1e-6,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    })
}

fn ids(row: usize, length: usize) -> Vec<u32> {
    (0..length).map(|t| ((row * 7919 + t * 104_729) % VOCAB) as u32).collect()
}

/// An answer of so many tokens to each of the prompts, which are one batch.
fn sample(model: &mut ModelForCausalLM, rows: usize, tokens: usize) -> anyhow::Result<()> {
    let device = Device::Cpu;
    let mut sampler = LogitsProcessor::new(0, Some(1.0), None);
    model.clear_kv_cache();
    let mut input = Tensor::new((0..rows).map(|row| ids(row, PROMPT)).collect::<Vec<_>>(), &device)?;
    let mut before = 0;
    for _ in 0..tokens {
        let logits = model.forward(&input, before)?;
        before += input.dim(1)?;
        let next = (0..rows).map(|row| sampler.sample(&logits.i((row, 0))?)).collect::<Result<Vec<_>, _>>()?;
        input = Tensor::new(next, &device)?.unsqueeze(1)?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let (mut shape, mut runs, mut works) = (String::new(), 1, vec![]);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--shape" => shape = value,
            "--runs" => runs = value.parse()?,
            "--work" => works.push(value),
            "--dtype" => ensure!(value == "f32", "--dtype {value}: f32 alone"),
            "--device" => ensure!(value == "cpu", "--device {value}: cpu alone"),
            "--threads" => ensure!(
                std::env::var("RAYON_NUM_THREADS").is_ok_and(|threads| threads == value),
                "--threads {value}: set RAYON_NUM_THREADS to as many, which is what candle goes by"
            ),
            _ => bail!("{name}: no such option"),
        }
    }
    let weights = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    let mut model = ModelForCausalLM::new(&config(&shape)?, weights)?;

    let mut report = vec![];
    for work in works {
        let size = work.strip_prefix("generation:").with_context(|| format!("{work}: generation alone"))?;
        let (rows, tokens) = size.split_once('x').context("ROWSxTOKENS")?;
        let (rows, tokens) = (rows.parse()?, tokens.parse()?);
        sample(&mut model, rows, tokens)?;
        let before = cpu_seconds()?;
        let mut seconds = vec![];
        for _ in 0..runs {
            let start = Instant::now();
            sample(&mut model, rows, tokens)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        let (after, peak) = (cpu_seconds()?, peak_memory()?);
        seconds.sort_by(f64::total_cmp);
        let median = (seconds[(runs - 1) / 2] + seconds[runs / 2]) / 2.0;
        report.push(format!(
            r#""{work}": {{"seconds": {median}, "cpu_seconds": {}, "tokens_per_second": {}, "peak_memory_bytes": {peak}}}"#,
            (after - before) / runs as f64,
            (rows * tokens) as f64 / median,
        ));
    }
    println!("{{{}}}", report.join(", "));
    Ok(())
}
