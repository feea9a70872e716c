//! From a request to its answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::http::StatusCode;
use axum::response::sse::{Event as ServerSent, Sse};
use axum::response::{IntoResponse, Response};
use luspo_core::{Purpose, RandomKey};
use luspo_data::PromptText;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::failure::Failure;
use super::reply::{Choice, Head, Kind, Usage};
use super::request::{Asked, Prompts};
use super::worker::{Command, Token};
use super::{Places, Shared};
use crate::{Job, JobId, Request, Sampling, TextStream};

/// Parts of a stream that wait for a slow reader here; further tokens wait in their own channel.
const PARTS: usize = 16;

/// A request whose answers are being sampled. Dropping it gives them up.
struct Running {
    shared: Arc<Shared>,
    head: Head,
    tokens: mpsc::Receiver<Token>,
    jobs: Vec<JobId>,
    /// Prompt by prompt.
    choices: Vec<Choice>,
    n: usize,
    usage: Usage,
    prompts: Vec<Vec<u32>>,
    include_usage: bool,
    return_token_ids: bool,
    _places: Places,
}

/// Answers a request, whole or as a stream.
pub(super) async fn answer(shared: Arc<Shared>, kind: Kind, asked: Asked) -> Result<Response, Failure> {
    let stream = asked.stream;
    let running = start(shared, kind, asked).await?;
    if !stream {
        return Ok(Json(running.whole().await?).into_response());
    }
    let (parts, received) = mpsc::channel(PARTS);
    tokio::spawn(running.in_parts(parts));
    let events =
        ReceiverStream::new(received).map(|text| Ok::<_, std::convert::Infallible>(ServerSent::default().data(text)));
    Ok(Sse::new(events).into_response())
}

async fn start(shared: Arc<Shared>, kind: Kind, asked: Asked) -> Result<Running, Failure> {
    let prompts = token_ids(&shared, asked.prompts)?;
    let n = asked.n as usize;
    let Some(places) = Places::take(&shared, prompts.len().saturating_mul(n)) else {
        let message = "the queue is full; try again later, or ask for fewer answers at once";
        return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, message));
    };
    let request = shared.requests.fetch_add(1, Ordering::Relaxed) as u64;
    let key = match asked.seed {
        Some(seed) => RandomKey::new(seed, Purpose::Generate).at(0),
        None => RandomKey::new(shared.options.seed, Purpose::Generate).at(1 + request % u64::from(u32::MAX)),
    };
    let mut stop_token_ids = asked.stop_token_ids;
    if !asked.ignore_eos {
        stop_token_ids.extend(&shared.eos_token_ids);
    }
    let cache = shared.options.limits.max_tokens_in_cache.unwrap_or(usize::MAX);
    let mut jobs = Vec::with_capacity(prompts.len());
    for (index, prompt_ids) in prompts.iter().enumerate() {
        let room = cache.min(shared.max_length).saturating_sub(prompt_ids.len());
        let sampling = Sampling {
            temperature: asked.temperature,
            top_k: asked.top_k,
            top_p: asked.top_p,
            min_p: asked.min_p,
            repetition_penalty: asked.repetition_penalty,
            min_tokens: asked.min_tokens,
            max_response_length: asked.max_tokens.unwrap_or(room.max(1)),
            stop_token_ids: stop_token_ids.clone(),
            stop: Vec::new(), // looked for in the text of each choice
            vocab_limit: shared.tokenizer.vocab_size(),
        };
        sampling.validate().map_err(|error| Failure::bad(None, error.to_string()))?;
        let request = Request { prompt_id: index as u64, prompt_ids, samples: asked.n };
        request.check_length(&sampling, shared.max_length).map_err(|error| Failure::bad(None, error.to_string()))?;
        let top_log_probs = asked.log_probs.unwrap_or(0);
        let prompt_ids = prompt_ids.clone();
        jobs.push(Job { prompt_id: index as u64, prompt_ids, samples: asked.n, sampling, key, top_log_probs });
    }
    let most: usize = jobs.iter().map(|job| job.sampling.max_response_length.saturating_mul(n)).sum();
    // One more a job for its error.
    let (sender, tokens) = mpsc::channel(most + jobs.len());
    let mut ids = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (accepted, answer) = oneshot::channel();
        send(&shared, Command::Submit { job, tokens: sender.clone(), accepted })?;
        let id = answer.await.map_err(|_| gone())?;
        ids.push(id.map_err(|error| Failure::bad(None, error.to_string()))?);
    }
    let choice = |index| {
        let text = TextStream::new(asked.stop.clone()).not_before(asked.min_tokens);
        Choice::new(kind, index, text, asked.log_probs.is_some(), asked.return_token_ids)
    };
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
    let head = Head { kind, id: format!("{prefix}-{created:x}-{request}"), created, model: shared.name.clone() };
    Ok(Running {
        head,
        tokens,
        jobs: ids,
        choices: (0..prompts.len() * n).map(choice).collect(),
        n,
        usage: Usage { prompt: prompts.iter().map(Vec::len).sum(), completion: 0 },
        prompts,
        include_usage: asked.include_usage,
        return_token_ids: asked.return_token_ids,
        _places: places,
        shared,
    })
}

