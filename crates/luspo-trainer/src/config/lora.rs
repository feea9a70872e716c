//! The `[model.lora]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[model.lora]`: train low-rank adapters beside frozen weights, y = x Wᵀ + b + (alpha / rank) (x Aᵀ) Bᵀ; absent: all
/// parameters are trained. Gradients and the optimizer's state are then of A and B alone, checkpoints hold an adapter in
/// PEFT's format, and the base without the adapter serves as the reference policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The adapter's product is scaled by alpha / rank.
    pub alpha: f64,
    /// Scale by alpha / √rank instead (rsLoRA, arXiv 2312.03732).
    pub use_rslora: bool,
    /// The projections that have an adapter, in every block: all seven or some of them.
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self { rank: 16, alpha: 32.0, use_rslora: false, target_modules: all.map(String::from).into() }
    }
}

impl LoraConfig {
    /// What the model is told.
    pub fn adapter(&self) -> luspo_model::LoraConfig {
        let Self { rank, alpha, use_rslora, target_modules } = self.clone();
        luspo_model::LoraConfig { rank, alpha, use_rslora, target_modules }
    }
}
