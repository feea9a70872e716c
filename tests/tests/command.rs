//! The command, as a user sees it: what it prints, what it leaves behind, how it says no.

mod support;

use std::path::Path;

use serde_json::Value;
use support::{luspo, train};

/// The metrics of a run, a line a step; without those that measure time.
fn metrics(dir: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("runs").join(name).join("metrics.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        line.as_object_mut().unwrap().retain(|key, _| !key.starts_with("timing_") && !key.starts_with("perf/"));
    }
    lines
}

fn weights(dir: &Path, name: &str, step: usize) -> Vec<u8> {
    let file = format!("runs/{name}/checkpoints/step_{step:06}/policy/model.safetensors");
    std::fs::read(dir.join(file)).unwrap()
}

#[test]
fn a_run_leaves_config_metrics_data_and_policies() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &[]);
    let run = dir.path().join("runs/a");
    for file in [
        "config.toml",
        "sft_metrics.jsonl",
        "data/train.parquet",
        "checkpoints/step_000000/policy/model.safetensors",
        "checkpoints/step_000003/policy/config.json",
        "checkpoints/step_000003/policy/tokenizer.json",
        "checkpoints/step_000003/policy/generation_config.json",
    ] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let steps = metrics(dir.path(), "a");
    assert_eq!(steps.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(steps[0]["val-core/luspo/arithmetic/acc/mean@1"].is_number());
    assert!(steps[1..].iter().any(|step| step["actor/grad_norm"].as_f64().unwrap() > 0.0));
    for step in &steps[1..] {
        assert_eq!(step["actor/updates"], 2);
        assert!(step["rollout/log_prob_gap/max"].as_f64().unwrap() < 5e-5);
        assert!(step["rollout/log_prob_gap/mean"].as_f64().unwrap() < 2e-6);
    }
    assert_ne!(weights(dir.path(), "a", 0), weights(dir.path(), "a", 3));
}

#[test]
fn how_the_cache_is_kept_changes_nothing_that_is_trained_and_a_step_says_how_full_it_was() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "freed", &["console=false"]);
    train(dir.path(), "kept", &["console=false", "free_cache_engine=false"]);
    assert_eq!(weights(dir.path(), "freed", 3), weights(dir.path(), "kept", 3));

    let text = std::fs::read_to_string(dir.path().join("runs/freed/metrics.jsonl")).unwrap();
    for line in text.lines().skip(1) {
        let step: Value = serde_json::from_str(line).unwrap();
        for share in ["rollout/batch_occupancy", "rollout/cache_use", "perf/gen_decode_share"] {
            let share = step[share].as_f64().unwrap();
            assert!(share > 0.0 && share <= 1.0, "{line}");
        }
        assert!(step["perf/prefill_throughput"].as_f64().unwrap() > 0.0, "{line}");
        assert!(step["perf/decode_throughput"].as_f64().unwrap() > 0.0, "{line}");
        let phases =
            ["prefill", "decode", "choice"].map(|phase| step[format!("timing_s/gen_{phase}")].as_f64().unwrap());
        assert!(phases.iter().sum::<f64>() <= step["timing_s/gen"].as_f64().unwrap(), "{line}");
    }
}

#[test]
fn stop_strings_and_lengths_of_the_configuration_reach_training_and_validation() {
    let dir = tempfile::tempdir().unwrap();
    let stop: Vec<String> = "0123456789,=".chars().map(|c| format!("\"{c}\"")).collect();
    let stop = format!("rollout.stop=[{}]", stop.join(", "));
    let settings = ["console=false", "min_tokens=3", stop.as_str(), "prefill_chunk=16"];
    train(dir.path(), "short", &settings);
    train(dir.path(), "long", &["console=false", "min_tokens=39", "rollout.max_tokens_in_cache=200"]);
    for step in &metrics(dir.path(), "short")[1..] {
        assert!(step["response_length/min"].as_f64().unwrap() >= 3.0);
        // Most of what the warm-up learned to say is such a character.
        assert!(step["response_length/mean"].as_f64().unwrap() < 15.0);
    }
    for step in &metrics(dir.path(), "long")[1..] {
        assert_eq!(step["response_length/min"].as_f64(), Some(39.0));
        assert!(step["rollout/log_prob_gap/max"].as_f64().unwrap() < 5e-5);
    }
    let validated =
        |name| metrics(dir.path(), name)[0]["val-aux/luspo/arithmetic/response_length/mean"].as_f64().unwrap();
    assert_eq!(validated("long"), 39.0);
    assert!(validated("short") < 15.0);
}

