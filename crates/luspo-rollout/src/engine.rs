//! The engine: prompts are read once, answers are decoded together, and others join as soon as there is room.

mod queue;

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use luspo_core::{FinishReason, RandomKey};
use luspo_model::{KvCache, Qwen2ForCausalLM, Sequence};
use rayon::prelude::*;

use crate::sampler::{Before, Sampler};
use crate::{BatchLimits, Request, RolloutError, Sampling, Statistics};
use queue::{Group, Prompt, Queue};

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

impl Job {
    /// Places that an answer takes of the cache: its last token is never read.
    fn room(&self) -> usize {
        self.sampling.max_response_length - 1
    }

    /// What is asked for, without how it is sampled.
    pub fn request(&self) -> Request<'_> {
        Request { prompt_id: self.prompt_id, prompt_ids: &self.prompt_ids, samples: self.samples }
    }
}

/// A submitted [`Job`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(pub(crate) u64);

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

/// Samples answers; they join and leave the batch that is being decoded at any time.
///
/// The prompt of a job is read once, in parts if it is long, and its keys and values are kept once for all its answers.
/// An answer has room in the cache for its longest length before it starts, so that nothing ever has to give way; what
/// has no room waits, in order. A token's random number is `key.at(prompt_id).at(sample).uniform(position)`: what an answer
/// is depends on what it was batched with only by the order in which sums are taken.
#[derive(Debug)]
pub struct Engine {
    limits: BatchLimits,
    submitted: u64,
    queue: Queue,
    /// In the order in which they started.
    open: Vec<Open>,
    cache: Option<KvCache>,
    /// Whether the last step read prompts.
    has_read: bool,
    statistics: Statistics,
}

/// An answer that is being decoded.
#[derive(Debug)]
struct Open {
    id: JobId,
    job: Arc<Job>,
    sample: u32,
    sequence: Sequence,
    /// Tokens sampled so far.
    response: Vec<u32>,
}

impl Engine {
    /// An engine without work.
    ///
    /// # Errors
    /// A limit of 0.
    pub fn new(limits: impl Into<BatchLimits>) -> Result<Self, RolloutError> {
        let limits = limits.into();
        limits.validate()?;
        Ok(Self {
            limits,
            submitted: 0,
            queue: Queue::default(),
            open: Vec::new(),
            cache: None,
            has_read: false,
            statistics: Statistics::default(),
        })
    }

    /// Allocates the cache with room for `tokens` tokens. Otherwise it is allocated with the first step, for what
    /// waits then; where more comes than it has room for, and nothing is open, a larger one takes its place.
    ///
    /// # Errors
    /// More than there is memory for.
    pub fn allocate(&mut self, model: &Qwen2ForCausalLM, tokens: usize) -> Result<(), RolloutError> {
        self.clear();
        self.cache = None; // before the new one is there
        self.cache = Some(KvCache::new(model, tokens).map_err(|error| RolloutError::NoMemory(error.to_string()))?);
        Ok(())
    }

    /// Gives the cache's memory back, and drops all work.
    pub fn release(&mut self) {
        self.clear();
        self.cache = None;
    }

    /// Puts a job at the end of the queue.
    ///
    /// # Errors
    /// Settings out of range, an empty prompt, one with tokens that the model does not have, or one that would not fit
    /// into the cache with its answer.
    pub fn submit(&mut self, job: Job, model: &Qwen2ForCausalLM) -> Result<JobId, RolloutError> {
        job.sampling.validate()?;
        if !job.sampling.stop.is_empty() {
            return Err(RolloutError::StopWithoutText);
        }
        job.request().check(model.vocab_size())?;
        self.limits.check(&job.request(), &job.sampling)?;
        let id = JobId(self.submitted);
        self.submitted += 1;
        self.queue.push(Group::new(id, job));
        Ok(id)
    }

    /// Drops all answers of a job that have not ended.
    pub fn cancel(&mut self, job: JobId) {
        self.drop_where(|id, _| id == job);
    }

    /// Drops one answer, if it has not ended.
    pub fn cancel_sample(&mut self, job: JobId, sample: u32) {
        self.drop_where(|id, of| (id, of) == (job, sample));
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.queue = Queue::default();
        self.open.clear();
        if let Some(cache) = &mut self.cache {
            cache.clear();
        }
    }

    /// Answers that are being decoded, or whose prompt is being read.
    pub fn open(&self) -> usize {
        self.open.len() + self.queue.reserved()
    }

