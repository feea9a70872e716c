//! From scores to advantages, on the host, in f64.
//!
//! An [`AdvantageEstimator`] reads an [`AdvantageBatch`]. Names are verl's `adv_estimator`:
//!
//! | name | advantage of a token of answer i | needs |
//! |---|---|---|
//! | `grpo` | (rᵢ − mean) / (std + ε) of its group; without the division Dr. GRPO's | groups |
//! | `grpo_passk` | best minus second best of its group, for the best alone | groups |
//! | `rloo` | rᵢ minus the mean of the others in its group | groups |
//! | `opo` | rᵢ minus the group's mean weighted by length | groups |
//! | `reinforce_plus_plus` | the discounted return, whitened | |
//! | `reinforce_plus_plus_baseline` | rᵢ − mean of its group, whitened | groups |
//! | `remax` | the return minus the greedy answer's score | baselines |
//! | `gpg` | α (rᵢ − mean of its group), α = rows / rows with a score other than 0 | groups |
//! | `gae` | Σ (γλ)ᵘ δ, whitened | values |
//! | `optimal_token_baseline` | the return minus a baseline of its position | groups, log-probs, Σπ² |
//! | `tir_optimal_token_baseline` | the same, positions counted in response tokens | groups, log-probs, Σπ² |
//! | `gdpo` | Σₖ wₖ · normalised reward k, whitened | groups, components |
//! | `normalize_then_sum` | the same, normalised over rows (TRL) | groups, components |
//!
//! `grpo_vectorized` and `rloo_vectorized` are other names of `grpo` and `rloo`.
//!
//! A group that says nothing (a single answer, or all scores equal) has advantage 0, before the whitening where there is
//! one. A row without response tokens has no advantage, but its score counts among its group's; leave a row out whose
//! score is unknown.

mod batch;
mod estimator;
mod gae;
mod gdpo;
mod gpg;
mod group;
mod grpo;
mod opo;
mod optimal_token_baseline;
mod pass_at_k;
mod reinforce_plus_plus;
mod remax;
mod rloo;
#[cfg(test)]
mod tests;

pub use batch::{AdvantageBatch, Advantages};
pub use estimator::{AdvantageEstimator, AdvantageOptions, ScaleRewards};
pub use grpo::grpo;