#[test]
fn a_resumed_run_says_which_keys_of_the_file_it_does_not_follow() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edited.toml");
    let config = std::fs::read_to_string(support::repository().join("configs/arithmetic.toml")).unwrap();
    std::fs::write(&file, config).unwrap();
    let resume = |edit: &[(&str, &str)]| {
        let mut text = std::fs::read_to_string(&file).unwrap();
        edit.iter().for_each(|(from, to)| text = text.replace(from, to));
        std::fs::write(&file, text).unwrap();
        let output = luspo(dir.path())
            .args(["train", "edited.toml"])
            .args(support::TINY)
            .args(["--resume", "console=false"])
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(!resume(&[]).contains("edited.toml"), "nothing to resume, and nothing to differ from");
    assert!(!resume(&[]).contains("edited.toml"), "the same file");
    let said = resume(&[("val_temperature = 0.0", "val_temperature = 0.5"), ("n = 8 ", "n = 2 ")]);
    assert!(said.contains("edited.toml has other values of eval.val_temperature than the run"), "{said}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &[]);
    train(dir.path(), "b", &[]);
    train(dir.path(), "c", &["seed=1"]);
    assert_eq!(metrics(dir.path(), "a"), metrics(dir.path(), "b"));
    assert_eq!(weights(dir.path(), "a", 3), weights(dir.path(), "b", 3));
    assert_ne!(weights(dir.path(), "a", 3), weights(dir.path(), "c", 3));
}

#[test]
fn the_objective_is_one_word_on_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "luspo", &[]);
    train(dir.path(), "gspo", &["loss_mode=gspo"]);
    let (luspo, gspo) = (metrics(dir.path(), "luspo"), metrics(dir.path(), "gspo"));
    assert_eq!(luspo[0], gspo[0], "validation before the first step");
    // On the same first rollouts the LUSPO gradient is longer: its terms carry the factor |y|.
    let norm = |lines: &[Value]| lines[1]["actor/grad_norm"].as_f64().unwrap();
    assert!(norm(&luspo) > 5.0 * norm(&gspo), "{} against {}", norm(&luspo), norm(&gspo));
    let config = std::fs::read_to_string(dir.path().join("runs/gspo/config.toml")).unwrap();
    assert!(config.contains("loss_mode = \"gspo\""));
}

#[test]
fn a_kl_term_brings_a_reference_and_its_metric() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "plain", &[]);
    train(dir.path(), "kl", &["use_kl_loss=true", "kl_loss_coef=0.1"]);
    let (plain, kl) = (metrics(dir.path(), "plain"), metrics(dir.path(), "kl"));
    assert!(plain[1].get("actor/kl_loss").is_none());
    assert!(kl[3]["actor/kl_loss"].as_f64().unwrap() > 0.0);
    assert_ne!(weights(dir.path(), "plain", 3), weights(dir.path(), "kl", 3));
}

