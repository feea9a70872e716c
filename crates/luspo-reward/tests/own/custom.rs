//! Rust types that judge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use luspo_reward::{
    Answer, ComponentConfig, CustomRewards, FailureKind, Reward, RewardConfig, RewardError, RewardPipeline, Verdict,
    Verifier,
};

use crate::{exact, program, score, values};

/// Scores a text by its number, or does what it says.
struct Mood;

impl Reward for Mood {
    fn score(&self, answer: &Answer<'_>) -> Result<Verdict, String> {
        let score = match answer.text {
            "panic" => panic!("no mood"),
            "hang" => loop {
                thread::sleep(Duration::from_secs(60));
            },
            "error" => return Err("not today".into()),
            "nan" => f64::NAN,
            number => number.parse().map_err(|_| "no number")?,
        };
        let correct = score > 0.0 && answer.prompt.extra_info["level"] == 3;
        Ok(Verdict { score, correct, extracted: None, style: None })
    }
}

fn custom(component: ComponentConfig, reward: Arc<dyn Reward>) -> Result<RewardPipeline, RewardError> {
    let config = RewardConfig { components: BTreeMap::from([("mine".into(), component)]), ..exact() };
    RewardPipeline::with_custom(&config, 100, ["any"], &CustomRewards::from([("mine".to_string(), reward)]))
}

#[test]
fn a_rust_type_is_asked_as_programs_are_and_its_panics_and_hangs_end_nothing() {
    let component = ComponentConfig { custom: true, timeout: 1.0, concurrency: 2, ..Default::default() };
    let rewards = custom(component, Arc::new(Mood)).unwrap();
    let scored = score(&rewards, &["1", "panic", "2", "hang", "3", "error", "nan", "4"]).unwrap();
    let values: Vec<f64> = scored.scores.iter().map(|score| score.components[1].1).collect();
    assert_eq!((values[0], values[2], values[4], values[7]), (1.0, 2.0, 3.0, 4.0));
    assert!([1, 3, 5, 6].iter().all(|&row| values[row].is_nan()), "{values:?}");
    let kinds: Vec<(FailureKind, usize)> = scored.failures.counts.into_iter().map(|((_, kind), n)| (kind, n)).collect();
    let once = [FailureKind::Error, FailureKind::NotFinite, FailureKind::Panic, FailureKind::Timeout];
    assert_eq!(kinds, once.map(|kind| (kind, 1)));
}

#[test]
fn a_verifier_is_a_reward() {
    struct Half;
    impl Verifier for Half {
        fn name(&self) -> &str {
            "half"
        }
        fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
            Verdict { score: 0.5, correct: text == ground_truth, extracted: None, style: None }
        }
    }
    let component = ComponentConfig { custom: true, ..Default::default() };
    assert_eq!(values(&custom(component, Arc::new(Half)).unwrap(), &["1", "2"]), [0.5, 0.5]);
}

#[test]
fn what_is_brought_along_and_what_is_configured_belong_together() {
    let error = custom(program(&["true"]), Arc::new(Mood)).err().unwrap().to_string();
    assert!(error.contains("custom = true"), "{error}");
    let other = CustomRewards::from([("other".to_string(), Arc::new(Mood) as Arc<dyn Reward>)]);
    let error = RewardPipeline::with_custom(&exact(), 100, ["any"], &other).err().unwrap().to_string();
    assert!(error.contains("[reward.components.other]"), "{error}");
}
