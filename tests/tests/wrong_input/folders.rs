//! Run folders and output folders: what is there stays, what cannot be made is said.

use std::fs;

use crate::ground::put;
use crate::{Case, refused};

pub fn cases() -> Vec<Case> {
    vec![
        refused("a run folder in use", 1, "train config.toml")
            .after(|dir| put(dir.join("runs/run/config.toml"), "what another run left"))
            .says(&["runs/run", "run.name=NAME"]),
        refused("a run folder in use by a warm-up", 1, "sft config.toml")
            .after(|dir| put(dir.join("runs/run/metrics.jsonl"), "{}\n"))
            .says(&["runs/run", "run.name=NAME"]),
        refused("a run folder with something else in it", 1, "train config.toml run.dir=model").says(&["model"]),
        refused("a file for a run folder", 1, "train config.toml run.dir=score.jsonl").says(&["score.jsonl"]),
        refused("a run folder below a file", 1, "train config.toml run.dir=score.jsonl/run")
            .says(&["score.jsonl/run", "cannot be written"]),
        refused("a file where the runs should be", 1, "train config.toml")
            .after(|dir| put(dir.join("runs"), "a file"))
            .says(&["runs/run", "cannot be written"]),
        #[cfg(target_os = "linux")]
        refused("a run folder that nobody can make", 1, "train config.toml run.dir=/proc/luspo")
            .says(&["/proc/luspo", "cannot be written"]),
        #[cfg(unix)]
        refused("a run folder below a device", 1, "train config.toml run.dir=/dev/null/run")
            .says(&["/dev/null/run", "cannot be written"]),
        refused("a wrong dataset for a run folder that is there and empty", 1, "train config.toml train_files=none")
            .after(|dir| fs::create_dir_all(dir.join("runs/run")).unwrap())
            .says(&["none", "No such file"]),
        refused("an export into a folder in use", 1, "export model --out model").says(&["model", "not empty"]),
        refused("an export into a file", 1, "export model --out score.jsonl").says(&["score.jsonl"]),
        refused("an export below a file", 1, "export model --out score.jsonl/new").says(&["score.jsonl"]),
        refused("a task where its files are", 1, "data generate arithmetic --out .")
            .says(&["train.parquet", "already there"]),
        refused("a task where one of its files is", 1, "data generate arithmetic --out there")
            .after(|dir| put(dir.join("there/sft.parquet"), "precious"))
            .says(&["there/sft.parquet", "already there"]),
        refused("a task below a file", 1, "data generate arithmetic --out score.jsonl/task")
            .says(&["score.jsonl/task"]),
        #[cfg(target_os = "linux")]
        refused("a task where nobody can write", 1, "data generate arithmetic --out /proc/luspo")
            .says(&["/proc/luspo"]),
    ]
}
