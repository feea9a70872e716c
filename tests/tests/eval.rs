//! `luspo eval` on several files and several checkpoints, with every answer kept, interrupted and gone on with.
#![cfg(unix)] // processes are killed

#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use luspo::data::task::{self, TaskConfig};
use luspo::trainer::{AnswerRow, read_answers};
use serde_json::Value;
use tempfile::TempDir;

use support::{luspo, train};

/// A working directory with a run of three steps, each saved and validated by samples, and another file of prompts.
fn ground() -> &'static Path {
    static GROUND: OnceLock<TempDir> = OnceLock::new();
    let ground = GROUND.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let sampled = ["save_freq=1", "test_freq=1", "val_n=4", "val_temperature=1", "val_top_p=0.9", "run.seed=7"];
        train(dir.path(), "a", &sampled);
        let mut sorting = TaskConfig::named("sorting").unwrap();
        if let TaskConfig::Sorting(task) = &mut sorting {
            (task.train_prompts, task.val_prompts, task.sft_examples) = (1, 6, 1);
        }
        task::generate(&sorting, &dir.path().join("sorting"), 0).unwrap();
        dir
    });
    ground.path()
}

const SETTINGS: [&str; 10] =
    ["--n", "4", "--temperature", "1", "--top-p", "0.9", "--max-response-length", "39", "--seed", "7"];

fn eval(steps: &[usize], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
    command.current_dir(ground()).args(["eval", "--json", "--data", "runs/a/data/val.parquet"]).args(SETTINGS);
    command.arg("--model").args(steps.iter().map(|step| format!("runs/a/checkpoints/step_{step:06}"))).args(more);
    command
}

