//! Answers to be scored.

use luspo_core::{FinishReason, Message, Prompt};
use luspo_reward::Answer;
use serde_json::json;

/// A prompt with an answer to it.
pub struct Asked {
    pub prompt: Prompt,
    pub text: String,
    pub tokens: usize,
}

impl Asked {
    pub fn new(text: &str, ground_truth: &str, data_source: &str) -> Self {
        let prompt = Prompt {
            id: 7,
            messages: vec![Message::new("user", "how many?")],
            token_ids: vec![1],
            data_source: data_source.into(),
            ground_truth: ground_truth.into(),
            extra_info: json!({ "level": 3 }),
        };
        Self { prompt, text: text.into(), tokens: 5 }
    }

    pub fn answer(&self) -> Answer<'_> {
        Answer { prompt: &self.prompt, text: &self.text, tokens: self.tokens, finish: FinishReason::Stop }
    }
}
