//! Runs of which something on the disk is no longer what was written.

use std::fs;
use std::path::Path;

use std::process::Output;

use super::support::{TINY, luspo, repository, train};
use super::{OVERRIDES, POINTS, assert_same, assert_same_file, copy, metrics, resume};

#[test]
fn a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "whole", &OVERRIDES);
    let whole = dir.path().join("runs/whole");
    type Damage = fn(&Path);
    let flip: Damage = |file| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    let truncate: Damage = |file| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
    };
    let remove: Damage = |file| fs::remove_file(file).unwrap();
    let files =
        ["policy/model.safetensors", "policy/tokenizer.json", "optimizer.safetensors", "state.json", "MANIFEST.json"];
    for (number, (file, damage)) in files.iter().flat_map(|f| [flip, truncate, remove].map(|d| (f, d))).enumerate() {
        let name = format!("damaged_{number}");
        let run = dir.path().join("runs").join(&name);
        copy(&whole, &run);
        damage(&run.join("checkpoints/step_000006").join(file));
        let output = resume(dir.path(), &name).success();
        let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        for word in ["step_000006 is damaged", file, "step_000005 is used instead"] {
            assert!(said.contains(word), "{file}: {said}");
        }
        assert_same(&whole, &run);
    }
}

#[test]
fn a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &OVERRIDES);
    let run = dir.path().join("runs/a");
    for point in POINTS {
        fs::write(run.join("checkpoints").join(point).join("state.json"), "{}").unwrap();
    }
    let before = metrics(&run, "metrics.jsonl");
    let output = resume(dir.path(), "a").code(1);
    let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(said.contains("step_000006 is damaged: state.json"), "{said}");
    luspo(dir.path()).args(["export", "runs/a", "--out", "out"]).assert().code(1);
    assert!(!dir.path().join("out").exists());
    assert_eq!(metrics(&run, "metrics.jsonl"), before);
}

/// The run `whole`, six steps long, and below `runs` copies of it that have their last step still to make.
fn cut_runs(dir: &Path) -> impl Fn(&str) -> std::path::PathBuf {
    train(dir, "whole", &OVERRIDES);
    let runs = dir.join("runs");
    move |name| {
        let run = runs.join(name);
        copy(&runs.join("whole"), &run);
        fs::remove_dir_all(run.join("checkpoints/step_000006")).unwrap();
        run
    }
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn a_flipped_byte_in_any_other_file_is_refused_by_name_or_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cut = cut_runs(dir.path());
    let whole = dir.path().join("runs/whole");
    let files = [
        "config.toml",
        "metrics.jsonl",
        "sft_metrics.jsonl",
        "data/train.parquet",
        "data/val.parquet",
        "data/sft.parquet",
        "journal/step_000005.json",
        "rollouts/step_000005.parquet",
        "checkpoints/step_000000/policy/model.safetensors",
        "checkpoints/step_000003/optimizer.safetensors",
    ];
    for (number, (file, share)) in files.iter().flat_map(|file| [0.01, 0.3, 0.6, 0.99].map(|s| (file, s))).enumerate() {
        let name = format!("flipped_{number}");
        let run = cut(&name);
        let mut bytes = fs::read(run.join(file)).unwrap();
        let place = (bytes.len() as f64 * share) as usize;
        bytes[place] ^= 1;
        fs::write(run.join(file), bytes).unwrap();
        let output =
            luspo(dir.path()).args(["train", &format!("runs/{name}/config.toml"), "--resume"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let named = || file.split('/').any(|part| said.contains(part)) || said.contains("are not those that this run");
        match output.status.code() {
            Some(0) => assert_same_file(&whole, &run, "checkpoints/step_000006/policy/model.safetensors"),
            Some(1 | 2) => assert!(named(), "{file}, byte {place}: {said}"),
            code => panic!("{file}, byte {place}: {code:?}: {said}"),
        }
    }
}

#[test]
fn a_configuration_edited_since_the_last_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = cut_runs(dir.path())("edited");
    let file = run.join("config.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("kl_loss_coef = 0.01", "kl_loss_coef = 0.02")).unwrap();
    let words = ["runs/edited/config.toml: algorithm.kl_loss_coef changed", "step_000005/config.toml says"];
    refused(resume(dir.path(), "edited").get_output(), 2, &words);
    fs::copy(run.join("checkpoints/step_000005/config.toml"), file).unwrap();
    resume(dir.path(), "edited").success();
    assert_same(&dir.path().join("runs/whole"), &run);
}

#[test]
fn a_run_without_its_configuration_or_its_checkpoints_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cut = cut_runs(dir.path());
    let run = cut("bare");
    fs::remove_file(run.join("config.toml")).unwrap();
    let again = luspo(dir.path())
        .arg("train")
        .arg(repository().join("configs/arithmetic.toml"))
        .args(TINY)
        .args(OVERRIDES)
        .args(["run.name=bare", "--resume"])
        .output()
        .unwrap();
    refused(&again, 2, &["runs/bare/config.toml: the file is missing", "every checkpoint holds a copy"]);
    assert!(run.join("checkpoints/step_000005").is_dir() && run.join("data/train.parquet").is_file());

    let run = cut("unmounted");
    fs::rename(run.join("checkpoints"), run.join("elsewhere")).unwrap();
    let before = metrics(&run, "metrics.jsonl");
    refused(resume(dir.path(), "unmounted").get_output(), 1, &["runs/unmounted/checkpoints", "put the folder back"]);
    assert_eq!(metrics(&run, "metrics.jsonl"), before);
}

#[test]
fn a_checkpoint_under_the_name_of_another_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let run = cut_runs(dir.path())("swapped");
    copy(&run.join("checkpoints/step_000004"), &run.join("checkpoints/step_000006"));
    let output = resume(dir.path(), "swapped").success();
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("step_000006 is damaged: it holds the checkpoint of step 4"), "{said}");
    assert_same(&dir.path().join("runs/whole"), &run);
}

#[test]
fn where_the_only_kept_checkpoint_is_damaged_the_run_goes_back_to_the_warm_up() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "whole", &OVERRIDES);
    train(dir.path(), "one", &[&OVERRIDES[..], &["max_ckpt_to_keep=1"]].concat());
    let run = dir.path().join("runs/one");
    fs::write(run.join("checkpoints/step_000006/optimizer.safetensors"), "").unwrap();
    let output = resume(dir.path(), "one").success();
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("step_000000 is used instead"), "{said}");
    assert_same(&dir.path().join("runs/whole"), &run);
}
