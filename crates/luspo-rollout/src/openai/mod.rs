//! A client of servers that speak the OpenAI completions API (vLLM, SGLang, `luspo serve`): answers from outside.
//!
//! A group is one request, `POST {base}/completions` with the prompt's token ids and `n`. Token ids and log-probs are
//! taken from the reply, never made from its text. For servers that send neither there is [`Answers::Text`].
//!
//! Requests are shared out to all servers, [`ServerOptions::concurrency`] at a time to each. One that fails is tried again,
//! by whichever server is free; a server that fails too often in a row gets no more of this batch. So a batch ends: with
//! all its answers, or with an error that says which server did what.

mod ask;
mod connection;
mod error;
mod queue;
mod reply;

use std::path::Path;
use std::time::Duration;

use luspo_core::{RandomKey, Rollout};
use luspo_data::Tokenizer;
use serde_json::json;

use crate::{Request, Sampling};
use ask::Ask;
use connection::Connection;
use queue::Queue;

pub use error::OpenAiError;

/// Where the servers are and how they are asked.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Addresses as OpenAI's clients have them, such as `http://127.0.0.1:8000/v1`; at least one.
    pub base_urls: Vec<String>,
    /// The model's name there; none: the first that each server lists.
    pub model: Option<String>,
    /// Bearer token, where the servers want one.
    pub token: Option<String>,
    /// Requests that each server has at a time, at least 1.
    pub concurrency: usize,
    /// How long a request may take, all its answers together.
    pub timeout: Duration,
    /// How often a request is tried again at the same server.
    pub retries: u32,
    /// What their replies have.
    pub answers: Answers,
}

/// What servers send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// Token ids and log-probs.
    #[default]
    Tokens,
    /// Text alone. It is sent the prompt's text, asked for one answer at a time, and its answers are tokenised anew: ids
    /// that may differ from those sampled, with NaN for their log-probs. (`transformers serve` is such a server.)
    Text,
}

/// Servers that sample answers.
#[derive(Debug)]
pub struct Servers {
    connections: Vec<Connection>,
    concurrency: usize,
    retries: u32,
    answers: Answers,
}

impl Servers {
    /// Asks each server for its models.
    ///
    /// # Errors
    /// No address, one that is none, a server that does not answer, or one that does not have the model.
    pub fn connect(options: ServerOptions) -> Result<Self, OpenAiError> {
        let ServerOptions { base_urls, model, token, concurrency, timeout, retries, answers } = options;
        if base_urls.is_empty() {
            return Err(OpenAiError::NoServer);
        }
        let connect = |url: &String| Connection::open(url, token.as_deref(), timeout, model.as_deref());
        let connections = base_urls.iter().map(connect).collect::<Result<_, _>>()?;
        Ok(Self { connections, concurrency: concurrency.max(1), retries, answers })
    }

    /// Samples answers to each request. They come in the order of the requests, then of the samples. `on_answers` is
    /// called, on any thread, with answers as they come, and with the position of the first.
    ///
    /// The seed that a server is given is the first number of `key.at(prompt_id)`, or of `key.at(prompt_id).at(sample)`
    /// where it is asked for one answer at a time: a server that keeps to seeds gives the same answers again. The
    /// tokenizer, the policy's, is used for [`Answers::Text`] alone.
    ///
    /// # Errors
    /// A request that a server refuses, or that fails everywhere as often as it may be tried.
    pub fn generate(
        &self,
        requests: &[Request<'_>],
        sampling: &Sampling,
        key: RandomKey,
        tokenizer: &Tokenizer,
        on_answers: impl Fn(usize, &[Rollout]) + Sync,
    ) -> Result<Vec<Rollout>, OpenAiError> {
        let asks: Vec<Ask<'_>> = match self.answers {
            Answers::Tokens => requests.iter().map(|request| Ask::group(request, key)).collect(),
            Answers::Text => Ask::one_by_one(requests, key, tokenizer)?,
        };
        let starts: Vec<usize> = asks
            .iter()
            .scan(0, |answers, ask| {
                *answers += ask.samples();
                Some(*answers - ask.samples())
            })
            .collect();
        let connections: Vec<&Connection> = self.connections.iter().filter(|server| server.is_current()).collect();
        let queue = Queue::new(asks.len(), connections.len(), self.retries);
        std::thread::scope(|scope| {
            for (server, connection) in connections.into_iter().enumerate() {
                for _ in 0..self.concurrency.min(asks.len()) {
                    let (queue, asks, starts, on_answers) = (&queue, &asks, &starts, &on_answers);
                    scope.spawn(move || {
                        while let Some(task) = queue.take(server) {
                            let answers = asks[task.index].put(connection, sampling, tokenizer);
                            if let Ok(answers) = &answers {
                                on_answers(starts[task.index], answers);
                            }
                            queue.settle(task, answers);
                        }
                    });
                }
            }
        });
        Ok(queue.finish()?.into_iter().flatten().collect())
    }

    /// Has each server read the weights in a folder, which it has to see under the same path:
    /// `POST /update_weights_from_disk` beside `/v1`, as SGLang and `luspo serve` have it. No request may be under way.
    ///
    /// A server that is not to be reached gets no requests until it has taken weights again.
    ///
    /// # Errors
    /// A server that refuses the weights, or no server that takes them.
    pub fn update_weights(&self, folder: &Path) -> Result<(), OpenAiError> {
        let body = json!({ "model_path": folder });
        let mut last = None;
        for connection in &self.connections {
            match connection.update_weights(&body) {
                Err(error) if error.is_passing() => {
                    log::warn!("{error}; it samples nothing until it takes new weights");
                    last = Some(error);
                }
                other => other?,
            }
        }
        match last {
            Some(error) if !self.connections.iter().any(Connection::is_current) => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
