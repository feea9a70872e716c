use luspo_core::Message;
use serde::Serialize;
use serde_json::{Map, Value};

/// One row of verl's schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The question.
    pub prompt: PromptText,
    /// Which dataset it belongs to; chooses the verifier.
    pub data_source: String,
    /// The kind of skill it asks for, where the file says so.
    pub ability: Option<String>,
    /// The gold answer. Numbers and booleans of a file become their text, lists and objects their JSON.
    pub ground_truth: String,
    /// Whatever else the row says about itself; `null` where it says nothing. Keys whose value is null are absent.
    pub extra_info: Value,
}

/// A question, as a conversation or as raw text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PromptText {
    /// A conversation, rendered through the tokenizer's chat template.
    Messages(Vec<Message>),
    /// Text that the model reads as it is.
    Text(String),
}

impl PromptText {
    /// The conversation; raw text counts as one message of the user.
    pub fn messages(&self) -> Vec<Message> {
        match self {
            Self::Messages(messages) => messages.clone(),
            Self::Text(text) => vec![Message::new("user", text)],
        }
    }
}

/// What is wrong with a row: the key, dotted, and the problem.
pub(crate) type Flaw = (String, String);

impl Row {
    /// The row in a JSON object whose null values are absent.
    pub(crate) fn from_json(mut row: Map<String, Value>) -> Result<Self, Flaw> {
        let prompt = prompt(row.remove("prompt"))?;
        let data_source = string(row.remove("data_source"), "data_source")?;
        let ability = row.remove("ability").map(|ability| string(Some(ability), "ability")).transpose()?;
        let ground_truth = match row.remove("reward_model") {
            Some(Value::Object(mut reward_model)) => reward_model.remove("ground_truth"),
            None => None,
            Some(_) => return Err(flaw("reward_model", "is not a struct with `ground_truth`")),
        };
        let ground_truth = match ground_truth {
            None => return Err(flaw("reward_model.ground_truth", "is missing; every prompt needs a gold answer")),
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
        };
        let extra_info = row.remove("extra_info").unwrap_or(Value::Null);
        Ok(Self { prompt, data_source, ability, ground_truth, extra_info })
    }
}

fn prompt(value: Option<Value>) -> Result<PromptText, Flaw> {
    let turns = match value {
        Some(Value::String(text)) => return Ok(PromptText::Text(text)),
        Some(Value::Array(turns)) if !turns.is_empty() => turns,
        Some(Value::Array(_)) | None => return Err(flaw("prompt", "is empty")),
        Some(_) => return Err(flaw("prompt", "is neither text nor a list of messages")),
    };
    let messages = turns.into_iter().enumerate().map(|(turn, message)| match message {
        Value::Object(mut message) => Ok(Message {
            role: string(message.remove("role"), &format!("prompt[{turn}].role"))?,
            content: string(message.remove("content"), &format!("prompt[{turn}].content"))?,
        }),
        _ => Err(flaw(&format!("prompt[{turn}]"), "is not a message with `role` and `content`")),
    });
    messages.collect::<Result<_, _>>().map(PromptText::Messages)
}

fn string(value: Option<Value>, key: &str) -> Result<String, Flaw> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(flaw(key, &format!("is not text but {other}"))),
        None => Err(flaw(key, "is missing")),
    }
}

fn flaw(key: &str, problem: &str) -> Flaw {
    (key.to_owned(), problem.to_owned())
}
