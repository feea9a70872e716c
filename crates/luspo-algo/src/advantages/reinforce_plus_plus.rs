//! REINFORCE++: whitened over the batch instead of within a group (arXiv 2501.03262).
//!
//! ```text
//! plain      Âᵢₜ = whiten(Gᵢₜ)            Gᵢₜ = Σ_{u≥t} γ^{u−t} rᵢᵤ over response tokens
//! baseline   Âᵢₜ = whiten(rᵢ − mean)      mean over the answers of i's group
//! ```
//!
//! Mean and variance of the whitening are those of all response tokens of the batch, so long answers count for more.

use super::{AdvantageBatch, AdvantageOptions, Advantages, group};
use crate::masked;

pub(super) fn estimate(batch: &AdvantageBatch, options: &AdvantageOptions) -> Advantages {
    let returns = batch.returns(options.gamma);
    Advantages { advantages: masked::whiten(&returns, batch.mask, batch.collective), returns }
}

pub(super) fn estimate_with_baseline(batch: &AdvantageBatch) -> Advantages {
    let centred = batch.of_rows(&group::centred(&batch.scores(), batch.groups)).advantages;
    Advantages::without_returns(masked::whiten(&centred, batch.mask, batch.collective))
}
