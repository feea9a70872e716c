//! What `luspo check` finds in a configuration's data and on its disk, and that `luspo train` finds the same.

#[allow(dead_code)]
mod support;

use std::fs;
use std::path::Path;

use luspo::core::Message;
use luspo::data::{PromptText, Row, write_rows};
use serde_json::{Value, json};

use support::{TINY, luspo, repository, train};

/// Prompts of GSM8K, whose golds are these.
fn write(dir: &Path, name: &str, golds: &[&str]) {
    let row = |(number, gold): (usize, &&str)| Row {
        prompt: PromptText::Messages(vec![Message::new("user", format!("{name} {number}?"))]),
        data_source: "openai/gsm8k".into(),
        ability: None,
        ground_truth: gold.to_string(),
        extra_info: json!({ "split": name }),
    };
    write_rows(&dir.join(format!("{name}.parquet")), &golds.iter().enumerate().map(row).collect::<Vec<_>>()).unwrap();
}

const CONFIG: &str = r#"
[run]
name = "run"
[model.init]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
[data]
train_files = ["train.parquet"]
val_files = ["val.parquet"]
train_batch_size = 2
max_prompt_length = 24
max_response_length = 8
[rollout]
n = 2
[trainer]
total_training_steps = 1
"#;

fn lay(train: &[&str], val: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("run.toml"), CONFIG).unwrap();
    write(dir.path(), "train", train);
    write(dir.path(), "val", val);
    dir
}

