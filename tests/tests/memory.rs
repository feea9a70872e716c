//! What `luspo check` predicts, beside what `luspo train` takes.
#![cfg(target_os = "linux")]

#[path = "support/peak.rs"]
mod peak;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use peak::peak;

/// `luspo`, in the working directory `dir`.
fn luspo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
    command.current_dir(dir);
    command
}

/// Eight rows of 256 tokens, in two updates, so that the second one has the optimizer's moments beside it.
const CONFIG: &str = r#"
[run]
name = "run"
threads = 2
[model.init]
max_position_embeddings = 256
[data]
train_batch_size = 2
max_prompt_length = 32
max_response_length = 224
[data.task]
name = "arithmetic"
train_prompts = 2
val_prompts = 1
sft_examples = 1
[rollout]
n = 4
top_k = 1 # a new model repeats itself, and does not end before the limit
[trainer]
ppo_epochs = 2
total_training_steps = 1
val_before_train = false
"#;

/// A prediction is this near to what is measured, as a share of it.
const TOLERANCE: f64 = 0.2;

/// Predicts and measures the peak of a run, in bytes.
fn peaks(overrides: &[&str]) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("run.toml"), CONFIG).unwrap();
    peaks_in(dir.path(), overrides)
}

/// The same of the `run.toml` in the folder `dir`.
fn peaks_in(dir: &Path, overrides: &[&str]) -> (f64, f64) {
    let checked = luspo(dir).args(["check", "run.toml", "--json"]).args(overrides).output().unwrap();
    let plan: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let predicted = plan["memory"]["peak"]["host"].as_f64().unwrap();

    let run = luspo(dir).args(["train", "-q", "run.toml"]).args(overrides).stdout(Stdio::null()).spawn().unwrap();
    let measured = peak(run);
    let metrics = fs::read_to_string(dir.join("runs/run/metrics.jsonl")).unwrap();
    let metrics: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let length = metrics["response_length/mean"].as_f64().unwrap();
    assert!(length > 210.0, "the answers have only {length} tokens, which is not what was predicted for");
    println!("{}: predicted {:.0} MB, measured {:.0} MB", overrides.join(" "), predicted / 1e6, measured / 1e6);
    (predicted, measured)
}

fn assert_near(overrides: &[&str]) -> f64 {
    near(peaks(overrides), overrides)
}

/// What was measured, if it is near to what was predicted.
fn near((predicted, measured): (f64, f64), overrides: &[&str]) -> f64 {
    let off = predicted / measured - 1.0;
    assert!(off.abs() <= TOLERANCE, "{overrides:?}: predicted {predicted:.3e}, measured {measured:.3e}");
    measured
}

/// Many blocks, a large vocabulary.
const DEEP: [&str; 6] = [
    "vocab_size=32000",
    "hidden_size=256",
    "intermediate_size=704",
    "num_hidden_layers=8",
    "num_attention_heads=4",
    "num_key_value_heads=2",
];

/// Few wide blocks, a small vocabulary with a head of its own.
const WIDE: [&str; 7] = [
    "vocab_size=8192",
    "hidden_size=512",
    "intermediate_size=1408",
    "num_hidden_layers=4",
    "num_attention_heads=8",
    "num_key_value_heads=8",
    "tie_word_embeddings=false",
];

/// In between, with attention heads in groups of three.
const MIDDLE: [&str; 6] = [
    "vocab_size=16384",
    "hidden_size=384",
    "intermediate_size=1024",
    "num_hidden_layers=6",
    "num_attention_heads=6",
    "num_key_value_heads=2",
];

#[test]
fn the_memory_of_a_deep_model_is_predicted_and_what_its_knobs_save() {
    let plain = assert_near(&DEEP);
    let bounded = assert_near(&[&DEEP[..], &["activation_checkpointing=true", "log_prob_chunk=128"]].concat());
    assert!(bounded < 0.6 * plain, "{bounded:.3e} of {plain:.3e}");
}

#[test]
fn the_memory_of_a_wide_model_with_a_critic_is_predicted() {
    assert_near(&[&WIDE[..], &["adv_estimator=gae", "loss_mode=ppo"]].concat());
}

