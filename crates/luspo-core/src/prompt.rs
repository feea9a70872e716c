use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of the given role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A question to the policy, with what is needed to judge an answer to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The row of the dataset it came from, counted over all files in order. Keys the random generator.
    pub id: u64,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The conversation as the model reads it: template applied, generation prompt appended.
    pub token_ids: Vec<u32>,
    /// Which dataset it belongs to; chooses the verifier.
    pub data_source: String,
    /// The gold answer, in whatever form the verifier of `data_source` expects.
    pub ground_truth: String,
    /// Everything else the row says about itself; `null` where it says nothing.
    pub extra_info: serde_json::Value,
}