    /// Answers that wait for room.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// What was done since this was asked the last time.
    pub fn take_statistics(&mut self) -> Statistics {
        std::mem::take(&mut self.statistics)
    }

    /// Reads some of the prompts that have their turn, or decodes one token of every open answer; the tokens that were
    /// sampled. Both take turns where there is work for both. Without `admit`, what waits goes on waiting.
    ///
    /// # Errors
    /// Logits that are not finite, a cache that there is no memory for, or a device that fails; the engine should then be
    /// [cleared](Self::clear).
    ///
    /// # Panics
    /// If a job's key has more than one coordinate.
    pub fn step(&mut self, model: &Qwen2ForCausalLM, admit: bool) -> Result<Vec<Event>, RolloutError> {
        // From outside the pool each of the many short parallel passes would wake a thread and wait for it.
        rayon::scope(|_| self.step_in_pool(model, admit))
    }

    fn step_in_pool(&mut self, model: &Qwen2ForCausalLM, admit: bool) -> Result<Vec<Event>, RolloutError> {
        if admit {
            self.admit(model)?;
        }
        let mut events = self.start()?; // answers of prompts that were read before
        let reading = self.queue.reading() && (self.open.is_empty() || !self.has_read);
        if reading {
            self.prefill(model)?;
            events.extend(self.start()?);
        } else if !self.open.is_empty() {
            events.extend(self.decode(model)?);
        }
        self.has_read = reading;
        Ok(events)
    }

    /// Gives room to those of the waiting answers that there is some for, in their order.
    fn admit(&mut self, model: &Qwen2ForCausalLM) -> Result<(), RolloutError> {
        if self.queue.waiting() == 0 {
            return Ok(());
        }
        let (idle, tokens) = (self.open() == 0, self.queue.needs(&self.limits));
        if self.cache.as_ref().is_none_or(|cache| idle && cache.is_empty() && tokens > cache.capacity()) {
            self.cache = None; // before the new one is there
            self.cache = Some(KvCache::new(model, tokens).map_err(|error| RolloutError::NoMemory(error.to_string()))?);
        }
        let Some(cache) = &mut self.cache else { return Ok(()) };
        let places = self.limits.max_batch_size.saturating_sub(self.open.len() + self.queue.reserved());
        self.queue.admit(cache, places);
        if self.open.is_empty() && self.queue.reserved() == 0 {
            // A prompt that stayed for its further answers is in the way of the next of them.
            self.queue.start_over(cache);
            self.queue.admit(cache, places);
        }
        self.statistics.most_taken = self.statistics.most_taken.max(cache.taken());
        Ok(())
    }

    /// Reads the next part of the prompts that have room.
    fn prefill(&mut self, model: &Qwen2ForCausalLM) -> Result<(), RolloutError> {
        let Some(cache) = &mut self.cache else { return Ok(()) };
        let started = Instant::now();
        let parts = self.queue.parts(self.limits.prefill_chunk);
        let chunks: Vec<(Sequence, &[u32])> =
            parts.iter().map(|part| (part.sequence, &part.job.prompt_ids[part.tokens.clone()])).collect();
        let hidden = model.prefill(&chunks, cache);
        let whole: Vec<usize> = (0..parts.len()).filter(|i| parts[*i].is_last()).collect();
        self.statistics.prefill_tokens += parts.iter().map(|part| part.tokens.len()).sum::<usize>();
        let mut logits = Vec::new();
        if !whole.is_empty() {
            let hidden = if whole.len() == parts.len() { hidden } else { rows_of(hidden, &whole) };
            logits = on_host(model.logits(hidden))?;
        }
        let vocab = model.vocab_size();
        let of_prompts =
            whole.iter().zip(logits.chunks_exact(vocab)).map(|(part, row)| (parts[*part].group, row.to_vec()));
        let of_prompts: Vec<(usize, Vec<f32>)> = of_prompts.collect();
        self.queue.read(&parts, of_prompts);
        self.statistics.prefill += started.elapsed();
        Ok(())
    }

