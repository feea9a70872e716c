//! Wrong input, through the command: each case says no in one sentence that names what is wrong and where, with the
//! right exit code, without a panic, and without changing anything.

mod arguments;
mod checks;
mod config;
mod datasets;
mod folders;
mod ground;
mod models;
#[cfg(unix)]
mod rewards;
mod runs;
mod special_files;
mod tokenizers;

use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;

use ground::{contents, lay};

/// One wrong input.
struct Case {
    /// What is wrong.
    what: &'static str,
    /// Makes it wrong, in a working directory that was right.
    prepare: fn(&Path),
    /// The command line, words divided by spaces; `''` is an empty word.
    line: &'static str,
    /// The exit code.
    code: i32,
    /// What the message must contain.
    says: &'static [&'static str],
}

/// A command line that is refused with this exit code.
fn refused(what: &'static str, code: i32, line: &'static str) -> Case {
    Case { what, prepare: |_| (), line, code, says: &[] }
}

impl Case {
    /// After this change to the working directory.
    fn after(mut self, prepare: fn(&Path)) -> Self {
        self.prepare = prepare;
        self
    }

    /// With a message that contains all of these.
    fn says(mut self, words: &'static [&'static str]) -> Self {
        self.says = words;
        self
    }

    /// What is not as it should be.
    fn problems(&self) -> Vec<String> {
        let dir = lay();
        (self.prepare)(dir.path());
        let before = contents(dir.path());
        let output = luspo(dir.path(), self.line).timeout(TIMEOUT).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        println!("{}\n  luspo {}\n  {}: {}", self.what, self.line, output.status, stderr.trim_end());

        let mut problems = Vec::new();
        let mut expect = |holds: bool, problem: &str| {
            if !holds {
                problems.push(format!("{} (luspo {}): {problem}\n{}: {stderr}", self.what, self.line, output.status));
            }
        };
        expect(output.status.code() == Some(self.code), &format!("the exit code is not {}", self.code));
        expect(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "it panicked");
        expect(!stdout.contains("error"), "an error on standard output");
        // Notes and warnings may stand before it.
        let message: String = stderr.split_inclusive('\n').skip_while(|line| !line.starts_with("error: ")).collect();
        expect(!message.is_empty(), "no error");
        for word in self.says {
            expect(message.contains(word), &format!("the message lacks `{word}`"));
        }
        // The parser of arguments adds a usage, that of TOML the place in the file; both end their last line.
        let excerpt = message.contains("For more information") || message.contains("TOML parse error");
        let lines = message.trim_end().lines().count();
        expect(lines <= if excerpt { 10 } else { 1 }, "the message is not one sentence");
        let mut after = contents(dir.path());
        if !before.contains_key(Path::new("runs")) && after.get(Path::new("runs")) == Some(&None) {
            // Where run folders would be; a run folder in it would be seen.
            after.remove(Path::new("runs"));
        }
        expect(after == before, "files have changed");
        problems
    }
}

/// No refusal takes long; a hang becomes a failure.
const TIMEOUT: Duration = Duration::from_secs(60);

fn luspo(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
    command.current_dir(dir).args(line.split(' ').map(|word| if word == "''" { "" } else { word }));
    command
}

fn check(cases: Vec<Case>) {
    let problems: Vec<String> = cases.iter().flat_map(Case::problems).collect();
    assert!(problems.is_empty(), "{} of {} cases:\n\n{}", problems.len(), cases.len(), problems.join("\n"));
}

#[test]
fn what_the_cases_spoil_works_before() {
    for line in [
        "train config.toml",
        "sft config.toml",
        "train task.toml",
        "check config.toml",
        "check task.toml",
        "eval --model model --data val.parquet --max-response-length 8",
        "generate --model model --prompt ab --max-response-length 8",
        "generate --model model --chat ab --max-response-length 8",
        "score --model model --input score.jsonl",
        "data inspect train.parquet --tokenizer model",
        "data generate arithmetic --out new",
        "devices",
    ] {
        let dir = lay();
        luspo(dir.path(), line).assert().success();
    }
}

#[test]
fn wrong_configurations_are_refused() {
    check(config::cases());
}

#[test]
fn what_a_check_finds_wrong_is_refused() {
    check(checks::cases());
}

#[test]
fn wrong_datasets_are_refused() {
    check(datasets::cases());
}

#[test]
fn wrong_model_folders_are_refused() {
    check(models::cases());
}

#[cfg(unix)]
#[test]
fn wrong_rewards_are_refused() {
    check(rewards::cases());
}

#[test]
fn wrong_tokenizers_and_chat_templates_are_refused() {
    check(tokenizers::cases());
}

#[test]
fn wrong_arguments_and_input_lines_are_refused() {
    check(arguments::cases());
}

#[test]
fn folders_in_use_or_out_of_reach_are_refused() {
    check(folders::cases());
}

#[test]
fn runs_that_are_damaged_or_none_are_refused() {
    check(runs::cases());
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_no_regular_file_is_refused() {
    check(special_files::cases());
}

/// A reader that went away, a disk that is full: what cannot be said is not said.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_no_panic() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let dir = lay();
    let mut luspo = std::process::Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
    luspo.current_dir(dir.path());
    assert_eq!(luspo.args(["train", "nowhere.toml"]).stderr(full()).status().unwrap().code(), Some(2));

    let mut luspo = std::process::Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
    let output = luspo.arg("devices").stdout(full()).stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: standard output: No space left"));
}