/// The lines that an evaluation prints.
fn lines(command: &mut Command) -> Vec<Value> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every file below a folder with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().into(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn sampled_answers_of_checkpoints_measure_what_the_run_measured() {
    let out = tempfile::tempdir().unwrap();
    let kept = out.path().join("kept");
    let rewards = ["--reward", "runs/a/config.toml"];
    let more = ["--reward", "runs/a/config.toml", "--out", kept.to_str().unwrap(), "--max-batch-size", "3"];
    let metrics = fs::read_to_string(ground().join("runs/a/metrics.jsonl")).unwrap();
    let metrics: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // With the answers in one piece, and in parts that are kept.
    for more in [&rewards[..], &more] {
        let lines = lines(&mut eval(&[0, 1, 3], more));
        for (line, step) in lines.iter().zip([0, 1, 3]) {
            assert_eq!(line["model"], format!("runs/a/checkpoints/step_{step:06}"));
            let numbers = line.as_object().unwrap().iter().filter(|(name, _)| *name != "model");
            assert!(numbers.clone().count() > 15, "{line}");
            for (name, value) in numbers {
                assert_eq!(*value, metrics[step][name], "{name} after step {step}");
            }
        }
        assert_ne!(lines[0], lines[2]);
    }
}

/// The share of right answers, and pass@k by counting every set of k answers, from the rows alone.
fn by_hand(rows: &[AnswerRow], n: usize, k: usize) -> (f64, f64) {
    let right = rows.iter().filter(|row| row.is_right()).count();
    let (mut hits, mut sets) = (0, 0);
    for group in rows.chunks(n) {
        for set in (0_u32..1 << n).filter(|set| set.count_ones() as usize == k) {
            sets += 1;
            hits += usize::from(group.iter().enumerate().any(|(at, row)| set >> at & 1 == 1 && row.is_right()));
        }
    }
    (right as f64 / rows.len() as f64, hits as f64 / sets as f64)
}

#[test]
fn every_answer_is_kept_and_the_numbers_are_those_of_the_answers() {
    let out = tempfile::tempdir().unwrap();
    let more = ["--out", out.path().to_str().unwrap(), "--data", "runs/a/data/val.parquet", "sorting/val.parquet"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
    command.current_dir(ground()).args(["eval", "--json", "--model", "runs/a"]).args(SETTINGS).args(more);
    let line = lines(&mut command).remove(0);
    assert_eq!(line.get("model"), None, "it is the only one");
    let rows = read_answers(&out.path().join("answers/00.parquet")).unwrap().rows;
    assert_eq!(rows.len(), (16 + 6) * 4);
    for (source, name) in [("luspo/arithmetic", "arithmetic"), ("luspo/sorting", "sorting")] {
        let rows: Vec<AnswerRow> = rows.iter().filter(|row| row.data_source == source).cloned().collect();
        assert_eq!(rows.len(), if name == "sorting" { 24 } else { 64 });
        for k in [1, 2, 4] {
            let (mean, pass) = by_hand(&rows, 4, k);
            let near = |metric: String, expected: f64| {
                let value = line[&metric].as_f64().unwrap();
                assert!((value - expected).abs() < 1e-12, "{metric}: {value}, not {expected}");
            };
            near(format!("val-core/{source}/acc/mean@4"), mean);
            near(format!("val-aux/{source}/acc/pass@{k}"), pass);
            let end = |end: &str| line[format!("val-aux/{source}/acc/pass@{k}/ci95_{end}")].as_f64().unwrap();
            assert!(end("low") <= pass && pass <= end("high"), "{source}: pass@{k}");
        }
        for (row, number) in rows.iter().zip(0..) {
            assert_eq!((row.model.as_str(), row.sample), ("runs/a", number % 4));
            assert!((1..=39).contains(&row.response_length) && !row.prompt.is_empty() && !row.ground_truth.is_empty());
            assert_eq!(row.score, row.components["accuracy"]);
            assert_eq!(row.score, row.correct.map(|right| f64::from(u8::from(right))));
        }
        let judge = luspo::reward::verifier(name).unwrap();
        for row in &rows {
            assert_eq!(Some(judge.verify(&row.response, &row.ground_truth).correct), row.correct, "{row:?}");
        }
    }
    let names: Vec<PathBuf> = contents(out.path()).into_keys().collect();
    assert_eq!(names, [".lock", "answers/00.parquet", "eval.json", "metrics.jsonl"].map(PathBuf::from));
    assert_eq!(fs::read_to_string(out.path().join("metrics.jsonl")).unwrap(), format!("{line}\n"));

    // For people there is a table, with intervals.
    let mut command = luspo(ground());
    let shown = command.args(["eval", "--model", "runs/a", "--data", "sorting/val.parquet"]).args(SETTINGS).assert();
    let table = String::from_utf8(shown.success().get_output().stdout.clone()).unwrap();
    assert!(table.contains("95 % of accuracy (mean@4)") && table.contains("pass@4"), "{table}");
}

/// Starts an evaluation in small parts and kills it as soon as `parts` of them are there.
fn kill_after(out: &Path, model: usize, parts: usize) -> bool {
    let mut child = eval(&[0, 3], &["--out", out.to_str().unwrap(), "--max-batch-size", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    loop {
        let there = fs::read_dir(out.join(format!("parts/{model:02}"))).into_iter().flatten().flatten();
        let there = there.filter(|part| !part.file_name().to_string_lossy().starts_with('.')).count();
        if there >= parts {
            child.kill().unwrap(); // SIGKILL
        }
        match child.try_wait().unwrap() {
            Some(status) => return !status.success(),
            None => thread::sleep(Duration::from_millis(1)),
        }
        assert!(started.elapsed() < Duration::from_secs(300));
    }
}

#[test]
fn an_evaluation_that_was_killed_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let done = |out: &Path| lines(&mut eval(&[0, 3], &["--out", out.to_str().unwrap(), "--max-batch-size", "1"]));
    let expected = done(&whole);
    assert_eq!(contents(&whole).len(), 5);
    // In the first model's answers, then in the second's.
    let killed: Vec<bool> = [(0, 1), (0, 4), (1, 3)].map(|(model, parts)| kill_after(&cut, model, parts)).into();
    assert!(killed.contains(&true), "it was always faster than the test");
    let parts_kept = cut.join("parts").is_dir();
    assert!(parts_kept || !killed[2], "something was left to go on with");
    assert_eq!(done(&cut), expected);
    assert_eq!(contents(&cut), contents(&whole));

    // Once more nothing is sampled: weights are not even there.
    let output = eval(&[0, 3], &["--out", cut.to_str().unwrap(), "--max-batch-size", "1"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("all 64 answers are there"));
    assert_eq!(contents(&cut), contents(&whole));
}

#[test]
fn another_evaluation_in_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    lines(&mut eval(&[3], &["--out", out]));
    let before = contents(Path::new(out));
    let refused = |mut command: Command, words: &[&str]| {
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        for part in words {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    };
    refused(
        eval(&[3], &["--out", out, "--top-k", "5"]),
        &[out, "it holds another evaluation: top_k (there 0, here 5);"],
    );
    refused(eval(&[1], &["--out", out]), &["models"]);
    refused(eval(&[3], &["--out", out, "--data", "sorting/val.parquet"]), &["another evaluation: data"]);
    refused(eval(&[3], &["--out", out, "--verifier", "exact"]), &["another evaluation: reward"]);
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine.txt"), "mine").unwrap();
    refused(eval(&[3], &["--out", other.to_str().unwrap()]), &["it holds mine.txt, and no evaluation"]);
    assert_eq!(contents(Path::new(out)), before);
    assert_eq!(contents(&other).len(), 1);

    // A file that was damaged is named, and what it held is sampled again once it is gone.
    let file = Path::new(out).join("answers/00.parquet");
    fs::write(&file, &before[Path::new("answers/00.parquet")][..200]).unwrap();
    let output = eval(&[3], &["--out", out]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("answers/00.parquet: not a readable file of answers"));
    fs::remove_file(&file).unwrap();
    lines(&mut eval(&[3], &["--out", out]));
    assert_eq!(contents(Path::new(out)), before);
}
