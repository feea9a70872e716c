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
