//! One file a command.

pub mod data;
pub mod devices;
pub mod eval;
pub mod generate;
pub mod score;
pub mod train;

use std::path::Path;

use anyhow::Result;
use luspo::trainer::Policy;

use crate::args::Global;

/// Loads a policy onto the backend that the command line names.
fn load_policy(dir: &Path, global: &Global) -> Result<Policy> {
    let device = global.backend.unwrap_or_default().device()?;
    Ok(Policy::load(dir, &device)?)
}

/// Longest answer of `eval` and `generate` where none is given, in tokens.
const MAX_RESPONSE_LENGTH: usize = 1024;

/// How long an answer to a prompt may be where nothing else is said: what the model has room for, up to 1024 tokens.
fn room_for_answer(policy: &Policy, prompt_length: usize) -> usize {
    policy.max_length().saturating_sub(prompt_length).clamp(1, MAX_RESPONSE_LENGTH)
}