/// The exit code, standard output and standard error of a command.
fn said(dir: &Path, line: &[&str]) -> (i32, String, String) {
    let output = luspo(dir).args(line).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(dir: &Path, overrides: &[&str]) -> Value {
    let (code, out, error) = said(dir, &[&["check", "run.toml", "--json"], overrides].concat());
    assert_eq!(code, 0, "{error}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn the_golds_of_every_built_in_task_are_right_to_its_verifier() {
    for task in ["arithmetic", "countdown", "linear_equation", "base_conversion", "sorting"] {
        let dir = tempfile::tempdir().unwrap();
        let config = CONFIG.replace("train_files = [\"train.parquet\"]\nval_files = [\"val.parquet\"]\n", "");
        let task =
            format!("[data.task]\nname = \"{task}\"\ntrain_prompts = 300\nval_prompts = 20\nsft_examples = 20\n");
        let lengths = config.replace("max_prompt_length = 24", "max_prompt_length = 200");
        fs::write(dir.path().join("run.toml"), lengths + &task).unwrap();
        let plan = json(dir.path(), &[]);
        let golds = plan["data"]["golds"].as_array().unwrap();
        assert_eq!(golds.len(), 2, "{plan}");
        for (check, part, tried) in [(&golds[0], "training", 256), (&golds[1], "validation", 20)] {
            assert_eq!((&check["part"], &check["tried"]), (&part.into(), &tried.into()), "{check}");
            assert_eq!((&check["refused"], &check["accepted"]), (&0.into(), &0.into()), "{check}");
        }
        assert_eq!(plan["data"]["warnings"], json!([]));
        // The task was made for the moment.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn golds_that_their_verifier_does_not_know_are_shown() {
    let dir = lay(&["7", "1,234", "8", "9", "ten"], &["5", "6"]);
    let (code, out, error) = said(dir.path(), &["check", "run.toml"]);
    assert_eq!(code, 0, "{error}");
    for part in [
        "data: 5 training prompts of up to ",
        "validation golds of openai/gsm8k: 2 of 2 are right to `gsm8k`, and so is none of 2 other answers\n",
        "warning: training golds of openai/gsm8k: 3 of 5 are right to `gsm8k`, and so is none of 5 other answers: row 1, \
         gold `1,234`: in `#### 1,234` `1234` was read, which is wrong; row 4, gold `ten`: in `#### ten` no answer was \
         found, which is wrong\n",
    ] {
        assert!(out.contains(part), "{part:?} is missing in\n{out}");
    }
    let check = &json(dir.path(), &[])["data"]["golds"][0];
    assert_eq!((&check["tried"], &check["refused"], &check["accepted"]), (&5.into(), &2.into(), &0.into()));
    assert_eq!(check["examples"][1]["row"], 4);

    // The run says the same, and goes on.
    let (code, out, error) = said(dir.path(), &["train", "run.toml"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("training golds of openai/gsm8k: 3 of 5 are right"), "{out}");
}

#[test]
fn a_verifier_that_knows_none_of_its_golds_is_refused_by_check_and_by_train() {
    let dir = lay(&["seven", "eight"], &["5"]);
    for command in ["check", "train"] {
        let (code, _, error) = said(dir.path(), &[command, "run.toml"]);
        assert_eq!(code, 2, "{error}");
        for part in ["`openai/gsm8k`", "`gsm8k` takes none of 2 gold answers for right", "row 0, gold `seven`"] {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    }
    assert!(!dir.path().join("runs/run").exists());
    // Another verifier knows them.
    assert_eq!(json(dir.path(), &["reward.verifier=exact"])["data"]["golds"][0]["refused"], 0);
}

#[test]
fn what_a_run_would_not_read_is_refused_before() {
    let dir = lay(&["7", "", "8"], &["5"]);
    let checked = said(dir.path(), &["check", "run.toml"]);
    assert_eq!((checked.0, said(dir.path(), &["train", "run.toml"]).2), (1, checked.2.clone()));
    assert!(checked.2.contains("row 1: `reward_model.ground_truth` is empty"), "{}", checked.2);
    let rows = &json(dir.path(), &["filter_invalid=true"])["data"]["train"];
    assert_eq!((&rows["prompts"], &rows["rows"]["invalid"]), (&2.into(), &1.into()));

    for (overrides, part) in [
        (&["filter_invalid=true", "train_batch_size=3"][..], "there are only 2 training prompts"),
        (&["filter_invalid=true", "max_prompt_length=2"], "train.parquet"),
        (&["filter_invalid=true", "max_position_embeddings=8"], "data.max_prompt_length = 24"),
        (&["filter_invalid=true", "math_extraction=[\"boxed\"]"], "reward.math_extraction"),
    ] {
        let checked = said(dir.path(), &[&["check", "run.toml"], overrides].concat());
        let trained = said(dir.path(), &[&["train", "run.toml"], overrides].concat());
        assert!(checked.2.contains(part), "{}", checked.2);
        assert_eq!((checked.0, checked.2), (trained.0, trained.2));
    }
}

#[test]
fn validation_prompts_that_are_trained_on_are_counted() {
    let dir = lay(&["7", "8", "9"], &["5"]);
    fs::copy(dir.path().join("train.parquet"), dir.path().join("val.parquet")).unwrap();
    let plan = json(dir.path(), &[]);
    assert_eq!(plan["data"]["leaked"], 3);
    let warnings = &plan["data"]["warnings"];
    assert_eq!(*warnings, json!(["warning: 3 validation prompts are also trained on; their accuracy says little"]));
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| if entry.path().is_dir() { bytes_in(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

#[test]
fn the_space_of_checkpoints_is_predicted() {
    for overrides in [&["sft.steps=0"][..], &["model.dtype=bf16"], &["model.lora.rank=4"]] {
        let dir = tempfile::tempdir().unwrap();
        let shape = ["hidden_size=128", "intermediate_size=384", "save_freq=1", "total_training_steps=2"];
        let overrides = [&shape[..], overrides].concat();
        let config = repository().join("configs/arithmetic.toml");
        let output =
            luspo(dir.path()).args(["check", "--json"]).arg(config).args(TINY).args(&overrides).output().unwrap();
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        train(dir.path(), "arithmetic", &overrides);
        let run = dir.path().join("runs/arithmetic");
        let base = run.join("base");
        let base = if base.exists() { bytes_in(&base) } else { 0 };
        let measured = (bytes_in(&run.join("checkpoints")) + base) as f64;
        let predicted = plan["disk"]["total"].as_f64().unwrap();
        println!("{overrides:?}: predicted {predicted}, measured {measured}");
        // Configurations, tokenizers and headers take some ten kilobytes a checkpoint.
        assert!((predicted / measured - 1.0).abs() < 0.1, "{overrides:?}: {predicted} and {measured}");
    }
}

#[test]
fn too_little_space_is_refused_by_check_and_told_of_by_train() {
    let dir = lay(&["7", "8"], &["5"]);
    let (code, out, error) = said(dir.path(), &["check", "run.toml", "--disk-space", "20kB"]);
    assert_eq!(code, 2);
    assert!(out.contains("disk: one checkpoint of ") && out.contains("there are 20 kB free"), "{out}");
    assert!(error.contains("in runs/run") && error.contains("trainer.max_ckpt_to_keep"), "{error}");
    assert_eq!(said(dir.path(), &["check", "run.toml", "--disk-space", "1GB"]).0, 0);
    assert_eq!(json(dir.path(), &[])["disk"]["fits"], true);
}

#[test]
fn prompts_that_differ_in_extra_info_alone_are_one_unless_a_reward_of_ones_own_reads_it() {
    let dir = lay(&["7", "8"], &["5"]);
    let row = |tests: &str| Row {
        prompt: PromptText::Messages(vec![Message::new("user", "write a program")]),
        data_source: "openai/gsm8k".into(),
        ability: None,
        ground_truth: "5".into(),
        extra_info: json!({ "tests": tests }),
    };
    write_rows(&dir.path().join("val.parquet"), &["a", "b", "a"].map(row)).unwrap();
    let counted = |overrides: &[&str]| {
        let validation = json(dir.path(), overrides)["data"]["validation"].clone();
        (validation["prompts"].as_u64(), validation["distinct"].as_u64())
    };
    assert_eq!(counted(&[]), (Some(3), Some(1)));
    assert_eq!(counted(&["reward.components.mine.command=[\"true\"]"]), (Some(3), Some(2)));
}
