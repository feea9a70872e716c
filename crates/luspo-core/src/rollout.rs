use serde::{Deserialize, Serialize};

/// Why sampling of an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop token was sampled, or a token that completed a stop string; it is the last of the response ids.
    Stop,
    /// The maximum response length was reached.
    Length,
}

/// One sampled answer. Token ids are kept as sampled; text is never tokenised again.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// The prompt's [id](crate::Prompt::id).
    pub prompt_id: u64,
    /// Number of this answer within its group, from 0.
    pub sample: u32,
    /// The prompt as the model read it.
    pub prompt_ids: Vec<u32>,
    /// The sampled tokens, a sampled stop token included.
    pub response_ids: Vec<u32>,
    /// The sampler's log-prob of each response token, in nats, of the model's full distribution at the rollout
    /// temperature (at temperature 1 when decoding greedily).
    pub log_probs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
}

impl Rollout {
    /// Length of the response in tokens, |y|.
    pub fn response_len(&self) -> usize {
        self.response_ids.len()
    }
}

/// What the verifiers say of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The reward that the policy is trained on: the sum of the components. NaN where one of them could not be judged.
    pub total: f64,
    /// The weighted terms of `total`, by name.
    pub components: Vec<(String, f64)>,
    /// Whether the answer is right, whatever the shaping says. Filters and accuracy metrics look at this alone.
    pub correct: bool,
    /// What the verifier took for the answer, where it found one.
    pub extracted: Option<String>,
    /// The verifier's name for the manner of the answer (terse, long, …), where it tells manners apart.
    pub style: Option<String>,
}

impl Score {
    /// Whether the answer could be judged. One that could not is to be in no mean, no comparison and no denominator.
    pub fn is_known(&self) -> bool {
        (self.total as f32).is_finite()
    }
}
