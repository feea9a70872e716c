//! What a request asks for, checked.

use luspo_core::Message;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::failure::Failure;

/// Most answers of a request, and most tokens whose log-probs are reported at a position.
const MOST_ANSWERS: u32 = 128;
const MOST_LOG_PROBS: usize = 20;

/// What completions and chat completions have in common.
#[derive(Debug)]
pub(super) struct Asked {
    pub prompts: Prompts,
    pub n: u32,
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: usize,
    pub min_p: f64,
    pub repetition_penalty: f64,
    pub min_tokens: usize,
    /// Absent: as the kind of request has it.
    pub max_tokens: Option<usize>,
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<u32>,
    /// Go on after the model's own end-of-sequence tokens.
    pub ignore_eos: bool,
    pub seed: Option<u64>,
    /// How many tokens to report at each position beside the sampled one; absent where no log-probs are wanted.
    pub log_probs: Option<usize>,
    pub stream: bool,
    pub include_usage: bool,
    pub return_token_ids: bool,
}

#[derive(Debug)]
pub(super) enum Prompts {
    Chat(Vec<Message>),
    Texts(Vec<String>),
    Tokens(Vec<Vec<u32>>),
}

/// Parameters that may be given as long as they ask for nothing.
const NEUTRAL: [(&str, f64); 2] = [("presence_penalty", 0.0), ("frequency_penalty", 0.0)];
/// Parameters that change nothing in the answer.
const HARMLESS: [&str; 4] = ["user", "metadata", "model", "safety_identifier"];

impl Asked {
    /// Reads the body of `/v1/completions`.
    pub fn completion(body: &[u8], model: &str) -> Result<Self, Failure> {
        let mut fields = Fields::read(body, model)?;
        let prompt = fields.0.remove("prompt").ok_or_else(|| Failure::bad("prompt", "`prompt` is missing"))?;
        let prompts = prompts(prompt)?;
        let log_probs = fields.number("logprobs", 0, MOST_LOG_PROBS)?;
        if fields.take::<bool>("echo")? == Some(true) {
            return Err(Failure::bad("echo", "`echo` is not supported by this server; put prompt and answer together"));
        }
        if fields.take::<u32>("best_of")?.is_some_and(|best| best != fields.n().unwrap_or(1)) {
            return Err(Failure::bad("best_of", "`best_of` is not supported by this server; ask for `n`"));
        }
        if fields.take::<String>("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(Failure::unknown("suffix"));
        }
        let max_tokens = Some(fields.number("max_tokens", 1, usize::MAX)?.unwrap_or(16));
        fields.rest(prompts, log_probs, max_tokens)
    }

