//! The in-process engine: prefill once a prompt, decode all answers together, drop what has ended.

use burn::tensor::Tensor;
use luspo_core::{FinishReason, RandomKey, Rollout};
use luspo_model::Qwen2ForCausalLM;
use rayon::prelude::*;

use crate::sampler::{Sampler, Token};
use crate::{RolloutError, Sampling};

/// A prompt and how many answers to it are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Keys the random numbers, together with the sample's number and the position. Two requests of the same id get the
    /// same numbers.
    pub prompt_id: u64,
    /// The prompt as the model reads it, not empty.
    pub prompt_ids: &'a [u32],
    /// Answers to sample, the n of a group; at least 1.
    pub samples: u32,
}

impl Request<'_> {
    /// Checks that the prompt and its longest answer fit into the model's positions.
    ///
    /// The weights do not know that limit (it stands in `config.json`), so that [`generate`] cannot check it.
    ///
    /// # Errors
    /// [`RolloutError::TooLong`].
    pub fn check_length(&self, sampling: &Sampling, max_position_embeddings: usize) -> Result<(), RolloutError> {
        let (prompt_length, max_response_length) = (self.prompt_ids.len(), sampling.max_response_length);
        if prompt_length.saturating_add(max_response_length) <= max_position_embeddings {
            return Ok(());
        }
        let prompt_id = self.prompt_id;
        Err(RolloutError::TooLong { prompt_id, prompt_length, max_response_length, max_position_embeddings })
    }

    pub(crate) fn check(&self, vocab_size: usize) -> Result<(), RolloutError> {
        let prompt_id = self.prompt_id;
        if self.prompt_ids.is_empty() {
            return Err(RolloutError::EmptyPrompt { prompt_id });
        }
        if self.samples == 0 {
            return Err(RolloutError::NoSamples { prompt_id });
        }
        match self.prompt_ids.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(RolloutError::PromptToken { prompt_id, token, vocab_size }),
            None => Ok(()),
        }
    }
}

