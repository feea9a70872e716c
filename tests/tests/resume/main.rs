//! Runs that are cut, damaged, interrupted and continued: what comes out is what an uninterrupted run leaves.

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod full_disk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use luspo::core::{Purpose, RandomKey};
use serde_json::Value;
use support::{TINY, luspo, repository, train};

/// Six steps over an epoch of four, with a KL term, a checkpoint after each, and two within the warm-up.
const OVERRIDES: [&str; 7] = [
    "total_training_steps=6",
    "train_prompts=16",
    "trainer.save_freq=1",
    "sft.checkpoint_freq=4",
    "use_kl_loss=true",
    "kl_loss_coef=0.01",
    "run.threads=1",
];

/// The points of such a run, in order.
const POINTS: [&str; 9] = [
    "sft_000004",
    "sft_000008",
    "step_000000",
    "step_000001",
    "step_000002",
    "step_000003",
    "step_000004",
    "step_000005",
    "step_000006",
];

fn metrics(run: &Path, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(run.join(file)).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        line.as_object_mut().unwrap().retain(|key, _| !key.starts_with("timing_") && !key.starts_with("perf/"));
    }
    lines
}

/// Journals, and all that [`assert_same_training`] compares.
fn assert_same(expected: &Path, found: &Path) {
    assert_same_training(expected, found);
    for step in 1..=6 {
        assert_same_file(expected, found, &format!("journal/step_{step:06}.json"));
    }
    assert_nothing_is_half_written(found);
}

fn assert_nothing_is_half_written(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        assert!(!path.to_string_lossy().ends_with(".partial"), "{}", path.display());
        if path.is_dir() {
            assert_nothing_is_half_written(&path);
        }
    }
}

fn assert_same_file(expected: &Path, found: &Path, file: &str) {
    assert!(fs::read(expected.join(file)).unwrap() == fs::read(found.join(file)).unwrap(), "{file} differs");
}

/// Metrics, answers, weights and moments of two finished runs, byte for byte.
fn assert_same_training(expected: &Path, found: &Path) {
    for file in ["metrics.jsonl", "sft_metrics.jsonl"] {
        assert_eq!(metrics(expected, file), metrics(found, file), "{file}");
    }
    let adapter = "checkpoints/step_000006/policy/adapter_model.safetensors";
    let whole = "checkpoints/step_000006/policy/model.safetensors";
    assert_same_file(expected, found, if expected.join(adapter).exists() { adapter } else { whole });
    assert_same_file(expected, found, "checkpoints/step_000006/optimizer.safetensors");
    for step in 1..=6 {
        assert_same_file(expected, found, &format!("rollouts/step_{step:06}.parquet"));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &place) } else { _ = fs::copy(entry.path(), place).unwrap() }
    }
}

fn resume(dir: &Path, name: &str) -> assert_cmd::assert::Assert {
    luspo(dir).arg("train").arg(format!("runs/{name}/config.toml")).arg("--resume").assert()
}

fn start(dir: &Path, name: &str, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
        .current_dir(dir)
        .arg("train")
        .arg(repository().join("configs/arithmetic.toml"))
        .args(TINY)
        .args(OVERRIDES)
        .arg(format!("run.name={name}"))
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The run `whole` cut after one of its points and continued from there.
fn continued(dir: &Path, kept: usize) -> PathBuf {
    let cut = dir.join("runs").join(POINTS[kept]);
    copy(&dir.join("runs/whole"), &cut);
    for later in &POINTS[kept + 1..] {
        fs::remove_dir_all(cut.join("checkpoints").join(later)).unwrap();
    }
    resume(dir, POINTS[kept]).success();
    cut
}

#[test]
fn a_run_continues_from_every_point_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "whole", &OVERRIDES);
    let whole = dir.path().join("runs/whole");
    for kept in 0..POINTS.len() {
        let cut = continued(dir.path(), kept);
        assert_same(&whole, &cut);
    }
}

/// Counts and coefficients in the last checkpoint.
fn learner(run: &Path) -> [Value; 2] {
    let text = fs::read_to_string(run.join("checkpoints/step_000006/state.json")).unwrap();
    let state: Value = serde_json::from_str(&text).unwrap();
    ["learner", "batches_drawn"].map(|key| state[key].clone())
}

/// All that a step can depend on beside the policy: a critic, two moving coefficients, prompts drawn by the batch.
const WITH_HISTORY: [&str; 13] = [
    "loss_mode=ppo",
    "adv_estimator=gae",
    "lam=0.95",
    "critic.lr=1e-3",
    "critic_warmup=1",
    "use_kl_in_reward=true",
    "algorithm.kl_ctrl.type=adaptive",
    "horizon=20",
    "entropy_coeff=0.01",
    "algorithm.entropy_ctrl.target=9",
    "algorithm.filter_groups.enable=true",
    "algorithm.filter_groups.metric=score",
    "max_num_gen_batches=3",
];

