//! Runs the `sh` blocks of a page, in order, as a reader would: in one folder, with `configs/` in it.
//!
//! Two commands are stand-ins. `luspo` is the binary under test; behind `train` and `sft` of `configs/arithmetic.toml` it
//! inserts [`SMALL`] before the page's own overrides, which therefore win. `cargo run … -p luspo-cli -- ARGUMENTS` is
//! `luspo ARGUMENTS`; whatever else cargo is asked for (to build, to test, to run an example) is not done again here,
//! but a package that it names must exist.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::page::{Block, Page, repository};

/// The arithmetic configuration, so small that its steps, as many as it says, take moments.
pub const SMALL: &str = "hidden_size=32 intermediate_size=64 num_hidden_layers=1 train_prompts=64 val_prompts=16 \
                     sft_examples=256 sft.steps=12 sft.batch_size=16 train_batch_size=2 ppo_mini_batch_size=1 \
                     rollout.n=2";

/// Runs every `sh` block of a page; of those marked `dry`, only the arguments of `luspo` are parsed.
pub fn run_blocks(page: &Page) {
    let dir = tempfile::tempdir().unwrap();
    let tools = tempfile::tempdir().unwrap();
    symlink(repository().join("configs"), dir.path().join("configs")).unwrap();
    stand_ins(tools.path());
    for block in &page.blocks {
        if let Some(file) = block.file() {
            fs::write(dir.path().join(file), &block.text).unwrap();
        }
        match (block.language(), block.has("dry")) {
            ("sh", false) => run(page, block, dir.path(), tools.path()),
            ("sh", true) => parse(page, block),
            _ => {}
        }
    }
}

fn run(page: &Page, block: &Block, dir: &Path, tools: &Path) {
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh").args(["-euc", &block.text]).current_dir(dir).env("PATH", path).output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}\n{}\n{}{}",
        page.place(block),
        output.status,
        block.text,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `luspo` and `cargo` as the blocks see them.
fn stand_ins(tools: &Path) {
    let luspo = env!("CARGO_BIN_EXE_luspo-under-test");
    let script = |name: &str, text: String| {
        let file = tools.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "luspo",
        format!(
            "#!/bin/sh\ncase \"$1 ${{2-}}\" in\n\
             'train configs/arithmetic.toml'|'sft configs/arithmetic.toml')\n\
             command=$1 config=$2; shift 2; exec {luspo} $command $config {SMALL} \"$@\";;\n\
             esac\nexec {luspo} \"$@\"\n"
        ),
    );
    let crates = repository();
    script(
        "cargo",
        format!(
            "#!/bin/sh\npackage=\nwhile [ $# -gt 0 ]; do\ncase $1 in\n\
             -p) package=$2; shift;;\n--) shift; break;;\nesac\nshift\ndone\n\
             if [ \"$package\" = luspo-cli ] && [ $# -gt 0 ]; then exec luspo \"$@\"; fi\n\
             [ -z \"$package\" ] || grep -qr --include=Cargo.toml \"^name = \\\"$package\\\"\" {crates}/crates \
             {crates}/examples {crates}/benchmarks {crates}/tests || {{ echo \"no package $package\" >&2; exit 1; }}\n",
            crates = crates.display()
        ),
    );
}

/// Every `luspo` command of a block goes through the argument parser: `--help` behind it keeps it from starting.
fn parse(page: &Page, block: &Block) {
    for line in block.text.replace("\\\n", " ").lines() {
        let words = shlex::split(line).unwrap_or_else(|| panic!("{}: not a command: {line}", page.place(block)));
        if words.first().is_some_and(|word| word == "luspo") {
            let output = Command::new(env!("CARGO_BIN_EXE_luspo-under-test")).args(&words[1..]).arg("--help").output();
            let output = output.unwrap();
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {line}\n{message}", page.place(block));
        }
    }
}
