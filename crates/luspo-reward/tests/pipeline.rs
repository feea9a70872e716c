//! The pipeline: which components a reward has, and what is refused before the first answer.

mod support;

use luspo_core::Score;
use luspo_reward::{RewardConfig, RewardError, RewardPipeline};

use support::Asked;

/// The score of one answer.
fn score(rewards: &RewardPipeline, text: &str, ground_truth: &str, data_source: &str, tokens: usize) -> Score {
    let asked = Asked { tokens, ..Asked::new(text, ground_truth, data_source) };
    let scored = rewards.score(&[asked.answer()]).unwrap();
    assert_eq!(scored.failures, Default::default());
    scored.scores.into_iter().next().unwrap()
}

fn names(score: &Score) -> Vec<&str> {
    score.components.iter().map(|(name, _)| name.as_str()).collect()
}

fn refused(config: RewardConfig, sources: &[&str]) -> RewardError {
    RewardPipeline::new(&config, 100, sources).err().expect("should be refused")
}

#[test]
fn by_default_the_reward_is_the_verifiers_score() {
    let rewards = RewardPipeline::new(&RewardConfig::default(), 100, ["openai/gsm8k", "math_dapo"]).unwrap();
    let right = score(&rewards, "#### 9", "9", "openai/gsm8k", 100);
    assert_eq!((names(&right), right.total, right.correct), (vec!["accuracy"], 1.0, true));
    let wrong = score(&rewards, "Answer: 8", "9", "math_dapo", 100);
    assert_eq!((wrong.total, wrong.correct, wrong.extracted.as_deref()), (-1.0, false, Some("8")));
}

#[test]
fn the_total_is_the_sum_of_weighted_components() {
    let config = RewardConfig {
        accuracy_weight: 2.0,
        format: Some("answer_line".into()),
        format_weight: 0.25,
        overlong_buffer: 20,
        overlong_penalty: 1.0,
        ..Default::default()
    };
    let rewards = RewardPipeline::new(&config, 100, ["math_dapo"]).unwrap();
    let score = score(&rewards, "Answer: 8", "9", "math_dapo", 90);
    let expected = [("accuracy", -2.0), ("format", 0.25), ("overlong", -0.5)];
    assert_eq!(score.components, expected.map(|(name, value)| (name.to_string(), value)));
    assert_eq!(score.total, -2.25);
}

#[test]
fn shaping_does_not_touch_correctness() {
    let config = RewardConfig { format: Some("boxed".into()), overlong_buffer: 100, ..Default::default() };
    let rewards = RewardPipeline::new(&config, 100, ["openai/gsm8k"]).unwrap();
    let right = score(&rewards, "#### 9", "9", "openai/gsm8k", 100);
    assert!(right.correct);
    assert_eq!(right.total, 1.0 + 0.0 - 0.3);
    let wrong = score(&rewards, r"\boxed{9}", "9", "openai/gsm8k", 0);
    assert!(!wrong.correct);
    assert_eq!(wrong.total, 0.5);
}

#[test]
fn the_overlong_penalty_has_no_floor() {
    let config = RewardConfig { overlong_buffer: 10, ..Default::default() };
    let rewards = RewardPipeline::new(&config, 100, ["openai/gsm8k"]).unwrap();
    let overlong = |tokens| score(&rewards, "", "9", "openai/gsm8k", tokens).components[1].1;
    assert_eq!([overlong(0), overlong(90), overlong(100), overlong(110)], [0.0, 0.0, -0.3, -0.6]);
}

#[test]
fn the_overlong_penalty_has_a_maximum_and_a_floor_where_they_are_asked_for() {
    for (overlong_floor, expected) in [(false, [0.0, -0.5, -1.0, -1.5]), (true, [0.0, -0.5, -1.0, -1.0])] {
        let config = RewardConfig {
            overlong_buffer: 20,
            overlong_penalty: 1.0,
            overlong_max_length: Some(80),
            overlong_floor,
            ..Default::default()
        };
        let rewards = RewardPipeline::new(&config, 100, ["openai/gsm8k"]).unwrap();
        let overlong = |tokens| score(&rewards, "", "9", "openai/gsm8k", tokens).components[1].1;
        assert_eq!([60, 70, 80, 90].map(overlong), expected);
    }
}

