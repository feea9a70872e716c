//! What is asked about an answer, and what is said of it: one JSON object each.
//!
//! ```json
//! {"id":3,"response":"…","ground_truth":"9","data_source":"openai/gsm8k","prompt":[{"role":"user","content":"…"}],
//!  "extra_info":{},"tokens":41,"finish":"stop"}
//! {"id":3,"score":1.0,"correct":true,"extracted":"9"}
//! ```

use serde_json::{Map, Value, json};

use super::failure::{Failure, FailureKind, quoted};
use crate::{Answer, Verdict};

/// What a reward says of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    /// Finite.
    pub score: f64,
    /// Whether the answer is right, where that was said.
    pub correct: Option<bool>,
    pub extracted: Option<String>,
    pub style: Option<String>,
}

/// The question about an answer.
pub(super) fn request(id: u64, answer: &Answer<'_>) -> Value {
    json!({
        "id": id,
        "response": answer.text,
        "ground_truth": answer.prompt.ground_truth,
        "data_source": answer.prompt.data_source,
        "prompt": answer.prompt.messages,
        "extra_info": answer.prompt.extra_info,
        "tokens": answer.tokens,
        "finish": answer.finish,
    })
}

impl Reply {
    /// What a verdict of a Rust type says, if its score is a number.
    pub fn of_verdict(verdict: Verdict) -> Result<Self, Failure> {
        let Verdict { score, correct, extracted, style } = verdict;
        match score.is_finite() {
            true => Ok(Self { score, correct: Some(correct), extracted, style }),
            false => Err(not_finite(score)),
        }
    }

    /// Reads a reply to the question `id`; with `needs_id`, one that does not say which question it replies to is
    /// refused.
    pub fn parse(text: &str, id: u64, needs_id: bool) -> Result<Self, Failure> {
        let mut object = object(text)?;
        match object.get("id") {
            Some(told) if told.as_u64() == Some(id) => {}
            None if !needs_id => {}
            None => return Err(missing("id", "a reply repeats the `id` of its question", text)),
            Some(told) => {
                let message = format!("it replied to the question {told} when asked {id}: {}", quoted(text));
                return Err(Failure::new(FailureKind::WrongCount, message));
            }
        }
        if let Some(error) = object.get("error").filter(|error| !error.is_null()) {
            let error = error.as_str().map_or_else(|| error.to_string(), str::to_string);
            return Err(Failure::new(FailureKind::Error, format!("it said: {}", quoted(&error))));
        }
        let score = match object.get("score") {
            Some(Value::Number(score)) => score.as_f64().unwrap_or(f64::NAN),
            // What Python writes for NaN and infinities is no JSON; it was read as null.
            Some(Value::Null) => f64::NAN,
            Some(_) => return Err(garbage("`score` is not a number", text)),
            None => return Err(missing("score", "a reply has a `score`", text)),
        };
        if !score.is_finite() {
            return Err(not_finite(score));
        }
        let correct = match object.get("correct") {
            Some(Value::Bool(correct)) => Some(*correct),
            None | Some(Value::Null) => None,
            Some(_) => return Err(garbage("`correct` is neither true nor false", text)),
        };
        let mut take = |key: &str| match object.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(garbage(&format!("`{key}` is not text"), text)),
        };
        Ok(Self { score, correct, extracted: take("extracted")?, style: take("style")? })
    }
}

/// The object of a line. NaN and infinities, which are no JSON but what some libraries write, are read as null.
fn object(text: &str) -> Result<Map<String, Value>, Failure> {
    let read = |text: &str| serde_json::from_str::<Map<String, Value>>(text);
    read(text).or_else(|error| {
        let without = without_infinities(text);
        if without != text
            && let Ok(object) = read(&without)
        {
            return Ok(object);
        }
        match error.to_string().contains("number out of range") {
            true => Err(not_finite(f64::INFINITY)),
            false => Err(garbage("it is not a JSON object", text)),
        }
    })
}

