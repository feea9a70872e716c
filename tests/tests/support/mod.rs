//! The command under test and a run of a moment.

use std::path::{Path, PathBuf};

use assert_cmd::Command;

/// `luspo`, in the working directory `dir`.
pub fn luspo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
    command.current_dir(dir);
    command
}

/// The root of this repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The arithmetic config, so small that a step takes a moment.
pub const TINY: [&str; 13] = [
    "hidden_size=32",
    "intermediate_size=64",
    "train_prompts=64",
    "val_prompts=16",
    "sft_examples=256",
    "sft.steps=12",
    "sft.batch_size=16",
    "train_batch_size=4",
    "ppo_mini_batch_size=2",
    "rollout.n=4",
    "total_training_steps=3",
    "test_freq=2",
    "optimizer.lr=1e-3",
];

/// `luspo train` of the tiny config in `dir`, as the run `name`.
pub fn train(dir: &Path, name: &str, overrides: &[&str]) {
    luspo(dir)
        .arg("train")
        .arg(repository().join("configs/arithmetic.toml"))
        .args(TINY)
        .arg(format!("run.name={name}"))
        .args(overrides)
        .assert()
        .success();
}
