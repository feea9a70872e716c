//! Runs to be continued, replayed or used: what is not there or damaged is named, and nothing is changed.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::ground::{contents, edit, lay, put};
use crate::{Case, luspo, refused};

const STEP: &str = "runs/run/checkpoints/step_000001";

/// Puts a finished run of one step into `runs/run`.
fn run(dir: &Path) {
    static FINISHED: OnceLock<TempDir> = OnceLock::new();
    let finished = FINISHED.get_or_init(|| {
        let dir = lay();
        luspo(dir.path(), "train config.toml -q").assert().success();
        dir
    });
    fs::create_dir(dir.join("runs")).unwrap();
    for (path, bytes) in contents(&finished.path().join("runs")) {
        match bytes {
            Some(bytes) => fs::write(dir.join("runs").join(path), bytes).unwrap(),
            None => fs::create_dir(dir.join("runs").join(path)).unwrap(),
        }
    }
}

/// The same with one bit of the last policy's weights flipped, so that they are still numbers.
fn flipped(dir: &Path) {
    run(dir);
    let file = dir.join(STEP).join("policy/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let low = bytes.len() - 4;
    bytes[low] ^= 1;
    fs::write(file, bytes).unwrap();
}

pub fn cases() -> Vec<Case> {
    [replayed(), resumed(), checkpoints()].into_iter().flatten().collect()
}

fn replayed() -> Vec<Case> {
    const REPLAY: &str = "replay runs/run --step 1";
    vec![
        refused("a replay of nothing", 1, "replay nowhere --step 1").says(&["nowhere", "no run has begun here"]),
        refused("a replay of a model", 1, "replay model --step 1").says(&["model", "no run has begun here"]),
        refused("a replay of a file", 1, "replay config.toml --step 1").says(&["config.toml", "no run has begun here"]),
        refused("a replay of a configuration without a run", 1, "replay . --step 1")
            .says(&["journal/step_000001.json", "cannot be read"]),
        refused("a replay of no step", 2, REPLAY.trim_end_matches(" --step 1")).says(&["--step"]),
        refused("a replay of the step before the first", 2, "replay runs/run --step 0").says(&["--step", "0"]),
        refused("a replay with another seed", 2, "replay runs/run --step 1 --seed 1").says(&["--seed"]),
        refused("a replay of a step to come", 1, "replay runs/run --step 2")
            .after(run)
            .says(&["step 2 of runs/run", "step_000002.json"]),
        refused("a replay of a run whose loss a program brought along", 1, REPLAY)
            .after(|dir| {
                run(dir);
                let config = dir.join("runs/run/config.toml");
                let text = fs::read_to_string(&config).unwrap();
                fs::write(config, text.replace("loss_mode = \"luspo\"", "loss_mode = \"custom\"")).unwrap();
            })
            .says(&["step 1 of runs/run", "custom"]),
        refused("a replay of the last step there can be", 1, "replay runs/run --step 18446744073709551615")
            .after(run)
            .says(&["runs/run", "18446744073709551615"]),
        refused("a replay without its journal", 1, REPLAY)
            .after(|dir| {
                run(dir);
                fs::remove_file(dir.join("runs/run/journal/step_000001.json")).unwrap();
            })
            .says(&["step 1 of runs/run", "step_000001.json", "No such file"]),
        refused("a replay of a garbled journal", 1, REPLAY)
            .after(|dir| {
                run(dir);
                put(dir.join("runs/run/journal/step_000001.json"), [0xff; 100]);
            })
            .says(&["step 1 of runs/run", "step_000001.json"]),
        refused("a replay of a journal with a key too many", 1, REPLAY)
            .after(|dir| {
                run(dir);
                edit(dir.join("runs/run/journal/step_000001.json"), |journal| journal["more"] = 1.into());
            })
            .says(&["step_000001.json", "`more`"]),
        refused("a replay without its answers", 1, REPLAY)
            .after(|dir| {
                run(dir);
                fs::remove_file(dir.join("runs/run/rollouts/step_000001.parquet")).unwrap();
            })
            .says(&["step 1 of runs/run", "rollouts/step_000001.parquet"]),
        refused("a replay of garbled answers", 1, REPLAY)
            .after(|dir| {
                run(dir);
                put(dir.join("runs/run/rollouts/step_000001.parquet"), "PAR1");
            })
            .says(&["rollouts/step_000001.parquet"]),
        refused("a replay of a garbled configuration", 2, REPLAY)
            .after(|dir| {
                run(dir);
                put(dir.join("runs/run/config.toml"), "[run");
            })
            .says(&["runs/run/config.toml", "TOML parse error"]),
        refused("a replay from a damaged checkpoint", 1, REPLAY)
            .after(|dir| {
                run(dir);
                put(dir.join("runs/run/checkpoints/step_000000/state.json"), "{}");
            })
            .says(&["step_000000 is damaged", "state.json"]),
    ]
}

fn resumed() -> Vec<Case> {
    const RESUME: &str = "train config.toml --resume";
    vec![
        refused("a folder with a configuration and no run to continue", 1, "train config.toml run.dir=. --resume")
            .says(&["."]),
        refused("a model to continue", 1, "train config.toml run.dir=model --resume").says(&["model", "not empty"]),
        refused("a file to continue", 1, "train config.toml run.dir=score.jsonl --resume").says(&["score.jsonl"]),
        refused("a run to continue without its configuration", 1, RESUME)
            .after(|dir| put(dir.join("runs/run/metrics.jsonl"), "{}\n"))
            .says(&["runs/run"]),
        refused("a run to continue with a garbled configuration", 2, RESUME)
            .after(|dir| {
                run(dir);
                put(dir.join("runs/run/config.toml"), "[run");
            })
            .says(&["runs/run/config.toml", "TOML parse error"]),
        refused("a run to continue with another learning rate", 2, "train config.toml --resume optimizer.lr=0.5")
            .after(run)
            .says(&["keeps its own optimizer.lr"]),
        refused("a run to continue with another seed", 2, "train config.toml --resume --seed 1")
            .after(run)
            .says(&["keeps its own run.seed"]),
        refused(
            "a run to continue with fewer steps than it has",
            2,
            "train config.toml --resume total_training_steps=0",
        )
        .after(run)
        .says(&["runs/run", "at step 1 already"]),
        refused("a run to continue whose checkpoints are all damaged", 1, "train config.toml --resume")
            .after(|dir| {
                run(dir);
                for step in ["step_000000", "step_000001"] {
                    put(dir.join("runs/run/checkpoints").join(step).join("MANIFEST.json"), "[]");
                }
            })
            .says(&["step_000001 is damaged", "MANIFEST.json"]),
        refused("a run to continue with other data", 2, "train config.toml --resume total_training_steps=2")
            .after(|dir| {
                run(dir);
                fs::copy(dir.join("val.parquet"), dir.join("train.parquet")).unwrap();
            })
            .says(&["training prompts are not those"]),
        refused("a run to continue without its data", 1, "train config.toml --resume total_training_steps=2")
            .after(|dir| {
                run(dir);
                fs::remove_file(dir.join("train.parquet")).unwrap();
            })
            .says(&["train.parquet", "No such file"]),
    ]
}

/// However a damaged checkpoint is named, whoever uses it says the same.
fn checkpoints() -> Vec<Case> {
    const DAMAGED: [&str; 2] = ["step_000001 is damaged", "policy/model.safetensors is not what was written"];
    let named = |line| refused("a checkpoint with a flipped bit", 1, line).after(flipped).says(&DAMAGED);
    vec![
        named("export runs/run/checkpoints/step_000001 --out new"),
        named("export runs/run/checkpoints/step_000001/policy --out new"),
        named("eval --model runs/run/checkpoints/step_000001 --data val.parquet"),
        named("eval --model runs/run/checkpoints/step_000001/policy --data val.parquet"),
        named("generate --model runs/run/checkpoints/step_000001/policy/ --prompt a"),
        named("score --model runs/run/checkpoints/step_000001/policy --input score.jsonl"),
        #[cfg(unix)]
        refused("a link to a damaged checkpoint's policy", 1, "score --model link --input score.jsonl")
            .after(|dir| {
                flipped(dir);
                std::os::unix::fs::symlink(dir.join(STEP).join("policy"), dir.join("link")).unwrap();
            })
            .says(&DAMAGED),
        refused("a checkpoint without its manifest", 1, "generate --model runs/run/checkpoints/step_000001 --prompt a")
            .after(|dir| {
                run(dir);
                fs::remove_file(dir.join(STEP).join("MANIFEST.json")).unwrap();
            })
            .says(&["step_000001 is damaged", "MANIFEST.json cannot be read"]),
        refused("a run without a checkpoint", 1, "eval --model runs/run --data val.parquet")
            .after(|dir| fs::create_dir_all(dir.join("runs/run/checkpoints")).unwrap())
            .says(&["runs/run/checkpoints", "no complete checkpoint"]),
    ]
}
