//! How much memory a model takes, predicted from its shape: what is said here follows the code of the trunk, the head
//! and the cache; a test of the whole program compares it with what was measured.

use sysinfo::System;

use crate::host::QUERIES;
use crate::tape::{GATED_TOKENS, SCORES};
use crate::{Backend, LoraConfig, MemoryOptions, ModelError, Qwen2Config, WeightDtype};

/// Bytes of a number in f32, which gradients are in, and whatever is summed up or exponentiated.
const F32: f64 = 4.0;

/// What a model takes, in bytes. They are `f64`, since sizes that no machine has must not overflow.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelMemory<'a> {
    shape: &'a Qwen2Config,
    /// Bytes of an activation, and of a parameter unless it is frozen.
    number: f64,
    /// Bytes of a parameter of the base.
    held: f64,
    /// Whether decoding reads the cache where it is: in f32, and without copies.
    in_place: bool,
    /// Whether the fused passes over host memory do the work between products.
    fused: bool,
    /// Attention scores that may exist at once.
    scores: usize,
    /// Parameters of adapters, where these alone are trained.
    adapters: Option<f64>,
}

/// A pass over rows of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassSizes {
    /// How many rows there are.
    pub rows: f64,
    /// How many of them share one reading of their prompt.
    pub sharing: f64,
    /// Tokens of a prompt.
    pub prompt: f64,
    /// Tokens of a response.
    pub response: f64,
    /// What may exist at once.
    pub options: MemoryOptions,
}

impl PassSizes {
    /// Tokens that go through the blocks.
    fn tokens(&self) -> f64 {
        self.rows * (self.response + self.prompt / self.sharing)
    }

    fn responses(&self) -> f64 {
        self.rows * self.response
    }

    /// Attention scores of a head, over all rows.
    fn scores(&self) -> f64 {
        let own = |tokens: f64| {
            // Runs of a chunk of queries, each of which looks at all keys up to its last.
            let chunk = tokens.min(self.options.attention_chunk as f64).max(1.0);
            let whole = (tokens / chunk).floor();
            chunk * chunk * whole * (whole + 1.0) / 2.0 + (tokens - whole * chunk) * tokens
        };
        match self.sharing > 1.0 {
            false => self.rows * own(self.prompt + self.response),
            true => {
                let responses = self.response * self.prompt + own(self.response);
                self.rows * responses + self.rows / self.sharing * own(self.prompt)
            }
        }
    }

    /// Those of the longest run of `queries`.
    fn longest_run(&self, queries: usize) -> f64 {
        let row = self.prompt + self.response;
        row * row.min(queries as f64)
    }
}

/// What a pass holds beside parameters and gradients, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PassMemory {
    /// What the blocks leave for the backward pass.
    pub kept: f64,
    /// What one block takes while it is computed, forward or backward.
    pub block: f64,
    /// Attention scores that exist at once.
    pub scores: f64,
    /// What the logits of a chunk take, with their gradient.
    pub logits: f64,
    /// The gradient of the largest parameter, before it is added to the others.
    pub gradient: f64,
}

impl<'a> ModelMemory<'a> {
    /// Of a model whose parameters are of this type, on this backend.
    pub fn new(shape: &'a Qwen2Config, dtype: WeightDtype, backend: Backend) -> Self {
        let fused = backend == Backend::Flex && dtype == WeightDtype::F32;
        let scores = SCORES[usize::from(backend != Backend::Flex)];
        let number = dtype.size() as f64;
        let in_place = backend == Backend::Flex;
        Self { shape, number, held: number, in_place, fused, scores, adapters: None }
    }

    /// The same, of which adapters alone are trained.
    pub fn with_lora(self, lora: &LoraConfig) -> Self {
        let hidden = (self.hidden(), self.hidden());
        let adapter = |projection: &String| {
            let (inputs, outputs) = match projection.as_str() {
                "k_proj" | "v_proj" => (self.hidden(), self.key_width()),
                "gate_proj" | "up_proj" => (self.hidden(), self.feed()),
                "down_proj" => (self.feed(), self.hidden()),
                _ => hidden,
            };
            lora.rank as f64 * (inputs + outputs)
        };
        let adapters = self.blocks() * lora.target_modules.iter().map(adapter).sum::<f64>();
        Self { adapters: Some(adapters), ..self }
    }

    /// The same, of a frozen base whose matrices are held in this type ([`frozen_dtype`](crate::frozen_dtype)).
    pub fn with_base_in(self, dtype: WeightDtype) -> Self {
        Self { held: dtype.size() as f64, ..self }
    }

