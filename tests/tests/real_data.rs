//! `configs/gsm8k-small.toml` on the real datasets with the real Qwen2.5 tokenizer, in a model small enough for a test.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn data(file: &str) -> String {
    let dir = std::env::var("LUSPO_TEST_DATA").expect("LUSPO_TEST_DATA names the folder with data/ and models/");
    PathBuf::from(dir).join("data").join(file).display().to_string()
}

/// A run of the config with a model of a few million parameters; the metrics of its steps.
fn train(dir: &Path, overrides: &[String]) -> Vec<Value> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/gsm8k-small.toml");
    Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
        .current_dir(dir)
        .arg("train")
        .arg(config)
        .arg(format!("tokenizer={}", data("tokenizer_qwen2.5")))
        .args(["hidden_size=32", "intermediate_size=32", "num_hidden_layers=1", "num_attention_heads=2"])
        .args(["num_key_value_heads=1", "max_response_length=16", "train_batch_size=2", "ppo_mini_batch_size=1"])
        .args(["rollout.n=4", "ppo_micro_batch_size=4", "total_training_steps=1", "run.name=real"])
        .args(overrides)
        .assert()
        .success();
    let metrics = std::fs::read_to_string(dir.join("runs/real/metrics.jsonl")).unwrap();
    metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn gsm8k_trains_with_the_qwen_tokenizer_and_its_chat_template() {
    let dir = tempfile::tempdir().unwrap();
    let file = data("gsm8k_train.parquet");
    let steps = train(
        dir.path(),
        &[format!("train_files={file}"), format!("sft.files={file}"), "sft.steps=2".into(), "sft.batch_size=2".into()],
    );
    let step = &steps[0];
    assert!(step["rollout/log_prob_gap/max"].as_f64().unwrap() < 5e-5);
    assert!(step["reward/accuracy/mean"].is_number() && step["reward/format/mean"].is_number());
    // Qwen's template adds a system message and the roles to every question.
    assert!(step["prompt_length/min"].as_f64().unwrap() > 40.0);
    let policy = dir.path().join("runs/real/checkpoints/step_000001/policy");
    let original = std::fs::read(data("tokenizer_qwen2.5/tokenizer.json")).unwrap();
    assert!(std::fs::read(policy.join("tokenizer.json")).unwrap() == original, "the tokenizer is copied as it is");
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn dapo_trains_and_aime_validates_each_problem_once() {
    let dir = tempfile::tempdir().unwrap();
    let steps = train(
        dir.path(),
        &[
            format!("train_files={}", data("dapo_math_17k_train.parquet")),
            format!("val_files={}", data("aime2024_test.parquet")),
            "sft.steps=0".into(),
            "max_prompt_length=900".into(),
            "reward.format=answer_line".into(),
        ],
    );
    assert!(steps[0]["val-core/math_dapo/acc/mean@1"].is_number(), "{}", steps[0]);
    // math_dapo scores a wrong answer −1.
    assert!(steps[0]["critic/score/mean"].as_f64().unwrap() < 0.0);
}
