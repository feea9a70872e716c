//! Datasets and built-in tasks through the command: generated, inspected, trained on.

#[cfg(target_os = "linux")]
#[path = "support/peak.rs"]
mod peak;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value, json};

/// A model of a moment and two steps on whatever `[data]` says.
const CONFIG: &str = r#"
[run]
name = "run"

[model.init]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1

[data]
train_batch_size = 2
max_prompt_length = 160
max_response_length = 64

[rollout]
n = 2

[trainer]
ppo_mini_batch_size = 1
total_training_steps = 2
"#;

/// `luspo`, in the working directory `dir`.
fn luspo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
    command.current_dir(dir);
    command
}

fn json_of(dir: &Path, arguments: &[&str]) -> Value {
    let output = luspo(dir).args(arguments).arg("--json").assert().success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

fn metrics(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("runs/run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_procedural_task_warms_a_policy_up_and_trains_it() {
    for task in ["countdown", "linear_equation", "base_conversion", "sorting"] {
        let dir = tempfile::tempdir().unwrap();
        let sizes = "train_prompts = 16\nval_prompts = 4\nsft_examples = 32";
        let config = format!(
            "{CONFIG}\n[sft]\nsteps = 2\nbatch_size = 4\n\n[data.task]\nname = \"{task}\"\ndifficulty = 2\n{sizes}\n"
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        luspo(dir.path()).args(["train", "config.toml"]).assert().success();
        let metrics = metrics(dir.path());
        let last = metrics.last().unwrap();
        assert_eq!(last["step"], 2, "{task}");
        assert!(last[format!("val-core/luspo/{task}/acc/mean@1")].is_number(), "{task}: {last}");
        let seen = json_of(dir.path(), &["data", "inspect", "runs/run/data/sft.parquet"]);
        assert_eq!(seen["data_sources"], json!([[format!("luspo/{task}"), 32]]));
        assert_eq!(seen["examples"][0]["extra_info"]["difficulty"], 2);
    }
}

#[test]
fn a_generated_task_has_the_level_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    luspo(dir.path()).args(["data", "generate", "sorting", "--difficulty", "5", "--out", "hard"]).assert().success();
    let seen = json_of(dir.path(), &["data", "inspect", "hard/train.parquet", "--val", "hard/val.parquet"]);
    assert_eq!((&seen["rows"], &seen["distinct_prompts"]), (&json!(4096), &json!(4096)));
    assert_eq!(seen["overlap"], json!({ "val_prompts": 256, "shared": 0, "examples": [] }));
    assert_eq!(seen["examples"][0]["ground_truth"].as_str().unwrap().split(' ').count(), 12);
    for (arguments, problem) in [
        ("sorting --difficulty 6", "`difficulty` is 6; it must be 1 to 5"),
        ("arithmetic --difficulty 2", "this task has one level only"),
    ] {
        let output = luspo(dir.path()).args(["data", "generate", "--out", "none"]).args(arguments.split(' ')).assert();
        let error = String::from_utf8(output.code(2).get_output().stderr.clone()).unwrap();
        assert!(error.contains(problem), "{error}");
    }
}

/// Rows `{number}+{number}=` as JSON Lines; the one numbered 3 has no gold answer, and 1 appears again with another.
fn rows() -> String {
    let row = |number: usize, gold: String| {
        let row = json!({ "prompt": format!("{number}+{number}="), "data_source": "mine", "extra_info": { "n": number },
            "reward_model": { "ground_truth": gold } });
        format!("{row}\n")
    };
    let gold = |number: usize| if number == 3 { String::new() } else { (2 * number).to_string() };
    (0..6).map(|number| row(number, gold(number))).collect::<String>() + &row(1, "3".into())
}

#[test]
fn json_lines_train_and_rows_without_a_gold_are_refused_or_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), CONFIG).unwrap();
    fs::write(dir.path().join("rows.jsonl"), rows()).unwrap();
    let train = ["train", "config.toml", "train_files=rows.jsonl", "reward.verifier=exact"];
    let output = luspo(dir.path()).args(train).assert().code(1);
    let error = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(error.contains("rows.jsonl: row 3: `reward_model.ground_truth` is empty"), "{error}");
    assert!(error.contains("data.filter_invalid = true"), "{error}");

    let output = luspo(dir.path()).args(train).arg("filter_invalid=true").assert().success();
    let log = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    for count in ["rows.jsonl: 1 of 7 rows left out", "rows.jsonl: prompts with several gold answers: 1"] {
        assert!(log.contains(count), "{log}");
    }
    assert_eq!(metrics(dir.path()).len(), 2);
}

#[test]
fn an_inspection_prints_lengths_conflicts_and_overlaps() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("rows.jsonl"), rows()).unwrap();
    let inspect = ["data", "inspect", "rows.jsonl", "--val", "rows.jsonl"];
    let output = luspo(dir.path()).args(inspect).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    for part in [
        "rows               7",
        "conflicting golds  1",
        "empty golds        1",
        "validation         6 of 6 prompts are in these files",
        "4–4 characters ████████████████████████████████████████ 7",
        "── several golds ──\n1+1=\nrow 1: 2\nrow 6: 3",
        "── in the validation files too ──\n0+0=",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_dataset() {
    use std::io::Write;
    use std::process::Stdio;

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), CONFIG).unwrap();
    let peak = |rows: usize| {
        let mut file = std::io::BufWriter::new(fs::File::create(dir.path().join("rows.jsonl")).unwrap());
        let long = "long ".repeat(4000);
        for number in 0..rows {
            let row = json!({ "prompt": format!("{number}+{number}="), "data_source": "mine",
                "extra_info": { "text": long }, "reward_model": { "ground_truth": "2" } });
            writeln!(file, "{row}").unwrap();
        }
        file.into_inner().unwrap();
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
            .current_dir(dir.path())
            .args(["train", "-q", "config.toml", "train_files=rows.jsonl", "reward.verifier=exact"])
            .arg(format!("run.name=run{rows}"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        peak::peak(run)
    };
    // 20 kB a row: 4 MB, and 240 MB.
    let [few, many] = [200, 12_000].map(peak);
    println!("{:.0} MB with 200 rows, {:.0} MB with 12,000", few / 1e6, many / 1e6);
    assert!(many - few < 60e6, "{:.0} MB more", (many - few) / 1e6);
}