impl Running {
    /// Waits for the next token and adds it to its choice, whose place is returned; none when all are finished.
    async fn next(&mut self) -> Result<Option<usize>, Failure> {
        while !self.choices.iter().all(Choice::finished) {
            let event = self.tokens.recv().await.ok_or_else(gone)?.map_err(Failure::internal)?;
            let Some(prompt) = self.jobs.iter().position(|job| *job == event.job) else { continue };
            let index = prompt * self.n + event.sample as usize;
            let choice = &mut self.choices[index];
            if choice.finished() {
                continue; // sampled after its stop string, before the batch knew
            }
            let (job, sample, last) = (event.job, event.sample, event.finish.is_some());
            choice.push(&self.shared.tokenizer, event)?;
            self.usage.completion += 1;
            if choice.finished() && !last {
                send(&self.shared, Command::CancelSample(job, sample))?;
            }
            return Ok(Some(index));
        }
        Ok(None)
    }

    async fn whole(mut self) -> Result<Value, Failure> {
        while self.next().await?.is_some() {}
        let mut choices = Vec::with_capacity(self.choices.len());
        for (index, choice) in self.choices.iter_mut().enumerate() {
            let mut choice = choice.take(&self.shared.tokenizer, false)?;
            if self.return_token_ids && self.head.kind == Kind::Completion {
                choice["prompt_token_ids"] = self.prompts[index / self.n].clone().into();
            }
            choices.push(choice);
        }
        let mut reply = self.head.reply(choices, &self.usage);
        if self.return_token_ids && self.head.kind == Kind::Chat {
            reply["prompt_token_ids"] = self.prompts[0].clone().into();
        }
        Ok(reply)
    }

    /// Sends each token as it comes. Ends early when nobody reads any longer.
    async fn in_parts(mut self, parts: mpsc::Sender<String>) {
        loop {
            let part = match self.next().await {
                Ok(Some(index)) => self.choices[index].take(&self.shared.tokenizer, true),
                Ok(None) => break,
                Err(failure) => Err(failure),
            };
            let (text, failed) = match part {
                Ok(choice) => (self.head.chunk(vec![choice]).to_string(), false),
                Err(failure) => (failure.body().to_string(), true),
            };
            if parts.send(text).await.is_err() || failed {
                return;
            }
        }
        if self.include_usage {
            let mut chunk = self.head.chunk(Vec::new());
            chunk["usage"] = self.usage.json();
            if parts.send(chunk.to_string()).await.is_err() {
                return;
            }
        }
        // A reader that has gone needs no end.
        let _ = parts.send("[DONE]".into()).await;
    }
}

fn token_ids(shared: &Shared, prompts: Prompts) -> Result<Vec<Vec<u32>>, Failure> {
    let encode = |prompt: &PromptText| {
        shared.tokenizer.encode_prompt(prompt).map_err(|error| Failure::bad(None, error.to_string()))
    };
    match prompts {
        Prompts::Tokens(ids) => Ok(ids),
        Prompts::Texts(texts) => texts.into_iter().map(|text| encode(&PromptText::Text(text))).collect(),
        Prompts::Chat(messages) => Ok(vec![encode(&PromptText::Messages(messages))?]),
    }
}

pub(super) fn send(shared: &Shared, command: Command) -> Result<(), Failure> {
    shared.commands.send(command).map_err(|_| gone())
}

pub(super) fn gone() -> Failure {
    Failure::internal("decoding has ended; the server's log says why")
}
