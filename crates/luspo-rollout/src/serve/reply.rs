//! Answers as the OpenAI API has them.

use luspo_core::FinishReason;
use luspo_data::Tokenizer;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use crate::{Event, TextStream};

/// The two kinds of completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Chat,
}

/// What every object of a reply begins with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub kind: Kind,
    pub id: String,
    pub created: u64,
    pub model: String,
}

impl Head {
    pub fn reply(&self, choices: Vec<Value>, usage: &Usage) -> Value {
        let mut reply = self.object(false, choices);
        reply["usage"] = usage.json();
        reply
    }

    pub fn chunk(&self, choices: Vec<Value>) -> Value {
        self.object(true, choices)
    }

    fn object(&self, chunk: bool, choices: Vec<Value>) -> Value {
        let object = match (self.kind, chunk) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        };
        let Self { id, created, model, .. } = self;
        json!({ "id": id, "object": object, "created": created, "model": model, "choices": choices })
    }
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub prompt: usize,
    pub completion: usize,
}

impl Usage {
    pub fn json(&self) -> Value {
        let Self { prompt, completion } = self;
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
    }
}

/// One answer, as far as it has come since it was last [taken](Self::take).
#[derive(Debug)]
pub(super) struct Choice {
    kind: Kind,
    index: usize,
    with_token_ids: bool,
    with_log_probs: bool,
    stream: TextStream,
    text: String,
    /// Characters of the text before `text`.
    offset: usize,
    events: Vec<Event>,
    finish: Option<&'static str>,
    begun: bool,
}

impl Choice {
    pub fn new(kind: Kind, index: usize, stream: TextStream, with_log_probs: bool, with_token_ids: bool) -> Self {
        Self {
            kind,
            index,
            with_token_ids,
            with_log_probs,
            stream,
            text: String::new(),
            offset: 0,
            events: Vec::new(),
            finish: None,
            begun: false,
        }
    }

    pub fn finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Adds a token.
    pub fn push(&mut self, tokenizer: &Tokenizer, event: Event) -> Result<(), Failure> {
        let text = self.stream.push(tokenizer, event.token, event.finish.is_some());
        self.text += &text.map_err(|error| Failure::internal(error.to_string()))?;
        self.finish = match event.finish {
            _ if self.stream.stopped() => Some("stop"),
            Some(FinishReason::Stop) => Some("stop"),
            Some(FinishReason::Length) => Some("length"),
            None => None,
        };
        self.events.push(event);
        Ok(())
    }

    /// What there is to say now, as a whole choice or as a part of a stream.
    pub fn take(&mut self, tokenizer: &Tokenizer, part: bool) -> Result<Value, Failure> {
        let text = std::mem::take(&mut self.text);
        let events = std::mem::take(&mut self.events);
        let mut choice = Map::new();
        choice.insert("index".into(), self.index.into());
        let log_probs = match (self.with_log_probs, self.kind) {
            (false, _) => Value::Null,
            (true, Kind::Completion) => self.completion_log_probs(tokenizer, &events)?,
            (true, Kind::Chat) => chat_log_probs(tokenizer, &events)?,
        };
        match self.kind {
            Kind::Completion => {
                choice.insert("text".into(), text.into());
            }
            Kind::Chat if part && self.begun => {
                choice.insert("delta".into(), json!({ "content": text }));
            }
            Kind::Chat => {
                let key = if part { "delta" } else { "message" };
                choice.insert(key.into(), json!({ "role": "assistant", "content": text }));
            }
        }
        self.begun = true;
        choice.insert("logprobs".into(), log_probs);
        choice.insert("finish_reason".into(), self.finish.into());
        if self.with_token_ids {
            choice.insert("token_ids".into(), events.iter().map(|event| event.token).collect());
        }
        Ok(choice.into())
    }

    fn completion_log_probs(&mut self, tokenizer: &Tokenizer, events: &[Event]) -> Result<Value, Failure> {
        let (mut tokens, mut values, mut offsets, mut tops) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for event in events {
            let token = text_of(tokenizer, event.token)?;
            offsets.push(self.offset);
            self.offset += token.chars().count();
            tokens.push(token);
            values.push(event.log_prob);
            let mut top = Map::new();
            for (id, log_prob) in &event.top_log_probs {
                top.entry(text_of(tokenizer, *id)?).or_insert((*log_prob).into());
            }
            tops.push(top);
        }
        Ok(json!({ "tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets }))
    }
}

fn chat_log_probs(tokenizer: &Tokenizer, events: &[Event]) -> Result<Value, Failure> {
    let entry = |id: u32, log_prob: f32| {
        let text = text_of(tokenizer, id)?;
        // Bytes that are no text by themselves are not known from here.
        let bytes = (!text.contains('\u{fffd}')).then_some(text.as_bytes());
        Ok::<_, Failure>(json!({ "token": text, "logprob": log_prob, "bytes": bytes }))
    };
    let token = |event: &Event| {
        let mut token = entry(event.token, event.log_prob)?;
        let top: Result<Vec<Value>, Failure> =
            event.top_log_probs.iter().map(|(id, value)| entry(*id, *value)).collect();
        token["top_logprobs"] = top?.into();
        Ok(token)
    };
    let content: Result<Vec<Value>, Failure> = events.iter().map(token).collect();
    Ok(json!({ "content": content? }))
}

fn text_of(tokenizer: &Tokenizer, id: u32) -> Result<String, Failure> {
    tokenizer.decode_with_special_tokens(&[id]).map_err(|error| Failure::internal(error.to_string()))
}