#[test]
fn the_length_component_is_the_distance_from_the_target() {
    let config = RewardConfig { length_target: Some(10), length_penalty: 0.25, ..Default::default() };
    let rewards = RewardPipeline::new(&config, 100, ["openai/gsm8k"]).unwrap();
    let length = |tokens| score(&rewards, "#### 9", "9", "openai/gsm8k", tokens);
    assert_eq!([8, 10, 14].map(|tokens| length(tokens).components[1].1.to_bits()), [-0.5, 0.0, -1.0].map(f64::to_bits));
    assert_eq!((length(14).total, length(14).correct), (0.0, true));
}

#[test]
fn a_named_verifier_judges_every_source() {
    let config = RewardConfig { verifier: "exact".into(), ..Default::default() };
    let rewards = RewardPipeline::new(&config, 100, ["amc23"]).unwrap();
    assert!(score(&rewards, "34", "34", "amc23", 2).correct);
}

#[test]
fn styles_of_the_verifier_reach_the_score() {
    let rewards = RewardPipeline::new(&RewardConfig::default(), 100, ["luspo/arithmetic"]).unwrap();
    let score = score(&rewards, "13,16=48", "48", "luspo/arithmetic", 9);
    assert_eq!(score.style.as_deref(), Some("medium"));
}

#[test]
fn what_does_not_exist_or_cannot_be_is_refused_before_the_first_answer() {
    let default = RewardConfig::default;
    let error = refused(default(), &["openai/gsm8k", "codecontests"]).to_string();
    assert!(error.contains("`codecontests`") && error.contains("`prime_code`"), "{error}");
    assert!(matches!(refused(default(), &["reasoning_gym/gcd"]), RewardError::UnknownDataSource { .. }));
    let verifier = RewardConfig { verifier: "magic".into(), ..default() };
    assert!(matches!(refused(verifier, &[]), RewardError::UnknownVerifier { .. }));
    let format = RewardConfig { format: Some("xml".into()), ..default() };
    assert!(matches!(refused(format, &[]), RewardError::UnknownFormat { .. }));
    let buffer = RewardConfig { overlong_buffer: 101, ..default() };
    assert_eq!(refused(buffer, &[]), RewardError::OverlongBuffer { buffer: 101, max_response_length: 100 });
    for (key, config) in [
        ("accuracy_weight", RewardConfig { accuracy_weight: f64::NAN, ..default() }),
        ("format_weight", RewardConfig { format_weight: f64::INFINITY, ..default() }),
        ("overlong_penalty", RewardConfig { overlong_penalty: -0.1, ..default() }),
        ("overlong_penalty", RewardConfig { overlong_penalty: f64::NAN, ..default() }),
        ("length_penalty", RewardConfig { length_penalty: -1.0, length_target: Some(1), ..default() }),
        ("format_weight", RewardConfig { format_weight: 1.0, ..default() }),
        ("overlong_penalty", RewardConfig { overlong_penalty: 1.0, ..default() }),
        ("length_penalty", RewardConfig { length_penalty: 1.0, ..default() }),
        ("overlong_max_length", RewardConfig { overlong_max_length: Some(50), ..default() }),
        ("overlong_max_length", RewardConfig { overlong_max_length: Some(101), overlong_buffer: 9, ..default() }),
        ("overlong_floor", RewardConfig { overlong_floor: true, overlong_buffer: 9, ..default() }),
    ] {
        assert!(refused(config, &[]).to_string().contains(key));
    }
}

#[test]
fn an_empty_section_is_the_default_and_an_unknown_key_is_an_error() {
    assert_eq!(serde_json::from_str::<RewardConfig>("{}").unwrap(), RewardConfig::default());
    assert!(serde_json::from_str::<RewardConfig>(r#"{"overlong_bufer": 3}"#).is_err());
}

#[test]
#[should_panic(expected = "`math_dapo` was not named")]
fn an_answer_of_an_unnamed_source_is_never_silently_scored() {
    let rewards = RewardPipeline::new(&RewardConfig::default(), 100, ["openai/gsm8k"]).unwrap();
    score(&rewards, "Answer: 8", "9", "math_dapo", 3);
}
