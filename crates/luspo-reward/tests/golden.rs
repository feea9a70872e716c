//! The verifiers and the overlong penalty give the values of the references, case by case.

use std::collections::BTreeMap;
use std::path::Path;

use luspo_core::{FinishReason, Prompt};
use luspo_reward::{
    Answer, Gsm8k, MathDapo, MathReward, RewardConfig, RewardPipeline, Verifier, normalize_final_answer,
};
use serde_json::{Value, json};

/// Cases of each operation: compared and equal, or of an operation that does not exist here.
#[derive(Debug, Default)]
struct Account {
    matched: BTreeMap<String, usize>,
    not_built: BTreeMap<String, usize>,
}

impl Account {
    fn of(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let golden: Value = serde_json::from_str(&text).unwrap();
        let mut account = Self::default();
        for case in golden["cases"].as_array().unwrap() {
            let op = case["op"].as_str().unwrap();
            let Some(ours) = run(op, case) else {
                *account.not_built.entry(op.into()).or_default() += 1;
                continue;
            };
            assert_eq!(ours, reference(op, case), "{case}");
            *account.matched.entry(op.into()).or_default() += 1;
        }
        println!("{}: {account:?}", file.display());
        account
    }

    fn assert_matched_at_least(&self, minimums: &[(&str, usize)]) {
        for (op, minimum) in minimums {
            let matched = self.matched.get(*op).copied().unwrap_or(0);
            assert!(matched >= *minimum, "{op}: {matched} cases matched, at least {minimum} expected");
        }
    }
}

/// What we give for a case, or `None` where we have no such operation.
fn run(op: &str, case: &Value) -> Option<Value> {
    let text = |key: &str| case[key].as_str().unwrap();
    let count = |key: &str| case[key].as_u64().unwrap() as usize;
    Some(match op {
        "math_dapo.compute_score" => {
            let verifier = MathDapo { strict_box: case["strict_box_verify"].as_bool().unwrap() };
            let verdict = verifier.verify(text("solution"), text("ground_truth"));
            json!({"score": verdict.score, "acc": verdict.correct, "pred": verdict.extracted})
        }
        "math_dapo.normalize_final_answer" => json!(normalize_final_answer(text("text"))),
        "gsm8k.compute_score" => {
            let verifier = Gsm8k { flexible: text("method") == "flexible" };
            let verdict = verifier.verify(text("solution"), text("ground_truth"));
            assert_eq!(verdict.correct, verdict.score == 1.0);
            json!({"score": verdict.score, "extracted": verdict.extracted})
        }
        "math_reward.compute_score" => {
            let verdict = MathReward.verify(text("solution"), text("ground_truth"));
            assert_eq!(verdict.correct, verdict.score == 1.0);
            json!(verdict.score)
        }
        "overlong" => {
            let config = RewardConfig {
                overlong_buffer: count("buffer"),
                overlong_penalty: case["penalty_factor"].as_f64().unwrap(),
                ..Default::default()
            };
            let rewards = RewardPipeline::new(&config, count("max_resp_len"), ["openai/gsm8k"]).unwrap();
            let prompt = Prompt {
                id: 0,
                messages: Vec::new(),
                token_ids: Vec::new(),
                data_source: "openai/gsm8k".into(),
                ground_truth: "0".into(),
                extra_info: Value::Null,
            };
            let (tokens, finish) = (count("response_length"), FinishReason::Stop);
            let answer = Answer { prompt: &prompt, text: "", tokens, finish };
            let (name, value) = rewards.score(&[answer]).unwrap().scores[0].components.pop().unwrap();
            assert_eq!(name, "overlong");
            json!(value)
        }
        _ => return None,
    })
}

/// What the reference gives, in the shape of [`run`]'s. Python writes some zeros as integers.
fn reference(op: &str, case: &Value) -> Value {
    match op {
        "gsm8k.compute_score" => json!({"score": case["out"].as_f64().unwrap(), "extracted": case["extracted"]}),
        "overlong" | "math_reward.compute_score" => json!(case["out"].as_f64().unwrap()),
        _ => case["out"].clone(),
    }
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden").join(name)
}

const BUILT: [(&str, usize); 5] = [
    ("math_dapo.compute_score", 104),
    ("math_dapo.normalize_final_answer", 63),
    ("gsm8k.compute_score", 22),
    ("math_reward.compute_score", 17),
    ("overlong", 32),
];

#[test]
fn every_case_of_what_is_built_equals_the_reference() {
    let account = Account::of(&fixture("rewards.json"));
    account.assert_matched_at_least(&BUILT);
    let not_built: Vec<_> = account.not_built.iter().map(|(op, n)| (op.as_str(), *n)).collect();
    assert_eq!(not_built, [("math_verify", 14)]);
}

#[test]
fn random_texts_of_hostile_pieces_are_judged_as_in_verl() {
    let account = Account::of(&fixture("rewards_random.json"));
    account.assert_matched_at_least(&[
        ("math_dapo.compute_score", 100),
        ("math_dapo.normalize_final_answer", 50),
        ("gsm8k.compute_score", 100),
        ("math_reward.compute_score", 120),
    ]);
    assert!(account.not_built.is_empty());
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn every_case_of_the_full_file_equals_the_reference() {
    let data = std::env::var("LUSPO_TEST_DATA").expect("LUSPO_TEST_DATA names the folder with golden/rewards.json");
    Account::of(&Path::new(&data).join("golden/rewards.json")).assert_matched_at_least(&BUILT);
}