    /// The parameters.
    pub fn parameters(&self) -> f64 {
        self.shape.num_params() as f64 * self.held + self.adapters.unwrap_or(0.0) * self.number
    }

    /// A number in f32 for each parameter that is trained: its gradient, its master, a moment.
    pub fn trained_in_f32(&self) -> f64 {
        self.adapters.unwrap_or(self.shape.num_params() as f64) * F32
    }

    /// The parameters in f32, as random ones are drawn.
    pub fn drawn(&self) -> f64 {
        self.shape.num_params() as f64 * F32
    }

    /// Whether the optimizer keeps masters: the parameters are not f32.
    pub fn has_masters(&self) -> bool {
        self.number < F32
    }

    /// The largest parameter, the embedding, in f32.
    pub fn largest_in_f32(&self) -> f64 {
        self.vocab() * self.hidden() * F32
    }

    /// Keys and values of so many tokens.
    pub fn cache(&self, tokens: f64) -> f64 {
        self.shape.cached_per_token() as f64 * tokens * if self.in_place { F32 } else { self.number }
    }

    /// Beside the cache: what reading `chunk` tokens of prompts, of which the longest has `prompt`, takes, or decoding a
    /// token of `rows` answers with `tokens` each, prompts included, whichever is more.
    pub fn sampling(&self, [chunk, prompt]: [f64; 2], [rows, tokens]: [f64; 2]) -> f64 {
        // The logits, and their copy in host memory.
        let logits = 2.0 * rows * self.vocab() * F32;
        // Keys and values of one block, copied where they are needed in a row.
        let copied = if self.in_place { 0.0 } else { self.cache(rows * tokens) / self.blocks() };
        let scores = (self.heads() * chunk * prompt).min(self.scores as f64);
        let earlier = self.cache(chunk.max(prompt)) / self.blocks();
        let reading = (self.working() + (3.0 * self.hidden() + 2.0 * self.key_width()) * self.number) * chunk;
        let masks = chunk * prompt * F32;
        (reading + earlier + masks + 2.0 * scores * F32).max(copied) + logits
    }

    /// A pass that keeps nothing for a backward pass.
    pub fn forward(&self, sizes: &PassSizes) -> PassMemory {
        let block = (self.tape() * self.number + self.working()) * sizes.tokens();
        let scores = self.scores(sizes, [1.0, 4.0]);
        PassMemory { block, scores, logits: self.logits(sizes, [1.0, 3.0]), ..PassMemory::default() }
    }

    /// A pass and its backward pass: the most that there is of each at one time.
    pub fn backward(&self, sizes: &PassSizes) -> PassMemory {
        let tape = self.tape() * self.number;
        let (kept, again) = match sizes.options.activation_checkpointing {
            true => (self.blocks() * self.hidden() * self.number, tape),
            false => (self.blocks() * tape, 0.0),
        };
        let kept = kept * sizes.tokens();
        // A gradient in the parameters' type, in f32, and the sum with it, where it is not added in place.
        let gradient = match self.adapters {
            None if !self.fused => self.vocab() * self.hidden() * (self.number + 2.0 * F32),
            _ => 0.0,
        };
        PassMemory {
            kept,
            block: (again + self.working()) * sizes.tokens() + self.gated_in_f32(sizes),
            scores: self.scores(sizes, [2.0, 6.0]),
            logits: self.logits(sizes, [2.0, 4.0]),
            gradient,
        }
    }

    /// Numbers a token that a block keeps: its input, normed; queries, keys, values; what attention gives; the
    /// feed-forward part's input, normed; gate and up.
    fn tape(&self) -> f64 {
        6.0 * self.hidden() + 2.0 * self.key_width() + 2.0 * self.feed()
    }

    /// What a block takes for each token beside what it keeps: states, the product of gate and up, its gradient, and as
    /// tensor operations the gradients of gate and up beside these. (Attention's own gradients are there when those of the
    /// feed-forward part are not.)
    fn working(&self) -> f64 {
        let feed = if self.fused { 2.0 } else { 5.0 };
        (4.0 * self.hidden() + feed * self.feed()) * self.number
    }

    /// What the gated product's backward pass takes as tensor operations: for some tokens at a time, in f32.
    fn gated_in_f32(&self, sizes: &PassSizes) -> f64 {
        const COPIES: f64 = 8.0;
        match self.fused {
            true => 0.0,
            false => COPIES * self.feed() * sizes.tokens().min(GATED_TOKENS as f64) * F32,
        }
    }

