//! What the book shows of `luspo check` is what it prints: a `text` block behind a `sh` block of that command alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::page::{Page, repository};

/// The pages' outputs of `luspo check`, each with what is printed now and where it stands.
pub fn outputs(page: &Page) -> Vec<(String, String, String)> {
    let dir = tempfile::tempdir().unwrap();
    symlink(repository().join("configs"), dir.path().join("configs")).unwrap();
    let pairs = page.blocks.windows(2).filter(|pair| pair[0].text.starts_with("luspo check "));
    let outputs = pairs.filter(|pair| pair[1].language() == "text").map(|pair| {
        let words = shlex::split(&pair[0].text.replace("\\\n", " ")).unwrap();
        let mut luspo = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"));
        let output = luspo.args(&words[1..]).current_dir(dir.path()).output().unwrap();
        (page.place(&pair[1]), pair[1].text.clone(), String::from_utf8(output.stdout).unwrap())
    });
    outputs.collect()
}

/// Puts what is printed now in the place of what was.
pub fn bless(page: &Page, outputs: &[(String, String, String)]) {
    let mut text = fs::read_to_string(&page.path).unwrap();
    for (_, written, printed) in outputs {
        text = text.replacen(written.as_str(), printed, 1);
    }
    fs::write(&page.path, text).unwrap();
}
