use crate::{Request, RolloutError, Sampling};

/// How much is read and decoded at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Answers decoded together, at least 1.
    pub max_batch_size: usize,
    /// Tokens that the cache may have room for, prompts and answers; none: as many as so many answers may take.
    pub max_tokens_in_cache: Option<usize>,
    /// Tokens of prompts that are read together, at least 1. A longer prompt is read in parts, between which the open
    /// answers get a token each.
    pub prefill_chunk: usize,
}

impl BatchLimits {
    /// Tokens of prompts read together where nothing else is said: enough to keep the cores busy, and few enough for
    /// the memory that reading takes to be small beside a cache.
    pub const PREFILL_CHUNK: usize = 4096;

    /// Refuses limits with which nothing would ever be sampled.
    ///
    /// # Errors
    /// A limit of 0.
    pub fn validate(&self) -> Result<(), RolloutError> {
        if self.max_batch_size == 0 {
            return Err(RolloutError::MaxBatchSize);
        }
        if self.prefill_chunk == 0 {
            return Err(RolloutError::PrefillChunk);
        }
        Ok(())
    }

    /// Tokens that a cache needs for `groups` prompts with `samples` answers each, all of these lengths. The last token
    /// of an answer is never read.
    pub fn tokens_for(&self, groups: usize, samples: usize, prompt: usize, response: usize) -> usize {
        let rest = response.saturating_sub(1);
        let all = groups.saturating_mul(prompt.saturating_add(samples.saturating_mul(rest)));
        // Each answer may be the last of its group.
        self.at_most(all, prompt.saturating_add(rest))
    }

    /// The smallest of what all answers take, what a full batch of the longest takes, and the limit, which the longest alone
    /// may exceed.
    pub(crate) fn at_most(&self, all: usize, longest: usize) -> usize {
        let of_a_batch = self.max_batch_size.saturating_mul(longest);
        all.min(of_a_batch).min(self.max_tokens_in_cache.unwrap_or(usize::MAX).max(longest))
    }

    /// Refuses a request that would not fit into the cache alone.
    pub(crate) fn check(&self, request: &Request<'_>, sampling: &Sampling) -> Result<(), RolloutError> {
        let needed = request.prompt_ids.len().saturating_add(sampling.max_response_length - 1);
        match self.max_tokens_in_cache {
            Some(most) if needed > most => {
                let prompt_id = request.prompt_id;
                Err(RolloutError::CacheTooSmall { prompt_id, needed, max_tokens_in_cache: most })
            }
            _ => Ok(()),
        }
    }
}

/// So many answers at once, as much cache as they may take, and prompts in parts of [`BatchLimits::PREFILL_CHUNK`].
impl From<usize> for BatchLimits {
    fn from(max_batch_size: usize) -> Self {
        Self { max_batch_size, max_tokens_in_cache: None, prefill_chunk: Self::PREFILL_CHUNK }
    }
}
