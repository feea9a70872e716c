//! Micro-batches: what part of an update goes through the model at once. It changes memory and time, not the update.

use std::ops::Range;

use luspo_model::ResponseBatch;

use crate::{Config, Sample};

/// How rows are split into micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroBatches {
    /// What one holds at most.
    pub limit: MicroLimit,
    /// Whether neighbouring answers to one prompt share a reading of it.
    pub share_prompts: bool,
}

/// What a micro-batch holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroLimit {
    /// So many rows, at least 1.
    Rows(usize),
    /// Rows of so many tokens together, prompt and answer, a shared prompt counted once. A longer row is alone.
    Tokens(usize),
}

impl MicroBatches {
    /// What a configuration says.
    pub(crate) fn of(config: &Config) -> Self {
        let limit = match config.trainer.max_tokens_per_micro_batch {
            Some(tokens) => MicroLimit::Tokens(tokens),
            None => MicroLimit::Rows(config.micro_batch_size()),
        };
        Self { limit, share_prompts: config.trainer.share_prompts }
    }

    /// The rows of each micro-batch, in order. The model reads packed tokens, so that rows of very different lengths cost
    /// what their tokens cost wherever they stand.
    pub(crate) fn split(&self, samples: &[Sample]) -> Vec<Range<usize>> {
        let most = match self.limit {
            MicroLimit::Rows(rows) => {
                return (0..samples.len()).step_by(rows).map(|from| from..samples.len().min(from + rows)).collect();
            }
            MicroLimit::Tokens(tokens) => tokens,
        };
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut held = 0;
        for (row, sample) in samples.iter().enumerate() {
            let (prompt, response) = (&sample.rollout.prompt_ids, sample.rollout.response_len());
            let shared = row > 0 && self.share_prompts && *prompt == samples[row - 1].rollout.prompt_ids;
            match parts.last_mut() {
                Some(part) if held + response + if shared { 0 } else { prompt.len() } <= most => {
                    held += response + if shared { 0 } else { prompt.len() };
                    part.end = row + 1;
                }
                _ => {
                    held = prompt.len() + response;
                    parts.push(row..row + 1);
                }
            }
        }
        parts
    }

    /// The rows of a micro-batch as the model reads them.
    pub(crate) fn read(&self, rows: &[Sample]) -> ResponseBatch {
        let pairs: Vec<(&[u32], &[u32])> =
            rows.iter().map(|s| (&s.rollout.prompt_ids[..], &s.rollout.response_ids[..])).collect();
        match self.share_prompts {
            true => ResponseBatch::sharing_prompts(&pairs),
            false => ResponseBatch::new(&pairs),
        }
    }
}

#[cfg(test)]
mod tests {
    use luspo_core::{FinishReason, Rollout, Score};

    use super::*;

    fn sample(prompt: &[u32], response: usize) -> Sample {
        let rollout = Rollout {
            prompt_id: 0,
            sample: 0,
            prompt_ids: prompt.to_vec(),
            response_ids: vec![1; response],
            log_probs: vec![-1.0; response],
            finish: FinishReason::Stop,
        };
        Sample::new(rollout, Score { total: 0.0, components: vec![], correct: false, extracted: None, style: None })
    }

    #[test]
    fn a_micro_batch_holds_as_many_rows_as_its_tokens_allow() {
        let rows = [sample(&[1, 2], 3), sample(&[1, 2], 5), sample(&[1, 2], 1), sample(&[7], 30), sample(&[8], 2)];
        let split = |limit, share_prompts| MicroBatches { limit, share_prompts }.split(&rows);
        assert_eq!(split(MicroLimit::Rows(2), true), [0..2, 2..4, 4..5]);
        // 2 + 3 and 2 + 5 tokens are 12; sharing the prompt makes them 10, and 11 with the third.
        assert_eq!(split(MicroLimit::Tokens(11), false), [0..1, 1..3, 3..4, 4..5]);
        assert_eq!(split(MicroLimit::Tokens(11), true), [0..3, 3..4, 4..5]);
    }
}
