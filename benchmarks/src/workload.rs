//! The models and the tokens that all phases share.

use clap::ValueEnum;
use luspo::Backend;
use luspo::core::{Purpose, RandomKey};
use luspo::model::{MemoryOptions, PassOptions, Pretrained, Qwen2Config, Qwen2ForCausalLM};
use luspo::rollout::Sampling;
use luspo::trainer::{MicroBatches, MicroLimit};

use crate::Args;

/// Words of the smallest model; all prompts are of them.
const VOCAB: usize = 8192;

/// The shape of a model.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Shape {
    /// A small Qwen2.5: 256 wide, feed-forward 704, 4 blocks, 8 heads, 2 key-value heads, 8192 words.
    #[default]
    Small,
    /// Qwen2.5-0.5B.
    #[value(name = "0.5b")]
    HalfBillion,
    /// Qwen2.5-7B.
    #[value(name = "7b")]
    SevenBillion,
}

impl Shape {
    pub fn config(self) -> Qwen2Config {
        match self {
            Self::Small => Qwen2Config::new(VOCAB, 256, 704, 4, 8, 2),
            Self::HalfBillion => Qwen2Config::new(151_936, 896, 4864, 24, 14, 2).with_rope_theta(1e6),
            Self::SevenBillion => {
                Qwen2Config::new(152_064, 3584, 18_944, 28, 28, 4).with_rope_theta(1e6).with_tie_word_embeddings(false)
            }
        }
    }

    /// As a run has it unless told otherwise.
    pub fn options(self, entropy: bool) -> PassOptions {
        PassOptions { entropy, memory: MemoryOptions::of(&self.config()), ..PassOptions::default() }
    }
}

/// Random weights, with autodiff.
pub fn model(args: &Args) -> anyhow::Result<Qwen2ForCausalLM> {
    let (config, key) = (args.shape.config(), RandomKey::new(0, Purpose::Init));
    let device = args.backend.device()?.autodiff();
    let Some(stored) = args.checkpoint else { return Ok(Qwen2ForCausalLM::init_as(&config, key, &device, args.dtype)) };
    let dir = tempfile::tempdir()?;
    let model = Qwen2ForCausalLM::init_as(&config, key, &Backend::Flex.device()?, stored);
    Pretrained { model, config, eos_token_ids: vec![0] }.save(dir.path())?;
    Ok(Pretrained::load_frozen(dir.path(), &device, args.dtype)?.model)
}

/// Whole distribution, and no token that ends an answer early.
pub fn sampling(args: &Args, max_response_length: usize) -> Sampling {
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
        vocab_limit: args.shape.config().vocab_size,
    }
}

/// Some tokens of the small vocabulary, others for every row.
pub fn ids(row: usize, len: usize) -> Vec<u32> {
    (0..len).map(|t| ((row * 7919 + t * 104_729) % VOCAB) as u32).collect()
}

/// All rows at once.
pub fn micro(rows: usize) -> MicroBatches {
    MicroBatches { limit: MicroLimit::Rows(rows), share_prompts: true }
}
