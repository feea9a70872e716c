//! Runs whose disk becomes full: what was saved is whole, the message names the file, and with more room they go on.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output};

use super::support::{TINY, luspo, repository, train};
use super::{OVERRIDES, assert_same, resume};

/// Runs a shell script with the `train` command of the run `name` as its arguments.
fn shell(dir: &Path, launcher: &[&str], script: &str, name: &str) -> Output {
    Command::new(launcher[0])
        .args(&launcher[1..])
        .args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_luspo-under-test"), "train"])
        .arg(repository().join("configs/arithmetic.toml"))
        .args(TINY)
        .args(OVERRIDES)
        .args([&format!("run.name={name}"), "--resume"])
        .current_dir(dir)
        .output()
        .unwrap()
}

fn assert_stopped(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(error.contains("runs/") && error.contains(words), "{said}");
}

/// The checkpoints that a stopped run has are those of the whole run, and nothing half written is beside them.
fn assert_checkpoints_are_whole(whole: &Path, stopped: &Path) {
    for entry in fs::read_dir(stopped.join("checkpoints")).into_iter().flatten() {
        let name = entry.unwrap().file_name();
        let (expected, found) = (whole.join("checkpoints").join(&name), stopped.join("checkpoints").join(&name));
        for file in ["policy/model.safetensors", "optimizer.safetensors", "state.json"] {
            assert!(fs::read(expected.join(file)).ok() == fs::read(found.join(file)).ok(), "{name:?}: {file}");
        }
        assert!(found.join("MANIFEST.json").is_file(), "{name:?}");
    }
}

#[test]
fn a_run_on_a_full_disk_keeps_its_checkpoints_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    // A mount of its own, gone when the script ends.
    let launcher = ["unshare", "--map-root-user", "--mount"];
    let mount =
        Command::new(launcher[0]).args(&launcher[1..]).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(dir.path()).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        // Not `eprintln!`, which a test that passes swallows.
        let said = "skipped: no tmpfs can be mounted here; the test of files that cannot grow does what it can";
        writeln!(io::stderr(), "{said}").unwrap();
        return;
    }
    train(dir.path(), "whole", &OVERRIDES);
    let whole = dir.path().join("runs/whole");
    // Full before the first checkpoint, within the warm-up, and after some steps; a checkpoint takes 350 kB.
    for size in ["100k", "500k", "2m"] {
        let script = format!(
            "mkdir -p runs/{size} && mount -t tmpfs -o size={size} tmpfs runs/{size} || exit 99
             \"$@\"; status=$?
             cp -r runs/{size} stopped_{size}
             mount -o remount,size=64m runs/{size} && \"$@\" >&2 || exit 98
             cp -r runs/{size} finished_{size}
             exit $status"
        );
        let output = shell(dir.path(), &launcher, &script, size);
        assert_stopped(&output, "No space left on device");
        assert_checkpoints_are_whole(&whole, &dir.path().join(format!("stopped_{size}")));
        assert_same(&whole, &dir.path().join(format!("finished_{size}")));
    }
}

#[test]
fn a_run_whose_files_cannot_grow_keeps_its_checkpoints_and_goes_on_when_they_can() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "whole", &OVERRIDES);
    let whole = dir.path().join("runs/whole");
    // In blocks of 512 bytes: too little for the data (10 kB), for the weights (110 kB), for the moments (220 kB).
    for blocks in [1, 10, 100, 300] {
        let name = format!("limit_{blocks}");
        // Without the signal that would kill the process, the system refuses to write as it does on a full disk.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        assert_stopped(&shell(dir.path(), &["env"], &script, &name), "File too large");
        let run = dir.path().join("runs").join(&name);
        assert_checkpoints_are_whole(&whole, &run);
        if run.exists() {
            resume(dir.path(), &name).success();
            assert_same(&whole, &run);
        } else {
            assert!(blocks <= 10, "the data was written, so that the run had begun");
        }
    }
    luspo(dir.path()).args(["replay", "runs/limit_300", "--step", "6"]).assert().success();
}