/// Samples answers from the policy.
///
/// `model` is the policy's view on a plain device, without autodiff. The answers come in the order of the requests, then
/// of the samples. A token's random number is `key.at(prompt_id).at(sample).uniform(position)`, where `key` holds the
/// step (`RandomKey::new(seed, Purpose::Rollout).at(step)`): it depends neither on the batch nor on its order.
///
/// At most `max_batch_size` answers are decoded at once; further ones wait. A group that is cut by that limit is
/// prefilled once in each part. The cache has room for every answer's maximum length from the start.
///
/// # Errors
/// Settings out of range, a request that cannot be answered (before anything is computed), a policy whose logits are not
/// finite, or a device that fails.
///
/// # Panics
/// If `key` has more than one coordinate: prompt and sample are the other two.
pub fn generate(
    model: &Qwen2ForCausalLM,
    requests: &[Request<'_>],
    sampling: &Sampling,
    key: RandomKey,
    max_batch_size: usize,
) -> Result<Vec<Rollout>, RolloutError> {
    generate_with(model, requests, sampling, key, max_batch_size, |_, _| {})
}

/// Samples answers as [`generate`] does and calls `on_token` with each token as it is sampled, and with the position of
/// its answer among those that will be returned.
///
/// # Errors
/// As [`generate`].
pub fn generate_with(
    model: &Qwen2ForCausalLM,
    requests: &[Request<'_>],
    sampling: &Sampling,
    key: RandomKey,
    max_batch_size: usize,
    mut on_token: impl FnMut(usize, u32),
) -> Result<Vec<Rollout>, RolloutError> {
    sampling.validate()?;
    if max_batch_size == 0 {
        return Err(RolloutError::MaxBatchSize);
    }
    requests.iter().try_for_each(|request| request.check(model.vocab_size()))?;

    let mut rollouts: Vec<Rollout> = requests.iter().flat_map(unanswered).collect();
    for (wave, answers) in rollouts.chunks_mut(max_batch_size).enumerate() {
        let first = wave * max_batch_size;
        answer_together(model, answers, sampling, key, |row, token| on_token(first + row, token))?;
    }
    Ok(rollouts)
}

/// A request's rollouts, before their first token.
fn unanswered<'a>(request: &'a Request<'_>) -> impl Iterator<Item = Rollout> + use<'a> {
    (0..request.samples).map(|sample| Rollout {
        prompt_id: request.prompt_id,
        sample,
        prompt_ids: request.prompt_ids.to_vec(),
        response_ids: Vec::new(),
        log_probs: Vec::new(),
        finish: FinishReason::Length,
    })
}

/// An answer that has not ended.
struct Open {
    /// Its place among the rollouts.
    rollout: usize,
    /// The row of the logits, and of the cache, that it goes on from.
    row: usize,
}

/// Samples all answers of one batch to their end.
fn answer_together(
    model: &Qwen2ForCausalLM,
    rollouts: &mut [Rollout],
    sampling: &Sampling,
    key: RandomKey,
    mut on_token: impl FnMut(usize, u32),
) -> Result<(), RolloutError> {
    let (mut prompts, mut open): (Vec<&[u32]>, Vec<Open>) = Default::default();
    for group in rollouts.chunk_by(|a, b| a.prompt_ids == b.prompt_ids) {
        open.extend((open.len()..open.len() + group.len()).map(|rollout| Open { rollout, row: prompts.len() }));
        prompts.push(&group[0].prompt_ids);
    }
    let longest_prompt = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    // The last token of an answer is never fed back.
    let (mut hidden, mut cache) = model.prefill(&prompts, longest_prompt + sampling.max_response_length - 1);

    loop {
        let sampled = sample_rows(model.logits(hidden), &open, rollouts, sampling, key)?;
        let mut tokens = Vec::with_capacity(open.len());
        let mut rows = Vec::with_capacity(open.len());
        let mut ongoing = Vec::with_capacity(open.len());
        for (Open { rollout, row }, token) in open.into_iter().zip(sampled) {
            let answer = &mut rollouts[rollout];
            answer.response_ids.push(token.id);
            answer.log_probs.push(token.log_prob);
            on_token(rollout, token.id);
            if sampling.stop_token_ids.contains(&token.id) {
                answer.finish = FinishReason::Stop;
            } else if answer.response_len() < sampling.max_response_length {
                ongoing.push(Open { rollout, row: rows.len() });
                rows.push(row);
                tokens.push(token.id);
            }
        }
        if ongoing.is_empty() {
            return Ok(());
        }
        // Repeats the rows of prompts for their answers at first, and drops those of ended answers later.
        if !rows.iter().copied().eq(0..cache.rows()) {
            cache.select(&rows);
        }
        hidden = model.decode(&tokens, &mut cache);
        open = ongoing;
    }
}

/// The next token of each open answer, from logits `[rows, vocab]`.
fn sample_rows(
    logits: Tensor<2>,
    open: &[Open],
    rollouts: &[Rollout],
    sampling: &Sampling,
    key: RandomKey,
) -> Result<Vec<Token>, RolloutError> {
    let [_, vocab] = logits.dims();
    let logits = logits.try_into_vec_as::<f32>().map_err(|error| RolloutError::Device(error.to_string()))?;
    let tokens: Vec<_> = open
        .par_iter()
        .map_init(Sampler::default, |sampler, &Open { rollout, row }| {
            let Rollout { prompt_id, sample, ref response_ids, .. } = rollouts[rollout];
            let position = response_ids.len();
            let uniform = key.at(prompt_id).at(sample.into()).uniform(position as u64);
            sampler.sample(&logits[row * vocab..][..vocab], sampling, uniform).ok_or(RolloutError::Diverged {
                prompt_id,
                sample,
                position,
            })
        })
        .collect();
    tokens.into_iter().collect() // of several errors always the first
}
