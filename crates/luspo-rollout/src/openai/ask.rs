//! What a server is asked.

use luspo_core::{RandomKey, Rollout};
use luspo_data::Tokenizer;
use serde_json::{Value, json};

use super::OpenAiError;
use super::connection::Connection;
use super::reply::Expected;
use crate::{Request, Sampling};

/// One request to a server.
pub(super) struct Ask<'a> {
    request: &'a Request<'a>,
    /// The number of the first answer within its group.
    first: u32,
    samples: u32,
    seed: u64,
    /// The prompt's text, where text is all that the server understands.
    text: Option<String>,
}

impl<'a> Ask<'a> {
    /// A whole group.
    pub fn group(request: &'a Request<'a>, key: RandomKey) -> Self {
        let seed = seed(key.at(request.prompt_id));
        Self { request, first: 0, samples: request.samples, seed, text: None }
    }

    /// Each answer by itself, to the prompt's text.
    pub fn one_by_one(
        requests: &'a [Request<'a>],
        key: RandomKey,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Self>, OpenAiError> {
        let mut asks = Vec::new();
        for request in requests {
            let prompt_id = request.prompt_id;
            let tokens = |problem: String| OpenAiError::PromptText { prompt_id, problem };
            let text = tokenizer.decode_with_special_tokens(request.prompt_ids);
            let text = text.map_err(|error| tokens(error.to_string()))?;
            let again = tokenizer.encode(&text).map_err(|error| tokens(error.to_string()))?;
            if again != request.prompt_ids {
                return Err(tokens("its text has other tokens than it has".into()));
            }
            asks.extend((0..request.samples).map(|first| {
                let seed = seed(key.at(prompt_id).at(u64::from(first)));
                Self { request, first, samples: 1, seed, text: Some(text.clone()) }
            }));
        }
        Ok(asks)
    }

    /// How many answers there will be.
    pub fn samples(&self) -> usize {
        self.samples as usize
    }

    /// Asks a server and checks what it says.
    pub fn put(
        &self,
        connection: &Connection,
        sampling: &Sampling,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Rollout>, OpenAiError> {
        let reply = connection.complete(&self.body(connection.model(), sampling))?;
        let tokenizer = self.text.is_some().then_some(tokenizer);
        let expected =
            Expected { request: self.request, first: self.first, samples: self.samples, sampling, tokenizer };
        expected.rollouts(&reply).map_err(|problem| OpenAiError::Reply { url: connection.url().into(), problem })
    }

    /// Settings that ask for nothing are left out: not every server knows them.
    fn body(&self, model: &str, sampling: &Sampling) -> Value {
        let mut body = json!({
            "model": model,
            "max_tokens": sampling.max_response_length,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": self.seed,
        });
        let mut with = |wanted: bool, name: &str, value: Value| {
            if wanted {
                body[name] = value;
            }
        };
        match &self.text {
            Some(text) => with(true, "prompt", text.clone().into()),
            None => {
                with(true, "prompt", self.request.prompt_ids.into());
                with(true, "n", self.samples.into());
                with(true, "logprobs", 0.into());
                with(true, "return_token_ids", true.into());
                with(true, "stop_token_ids", sampling.stop_token_ids.clone().into());
            }
        }
        with(sampling.top_k > 0, "top_k", sampling.top_k.into());
        with(sampling.min_p > 0.0, "min_p", sampling.min_p.into());
        with(sampling.repetition_penalty != 1.0, "repetition_penalty", sampling.repetition_penalty.into());
        with(sampling.min_tokens > 0, "min_tokens", sampling.min_tokens.into());
        with(!sampling.stop.is_empty(), "stop", sampling.stop.clone().into());
        body
    }
}

/// 31 bits, which every server takes.
fn seed(key: RandomKey) -> u64 {
    (key.uniform(0) * f64::from(1u32 << 31)) as u64
}
