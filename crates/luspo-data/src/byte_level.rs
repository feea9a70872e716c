//! Training of a byte-level BPE tokenizer, written as the two files that a Hugging Face folder would hold.

use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// One token a byte.
const BYTES: usize = 256;

/// The first ends a text and pads; the other two frame turns for templates that want them.
const SPECIAL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// The largest vocabulary; the trainer takes memory for all of it before it looks at a text.
const MOST_TOKENS: usize = 1 << 20;

/// Messages one after the other, without a frame.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message.content }}{% endfor %}";

/// A trained tokenizer's files.
pub(crate) struct Files {
    pub(crate) tokenizer: String,
    pub(crate) config: String,
}

/// Learns merges until there are `vocab_size` tokens: the bytes, the merges, then the special tokens.
///
/// Digits never merge, neither with each other nor with anything else.
pub(crate) fn train<'a>(texts: impl Iterator<Item = &'a str>, vocab_size: usize) -> Result<Files, String> {
    let smallest = BYTES + SPECIAL_TOKENS.len();
    if vocab_size < smallest {
        return Err(format!(
            "vocab_size = {vocab_size} is too small: {BYTES} bytes and {} special tokens make {smallest}",
            SPECIAL_TOKENS.len()
        ));
    }
    if vocab_size > MOST_TOKENS {
        return Err(format!("vocab_size = {vocab_size} is too large: at most {MOST_TOKENS}"));
    }
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size - SPECIAL_TOKENS.len())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();

    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        Digits::new(true).into(),
        ByteLevel::default().add_prefix_space(false).into(),
    ])));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    let texts: Vec<&str> = texts.collect();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.into_iter()).map_err(|e| e.to_string())?;
    let special = SPECIAL_TOKENS.map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special).map_err(|e| e.to_string())?;

    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[0],
        "chat_template": CHAT_TEMPLATE,
    });
    Ok(Files {
        tokenizer: tokenizer.to_string(true).map_err(|e| e.to_string())?,
        config: serde_json::to_string_pretty(&config).map_err(|e| e.to_string())?,
    })
}
