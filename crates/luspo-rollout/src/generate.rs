//! Groups of answers, from the first prompt to the end of the last answer.

use std::ops::ControlFlow;

use luspo_core::{FinishReason, RandomKey, Rollout};
use luspo_model::Qwen2ForCausalLM;

use crate::{BatchLimits, Engine, Job, RolloutError, Sampling};

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

    /// A request's rollouts, before their first token.
    fn unanswered(&self) -> impl Iterator<Item = Rollout> + use<> {
        let (prompt_id, prompt_ids) = (self.prompt_id, self.prompt_ids.to_vec());
        (0..self.samples).map(move |sample| Rollout {
            prompt_id,
            sample,
            prompt_ids: prompt_ids.clone(),
            response_ids: Vec::new(),
            log_probs: Vec::new(),
            finish: FinishReason::Length,
        })
    }
}

/// Samples answers from the policy.
///
/// `model` is the policy's view on a plain device, without autodiff. The answers come in the order of the requests, then
/// of the samples. A token's random number is `key.at(prompt_id).at(sample).uniform(position)`, where `key` holds the
/// step (`RandomKey::new(seed, Purpose::Rollout).at(step)`): it depends neither on the batch nor on its order.
///
/// `limits` may be a number: answers that are decoded at once. Further ones wait, and start as soon as there is room.
///
/// # Errors
/// Settings out of range, a request that cannot be answered (before anything is computed), a cache that there is no
/// memory for, a policy whose logits are not finite, or a device that fails.
///
/// # Panics
/// If `key` has more than one coordinate: prompt and sample are the other two.
pub fn generate(
    model: &Qwen2ForCausalLM,
    requests: &[Request<'_>],
    sampling: &Sampling,
    key: RandomKey,
    limits: impl Into<BatchLimits>,
) -> Result<Vec<Rollout>, RolloutError> {
    generate_with(model, requests, sampling, key, limits, |_, _| ControlFlow::Continue(()))
}

/// Samples answers as [`generate`] does and calls `on_token` with each token as it is sampled, and with the position of
/// its answer among those that will be returned. A `Break` ends that answer with this token, as a stop token does.
///
/// # Errors
/// As [`generate`].
pub fn generate_with(
    model: &Qwen2ForCausalLM,
    requests: &[Request<'_>],
    sampling: &Sampling,
    key: RandomKey,
    limits: impl Into<BatchLimits>,
    on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Rollout>, RolloutError> {
    Engine::new(limits)?.generate(model, requests, sampling, key, on_token, |_, _| {})
}

impl Engine {
    /// Samples answers as [`generate_with`] does, and calls `on_answer` with each answer when it has ended, and with its
    /// position. What else the engine was at is dropped; its cache is used again where it is large enough.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn generate(
        &mut self,
        model: &Qwen2ForCausalLM,
        requests: &[Request<'_>],
        sampling: &Sampling,
        key: RandomKey,
        mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
        mut on_answer: impl FnMut(usize, &Rollout),
    ) -> Result<Vec<Rollout>, RolloutError> {
        sampling.validate()?;
        self.clear();
        let mut rollouts: Vec<Rollout> = Vec::new();
        let (mut first, mut starts) = (None, Vec::with_capacity(requests.len()));
        for &Request { prompt_id, prompt_ids, samples } in requests {
            let (prompt_ids, sampling) = (prompt_ids.to_vec(), sampling.clone());
            let job = Job { prompt_id, prompt_ids, samples, sampling, key, top_log_probs: 0 };
            match self.submit(job, model) {
                Ok(id) => first.get_or_insert(id),
                Err(error) => {
                    self.clear();
                    return Err(error);
                }
            };
        }
        for request in requests {
            starts.push(rollouts.len());
            rollouts.extend(request.unanswered());
        }
        let Some(first) = first else { return Ok(rollouts) };
        while self.open() + self.waiting() > 0 {
            let events = self.step(model, true).inspect_err(|_| self.clear())?;
            for event in events {
                let index = starts[(event.job.0 - first.0) as usize] + event.sample as usize;
                let answer = &mut rollouts[index];
                answer.response_ids.push(event.token);
                answer.log_probs.push(event.log_prob);
                answer.finish = event.finish.unwrap_or(FinishReason::Length);
                let stopped = on_token(index, event.token).is_break();
                if stopped {
                    answer.finish = FinishReason::Stop;
                    self.cancel_sample(event.job, event.sample);
                }
                if stopped || event.finish.is_some() {
                    on_answer(index, answer);
                }
            }
        }
        Ok(rollouts)
    }
}