/// `null` in the place of `NaN`, `Infinity` and `-Infinity`, where they do not stand in a string.
fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(character) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !in_string && rest.starts_with(word));
        let length = match (word, character) {
            (Some(word), _) => word.len(),
            // What stands behind a backslash ends no string.
            (None, '\\') if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, character) => character.len_utf8(),
        };
        in_string ^= word.is_none() && character == '"';
        out.push_str(if word.is_some() { "null" } else { &rest[..length] });
        rest = &rest[length..];
    }
    out
}

fn garbage(what: &str, text: &str) -> Failure {
    Failure::new(FailureKind::Garbage, format!("{what}: {:?}", quoted(text)))
}

fn missing(key: &str, rule: &str, text: &str) -> Failure {
    Failure::new(FailureKind::Missing, format!("there is no `{key}` ({rule}): {:?}", quoted(text)))
}

pub(super) fn not_finite(score: f64) -> Failure {
    let what = if score.is_nan() { "no number (NaN or null)" } else { "infinite" };
    Failure::new(FailureKind::NotFinite, format!("the score is {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> FailureKind {
        Reply::parse(text, 3, true).unwrap_err().kind
    }

    #[test]
    fn a_reply_has_an_id_and_a_score_and_may_say_more() {
        let reply = Reply::parse(r#" {"id": 3, "score": 1, "other": []} "#, 3, true).unwrap();
        assert_eq!(reply, Reply { score: 1.0, correct: None, extracted: None, style: None });
        let text = r#"{"id":3,"score":-0.5,"correct":false,"extracted":"9","style":null}"#;
        let reply = Reply::parse(text, 3, true).unwrap();
        assert_eq!((reply.score, reply.correct, reply.extracted.as_deref()), (-0.5, Some(false), Some("9")));
        assert!(Reply::parse(r#"{"score": 1}"#, 3, false).is_ok());
    }

    #[test]
    fn what_is_no_score_is_told_apart() {
        for (text, expected) in [
            ("", FailureKind::Garbage),
            ("1.0", FailureKind::Garbage),
            ("[1]", FailureKind::Garbage),
            ("{", FailureKind::Garbage),
            (r#"{"id":3,"score":"1"}"#, FailureKind::Garbage),
            (r#"{"id":3,"score":1,"correct":1}"#, FailureKind::Garbage),
            (r#"{"id":3,"score":1,"extracted":1}"#, FailureKind::Garbage),
            (r#"{"id":3}"#, FailureKind::Missing),
            (r#"{"score":1}"#, FailureKind::Missing),
            (r#"{"id":3,"score":null}"#, FailureKind::NotFinite),
            (r#"{"id":3,"score":NaN}"#, FailureKind::NotFinite),
            (r#"{"id":3,"score":-Infinity}"#, FailureKind::NotFinite),
            (r#"{"id":3,"score":1e999}"#, FailureKind::NotFinite),
            (r#"{"id":4,"score":1}"#, FailureKind::WrongCount),
            (r#"{"id":"3","score":1}"#, FailureKind::WrongCount),
            (r#"{"id":3,"error":"no parser"}"#, FailureKind::Error),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
        // Deep nesting is refused by the parser, not by the stack.
        assert_eq!(kind(&"[".repeat(100_000)), FailureKind::Garbage);
        assert_eq!(kind(&format!("{{\"id\":3,\"score\":{}1", "[".repeat(100_000))), FailureKind::Garbage);
    }

    #[test]
    fn only_numbers_are_read_as_null() {
        let reply = Reply::parse(
            r#"{"id":3,"score":1,"extracted":"-Infinity \" NaN","style":"é\\","spread":NaN,"most":[Infinity,-Infinity]}"#,
            3,
            true,
        );
        let reply = reply.unwrap();
        assert_eq!((reply.extracted.as_deref(), reply.style.as_deref()), (Some("-Infinity \" NaN"), Some("é\\")));
        assert_eq!(without_infinities(r#"{"a":NaN,"NaN":"\"#), r#"{"a":null,"NaN":"\"#);
    }

    #[test]
    fn a_message_quotes_little() {
        let failure = Reply::parse(&format!("no\u{1b}[31m {}", "x".repeat(100_000)), 3, true).unwrap_err();
        assert!(failure.message.len() < 500 && !failure.message.contains('\u{1b}'), "{failure}");
    }
}