    /// `copies` of the scores that exist at once, where the fused passes serve and elsewhere.
    fn scores(&self, sizes: &PassSizes, copies: [f64; 2]) -> f64 {
        let chunk = sizes.options.attention_chunk;
        match self.fused {
            true => copies[0] * rayon::current_num_threads() as f64 * sizes.longest_run(chunk.min(QUERIES)) * F32,
            false => {
                let longest = self.heads() * sizes.longest_run(chunk);
                copies[1] * (self.scores as f64).min(self.heads() * sizes.scores()).max(longest) * F32
            }
        }
    }

    /// `copies` of a chunk's logits, where the fused passes serve and elsewhere.
    fn logits(&self, sizes: &PassSizes, copies: [f64; 2]) -> f64 {
        let chunk = sizes.responses().min(sizes.options.log_prob_chunk as f64);
        chunk * self.vocab() * F32 * copies[usize::from(!self.fused)]
    }

    fn heads(&self) -> f64 {
        self.shape.num_attention_heads as f64
    }

    fn blocks(&self) -> f64 {
        self.shape.num_hidden_layers as f64
    }

    fn hidden(&self) -> f64 {
        self.shape.hidden_size as f64
    }

    fn feed(&self) -> f64 {
        self.shape.intermediate_size as f64
    }

    fn vocab(&self) -> f64 {
        self.shape.vocab_size as f64
    }

    fn key_width(&self) -> f64 {
        (self.shape.num_key_value_heads * self.shape.head_dim()) as f64
    }
}

/// Refuses what the main memory of this machine does not hold: where the system has no more to give, it ends the process
/// without a word. GPUs, which have their own, are not asked.
///
/// # Errors
/// [`ModelError::TooLarge`].
pub fn check_free_memory(what: String, needed: f64, instead: &'static str, backend: Backend) -> Result<(), ModelError> {
    match free_memory() {
        Some(available) if !backend.has_own_memory() && needed > available as f64 => {
            Err(ModelError::TooLarge { what, needed, available, instead })
        }
        _ => Ok(()),
    }
}

/// Bytes of main memory that processes can still take, swap included; none where the system does not say.
pub fn free_memory() -> Option<u64> {
    bytes(|system| system.available_memory() + system.free_swap())
}

/// Bytes of main memory that there are, swap included; none where the system does not say.
pub(crate) fn main_memory() -> Option<u64> {
    bytes(|system| system.total_memory() + system.total_swap())
}

fn bytes(of: impl Fn(&System) -> u64) -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    // A container's limit; what of it is free does not count the file cache, which would give way.
    let bytes = system.cgroup_limits().map_or(of(&system), |limits| of(&system).min(limits.total_memory));
    (bytes > 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_holds_is_refused_and_a_small_model_is_not() {
        let check = |bytes, backend| check_free_memory("a model".into(), bytes, "choose a smaller one", backend);
        let small = Qwen2Config::new(259, 16, 32, 1, 2, 1);
        let bytes = |shape| ModelMemory::new(shape, WeightDtype::F32, Backend::Flex).parameters();
        assert!(check(bytes(&small), Backend::Flex).is_ok());
        let wide = Qwen2Config::new(259, 1 << 20, 1 << 22, 1 << 10, 16, 16);
        assert!(check(bytes(&wide), Backend::Cuda(0)).is_ok());
        let error = check(bytes(&wide), Backend::Flex).unwrap_err().to_string();
        assert!(error.contains("a model takes") && error.contains("GB"), "{error}");
    }

    #[test]
    fn the_parts_of_qwen2_5_7b_are_what_they_are_known_to_be() {
        let mut shape = Qwen2Config::new(152_064, 3584, 18_944, 28, 28, 4);
        shape.tie_word_embeddings = false;
        let memory = ModelMemory::new(&shape, WeightDtype::Bf16, Backend::Cuda(0));
        assert_eq!(memory.parameters(), 2.0 * 7_615_616_512.0);
        assert_eq!(memory.trained_in_f32(), 4.0 * 7_615_616_512.0);
        // 28 blocks × 4 heads × 128 numbers, twice, in bf16.
        assert_eq!(memory.cache(1.0), 57_344.0);
        // Rank 8 on queries and values: 28 blocks × 8 × (3584 + 3584 + 3584 + 512).
        let target_modules = vec!["q_proj".into(), "v_proj".into()];
        let lora = LoraConfig { rank: 8, alpha: 16.0, use_rslora: false, target_modules };
        assert_eq!(memory.with_lora(&lora).trained_in_f32(), 4.0 * 2_523_136.0);
    }
}