    /// Samples the first token of the answers whose prompt has been read.
    fn start(&mut self) -> Result<Vec<Event>, RolloutError> {
        let started = Instant::now();
        let mut events = Vec::new();
        while let Some((group, reserved)) = self.queue.next_ready() {
            let Prompt::Read { logits, .. } = &group.prompt else { continue };
            let rows: Vec<Row<'_>> = reserved
                .iter()
                .map(|(sample, _)| Row { id: group.id, job: &group.job, sample: *sample, response: &[], logits })
                .collect();
            let first = sample(&rows)?;
            for (event, (sample, sequence)) in first.iter().zip(reserved) {
                let (id, job) = (group.id, group.job.clone());
                self.open.push(Open { id, job, sample, sequence, response: vec![event.token] });
            }
            events.extend(first);
        }
        let cache = self.cache.as_mut();
        self.queue.leave(cache);
        self.close(&events);
        self.statistics.choice += started.elapsed();
        Ok(events)
    }

    /// One token of every open answer.
    fn decode(&mut self, model: &Qwen2ForCausalLM) -> Result<Vec<Event>, RolloutError> {
        let Some(cache) = &mut self.cache else { return Ok(Vec::new()) };
        let started = Instant::now();
        let last = |open: &Open| (open.sequence, *open.response.last().expect("an answer starts with its first token"));
        let tokens: Vec<(Sequence, u32)> = self.open.iter().map(last).collect();
        let hidden = model.decode(&tokens, cache);
        let logits = on_host(model.logits(hidden))?;
        let read = Instant::now();
        let statistics = &mut self.statistics;
        statistics.decode += read - started;
        statistics.decode_tokens += tokens.len();
        statistics.decode_steps += 1;
        statistics.decode_rows += self.limits.max_batch_size;
        statistics.filled += cache.filled();
        statistics.capacity += cache.capacity();

        let rows = self.open.iter().zip(logits.chunks_exact(model.vocab_size()));
        let rows: Vec<Row<'_>> = rows
            .map(|(Open { id, job, sample, response, .. }, logits)| Row {
                id: *id,
                job,
                sample: *sample,
                response,
                logits,
            })
            .collect();
        let events = sample(&rows)?;
        for (open, event) in self.open.iter_mut().zip(&events) {
            open.response.push(event.token);
        }
        self.close(&events);
        self.statistics.choice += read.elapsed();
        Ok(events)
    }

    /// Ends the answers whose last token this was.
    fn close(&mut self, events: &[Event]) {
        if events.iter().any(|event| event.finish.is_some()) {
            let ended = |id, sample| {
                events.iter().any(|event| event.finish.is_some() && (event.job, event.sample) == (id, sample))
            };
            self.drop_where(ended);
        }
    }

    fn drop_where(&mut self, dropped: impl Fn(JobId, u32) -> bool) {
        let mut cache = self.cache.as_mut();
        self.open.retain(|open| {
            let drop = dropped(open.id, open.sample);
            if let (true, Some(cache)) = (drop, &mut cache) {
                cache.end(open.sequence);
            }
            !drop
        });
        self.queue.drop_where(self.cache.as_mut(), dropped);
    }
}

/// What the next token of an answer is sampled from.
struct Row<'a> {
    id: JobId,
    job: &'a Job,
    sample: u32,
    response: &'a [u32],
    /// `[vocab]`
    logits: &'a [f32],
}

/// The next token of each row.
fn sample(rows: &[Row<'_>]) -> Result<Vec<Event>, RolloutError> {
    let next = |sampler: &mut Sampler, row: &Row<'_>| {
        let Row { id, job, sample, response, logits } = *row;
        let (prompt_id, position, sampling) = (job.prompt_id, response.len(), &job.sampling);
        let uniform = job.key.at(prompt_id).at(sample.into()).uniform(position as u64);
        let before = Before { prompt: &job.prompt_ids, response };
        let token = sampler.sample(logits, sampling, before, uniform);
        let token = token.ok_or(RolloutError::Diverged { prompt_id, sample, position })?;
        let finish = if sampling.stop_token_ids.contains(&token.id) {
            Some(FinishReason::Stop)
        } else {
            (position + 1 == sampling.max_response_length).then_some(FinishReason::Length)
        };
        let top_log_probs = likeliest(logits, job.top_log_probs, (token.id, token.log_prob), sampling.temperature);
        Ok(Event { job: id, sample, token: token.id, log_prob: token.log_prob, top_log_probs, finish })
    };
    let events: Vec<_> = rows.par_iter().map_init(Sampler::default, next).collect();
    events.into_iter().collect() // of several errors always the first
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

fn on_host(logits: Tensor<2>) -> Result<Vec<f32>, RolloutError> {
    logits.try_into_vec_as::<f32>().map_err(|error| RolloutError::Device(error.to_string()))
}

fn rows_of(hidden: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let index: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), &hidden.device());
    hidden.select(0, index)
}