#[test]
fn a_run_with_a_critic_and_moving_coefficients_continues_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let with_history: Vec<&str> =
        OVERRIDES.into_iter().filter(|word| !word.contains("kl_loss")).chain(WITH_HISTORY).collect();
    train(dir.path(), "whole", &with_history);
    let whole = dir.path().join("runs/whole");
    let steps = metrics(&whole, "metrics.jsonl");
    let any = |holds: &dyn Fn(&Value) -> bool| assert!(steps.iter().any(holds), "{steps:?}");
    any(&|step| step["train/num_gen_batches"].as_f64() > Some(1.0));
    any(&|step| step["critic/vf_loss"].as_f64() > Some(0.0));
    any(&|step| step["actor/entropy_coeff"].as_f64() > Some(0.01));
    for (kept, point) in POINTS.iter().enumerate().filter(|(_, point)| ["step_000000", "step_000003"].contains(point)) {
        let cut = continued(dir.path(), kept);
        assert_same(&whole, &cut);
        for file in ["critic/config.json", "critic/model.safetensors", "critic_optimizer.safetensors"] {
            assert_same_file(&whole, &cut, &format!("checkpoints/step_000006/{file}"));
        }
        assert_eq!(learner(&whole), learner(&cut));
        luspo(dir.path()).args(["replay", &format!("runs/{point}"), "--step", "5"]).assert().success();
    }
}

/// Parameters that are not what the optimizer updates, but its masters, rounded.
const IN_BF16: [&str; 2] = ["model.dtype=bf16", "optimizer.offload=true"];

#[test]
fn a_run_in_bf16_continues_from_its_masters_to_the_same_bytes_with_or_without_offload() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "whole", &[&OVERRIDES[..], &IN_BF16].concat());
    let whole = dir.path().join("runs/whole");
    let config: Value =
        serde_json::from_slice(&fs::read(whole.join("checkpoints/step_000006/policy/config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"].as_str().or(config["dtype"].as_str()), Some("bfloat16"));
    for kept in [1, 2, 5] {
        assert_same(&whole, &continued(dir.path(), kept));
    }
    let moved = dir.path().join("runs/moved");
    copy(&whole, &moved);
    for later in &POINTS[5..] {
        fs::remove_dir_all(moved.join("checkpoints").join(later)).unwrap();
    }
    luspo(dir.path())
        .args(["train", "runs/moved/config.toml", "optimizer.offload=false", "--resume"])
        .assert()
        .success();
    assert_same(&whole, &moved);
    luspo(dir.path()).args(["replay", "runs/moved", "--step", "5"]).assert().success();
}

#[test]
fn a_run_of_adapters_continues_from_every_point_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for (name, more) in [("f32", &["model.lora.rank=3"][..]), ("bf16", &["model.lora.rank=3", "model.dtype=bf16"])] {
        train(dir.path(), "whole", &[&OVERRIDES[..], more].concat());
        let whole = dir.path().join("runs/whole");
        assert!(whole.join("checkpoints/step_000006/policy/adapter_model.safetensors").exists());
        for kept in [0, 2, 5] {
            let cut = continued(dir.path(), kept);
            assert_same(&whole, &cut);
            fs::rename(&cut, dir.path().join(format!("runs/{name}_{kept}"))).unwrap();
        }
        luspo(dir.path()).args(["replay", &format!("runs/{name}_5"), "--step", "4"]).assert().success();
        fs::rename(&whole, dir.path().join(format!("runs/{name}"))).unwrap();
    }
}

#[test]
fn a_longer_run_is_the_shorter_one_continued() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "whole", &OVERRIDES);
    train(dir.path(), "halves", &[&OVERRIDES[1..], &["total_training_steps=4"]].concat());
    luspo(dir.path())
        .args(["train", "runs/halves/config.toml", "total_training_steps=6", "--resume"])
        .assert()
        .success();
    // A journal names the length of the run, which differs.
    assert_same_training(&dir.path().join("runs/whole"), &dir.path().join("runs/halves"));
}

#[test]
fn fifty_kills_at_random_moments_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    train(dir.path(), "whole", &OVERRIDES);
    let length = started.elapsed();
    let moments = RandomKey::new(1, Purpose::Task);
    let (mut kills, mut finished, mut attempt) = (0, 0, 0);
    while kills < 50 || finished == 0 {
        let name = format!("killed_{finished}");
        let mut child = start(dir.path(), &name, &["--resume"]);
        std::thread::sleep(length.mul_f64(0.9 * moments.uniform(attempt)));
        attempt += 1;
        if kills < 50 && child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        if child.wait().unwrap().success() {
            assert_same(&dir.path().join("runs/whole"), &dir.path().join("runs").join(name));
            finished += 1;
        }
    }
    println!("{kills} kills, {finished} runs finished");
}

