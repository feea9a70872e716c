//! How long a tokenizer makes a text before it looks tokens up, and the text of tokens afterwards: a file of a few lines,
//! each of which doubles, can ask for more memory than there is.

use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{DecoderWrapper, Tokenizer};

/// The most bytes that one byte may become. Models' tokenizers stay below a hundredth of it.
const MOST: usize = 1 << 12;

/// Refuses a tokenizer whose steps multiply a text.
pub(crate) fn check(tokenizer: &Tokenizer) -> Result<(), String> {
    let parts = [
        ("normalizer", tokenizer.get_normalizer().map_or(1, normalizer)),
        ("pre_tokenizer", tokenizer.get_pre_tokenizer().map_or(1, pre_tokenizer)),
        ("decoder", tokenizer.get_decoder().map_or(1, decoder)),
    ];
    match parts.into_iter().find(|(_, growth)| *growth > MOST) {
        Some((part, growth)) => Err(format!("its {part} may make a text {growth} times as long; {MOST} is the most")),
        None => Ok(()),
    }
}

fn normalizer(step: &NormalizerWrapper) -> usize {
    match step {
        NormalizerWrapper::Sequence(steps) => product(steps.as_ref().iter().map(normalizer)),
        NormalizerWrapper::Replace(replace) => replace.content.len(),
        NormalizerWrapper::Prepend(prepend) => prepend.prepend.len(),
        NormalizerWrapper::ByteLevel(_) => 2,
        _ => 1,
    }
}

fn pre_tokenizer(step: &PreTokenizerWrapper) -> usize {
    match step {
        PreTokenizerWrapper::Sequence(steps) => product(steps.as_ref().iter().map(pre_tokenizer)),
        PreTokenizerWrapper::ByteLevel(_) => 2,
        PreTokenizerWrapper::Metaspace(metaspace) => metaspace.get_replacement().len_utf8(),
        _ => 1,
    }
}

fn decoder(step: &DecoderWrapper) -> usize {
    match step {
        DecoderWrapper::Sequence(steps) => product(steps.get_decoders().iter().map(decoder)),
        DecoderWrapper::Replace(replace) => replace.content.len(),
        _ => 1,
    }
}

fn product(steps: impl Iterator<Item = usize>) -> usize {
    // What one step deletes, another may have added.
    steps.map(|growth| growth.max(1)).fold(1, usize::saturating_mul)
}
