//! What a run tells of itself while it goes on: in a terminal, piped, as JSON, and in the files of `[logging]`.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{TINY, luspo, repository, train};

/// What the tiny run `name` prints with these words added.
fn printed(dir: &Path, name: &str, words: &[&str]) -> String {
    let output = luspo(dir)
        .arg("train")
        .arg(repository().join("configs/arithmetic.toml"))
        .args(TINY)
        .arg(format!("run.name={name}"))
        .args(words)
        .assert()
        .success();
    String::from_utf8(output.get_output().stdout.clone()).unwrap()
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap()
}

#[test]
fn piped_output_is_plain_lines() {
    let dir = tempfile::tempdir().unwrap();
    let text = printed(dir.path(), "a", &[]);
    assert!(!text.contains('\x1b') && !text.contains('\r'), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("step   ")).count(), 3, "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn json_is_the_lines_of_the_metrics_files_and_then_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let text = printed(dir.path(), "a", &["--json"]);
    let (metrics, result) = text.trim_end().rsplit_once('\n').unwrap();
    let files = read(dir.path(), "runs/a/sft_metrics.jsonl") + &read(dir.path(), "runs/a/metrics.jsonl");
    assert_eq!(metrics, files.trim_end());
    let result: Value = serde_json::from_str(result).unwrap();
    assert_eq!(result.as_object().unwrap().keys().collect::<Vec<_>>(), ["run", "policy", "before", "after"]);

    let quiet = printed(dir.path(), "b", &["--json", "-q"]);
    assert_eq!(quiet.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&quiet).unwrap()["run"], "runs/b");
}

#[test]
fn every_key_of_logging_switches_its_output_off() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["jsonl", "tensorboard", "rollouts"];
    let found = |name: &str| -> Vec<bool> {
        let names: Vec<String> = std::fs::read_dir(dir.path().join("runs").join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        let has = |part: &str| names.iter().any(|name| name.contains(part));
        vec![has("metrics.jsonl"), has("tfevents"), has("rollouts")]
    };
    train(dir.path(), "all", &[]);
    assert_eq!(found("all"), [true; 3]);
    for (index, key) in keys.iter().enumerate() {
        train(dir.path(), key, &[&format!("logging.{key}=false")]);
        let expected: Vec<bool> = (0..keys.len()).map(|other| other != index).collect();
        assert_eq!(found(key), expected, "logging.{key} = false");
    }
    let text = printed(dir.path(), "silent", &["logging.console=false"]);
    assert!(!text.contains("step   1/3") && text.contains("policy   runs/silent"), "{text}");
}

#[test]
#[ignore = "needs LUSPO_TEST_PYTHON"]
fn python_terminal_shows_a_live_line_within_its_width_and_colors_unless_told_not_to() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
import fcntl, os, pty, re, struct, sys, termios
columns, command = int(sys.argv[1]), sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.environ["TERM"] = "xterm-256color"
    os.execvp(command[0], command)
text = b""
try:
    while part := os.read(terminal, 65536):
        text += part
except OSError:
    pass
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, text.decode()
plain = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", text.decode())]
assert any(re.match(r"step 3/3 \w+ +\S.*, eta ", line) for line in plain), plain
live = [line for line in plain if re.match(r"(loading|warm-up \d+/12 loss|step \d/3 (sampling|updating))", line)]
assert max(len(line) for line in live) <= columns, live
assert (re.search(rb"\x1b\[[0-9;]+m", text) is None) == ("NO_COLOR" in os.environ)
"#;
    let python = std::env::var_os("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON names a Python");
    for (columns, no_color) in [("80", false), ("60", true)] {
        let mut command = Command::new(&python);
        command.current_dir(dir.path()).env_remove("NO_COLOR").args(["-c", script, columns]);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        command
            .arg(env!("CARGO_BIN_EXE_luspo-under-test"))
            .arg("train")
            .arg(repository().join("configs/arithmetic.toml"))
            .args(TINY)
            .arg(format!("run.name=columns_{columns}"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
