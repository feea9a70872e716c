//! The model and the tokens that all phases share.

use luspo::Backend;
use luspo::core::{Purpose, RandomKey};
use luspo::model::{MemoryOptions, PassOptions, Qwen2Config, Qwen2ForCausalLM};
use luspo::rollout::Sampling;
use luspo::trainer::{MicroBatches, MicroLimit};
use serde_json::{Value, json};

pub const ROWS: usize = 8;
pub const VOCAB: usize = 8192;

/// The shape of a small Qwen2.5: 256 wide, feed-forward 704, 4 blocks, 8 heads, 2 key-value heads.
pub fn config() -> Qwen2Config {
    Qwen2Config::new(VOCAB, 256, 704, 4, 8, 2)
}

/// Rows of a shape.
pub struct Work {
    pub shape: Qwen2Config,
    pub rows: usize,
    /// Tokens a row.
    pub seq: usize,
}

/// 8 rows of 256 tokens for the small model.
pub fn small() -> Work {
    Work { shape: config(), rows: ROWS, seq: 256 }
}

/// 1 row of 128 tokens for a model of the shape of Qwen2.5-0.5B.
pub fn half_billion() -> Work {
    let shape = Qwen2Config::new(151_936, 896, 4864, 24, 14, 2).with_rope_theta(1e6);
    Work { shape, rows: 1, seq: 128 }
}

pub fn shape() -> Value {
    let config = config();
    json!({
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": "float32",
    })
}

/// Random weights on the CPU, with autodiff.
pub fn model(shape: &Qwen2Config) -> anyhow::Result<Qwen2ForCausalLM> {
    let device = Backend::Flex.device()?.autodiff();
    Ok(Qwen2ForCausalLM::init(shape, RandomKey::new(0, Purpose::Init), &device))
}

/// As a run has it unless told otherwise.
pub fn options(shape: &Qwen2Config, entropy: bool) -> PassOptions {
    PassOptions { entropy, memory: MemoryOptions::of(shape), ..PassOptions::default() }
}

/// Whole distribution, and no token that ends an answer early.
pub fn sampling(max_response_length: usize) -> Sampling {
    Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        min_tokens: 0,
        max_response_length,
        stop_token_ids: vec![],
        stop: vec![],
        vocab_limit: VOCAB,
    }
}

/// Some tokens of the small vocabulary, others for every row.
pub fn ids(row: usize, len: usize) -> Vec<u32> {
    (0..len).map(|t| ((row * 7919 + t * 104_729) % VOCAB) as u32).collect()
}

/// All rows at once.
pub fn micro() -> MicroBatches {
    MicroBatches { limit: MicroLimit::Rows(ROWS), share_prompts: true }
}
