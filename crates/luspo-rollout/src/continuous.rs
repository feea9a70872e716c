//! Decoding that answers can join and leave at any time.

use std::collections::VecDeque;
use std::sync::Arc;

use burn::tensor::Tensor;
use luspo_core::{FinishReason, RandomKey};
use luspo_model::{KvCache, Qwen2ForCausalLM};

use crate::sampler::Sampler;
use crate::{Request, RolloutError, Sampling};

/// A prompt, how many answers to it are wanted, and how they are sampled.
#[derive(Clone, Debug)]
pub struct Job {
    /// Keys the random numbers together with the sample's number and the position, below `key`.
    pub prompt_id: u64,
    /// The prompt as the model reads it, not empty.
    pub prompt_ids: Vec<u32>,
    /// Answers to sample, at least 1.
    pub samples: u32,
    /// How tokens are chosen, and when an answer ends.
    pub sampling: Sampling,
    /// Source of the random numbers; with at most one coordinate.
    pub key: RandomKey,
    /// How many of the most likely tokens to report at each position.
    pub top_log_probs: usize,
}

/// A submitted [`Job`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(u64);

/// One sampled token.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Whose answer it belongs to.
    pub job: JobId,
    /// The answer within its job, from 0.
    pub sample: u32,
    /// The token.
    pub token: u32,
    /// Its log-prob in nats, of the model's whole distribution at the sampling temperature (at 1 when greedy).
    pub log_prob: f32,
    /// The most likely tokens and their log-probs, the likeliest first, as many as the job asked for.
    pub top_log_probs: Vec<(u32, f32)>,
    /// Set on an answer's last token.
    pub finish: Option<FinishReason>,
}

/// How much is decoded at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Answers decoded together, at least 1.
    pub max_batch_size: usize,
    /// Tokens that the cache may have room for, over all answers; padding counts.
    pub max_tokens_in_cache: usize,
}

/// A batch of answers that others join as soon as there is room, whatever is being decoded.
///
/// The prompt of a job is prefilled once for those of its answers that start together. Its random numbers are those of
/// [`generate`](crate::generate), so that an answer does not depend on what it was batched with.
#[derive(Debug)]
pub struct ContinuousBatch {
    limits: BatchLimits,
    submitted: u64,
    waiting: VecDeque<Answer>,
    /// Row by row what the cache holds.
    open: Vec<Answer>,
    cache: Option<KvCache>,
}

/// One answer of a job.
#[derive(Clone, Debug)]
struct Answer {
    id: JobId,
    job: Arc<Job>,
    sample: u32,
    /// Tokens sampled so far, and the last of them.
    len: usize,
    last: u32,
}

impl Answer {
    /// Tokens that it may still get.
    fn remaining(&self) -> usize {
        self.job.sampling.max_response_length - self.len
    }

    /// Tokens of prompt and answer so far.
    fn tokens(&self) -> usize {
        self.job.prompt_ids.len() + self.len
    }
}

impl ContinuousBatch {
    /// An empty batch.
    ///
    /// # Errors
    /// A limit of 0 answers.
    pub fn new(limits: BatchLimits) -> Result<Self, RolloutError> {
        if limits.max_batch_size == 0 {
            return Err(RolloutError::MaxBatchSize);
        }
        Ok(Self { limits, submitted: 0, waiting: VecDeque::new(), open: Vec::new(), cache: None })
    }

    /// Puts a job at the end of the queue.
    ///
    /// # Errors
    /// Settings out of range, an empty prompt, one with tokens that the model does not have, or one that would not fit
    /// into the cache with its answer.
    pub fn submit(&mut self, job: Job, model: &Qwen2ForCausalLM) -> Result<JobId, RolloutError> {
        job.sampling.validate()?;
        let (prompt_id, samples) = (job.prompt_id, job.samples);
        Request { prompt_id, prompt_ids: &job.prompt_ids, samples }.check(model.vocab_size())?;
        let needed = job.prompt_ids.len().saturating_add(job.sampling.max_response_length);
        let most = self.limits.max_tokens_in_cache;
        if needed > most {
            return Err(RolloutError::CacheTooSmall { prompt_id, needed, max_tokens_in_cache: most });
        }
        let id = JobId(self.submitted);
        self.submitted += 1;
        let job = Arc::new(job);
        let answer = |sample| Answer { id, job: job.clone(), sample, len: 0, last: 0 };
        self.waiting.extend((0..samples).map(answer));
        Ok(id)
    }

    /// Drops all answers of a job that have not ended.
    pub fn cancel(&mut self, job: JobId) {
        self.waiting.retain(|answer| answer.id != job);
        self.keep(|answer| answer.id != job);
    }

    /// Drops one answer, if it has not ended.
    pub fn cancel_sample(&mut self, job: JobId, sample: u32) {
        self.waiting.retain(|answer| (answer.id, answer.sample) != (job, sample));
        self.keep(|answer| (answer.id, answer.sample) != (job, sample));
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.keep(|_| false);
    }

