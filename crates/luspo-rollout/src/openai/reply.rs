//! From a server's reply to rollouts, nothing of it believed.

use luspo_core::{FinishReason, Rollout};
use luspo_data::Tokenizer;
use serde_json::Value;

use crate::{Request, Sampling};

/// What was asked for.
pub(super) struct Expected<'a> {
    pub request: &'a Request<'a>,
    /// The number of the first answer within its group.
    pub first: u32,
    pub samples: u32,
    pub sampling: &'a Sampling,
    /// Of a server that sends text alone.
    pub tokenizer: Option<&'a Tokenizer>,
}

impl Expected<'_> {
    /// The answers of a whole reply, in the order of their `index`.
    pub fn rollouts(&self, reply: &Value) -> Result<Vec<Rollout>, String> {
        let choices = reply.get("choices").and_then(Value::as_array).ok_or("it has no list `choices`")?;
        let samples = self.samples as usize;
        if choices.len() != samples {
            return Err(format!("{} answers where {samples} were asked for", choices.len()));
        }
        let mut rollouts: Vec<Option<Rollout>> = vec![None; samples];
        for (place, choice) in choices.iter().enumerate() {
            let index = choice.get("index").and_then(Value::as_u64).map_or(place, |index| index as usize);
            let free = rollouts.get_mut(index).filter(|rollout| rollout.is_none());
            *free.ok_or_else(|| format!("two answers, or none, have the index {index}"))? = Some(
                self.rollout(self.first + index as u32, choice)
                    .map_err(|problem| format!("answer {index}: {problem}"))?,
            );
        }
        Ok(rollouts.into_iter().flatten().collect())
    }

    fn rollout(&self, sample: u32, choice: &Value) -> Result<Rollout, String> {
        if let Some(read) = token_list(&choice["prompt_token_ids"])?
            && read != self.request.prompt_ids
        {
            return Err("the server read other prompt tokens than it was sent".into());
        }
        let finish = match choice["finish_reason"].as_str() {
            Some("stop") => FinishReason::Stop,
            Some("length") => FinishReason::Length,
            _ => return Err(format!("its finish_reason is {}, not stop or length", choice["finish_reason"])),
        };
        let (response_ids, log_probs) = match self.tokenizer {
            Some(tokenizer) => self.tokenised(tokenizer, choice, finish)?,
            None => (token_ids(choice)?, log_probs(choice)?),
        };
        if log_probs.len() != response_ids.len() {
            return Err(format!("{} log-probs of {} tokens", log_probs.len(), response_ids.len()));
        }
        let (len, most) = (response_ids.len(), self.sampling.max_response_length);
        if len == 0 || len > most {
            return Err(format!("{len} tokens, where 1 to {most} were asked for"));
        }
        let vocabulary = self.sampling.vocab_limit;
        if let Some(token) = response_ids.iter().find(|token| **token as usize >= vocabulary) {
            return Err(format!("token {token} is not in the vocabulary of {vocabulary}"));
        }
        let &Request { prompt_id, prompt_ids, .. } = self.request;
        Ok(Rollout { prompt_id, sample, prompt_ids: prompt_ids.to_vec(), response_ids, log_probs, finish })
    }

    /// The text's tokens, with the token that ends an answer where the server says that one did; log-probs unknown.
    fn tokenised(
        &self,
        tokenizer: &Tokenizer,
        choice: &Value,
        finish: FinishReason,
    ) -> Result<(Vec<u32>, Vec<f32>), String> {
        let text = choice["text"].as_str().ok_or("it has no `text`")?;
        let mut ids = tokenizer.encode(text).map_err(|error| error.to_string())?;
        let room = self.sampling.max_response_length;
        let ended = finish == FinishReason::Stop && self.sampling.stop.iter().all(|stop| !text.contains(stop));
        ids.extend(self.sampling.stop_token_ids.first().filter(|_| ended));
        ids.truncate(room); // tokenised anew, a text can take more tokens than it was sampled with
        let unknown = vec![f32::NAN; ids.len()];
        Ok((ids, unknown))
    }
}

/// `token_ids`, or vLLM's older way to say them, `token_id:N` in place of a token's text.
fn token_ids(choice: &Value) -> Result<Vec<u32>, String> {
    if let Some(ids) = token_list(&choice["token_ids"])? {
        return Ok(ids);
    }
    let tokens = choice["logprobs"]["tokens"].as_array();
    let ids = tokens.and_then(|tokens| {
        tokens.iter().map(|token| token.as_str()?.strip_prefix("token_id:")?.parse().ok()).collect::<Option<_>>()
    });
    ids.ok_or_else(|| {
        "it has no `token_ids`; the server has to understand `return_token_ids` (or say that it sends text alone)"
            .into()
    })
}

fn token_list(value: &Value) -> Result<Option<Vec<u32>>, String> {
    match value {
        Value::Null => Ok(None),
        list => serde_json::from_value(list.clone()).map(Some).map_err(|error| format!("token ids: {error}")),
    }
}

/// `logprobs.token_logprobs`, each the log of a probability.
fn log_probs(choice: &Value) -> Result<Vec<f32>, String> {
    let list = &choice["logprobs"]["token_logprobs"];
    if list.is_null() {
        return Err("it has no `logprobs.token_logprobs`".into());
    }
    let values: Vec<f32> = serde_json::from_value(list.clone()).map_err(|error| format!("log-probs: {error}"))?;
    // Rounding can take the log of 1 a little above 0.
    match values.iter().find(|value| !value.is_finite() || **value > 1e-3) {
        Some(value) => Err(format!("{value} is not the log of a probability")),
        None => Ok(values.into_iter().map(|value| value.min(0.0)).collect()),
    }
}
