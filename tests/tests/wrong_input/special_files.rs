//! Pipes and devices where files are expected: reading them would never end.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Case, refused};

const GENERATE: &str = "generate --model model --prompt ab --max-response-length 4";

/// Puts a pipe, into which nobody writes, in place of a file.
fn pipe(dir: &Path, file: &str) {
    let _ = fs::remove_file(dir.join(file));
    assert!(Command::new("mkfifo").arg(dir.join(file)).status().unwrap().success());
}

/// Puts zeros without end in place of a file.
fn zeros(dir: &Path, file: &str) {
    let _ = fs::remove_file(dir.join(file));
    std::os::unix::fs::symlink("/dev/zero", dir.join(file)).unwrap();
}

pub fn cases() -> Vec<Case> {
    vec![
        refused("a pipe for a configuration", 2, "train config.toml")
            .after(|dir| pipe(dir, "config.toml"))
            .says(&["config.toml", "a pipe"]),
        refused("zeros for a configuration", 2, "train /dev/zero").says(&["/dev/zero", "a device"]),
        refused("a pipe for a dataset", 1, "data inspect train.parquet")
            .after(|dir| pipe(dir, "train.parquet"))
            .says(&["train.parquet", "a pipe"]),
        refused("zeros for a dataset", 1, "train config.toml train_files=/dev/zero").says(&["/dev/zero", "a device"]),
        refused("a pipe for config.json", 1, GENERATE)
            .after(|dir| pipe(dir, "model/config.json"))
            .says(&["model", "config.json"]),
        refused("a pipe for config.json to train", 1, "train config.toml")
            .after(|dir| pipe(dir, "model/config.json"))
            .says(&["model/config.json", "a pipe"]),
        refused("zeros for the generation config", 1, GENERATE)
            .after(|dir| zeros(dir, "model/generation_config.json"))
            .says(&["model/generation_config.json", "a device"]),
        refused("a pipe for the weights", 1, GENERATE)
            .after(|dir| pipe(dir, "model/model.safetensors"))
            .says(&["model/model.safetensors", "a pipe"]),
        refused("zeros for the index of the weights", 1, GENERATE)
            .after(|dir| {
                fs::remove_file(dir.join("model/model.safetensors")).unwrap();
                zeros(dir, "model/model.safetensors.index.json");
            })
            .says(&["model/model.safetensors.index.json", "a device"]),
        refused("a pipe for the tokenizer", 1, GENERATE)
            .after(|dir| pipe(dir, "model/tokenizer.json"))
            .says(&["model/tokenizer.json", "a pipe"]),
        refused("zeros for the chat template", 1, GENERATE)
            .after(|dir| zeros(dir, "model/chat_template.jinja"))
            .says(&["model/chat_template.jinja", "a device"]),
        refused("a pipe for a file to copy", 1, "export model --out new")
            .after(|dir| pipe(dir, "model/vocab.json"))
            .says(&["model/vocab.json", "a pipe"]),
    ]
}
