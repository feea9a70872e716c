//! One file a command.

pub mod check;
pub mod data;
pub mod devices;
pub mod eval;
pub mod export;
pub mod generate;
pub mod replay;
pub mod score;
#[cfg(feature = "serve")]
pub mod serve;
pub mod train;
pub mod verify;

use std::path::Path;

use anyhow::Result;
use luspo::Backend;
use luspo::model::{ModelMemory, Qwen2Config, WeightDtype, check_free_memory, frozen_dtype};
use luspo::trainer::Policy;

use crate::args::{Global, Precision};
use crate::source::Source;

/// Loads the policy that a path means onto the backend that the command line names.
fn load_policy(path: &Path, precision: &Precision, global: &Global) -> Result<Policy> {
    global.backend.unwrap_or_default().device()?;
    load_source(&Source::named(path, global)?, precision, global)
}

/// The same for a policy that was found already.
fn load_source(source: &Source, precision: &Precision, global: &Global) -> Result<Policy> {
    let backend = global.backend.unwrap_or_default();
    let device = backend.device()?;
    let dtype = precision.dtype.unwrap_or(backend.default_dtype());
    check_weights(source, dtype, backend)?;
    Ok(match &source.base {
        Some(base) => Policy::load_adapted(base, &source.policy, &device, dtype)?,
        None => Policy::load_frozen(&source.policy, &device, dtype)?,
    })
}

/// Whether there is memory for the weights of a model, which nothing here trains.
fn check_weights(source: &Source, dtype: WeightDtype, backend: Backend) -> Result<()> {
    let shape = Qwen2Config::from_folder(source.weights())?;
    let held = frozen_dtype(source.weights(), dtype, backend)?;
    let what = format!("a model of {:.1} M parameters", shape.num_params() as f64 / 1e6);
    let needed = ModelMemory::new(&shape, held, backend).parameters();
    Ok(check_free_memory(what, needed, "choose a smaller one, or free memory", backend)?)
}

/// Whether there is memory to sample with a key-value cache of so many tokens.
fn check_cache(policy: &Policy, tokens: usize, global: &Global) -> Result<()> {
    let backend = global.backend.unwrap_or_default();
    let what = format!("a key-value cache of {tokens} tokens");
    let needed = ModelMemory::new(&policy.config, policy.model.dtype(), backend).cache(tokens as f64);
    let instead = "lower max_batch_size, max_tokens_in_cache or max_response_length";
    Ok(check_free_memory(what, needed, instead, backend)?)
}

/// Longest answer of `eval` and `generate` where none is given, in tokens.
const MAX_RESPONSE_LENGTH: usize = 1024;

/// How long an answer to a prompt may be where nothing else is said: what the model has room for, up to 1024 tokens.
fn room_for_answer(policy: &Policy, prompt_length: usize) -> usize {
    policy.max_length().saturating_sub(prompt_length).clamp(1, MAX_RESPONSE_LENGTH)
}