#[test]
fn the_memory_of_a_model_in_bf16_is_predicted() {
    assert_near(&[&MIDDLE[..], &["dtype=bf16", "offload=true"]].concat());
}

#[test]
fn the_memory_of_adapters_and_of_micro_batches_is_predicted() {
    assert_near(&[&MIDDLE[..], &["model.lora.rank=16", "use_kl_loss=true", "max_tokens_per_micro_batch=600"]].concat());
}

#[test]
fn a_base_in_bf16_is_held_in_half_the_memory_of_one_in_f32_and_this_is_predicted() {
    const VOCABULARY: &str = "vocab_size=64000"; // 64,000 × 256 numbers, and 5 million in the blocks
    let dir = tempfile::tempdir().unwrap();
    let untrained = CONFIG.replace("\"run\"", "\"base\"");
    fs::write(dir.path().join("base.toml"), &untrained).unwrap();
    let made = ["train", "-q", "base.toml", "total_training_steps=1", "max_response_length=2"];
    let done = luspo(dir.path()).args(made).args(DEEP).arg(VOCABULARY).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::write(dir.path().join("in.jsonl"), r#"{"token_ids": [1, 2, 3, 4]}"#).unwrap();
    let [f32, bf16] = ["f32", "bf16"].map(|dtype| {
        let export = ["export", "runs/base", "--out", dtype, "--dtype", dtype];
        assert!(luspo(dir.path()).args(export).status().unwrap().success());
        let on_base =
            CONFIG.replace("[model.init]\nmax_position_embeddings = 256", &format!("[model]\npath = \"{dtype}\""));
        fs::write(dir.path().join("run.toml"), on_base).unwrap();
        let _ = fs::remove_dir_all(dir.path().join("runs/run"));
        let overrides = ["model.lora.rank=8", "log_prob_chunk=256"];
        let trained = near(peaks_in(dir.path(), &overrides), &overrides);
        let score = ["score", "--model", dtype, "--input", "in.jsonl"];
        [trained, peak(luspo(dir.path()).args(score).stdout(Stdio::null()).spawn().unwrap())]
    });
    // 22 million numbers of two bytes in place of four: 44 MB, by a peak that varies.
    for (f32, bf16) in f32.into_iter().zip(bf16) {
        assert!(f32 - bf16 > 25e6, "{f32:.3e} and {bf16:.3e}");
    }
}

#[test]
fn a_run_that_does_not_fit_is_refused_with_what_would_help() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("run.toml"), CONFIG).unwrap();
    let check = |memory: &str| {
        let output =
            luspo(dir.path()).args(["check", "run.toml", "--host-memory", memory]).args(DEEP).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said, error) = check("4GB");
    assert!(code == Some(0) && said.contains("it fits") && error.is_empty(), "{said}{error}");
    let (code, said, error) = check("500MB");
    assert!(code == Some(2) && said.contains("it does not fit"), "{said}{error}");
    assert!(error.contains("this machine has 500 MB; "), "{error}");
    assert!(error.contains("model.activation_checkpointing=true saves "), "{error}");
}

#[test]
fn the_arithmetic_of_batches_is_said_whether_or_not_files_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[model]\npath = \"models/Qwen2.5-0.5B\"\n[data]\ntrain_files = [\"nowhere.parquet\"]\n";
    fs::write(dir.path().join("run.toml"), config).unwrap();
    let output = luspo(dir.path())
        .args(["check", "run.toml", "--json", "--host-memory", "64GB", "ppo_micro_batch_size=1", "max_batch_size=8"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["model"]["parameters"], 494_032_768);
    assert_eq!((&plan["batches"]["rows"], &plan["batches"]["updates_per_step"]), (&1024.into(), &1.into()));
    let missing: Vec<&str> =
        plan["missing"].as_array().unwrap().iter().map(|missing| missing.as_str().unwrap()).collect();
    assert!(missing.len() == 2 && missing[0].contains("models/Qwen2.5-0.5B") && missing[1].contains("nowhere.parquet"));
}
