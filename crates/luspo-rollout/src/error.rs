use crate::sampling::MIN_TEMPERATURE;

/// Why no answers could be sampled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RolloutError {
    /// The temperature is neither 0 nor a finite number of at least 0.01.
    #[error("temperature = {0}: it must be 0 (greedy) or a finite number of at least {MIN_TEMPERATURE}")]
    Temperature(f64),
    /// `top_p` is outside (0, 1].
    #[error("top_p = {0}: it must be above 0 and at most 1 (1 turns it off)")]
    TopP(f64),
    /// `min_p` is outside [0, 1].
    #[error("min_p = {0}: it must be between 0 (off) and 1")]
    MinP(f64),
    /// `repetition_penalty` is not a finite number above 0.
    #[error("repetition_penalty = {0}: it must be a finite number above 0 (1 turns it off)")]
    RepetitionPenalty(f64),
    /// An answer would have to be longer than it may be.
    #[error("min_tokens = {min_tokens}: an answer has at most {max_response_length} tokens (max_response_length)")]
    MinTokens {
        /// Tokens that an answer has at least.
        min_tokens: usize,
        /// Tokens that an answer may have.
        max_response_length: usize,
    },
    /// An answer may not end yet, and every token would end it.
    #[error("min_tokens = {min_tokens}: every token of the vocabulary is a stop token; name fewer of them")]
    NothingButStops {
        /// Tokens that an answer has at least.
        min_tokens: usize,
    },
    /// `max_response_length` is 0.
    #[error("max_response_length = 0: an answer has at least one token")]
    MaxResponseLength,
    /// A stop string is empty.
    #[error("stop has an empty string, which every text contains")]
    EmptyStop,
    /// Stop strings where there is no text.
    #[error("stop strings need a tokenizer: look for them with `StopStrings`, and leave `Sampling::stop` empty here")]
    StopWithoutText,
    /// `vocab_limit` is 0.
    #[error("vocab_limit = 0: no token could ever be sampled; give the tokenizer's vocabulary size")]
    VocabLimit,
    /// `max_batch_size` is 0.
    #[error("max_batch_size = 0: at least one answer must be decoded at a time")]
    MaxBatchSize,
    /// A prompt without tokens.
    #[error("prompt {prompt_id} has no tokens; the policy needs at least one to answer")]
    EmptyPrompt {
        /// The prompt.
        prompt_id: u64,
    },
    /// A request for 0 answers.
    #[error("prompt {prompt_id}: 0 answers requested; a group has at least one (rollout.n)")]
    NoSamples {
        /// The prompt.
        prompt_id: u64,
    },
    /// A prompt token that the model has no embedding for.
    #[error(
        "prompt {prompt_id}: token {token} is not in the model's vocabulary of {vocab_size}; \
         was the prompt tokenised with another model's tokenizer?"
    )]
    PromptToken {
        /// The prompt.
        prompt_id: u64,
        /// The token id.
        token: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// Prompt and answer would not fit into the model's positions.
    #[error(
        "prompt {prompt_id}: {prompt_length} prompt tokens and up to {max_response_length} response tokens exceed the \
         model's max_position_embeddings of {max_position_embeddings}; lower max_prompt_length or max_response_length"
    )]
    TooLong {
        /// The prompt.
        prompt_id: u64,
        /// Its tokens.
        prompt_length: usize,
        /// Tokens an answer may have.
        max_response_length: usize,
        /// Positions of the model.
        max_position_embeddings: usize,
    },
    /// A prompt and its answer would not fit into the cache.
    #[error(
        "prompt {prompt_id}: prompt and answer may take {needed} tokens, but the cache holds {max_tokens_in_cache}; ask for \
         fewer tokens, or give the cache more room (max_tokens_in_cache)"
    )]
    CacheTooSmall {
        /// The prompt.
        prompt_id: u64,
        /// Tokens of the prompt and its longest answer.
        needed: usize,
        /// Tokens that the cache has room for.
        max_tokens_in_cache: usize,
    },
    /// A logit was NaN or infinite.
    #[error(
        "the policy diverged: non-finite logits for prompt {prompt_id}, sample {sample}, response position {position}; \
         go back to an earlier checkpoint, with a lower learning rate or stricter clipping"
    )]
    Diverged {
        /// The prompt.
        prompt_id: u64,
        /// The answer within its group.
        sample: u32,
        /// The response token that was to be sampled, from 0.
        position: usize,
    },
    /// There is no memory for the cache.
    #[error("{0}")]
    NoMemory(String),
    /// `prefill_chunk` is 0.
    #[error("prefill_chunk = 0: at least one token of a prompt must be read at a time")]
    PrefillChunk,
    /// The device failed while logits were read from it.
    #[error("the logits could not be read from the device: {0}")]
    Device(String),
}