    /// Answers that are being decoded.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Answers that wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Prefills waiting answers that there is room for and samples their first token, if `admit` is set; otherwise
    /// decodes one token of every open answer.
    ///
    /// # Errors
    /// Logits that are not finite, or a device that fails; the batch should then be [cleared](Self::clear).
    ///
    /// # Panics
    /// If a job's key has more than one coordinate.
    pub fn step(&mut self, model: &Qwen2ForCausalLM, admit: bool) -> Result<Vec<Event>, RolloutError> {
        let joining = if admit { self.admitted() } else { 0 };
        if joining > 0 {
            let answers = self.waiting.drain(..joining).collect();
            return self.join(model, answers);
        }
        let Some(cache) = &mut self.cache else { return Ok(Vec::new()) };
        let tokens: Vec<u32> = self.open.iter().map(|answer| answer.last).collect();
        let hidden = model.decode(&tokens, cache);
        let rows: Vec<usize> = (0..self.open.len()).collect();
        let events = sample(model.logits(hidden), &rows, &mut self.open)?;
        let mut ended = events.iter().map(|event| event.finish.is_some());
        self.keep(|_| ended.next() == Some(false));
        Ok(events)
    }

    /// How many of the waiting answers fit in beside the open ones.
    fn admitted(&self) -> usize {
        let (mut tokens, mut more) = (0, 0);
        for answer in &self.open {
            (tokens, more) = (tokens.max(answer.tokens()), more.max(answer.remaining()));
        }
        let mut rows = self.open.len();
        for answer in &self.waiting {
            (tokens, more) = (tokens.max(answer.tokens()), more.max(answer.remaining()));
            let fits = (rows + 1).saturating_mul(tokens + more) <= self.limits.max_tokens_in_cache;
            if rows == self.limits.max_batch_size || !fits {
                break;
            }
            rows += 1;
        }
        rows - self.open.len()
    }

    /// Prefills answers, samples their first token, and adds them to those that are decoded.
    fn join(&mut self, model: &Qwen2ForCausalLM, mut answers: Vec<Answer>) -> Result<Vec<Event>, RolloutError> {
        let (mut prompts, mut rows): (Vec<&[u32]>, Vec<usize>) = Default::default();
        for group in answers.chunk_by(|a, b| a.id == b.id) {
            rows.extend(std::iter::repeat_n(prompts.len(), group.len()));
            prompts.push(&group[0].job.prompt_ids);
        }
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let (hidden, mut cache) = model.prefill(&prompts, longest);
        let events = sample(model.logits(hidden), &rows, &mut answers)?;

        let ongoing: Vec<usize> = (0..answers.len()).filter(|i| events[*i].finish.is_none()).collect();
        if ongoing.is_empty() {
            return Ok(events);
        }
        cache.select(&ongoing.iter().map(|answer| rows[*answer]).collect::<Vec<_>>());
        self.open.extend(ongoing.into_iter().map(|answer| answers[answer].clone()));
        let more = self.open.iter().map(Answer::remaining).max().unwrap_or(0);
        let caches: Vec<KvCache> = self.cache.take().into_iter().chain([cache]).collect();
        self.cache = Some(model.join_caches(&caches, more));
        Ok(events)
    }

    /// Keeps the open answers that `wanted` says, asked in their order.
    fn keep(&mut self, mut wanted: impl FnMut(&Answer) -> bool) {
        let rows: Vec<usize> = (0..self.open.len()).filter(|row| wanted(&self.open[*row])).collect();
        if rows.len() == self.open.len() {
            return;
        }
        self.open = rows.iter().map(|row| self.open[*row].clone()).collect();
        match &mut self.cache {
            Some(cache) if !rows.is_empty() => cache.select(&rows),
            cache => *cache = None,
        }
    }
}

/// The next token of each answer, from logits `[rows, vocab]`; `rows` has each answer's.
fn sample(logits: Tensor<2>, rows: &[usize], answers: &mut [Answer]) -> Result<Vec<Event>, RolloutError> {
    let [_, vocab] = logits.dims();
    let logits = logits.try_into_vec_as::<f32>().map_err(|error| RolloutError::Device(error.to_string()))?;
    let mut sampler = Sampler::default();
    let mut events = Vec::with_capacity(answers.len());
    for (answer, row) in answers.iter_mut().zip(rows) {
        let (job, sample, position) = (answer.job.clone(), answer.sample, answer.len);
        let logits = &logits[row * vocab..][..vocab];
        let uniform = job.key.at(job.prompt_id).at(sample.into()).uniform(position as u64);
        let token = sampler.sample(logits, &job.sampling, uniform);
        let token = token.ok_or(RolloutError::Diverged { prompt_id: job.prompt_id, sample, position })?;
        answer.len += 1;
        answer.last = token.id;
        let finish = if job.sampling.stop_token_ids.contains(&token.id) {
            Some(FinishReason::Stop)
        } else {
            (answer.remaining() == 0).then_some(FinishReason::Length)
        };
        let top_log_probs = likeliest(logits, job.top_log_probs, (token.id, token.log_prob), job.sampling.temperature);
        events.push(Event { job: answer.id, sample, token: token.id, log_prob: token.log_prob, top_log_probs, finish });
    }
    Ok(events)
}

/// The `count` most likely tokens with their log-probs, from the log-prob of one of them.
fn likeliest(logits: &[f32], count: usize, (known, log_prob): (u32, f32), temperature: f64) -> Vec<(u32, f32)> {
    let count = count.min(logits.len());
    if count == 0 {
        return Vec::new();
    }
    let preference = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count < ids.len() {
        ids.select_nth_unstable_by(count, preference);
        ids.truncate(count);
    }
    ids.sort_unstable_by(preference);
    let temperature = if temperature == 0.0 { 1.0 } else { temperature };
    let distance = |id: u32| (f64::from(logits[id as usize]) - f64::from(logits[known as usize])) / temperature;
    ids.into_iter().map(|id| (id, (f64::from(log_prob) + distance(id)) as f32)).collect()
}
