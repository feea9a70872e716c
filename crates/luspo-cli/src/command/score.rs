//! `luspo score`: per-token log-probs of given sequences.

use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use luspo::data::Tokenizer;
use luspo::model::{Adapter, PassOptions, Pretrained, ResponseBatch};
use serde::Deserialize;

use crate::args::{Global, ScoreArgs};
use crate::command::check_weights;
use crate::input_lines::InputLines;
use crate::source::Source;

/// One line of input: token ids alone, or a prompt and a response.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    token_ids: Option<Vec<u32>>,
    prompt: Option<String>,
    response: Option<String>,
}

const EXPECTED: &str = r#"a line is {"token_ids": [...]} or {"prompt": "...", "response": "..."}"#;

pub fn run(args: ScoreArgs, global: &Global) -> Result<()> {
    let backend = global.backend.unwrap_or_default();
    let device = backend.device()?;
    let source = Source::named(&args.model, global)?;
    let dtype = args.precision.dtype.unwrap_or(backend.default_dtype());
    check_weights(&source, dtype, backend)?;
    // The tokenizer is loaded when a line needs it: token ids can be scored without one.
    let mut tokenizer: Option<Tokenizer> = None;
    let mut policy = Pretrained::load_frozen(source.weights(), &device, dtype)?;
    if source.base.is_some() {
        policy.model = Adapter::from_folder(&source.policy)?.load(&source.policy, &policy.model)?;
    }
    let (vocab_size, longest) = (policy.config.vocab_size, policy.config.max_position_embeddings);
    let model = policy.model.valid();
    let mut out = std::io::stdout().lock();
    let mut input = InputLines::open(&args.input)?;
    while let Some((place, line)) = input.next(EXPECTED)? {
        let (prompt, response) = match line {
            Line { token_ids: Some(token_ids), prompt: None, response: None } => {
                ensure!(!token_ids.is_empty(), "{place}: `token_ids` is empty");
                (token_ids[..1].to_vec(), token_ids[1..].to_vec())
            }
            Line { token_ids: None, prompt: Some(prompt), response: Some(response) } => {
                if tokenizer.is_none() {
                    tokenizer = Some(Tokenizer::from_folder(source.tokenizer())?);
                }
                let Some(tokenizer) = &tokenizer else { bail!("{place}: no tokenizer") };
                let prompt = tokenizer.encode(&prompt).with_context(|| place.clone())?;
                ensure!(
                    !prompt.is_empty(),
                    "{place}: `prompt` is empty; the first response token would have no context"
                );
                (prompt, tokenizer.encode(&response).with_context(|| place.clone())?)
            }
            _ => bail!("{place}: {EXPECTED}"),
        };
        if let Some(id) = prompt.iter().chain(&response).find(|id| **id as usize >= vocab_size) {
            bail!("{place}: token id {id} is not below the model's vocabulary of {vocab_size}");
        }
        let tokens = prompt.len() + response.len();
        ensure!(tokens <= longest, "{place}: {tokens} tokens, but the model reads at most {longest}");
        let log_probs = log_probs(&model, &prompt, &response);
        ensure!(
            log_probs.iter().all(|value| value.is_finite()),
            "{place}: the log-probs are not finite; the model's weights are damaged or had diverged"
        );
        writeln!(out, "{}", serde_json::json!({ "log_probs": log_probs }))?;
    }
    Ok(())
}

/// log p(response token | everything before it), in nats, at temperature 1.
fn log_probs(model: &luspo::model::Qwen2ForCausalLM, prompt: &[u32], response: &[u32]) -> Vec<f32> {
    if response.is_empty() {
        return Vec::new();
    }
    let batch = ResponseBatch::new(&[(prompt, response)]);
    let options = PassOptions::default();
    model.response_stats(&batch, &options).log_probs.into_data().iter::<f32>().collect()
}
