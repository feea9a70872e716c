//! What the book shows of `luspo check` is what it prints: a `text` block behind a `sh` block of that command alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::page::{Page, repository};

/// One output in a page.
pub struct Output {
    /// Where it stands.
    pub place: String,
    /// The command, as the page has it.
    command: String,
    /// What the page shows.
    pub written: String,
    /// What is printed now.
    pub printed: String,
}

/// The outputs of `luspo check` in a page.
pub fn outputs(page: &Page) -> Vec<Output> {
    let dir = tempfile::tempdir().unwrap();
    symlink(repository().join("configs"), dir.path().join("configs")).unwrap();
    let pairs = page.blocks.windows(2).filter(|pair| pair[0].text.starts_with("luspo check "));
    let outputs = pairs.filter(|pair| pair[1].language() == "text").map(|pair| {
        let words = shlex::split(&pair[0].text.replace("\\\n", " ")).unwrap();
        let mut luspo = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
        let output = luspo.args(&words[1..]).current_dir(dir.path()).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let (command, written) = (pair[0].text.clone(), pair[1].text.clone());
        Output { place: page.place(&pair[1]), command, written, printed }
    });
    outputs.collect()
}

/// Puts what is printed now in the place of what was.
pub fn bless(page: &Page, outputs: &[Output]) {
    let mut text = fs::read_to_string(&page.path).unwrap();
    for Output { command, written, printed, .. } in outputs {
        let both = |output: &str| format!("{command}```\n\n```text\n{output}```");
        text = text.replacen(&both(written), &both(printed), 1);
    }
    fs::write(&page.path, text).unwrap();
}