    /// Reads the body of `/v1/chat/completions`.
    pub fn chat(body: &[u8], model: &str) -> Result<Self, Failure> {
        let mut fields = Fields::read(body, model)?;
        let messages = fields.0.remove("messages").ok_or_else(|| Failure::bad("messages", "`messages` is missing"))?;
        let prompts = Prompts::Chat(messages_of(messages)?);
        let wanted = fields.take::<bool>("logprobs")?.unwrap_or(false);
        let top = fields.number("top_logprobs", 0, MOST_LOG_PROBS)?;
        if top.is_some() && !wanted {
            return Err(Failure::bad("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
        }
        let old = fields.number("max_tokens", 1, usize::MAX)?;
        let max_tokens = fields.number("max_completion_tokens", 1, usize::MAX)?.or(old);
        fields.rest(prompts, wanted.then_some(top.unwrap_or(0)), max_tokens)
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn read(body: &[u8], model: &str) -> Result<Self, Failure> {
        let body = serde_json::from_slice(body)
            .map_err(|error| Failure::bad(None, format!("the body is no JSON object: {error}")))?;
        let mut fields = Self(body);
        fields.0.retain(|_, value| !value.is_null());
        match fields.0.get("model") {
            Some(Value::String(asked)) if asked == model => Ok(fields),
            Some(Value::String(asked)) => Err(Failure::new(
                axum::http::StatusCode::NOT_FOUND,
                format!("the model `{asked}` is not here; this server has `{model}`"),
            )),
            _ => Err(Failure::bad("model", format!("`model` is missing; this server has `{model}`"))),
        }
    }

    fn take<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, Failure> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| Failure::bad(name, format!("`{name}`: {error}")))
    }

    fn number(&mut self, name: &'static str, least: usize, most: usize) -> Result<Option<usize>, Failure> {
        let Some(number) = self.take(name)? else { return Ok(None) };
        if (least..=most).contains(&number) {
            return Ok(Some(number));
        }
        let range = if most == usize::MAX { format!("at least {least}") } else { format!("from {least} to {most}") };
        Err(Failure::bad(name, format!("`{name}` = {number}: it must be {range}")))
    }

    fn n(&self) -> Option<u32> {
        self.0.get("n").and_then(Value::as_u64).and_then(|n| n.try_into().ok())
    }

    fn rest(mut self, prompts: Prompts, log_probs: Option<usize>, max_tokens: Option<usize>) -> Result<Asked, Failure> {
        let stop: Vec<String> = match self.0.remove("stop") {
            None => Vec::new(),
            Some(Value::String(stop)) => vec![stop],
            Some(list) => serde_json::from_value(list)
                .map_err(|_| Failure::bad("stop", "`stop` must be a string or a list of strings"))?,
        };
        if stop.iter().any(String::is_empty) {
            return Err(Failure::bad("stop", "`stop` has an empty string, which every text contains"));
        }
        let stream = self.take("stream")?.unwrap_or(false);
        let include_usage = match self.take::<Map<String, Value>>("stream_options")? {
            Some(_) if !stream => return Err(Failure::bad("stream_options", "`stream_options` needs `stream: true`")),
            Some(options) => options.get("include_usage").and_then(Value::as_bool).unwrap_or(false),
            None => false,
        };
        let asked = Asked {
            prompts,
            n: self.number("n", 1, MOST_ANSWERS as usize)?.unwrap_or(1) as u32,
            temperature: self.take("temperature")?.unwrap_or(1.0),
            top_p: self.take("top_p")?.unwrap_or(1.0),
            // −1 is vLLM's word for no limit.
            top_k: self.take::<i64>("top_k")?.unwrap_or(0).max(0) as usize,
            min_p: self.take("min_p")?.unwrap_or(0.0),
            repetition_penalty: self.take("repetition_penalty")?.unwrap_or(1.0),
            min_tokens: self.take("min_tokens")?.unwrap_or(0),
            max_tokens,
            stop,
            stop_token_ids: self.take("stop_token_ids")?.unwrap_or_default(),
            ignore_eos: self.take("ignore_eos")?.unwrap_or(false),
            // Any integer is a seed to the API; its bits are one here.
            seed: self.take::<i64>("seed")?.map(|seed| seed as u64),
            log_probs,
            stream,
            include_usage,
            return_token_ids: self.take("return_token_ids")?.unwrap_or(false),
        };
        for (name, neutral) in NEUTRAL {
            if self.take::<f64>(name)?.is_some_and(|value| value != neutral) {
                return Err(Failure::unknown(name));
            }
        }
        if self.take::<Map<String, Value>>("logit_bias")?.is_some_and(|bias| !bias.is_empty()) {
            return Err(Failure::unknown("logit_bias"));
        }
        match self.0.keys().find(|key| !HARMLESS.contains(&key.as_str())) {
            Some(unknown) => Err(Failure::unknown(unknown)),
            None => Ok(asked),
        }
    }
}

/// Text, texts, token ids, or lists of token ids.
fn prompts(value: Value) -> Result<Prompts, Failure> {
    let wrong = || {
        let forms = "a text, a list of texts, a list of token ids, or a list of lists of token ids";
        Failure::bad("prompt", format!("`prompt` must be {forms}"))
    };
    let Value::Array(items) = value else {
        return value.as_str().map(|text| Prompts::Texts(vec![text.into()])).ok_or_else(wrong);
    };
    let list = Value::Array(items.clone());
    match items.first() {
        None => Err(Failure::bad("prompt", "`prompt` is an empty list")),
        Some(Value::String(_)) => serde_json::from_value(list).map(Prompts::Texts).map_err(|_| wrong()),
        Some(Value::Number(_)) => {
            serde_json::from_value(list).map(|ids| Prompts::Tokens(vec![ids])).map_err(|_| wrong())
        }
        Some(_) => serde_json::from_value(list).map(Prompts::Tokens).map_err(|_| wrong()),
    }
}

fn messages_of(value: Value) -> Result<Vec<Message>, Failure> {
    let wrong = |what: &str| Failure::bad("messages", format!("`messages`: {what}"));
    let Value::Array(items) = value else { return Err(wrong("must be a list")) };
    if items.is_empty() {
        return Err(wrong("is empty"));
    }
    let message = |item: &Value| {
        let role = item.get("role").and_then(Value::as_str).ok_or_else(|| wrong("every message needs a `role`"))?;
        for key in ["tool_calls", "function_call"] {
            if item.get(key).is_some_and(|value| !value.is_null()) {
                return Err(wrong(&format!("`{key}` is not supported by this server")));
            }
        }
        let content = match item.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                let text = |part: &Value| match part.get("type").and_then(Value::as_str) {
                    Some("text") => part.get("text").and_then(Value::as_str).map(str::to_string),
                    _ => None,
                };
                let texts: Option<Vec<String>> = parts.iter().map(text).collect();
                texts.ok_or_else(|| wrong("only parts of type `text` are supported"))?.concat()
            }
            _ => return Err(wrong("every message needs a `content`")),
        };
        Ok(Message::new(role, content))
    };
    items.iter().map(message).collect()
}
