//! What bounds memory changes the peak, and the update only by the order in which sums are taken.
#![cfg(target_os = "linux")]

#[path = "support/peak.rs"]
mod peak;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use peak::peak;

/// Two groups of two long answers; scores and logits are most of what a step holds.
const CONFIG: &str = r#"
[run]
name = "run"
threads = 2
[model]
log_prob_chunk = 4096
attention_chunk = 4096
activation_checkpointing = false
[model.init]
vocab_size = 4096
hidden_size = 128
intermediate_size = 256
num_hidden_layers = 3
num_attention_heads = 8
num_key_value_heads = 2
max_position_embeddings = 2048
[data]
train_batch_size = 2
max_prompt_length = 32
max_response_length = 1000
[data.task]
name = "arithmetic"
train_prompts = 2
val_prompts = 1
sft_examples = 1
[rollout]
n = 2
top_k = 2 # a new model mumbles, and does not end before the limit
[algorithm]
entropy_coeff = 0.01 # wrong answers all, which teach nothing else
[trainer]
total_training_steps = 1
val_before_train = false
"#;

/// Gradient norm, mean entropy and peak memory in bytes of a step.
fn step(dir: &Path, overrides: &[&str]) -> [f64; 3] {
    let runs = fs::read_dir(dir.join("runs")).map_or(0, |runs| runs.count());
    let name = format!("run.name=run{runs}");
    fs::write(dir.join("run.toml"), CONFIG).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
        .current_dir(dir)
        .args(["train", "-q", "run.toml", &name])
        .args(overrides)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let peak = peak(run);
    let metrics = dir.join("runs").join(name.trim_start_matches("run.name=")).join("metrics.jsonl");
    let text = fs::read_to_string(metrics).unwrap();
    let metrics: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(metrics["response_length/mean"].as_f64().unwrap() > 900.0, "the answers are too short to fill memory");
    let number = |key: &str| metrics[key].as_f64().unwrap();
    [number("actor/grad_norm"), number("actor/entropy"), peak]
}

/// The knobs save at least so many bytes on a backend, and change no update.
fn assert_saved(backend: &str, cases: &[(&[&str], f64)]) {
    let dir = tempfile::tempdir().unwrap();
    let [norm, entropy, plain] = step(dir.path(), &[backend]);
    for (knobs, least_saved) in cases {
        let [own_norm, own_entropy, peak] = step(dir.path(), &[&[backend], *knobs].concat());
        println!("{backend} {}: {:.0} MB instead of {:.0} MB", knobs.join(" "), peak / 1e6, plain / 1e6);
        assert!((own_norm / norm - 1.0).abs() < 1e-5, "{knobs:?}: gradient norm {own_norm} instead of {norm}");
        assert!((own_entropy / entropy - 1.0).abs() < 1e-5, "{knobs:?}: entropy {own_entropy} instead of {entropy}");
        assert!(plain - peak > *least_saved, "{knobs:?}: {peak:.3e} bytes instead of {plain:.3e}");
    }
}

#[test]
fn chunks_recompute_and_smaller_micro_batches_save_memory_and_change_no_update() {
    assert_saved(
        "backend=flex",
        &[
            (&["log_prob_chunk=64"], 15e6),
            (&["activation_checkpointing=true"], 5e6),
            (&["log_prob_chunk=64", "activation_checkpointing=true"], 30e6),
            (&["max_tokens_per_micro_batch=1100", "log_prob_chunk=64"], 15e6),
        ],
    );
}

/// The CPU's own loops never hold the scores of more than 64 queries; where attention is tensor operations they show.
#[test]
fn chunks_of_queries_save_memory_and_change_no_update() {
    assert_saved("backend=ndarray", &[(&["attention_chunk=64"], 15e6)]);
}

#[test]
fn a_shared_prompt_changes_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let [norm, entropy, _] = step(dir.path(), &["max_response_length=1000"]);
    let [apart, apart_entropy, _] = step(dir.path(), &["share_prompts=false"]);
    assert!((apart / norm - 1.0).abs() < 1e-5 && apart != norm, "gradient norms {apart} and {norm}");
    assert!((apart_entropy / entropy - 1.0).abs() < 1e-5);
}
