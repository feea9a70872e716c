//! What is asked of a pass over responses, and how much memory it may take.

/// What is computed of the responses' distributions, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassOptions {
    /// The logits are divided by it; above 0.
    pub temperature: f64,
    /// Whether the entropy is computed too.
    pub entropy: bool,
    /// Whether Σⱼ pⱼ² is computed too.
    pub sum_pi_squared: bool,
    /// What exists at once.
    pub memory: MemoryOptions,
}

impl Default for PassOptions {
    /// Log-probs alone, at temperature 1.
    fn default() -> Self {
        Self { temperature: 1.0, entropy: false, sum_pi_squared: false, memory: MemoryOptions::default() }
    }
}

/// What exists at once. Changes memory and time, and results only by the order in which sums are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// How many tokens' logits; at least 1.
    pub log_prob_chunk: usize,
    /// How many queries' attention scores, of one row; at least 1. No more of the keys than these queries see are then
    /// looked at, so that long rows take up to half the time of whole ones. In f32 on the CPU never more than 64 queries'
    /// scores of one head exist on each thread.
    pub attention_chunk: usize,
    /// Whether only the blocks' inputs are kept for a backward pass, in which each block is then computed again: less
    /// memory, about a third more time.
    pub activation_checkpointing: bool,
}

impl Default for MemoryOptions {
    /// 1024 tokens' logits, 512 queries' scores, every block's activations.
    fn default() -> Self {
        Self { log_prob_chunk: 1024, attention_chunk: 512, activation_checkpointing: false }
    }
}

impl MemoryOptions {
    pub(crate) fn check(&self) {
        assert!(self.log_prob_chunk > 0, "a chunk of logits holds at least one token");
        assert!(self.attention_chunk > 0, "a chunk of attention scores holds at least one query");
    }
}
