//! What `luspo check` predicts, beside what `luspo train` takes.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::luspo;

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
    let checked = luspo(dir.path()).args(["check", "run.toml", "--json"]).args(overrides).output().unwrap();
    let plan: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let predicted = plan["memory"]["peak"]["host"].as_f64().unwrap();

    let run = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
        .current_dir(dir.path())
        .args(["train", "-q", "run.toml"])
        .args(overrides)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let measured = peak(run);
    let metrics = fs::read_to_string(dir.path().join("runs/run/metrics.jsonl")).unwrap();
    let metrics: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let length = metrics["response_length/mean"].as_f64().unwrap();
    assert!(length > 210.0, "the answers have only {length} tokens, which is not what was predicted for");
    println!("{}: predicted {:.0} MB, measured {:.0} MB", overrides.join(" "), predicted / 1e6, measured / 1e6);
    (predicted, measured)
}

/// The most memory that a process has until it ends. (The kernel keeps the peak, so that none falls between two looks.)
fn peak(mut process: Child) -> f64 {
    let status = Path::new("/proc").join(process.id().to_string()).join("status");
    let mut peak = 0.0;
    loop {
        // Nothing is left to read of a process that has ended.
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak = line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0;
        }
        if let Some(status) = process.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn assert_near(overrides: &[&str]) -> f64 {
    let (predicted, measured) = peaks(overrides);
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

#[test]
fn the_memory_of_a_deep_model_is_predicted() {
    assert_near(&DEEP);
}

#[test]
fn the_memory_of_a_wide_model_with_a_critic_is_predicted() {
    assert_near(&[&WIDE[..], &["adv_estimator=gae", "loss_mode=ppo"]].concat());
}
