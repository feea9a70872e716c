//! A server that speaks the OpenAI API: completions and chat completions with log-probs and token ids.
//!
//! One thread owns the model and decodes ([`Engine`](crate::Engine)); requests reach it through a
//! channel and their tokens go back through channels of their own, which have room for all of them. A slow reader thus
//! never holds up the others, and one that went away is dropped from the batch before the next token.
//!
//! Log-probs are those of the whole crate: of the model's whole distribution at the sampling temperature (at 1 when
//! greedy), truncation excluded.

mod answer;
mod failure;
mod reply;
mod request;
mod routes;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use luspo_data::Tokenizer;
use luspo_model::{Qwen2Config, Qwen2ForCausalLM};

use crate::serve::worker::Worker;
use crate::{BatchLimits, RolloutError};

/// What is served.
#[derive(Debug)]
pub struct Served {
    /// The name that requests give.
    pub name: String,
    /// The model, on a plain device.
    pub model: Qwen2ForCausalLM,
    /// Its shape.
    pub config: Qwen2Config,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
}

/// How it is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// What requests have to bring as a bearer token; without one only a loopback address is listened on.
    pub token: Option<String>,
    /// How much is decoded at once.
    pub limits: BatchLimits,
    /// Answers that may wait for their turn; a request for more is refused (429).
    pub max_waiting: usize,
    /// Seed of requests that bring none.
    pub seed: u64,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address that others can reach, without a token.
    #[error("{0}: others can reach this address; set a token (--api-key-env), or listen on 127.0.0.1")]
    OpenToAll(SocketAddr),
    /// The address cannot be listened on.
    #[error("{address}: cannot be listened on: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
    /// The server failed.
    #[error("the server failed: {0}")]
    Io(#[from] std::io::Error),
    /// The limits cannot be.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
}

/// How long open answers may go on after the server was asked to stop.
const GRACE: Duration = Duration::from_secs(30);

/// Serves until `stop` returns, which is called on a thread of its own, and then finishes what is open (for at most 30 seconds) while it refuses what is new.
/// `listening` is called with the address once requests can come.
///
/// # Errors
/// An address that cannot be listened on, or that others can reach while there is no token.
pub fn serve(
    served: Served,
    options: ServeOptions,
    address: SocketAddr,
    stop: impl FnOnce() + Send + 'static,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if options.token.is_none() && !address.ip().is_loopback() {
        return Err(ServeError::OpenToAll(address));
    }
    let Served { name, model, config, tokenizer, eos_token_ids } = served;
    let max_length = config.max_position_embeddings;
    let worker = Worker::new(model, config, options.limits)?;
    let (commands, received) = std::sync::mpsc::channel();
    let shared = Arc::new(Shared {
        name,
        tokenizer,
        eos_token_ids,
        max_length,
        options,
        commands,
        answers: AtomicUsize::new(0),
        requests: AtomicUsize::new(0),
    });
    std::thread::Builder::new().name("decode".into()).spawn(move || worker.run(&received))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ServeError::Listen { address, source })?;
        listening(listener.local_addr()?);
        let (stopping, mut stopped) = tokio::sync::watch::channel(false);
        std::thread::Builder::new().name("stop".into()).spawn(move || {
            stop();
            stopping.send_replace(true);
        })?;
        let mut asked = stopped.clone();
        let server = axum::serve(listener, routes::router(shared)).with_graceful_shutdown(async move {
            let _ = asked.wait_for(|stopping| *stopping).await;
        });
        let server = tokio::spawn(server.into_future());
        let _ = stopped.wait_for(|stopping| *stopping).await;
        match tokio::time::timeout(GRACE, server).await {
            Ok(Ok(served)) => Ok(served?),
            Ok(Err(error)) => Err(std::io::Error::other(error).into()),
            Err(_) => {
                log::warn!("connections were still open after {} s; they are closed", GRACE.as_secs());
                Ok(())
            }
        }
    })
}

/// What all requests share.
struct Shared {
    name: String,
    tokenizer: Tokenizer,
    eos_token_ids: Vec<u32>,
    /// Tokens of prompt and answer that the model has positions for.
    max_length: usize,
    options: ServeOptions,
    commands: std::sync::mpsc::Sender<worker::Command>,
    /// Answers that are open or waiting.
    answers: AtomicUsize,
    /// Requests so far.
    requests: AtomicUsize,
}

/// Places in the queue, given back when dropped.
struct Places {
    shared: Arc<Shared>,
    count: usize,
}

impl Places {
    /// Takes `count` places if there are as many.
    fn take(shared: &Arc<Shared>, count: usize) -> Option<Self> {
        let most = shared.options.limits.max_batch_size.saturating_add(shared.options.max_waiting);
        let taken = |answers: usize| answers.checked_add(count).filter(|answers| *answers <= most);
        shared.answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        Some(Self { shared: shared.clone(), count })
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.shared.answers.fetch_sub(self.count, Ordering::Relaxed);
    }
}
