//! ReMax: the baseline is the score of the greedy answer to the same prompt (arXiv 2310.10505).
//!
//! ```text
//! Âᵢₜ = Gᵢₜ − r_greedy        Gᵢₜ = Σ_{u≥t} rᵢᵤ over response tokens
//! ```

use super::{AdvantageBatch, Advantages};
use crate::masked;

pub(super) fn estimate(batch: &AdvantageBatch, baselines: &[f64]) -> Advantages {
    let returns = batch.returns(1.0);
    Advantages { advantages: masked::fill(batch.mask, |row, t| returns[row][t] - baselines[row]), returns }
}
