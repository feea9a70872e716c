//! What `luspo check` refuses: configurations as `luspo train` does, and what a run would not find.

use std::fs;

use serde_json::json;

use crate::ground::{put, set};
use crate::{Case, refused};

pub fn cases() -> Vec<Case> {
    vec![
        refused("nothing to check", 2, "check").says(&["<CONFIG>"]),
        refused("a configuration to check that is not there", 2, "check nowhere.toml")
            .says(&["nowhere.toml", "No such file"]),
        refused("a misspelt key to check", 2, "check config.toml train_batchsize=4")
            .says(&["did you mean `train_batch_size`"]),
        refused("sizes to check that do not divide", 2, "check config.toml ppo_mini_batch_size=3")
            .says(&["config.toml", "ppo_mini_batch_size = 3"]),
        refused("memory in words", 2, "check config.toml --device-memory plenty").says(&["--device-memory", "plenty"]),
        refused("no memory", 2, "check config.toml --host-memory 0").says(&["--host-memory", "5GB"]),
        refused("memory for nothing", 2, "check config.toml --host-memory 1MB")
            .says(&["this machine has 1 MB", "the program 75 MB"]),
        refused("space in words", 2, "check config.toml --disk-space plenty").says(&["--disk-space", "plenty"]),
        refused("space for nothing", 2, "check config.toml --disk-space 1kB").says(&[
            "checkpoints take",
            "runs/run",
            "there are 1 kB free",
        ]),
        refused(
            "more parameters than memory to check",
            2,
            "check task.toml hidden_size=1048576 num_hidden_layers=1024",
        )
        .says(&["parameters", "GB"]),
        refused("heads to check that do not divide the width", 2, "check task.toml num_attention_heads=3")
            .says(&["hidden_size = 16", "num_attention_heads = 3"]),
        refused("a model to check that is not there", 1, "check config.toml model.path=nowhere")
            .says(&["model.path = nowhere: there is no such folder"]),
        refused("a model without weights", 1, "check config.toml")
            .after(|dir| fs::remove_file(dir.join("model/model.safetensors")).unwrap())
            .says(&["model.path = model: there is no model.safetensors"]),
        refused("a damaged shape to check", 1, "check config.toml")
            .after(|dir| put(dir.join("model/config.json"), "{"))
            .says(&["model/config.json", "copy the file again"]),
        refused("a shape without heads", 1, "check config.toml")
            .after(|dir| set(dir, "config.json", "/num_attention_heads", json!(0)))
            .says(&["model/config.json", "num_attention_heads = 0"]),
        refused("data to check that are not there", 1, "check config.toml train_files=a.parquet val_files=b.parquet")
            .says(&["data.train_files: there is no a.parquet", "1 more"]),
        refused("nothing to train on", 1, "check config.toml train_files=[]").says(&["data.train_files is empty"]),
        refused("a tokenizer to check that is not there", 1, "check task.toml model.init.tokenizer=nowhere")
            .says(&["model.init.tokenizer = nowhere", "1 more"]),
        refused("a backend outside the build to check", 1, "check config.toml --backend wgpu")
            .says(&["`wgpu`", "--features wgpu"]),
    ]
}
