//! One file a command.

pub mod data;
pub mod devices;
pub mod eval;
pub mod export;
pub mod generate;
pub mod replay;
pub mod score;
pub mod train;
pub mod verify;

use std::path::Path;

use anyhow::Result;
use luspo::model::{MemoryPlan, Qwen2Config};
use luspo::trainer::Policy;

use crate::args::Global;
use crate::source::Source;

/// Loads the policy that a path means onto the backend that the command line names.
fn load_policy(path: &Path, global: &Global) -> Result<Policy> {
    let backend = global.backend.unwrap_or_default();
    let device = backend.device()?;
    let dir = Source::find(path)?.policy;
    MemoryPlan { per_parameter: 1, rows: 0, tokens: 0 }.check(&Qwen2Config::from_folder(&dir)?, backend)?;
    Ok(Policy::load(&dir, &device)?)
}

/// Whether there is memory to sample `rows` answers together, each of at most `tokens` with its prompt.
fn check_cache(policy: &Policy, rows: usize, tokens: usize, global: &Global) -> Result<()> {
    let backend = global.backend.unwrap_or_default();
    Ok(MemoryPlan { per_parameter: 0, rows, tokens }.check(&policy.config, backend)?)
}

/// Longest answer of `eval` and `generate` where none is given, in tokens.
const MAX_RESPONSE_LENGTH: usize = 1024;

/// How long an answer to a prompt may be where nothing else is said: what the model has room for, up to 1024 tokens.
fn room_for_answer(policy: &Policy, prompt_length: usize) -> usize {
    policy.max_length().saturating_sub(prompt_length).clamp(1, MAX_RESPONSE_LENGTH)
}