#[test]
fn old_log_probs_come_from_the_trainer_or_the_sampler() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "trainer", &["old_log_probs=trainer", "ppo_epochs=2"]);
    train(dir.path(), "sampler", &["old_log_probs=sampler", "ppo_epochs=2"]);
    let (trainer, sampler) = (metrics(dir.path(), "trainer"), metrics(dir.path(), "sampler"));
    assert_eq!(trainer[1]["actor/updates"], 4);
    // Both are the same policy's, up to rounding.
    let ratio = |lines: &[Value]| lines[1]["actor/ratio_max"].as_f64().unwrap();
    assert!((ratio(&trainer) - ratio(&sampler)).abs() < 1e-3, "{} {}", ratio(&trainer), ratio(&sampler));
    assert!(ratio(&trainer) > 1.0);
}

#[test]
fn micro_batches_do_not_change_a_run() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "whole", &["total_training_steps=1"]);
    train(dir.path(), "split", &["total_training_steps=1", "ppo_micro_batch_size=2"]);
    let norm = |name: &str| metrics(dir.path(), name)[1]["actor/grad_norm"].as_f64().unwrap();
    assert!((norm("whole") - norm("split")).abs() < 1e-4 * norm("whole"));
}

#[test]
fn a_saved_policy_is_evaluated_sampled_and_scored() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &[]);
    let policy = "runs/a/checkpoints/step_000003/policy";

    let output = luspo(dir.path())
        .args(["eval", "--model", policy, "--data", "runs/a/data/val.parquet", "--n", "4", "--json"])
        .args(["--max-response-length", "39", "--temperature", "0"])
        .assert()
        .success();
    let eval: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    // Greedy answers to a prompt are all the same, so every pass@k is the accuracy, which is the run's own.
    let accuracy = &eval["val-core/luspo/arithmetic/acc/mean@4"];
    assert_eq!(eval["val-aux/luspo/arithmetic/acc/pass@4"], *accuracy);
    assert_eq!(metrics(dir.path(), "a")[3]["val-core/luspo/arithmetic/acc/mean@1"], *accuracy);

    let prompt = "07+07+01+05+09+08+07+05+08+06=";
    let output = luspo(dir.path())
        .args(["generate", "--model", policy, "--prompt", prompt, "--json", "--max-response-length", "39"])
        .assert()
        .success();
    let answer: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();

    // The trainer's log-probs of the sampled tokens are the sampler's.
    let prompt_ids: Vec<u64> = prompt_ids(dir.path(), policy, prompt);
    let sampled: Vec<u64> = answer["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let all = [prompt_ids.clone(), sampled].concat();
    std::fs::write(dir.path().join("in.jsonl"), serde_json::json!({ "token_ids": all }).to_string()).unwrap();
    let output = luspo(dir.path()).args(["score", "--model", policy, "--input", "in.jsonl"]).assert().success();
    let scored: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let scored = scored["log_probs"].as_array().unwrap();
    assert_eq!(scored.len(), all.len() - 1);
    for (sampler, trainer) in answer["log_probs"].as_array().unwrap().iter().zip(&scored[prompt_ids.len() - 1..]) {
        assert!((sampler.as_f64().unwrap() - trainer.as_f64().unwrap()).abs() < 5e-5);
    }
}

fn prompt_ids(dir: &Path, policy: &str, prompt: &str) -> Vec<u64> {
    let tokenizer = luspo::data::Tokenizer::from_folder(&dir.join(policy)).unwrap();
    tokenizer.encode(prompt).unwrap().into_iter().map(u64::from).collect()
}

#[test]
fn a_built_in_task_is_written_and_inspected() {
    let dir = tempfile::tempdir().unwrap();
    luspo(dir.path()).args(["data", "generate", "arithmetic", "--out", "task"]).assert().success();
    let output = luspo(dir.path()).args(["data", "inspect", "task/val.parquet", "--json"]).assert().success();
    let seen: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!((seen["rows"].as_u64(), seen["distinct_prompts"].as_u64()), (Some(256), Some(256)));
}

#[test]
fn devices_lists_every_backend() {
    let dir = tempfile::tempdir().unwrap();
    let output = luspo(dir.path()).args(["devices", "--json"]).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let names: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(names, ["flex", "ndarray", "wgpu", "cuda"]);
}
