use luspo_core::{FinishReason, Prompt};

use crate::{Verdict, Verifier};

/// One answer to be scored.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What was asked, with the gold answer and whatever else the dataset says.
    pub prompt: &'a Prompt,
    /// What the policy wrote, without the end-of-sequence token's text.
    pub text: &'a str,
    /// |y|, the number of response tokens, a sampled end-of-sequence token included.
    pub tokens: usize,
    /// Why the answer ended.
    pub finish: FinishReason,
}

/// A reward of your own, as a Rust type; every [`Verifier`] is one.
///
/// It is asked by several threads at once. A panic, a score that is not finite and an answer that takes longer than the
/// component's timeout are failures of that answer and end nothing; but a thread that does not come back cannot be ended
/// and goes on in the background. Code that may hang belongs into a program (`command`), which is killed.
pub trait Reward: Send + Sync {
    /// The verdict on an answer. Where the component is not `reward.verifier`, its score alone counts.
    ///
    /// # Errors
    /// Why the answer cannot be judged, in a sentence.
    fn score(&self, answer: &Answer<'_>) -> Result<Verdict, String>;
}

impl<V: Verifier> Reward for V {
    fn score(&self, answer: &Answer<'_>) -> Result<Verdict, String> {
        Ok(self.verify(answer.text, &answer.prompt.ground_truth))
    }
}