#[test]
fn a_resumed_run_keeps_its_own_settings_and_data() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &OVERRIDES);
    let refused = |words: &[&str], expected: &[&str]| {
        let output = luspo(dir.path()).args(["train", "runs/a/config.toml", "--resume"]).args(words).assert().code(2);
        let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        for word in expected {
            assert!(said.contains(word), "{said}");
        }
    };
    refused(&["optimizer.lr=0.5"], &["keeps its own optimizer.lr", "total_training_steps"]);
    refused(&["--seed", "9"], &["keeps its own run.seed"]);
    refused(&["total_training_steps=2"], &["at step 6 already"]);
    fs::copy(dir.path().join("runs/a/data/val.parquet"), dir.path().join("runs/a/data/train.parquet")).unwrap();
    refused(&["total_training_steps=8"], &["training prompts are not those"]);
}

#[test]
fn only_so_many_checkpoints_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &[&OVERRIDES[..], &["max_ckpt_to_keep=2"]].concat());
    let kept = || {
        let names = fs::read_dir(dir.path().join("runs/a/checkpoints")).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(kept(), ["step_000000", "step_000005", "step_000006"]);
    // As after a kill between saving the last checkpoint and removing an old one.
    luspo(dir.path()).args(["train", "runs/a/config.toml", "max_ckpt_to_keep=1", "--resume"]).assert().success();
    assert_eq!(kept(), ["step_000000", "step_000006"]);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_step_writes_a_checkpoint_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "whole", &OVERRIDES);
    for signal in ["INT", "TERM"] {
        let name = format!("stopped_{signal}");
        let run = dir.path().join("runs").join(&name);
        // Only the signal makes a checkpoint here, and the run is long enough not to end by itself.
        let mut child = start(dir.path(), &name, &["trainer.save_freq=0", "total_training_steps=10000"]);
        let second = wait_for(&run.join("journal/step_000002.json"));
        let in_use =
            luspo(dir.path()).args(["train", &format!("runs/{name}/config.toml"), "--resume"]).assert().code(1);
        let said = String::from_utf8(in_use.get_output().stderr.clone()).unwrap();
        assert!(said.contains("another process is running this run"), "{said}");
        assert!(second.elapsed() < Duration::from_secs(60));
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        assert!(said.contains(&format!("luspo train runs/{name}/config.toml --resume")), "{said}");
        let stopped = fs::read_dir(run.join("checkpoints")).unwrap().flatten().map(|e| e.file_name()).max().unwrap();
        assert!(stopped.to_str().unwrap() > "step_000001", "{stopped:?}");
    }
}

fn wait_for(file: &Path) -> Instant {
    let started = Instant::now();
    while !file.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "{} does not appear", file.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    started
}

#[test]
fn a_step_is_replayed_bit_for_bit_and_what_was_altered_is_found() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &OVERRIDES);
    let replay = |run: &str, step: &str| luspo(dir.path()).args(["replay", run, "--step", step, "--json"]).assert();
    for step in ["1", "4", "6"] {
        let output = replay("runs/a", step).success();
        let said: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        assert_eq!((said["same"].as_bool(), said["rollouts"].as_u64()), (Some(true), Some(16)));
    }
    // Without the checkpoints in between, the steps before it are run again.
    let pruned = dir.path().join("runs/pruned");
    copy(&dir.path().join("runs/a"), &pruned);
    for step in 1..=5 {
        fs::remove_dir_all(pruned.join(format!("checkpoints/step_{step:06}"))).unwrap();
    }
    replay("runs/pruned", "4").success();

    let altered = |name: &str, change: &dyn Fn(&Path), expected: &str| {
        let run: PathBuf = dir.path().join("runs").join(name);
        copy(&dir.path().join("runs/a"), &run);
        change(&run);
        let output = replay(&format!("runs/{name}"), "4").code(1);
        let said: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        assert!(said["differences"].to_string().contains(expected), "{name}: {said}");
    };
    let journal = |run: &Path| run.join("journal/step_000004.json");
    altered(
        "metric",
        &|run| {
            let text = fs::read_to_string(journal(run)).unwrap();
            let mut value: Value = serde_json::from_str(&text).unwrap();
            value["metrics"]["actor/pg_loss"] = "0.5".into();
            fs::write(journal(run), value.to_string()).unwrap();
        },
        "metric actor/pg_loss: recorded 0.5",
    );
    altered(
        "answers",
        &|run| {
            _ = fs::copy(run.join("rollouts/step_000005.parquet"), run.join("rollouts/step_000004.parquet")).unwrap()
        },
        "response token",
    );
    let output = luspo(dir.path()).args(["replay", "runs/a", "--step", "7"]).assert().code(1);
    assert!(String::from_utf8_lossy(&output.get_output().stderr).contains("step_000007.json"));
}
