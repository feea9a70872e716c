//! Answers are judged while others are still being sampled.

use std::sync::mpsc::{Receiver, channel};

use luspo_core::{Prompt, Rollout, Score};
use luspo_data::Tokenizer;
use luspo_reward::{Failures, RewardPipeline, Scored};

use crate::TrainError;
use crate::evaluate::judge;

/// What judges the answers to `prompts`, `n` to each.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub tokenizer: &'a Tokenizer,
    pub rewards: &'a RewardPipeline,
    pub prompts: &'a [Prompt],
    pub n: usize,
}

impl Bench<'_> {
    /// Has `sample` sample all answers and show each, with its position, as soon as it has ended; another thread judges
    /// them meanwhile, as many at once as have come. Scores are in the order of the positions.
    ///
    /// # Errors
    /// Of sampling, or of judging.
    pub fn judge_while<T>(
        self,
        sample: impl FnOnce(&(dyn Fn(usize, &Rollout) + Sync)) -> Result<T, TrainError>,
    ) -> Result<(T, Scored), TrainError> {
        std::thread::scope(|scope| {
            let (shown, answers) = channel();
            let judge = scope.spawn(move || self.judge(&answers));
            let show = move |index: usize, answer: &Rollout| {
                // A judge that has given up says why when it is asked.
                let _ = shown.send((index, answer.clone()));
            };
            let sampled = sample(&show);
            drop(show); // no more will come
            let scored = judge.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((sampled?, scored?))
        })
    }

    fn judge(self, answers: &Receiver<(usize, Rollout)>) -> Result<Scored, TrainError> {
        let Self { tokenizer, rewards, prompts, n } = self;
        let (mut scores, mut failures) = (vec![None; prompts.len() * n], Failures::default());
        while let Ok(first) = answers.recv() {
            let batch: Vec<(usize, Rollout)> = std::iter::once(first).chain(answers.try_iter()).collect();
            let pairs = batch.iter().map(|(index, answer)| (&prompts[index / n], answer));
            let scored = judge(tokenizer, pairs, rewards)?;
            failures += scored.failures;
            for ((index, _), score) in batch.iter().zip(scored.scores) {
                scores[*index] = Some(score);
            }
        }
        // Where sampling failed there are fewer.
        let scores: Vec<Score> = scores.into_iter().flatten().collect();
        Ok(Scored { scores, failures })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use luspo_core::FinishReason;
    use luspo_reward::{Answer, CustomRewards, Reward, RewardConfig, Verdict};

    use super::*;

    /// Says that it was asked, and scores an answer by its length.
    struct Told(Mutex<Sender<()>>);

    impl Reward for Told {
        fn score(&self, answer: &Answer<'_>) -> Result<Verdict, String> {
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(());
            Ok(Verdict { score: answer.tokens as f64, correct: false, extracted: None, style: None })
        }
    }

    #[test]
    fn an_answer_is_judged_before_the_next_has_ended() {
        let (asked, was_asked) = channel();
        let config: RewardConfig =
            serde_json::from_str(r#"{ "verifier": "exact", "components": { "told": { "custom": true } } }"#).unwrap();
        let custom = CustomRewards::from([("told".into(), Arc::new(Told(Mutex::new(asked))) as Arc<dyn Reward>)]);
        let rewards = RewardPipeline::with_custom(&config, 8, ["s"], &custom).unwrap();
        let tokenizer = Tokenizer::train_byte_level([""].into_iter(), 259).unwrap();
        let prompt = Prompt {
            id: 0,
            messages: Vec::new(),
            token_ids: vec![1],
            data_source: "s".into(),
            ground_truth: "x".into(),
            extra_info: Default::default(),
        };
        let answer = |tokens: usize| Rollout {
            prompt_id: 0,
            sample: 0,
            prompt_ids: vec![1],
            response_ids: vec![3; tokens],
            log_probs: vec![-1.0; tokens],
            finish: FinishReason::Stop,
        };
        let bench = Bench { tokenizer: &tokenizer, rewards: &rewards, prompts: &[prompt.clone(), prompt], n: 2 };
        let ((), scored) = bench
            .judge_while(|show| {
                for (index, tokens) in [(2, 3), (0, 1), (3, 4), (1, 2)] {
                    show(index, &answer(tokens));
                    was_asked.recv_timeout(Duration::from_secs(20)).expect("it is asked while this still samples");
                }
                Ok(())
            })
            .unwrap();
        let scores: Vec<f64> = scored.scores.iter().map(|score| score.total).collect();
        assert_eq!(scores, [1.0, 2.0, 3.0, 4.0]);
    }
}
