//! The book and the README keep their word: what a reader could run is run, or read by what would run it.
//!
//! | block | what becomes of it |
//! |---|---|
//! | `rust` | a documentation test of this package's library, `src/lib.rs` |
//! | `rust,ignore` | a quotation: it stands in the file that its first line names |
//! | `sh` | run, see [`shell`]; with `dry` (a download or a GPU is needed) only its arguments are parsed |
//! | `toml` | loaded as a configuration, or as a part of one |
//! | `json` | parsed |
//! | `text` | output and formulas, shown only |
//!
//! `file=PATH` on a block gives it to the commands after it as a file.
#![cfg(unix)] // the blocks are for a POSIX shell

mod config_reference;
mod page;
mod printed;
mod shell;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use luspo::trainer::Config;

use crate::page::{chapter, pages, repository};

const REPOSITORY_URL: &str = "https://github.com/luspo-rs/luspo";

#[test]
fn every_block_says_what_it_is() {
    for page in pages() {
        for block in &page.blocks {
            let known = ["rust", "sh", "toml", "json", "text"].contains(&block.language());
            assert!(known, "{}: a block of unknown language `{}`", page.place(block), block.language());
            if block.language() == "json" {
                let parsed = serde_json::from_str::<serde_json::Value>(&block.text);
                assert!(parsed.is_ok(), "{}: {parsed:?}", page.place(block));
            }
        }
    }
}

#[test]
fn every_rust_block_is_tested() {
    let library = fs::read_to_string(repository().join("tests/src/lib.rs")).unwrap();
    for page in pages() {
        let tested = page.blocks.iter().any(|block| block.language() == "rust" && !block.has("ignore"));
        let named = library.contains(&format!("../../{}", page.name()));
        assert!(!tested || named, "{} has Rust blocks, but tests/src/lib.rs does not include it", page.name());
    }
}

#[test]
fn every_chapter_is_in_the_summary() {
    let summary = fs::read_to_string(repository().join("book/src/SUMMARY.md")).unwrap();
    for page in pages() {
        let name = page.path.file_name().unwrap().to_str().unwrap();
        let listed = summary.contains(&format!("({name})"));
        assert!(listed || ["README.md", "SUMMARY.md"].contains(&name), "{name} is not in SUMMARY.md");
    }
}

#[test]
fn every_link_into_the_repository_leads_to_a_file() {
    for page in pages() {
        for link in &page.links {
            let target = link.split('#').next().unwrap();
            let in_repository = ["/blob/main/", "/tree/main/"]
                .iter()
                .find_map(|kind| target.strip_prefix(REPOSITORY_URL).and_then(|path| path.strip_prefix(kind)));
            let file = match in_repository {
                Some(path) => repository().join(path),
                None if target.is_empty() || target.contains("://") => continue,
                None => page.path.parent().unwrap().join(target),
            };
            assert!(file.exists(), "{}: the link to {link} leads nowhere", page.name());
        }
    }
}

#[test]
fn quotations_stand_in_the_files_they_name() {
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.language() == "rust" && block.has("ignore")) {
            let (first, quotation) = block.text.split_once('\n').unwrap();
            let path = first
                .strip_prefix("// ")
                .unwrap_or_else(|| panic!("{}: a quotation begins with the path of its file", page.place(block)));
            let source = fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
            let mut rest = one_line(&source);
            // Parts between lines of `// …` follow one another in the file.
            for part in quotation.split("// …\n").map(one_line).filter(|part| !part.is_empty()) {
                let at = rest.find(&part);
                let at = at.unwrap_or_else(|| panic!("{}: {path} no longer says\n{part}", page.place(block)));
                rest = rest.split_off(at + part.len());
            }
        }
    }
}

/// Text without line breaks and indentation.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_configuration_loads() {
    for entry in fs::read_dir(repository().join("configs")).unwrap() {
        let file = entry.unwrap().path();
        Config::load(&file, &[]).unwrap_or_else(|e| panic!("{e}"));
    }
    let dir = tempfile::tempdir().unwrap();
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.language() == "toml") {
            // What a part leaves out comes from here.
            let mut whole: toml::Table = toml::from_str(&block.text).unwrap_or_else(|e| panic!("{e}"));
            if !whole.contains_key("model") {
                whole.insert("model".into(), toml::from_str("init = {}").map(toml::Value::Table).unwrap());
            }
            if whole.contains_key("reward") && !whole.contains_key("data") {
                let long = toml::from_str("max_response_length = 32768").map(toml::Value::Table);
                whole.insert("data".into(), long.unwrap());
            }
            let file = dir.path().join("part.toml");
            fs::write(&file, toml::to_string(&whole).unwrap()).unwrap();
            Config::load(&file, &[]).unwrap_or_else(|e| panic!("{}: {e}", page.place(block)));
        }
    }
}

#[test]
fn the_configuration_reference_is_current() {
    let file = repository().join("book/src/configuration.md");
    let current = config_reference::page();
    if std::env::var_os("LUSPO_BLESS").is_some() {
        fs::write(&file, &current).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    let hint = "book/src/configuration.md is out of date; \
                `LUSPO_BLESS=1 cargo test -p luspo-tests --test book` writes it again";
    assert!(written == current, "{hint}");
}

#[test]
fn what_the_book_shows_of_check_is_what_it_prints() {
    let page = chapter("memory.md");
    let outputs = printed::outputs(&page);
    assert!(outputs.len() >= 2, "only {} outputs found", outputs.len());
    if std::env::var_os("LUSPO_BLESS").is_some() {
        printed::bless(&page, &outputs);
    } else {
        for printed::Output { place, written, printed, .. } in outputs {
            let hint = "`LUSPO_BLESS=1 cargo test -p luspo-tests --test book` writes it again";
            assert!(written == printed, "{place} is not what is printed now; {hint}\n{printed}");
        }
    }
}

/// Every key of a configuration, dotted; sections too.
fn keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for section in config_reference::sections() {
        keys.extend(section.keys.iter().map(|key| format!("{}.{}", section.name, key.name)));
        keys.insert(section.name);
    }
    keys
}

#[test]
fn every_key_that_the_book_names_exists() {
    let keys = keys();
    let tables: BTreeSet<&str> = keys.iter().filter_map(|key| key.split_once('.')).map(|(table, _)| table).collect();
    for page in pages() {
        // That chapter names keys of verl and TRL; the next test reads its luspo columns.
        if page.path.ends_with("coming-from.md") {
            continue;
        }
        for code in &page.codes {
            let key = code.split(['=', ' ']).next().unwrap();
            let in_a_table = key.split_once('.').is_some_and(|(table, _)| tables.contains(table));
            let file = [".parquet", ".toml", ".safetensors", ".json", ".rs"].iter().any(|ending| key.ends_with(ending));
            let dotted = !file && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
            let section = code.strip_prefix('[').and_then(|code| code.strip_suffix(']'));
            if in_a_table && dotted {
                assert!(keys.contains(key), "{}: there is no key `{key}`", page.name());
            } else if let Some(section) = section.filter(|name| tables.contains(name.split('.').next().unwrap())) {
                assert!(keys.contains(section), "{}: there is no section `{code}`", page.name());
            }
        }
    }
}

#[test]
fn every_luspo_key_in_the_table_for_newcomers_exists() {
    let keys = keys();
    let mut read = 0;
    for table in chapter("coming-from.md").tables {
        let Some(column) = table.head.iter().position(|head| head == "luspo") else { continue };
        for row in &table.rows {
            for code in row[column].iter().filter(|code| code.contains('.')) {
                let key = code.split(['=', ' ']).next().unwrap();
                assert!(keys.contains(key), "there is no key `{key}`");
                read += 1;
            }
        }
    }
    assert!(read > 30, "only {read} keys found: has the table's head changed?");
}

#[test]
fn every_command_that_the_book_names_exists() {
    let mut commands = BTreeSet::new();
    for page in pages() {
        for code in &page.codes {
            let mut words = code.split_whitespace();
            if words.next() == Some("luspo")
                && let Some(command) = words.next().filter(|word| word.chars().all(|c| c.is_ascii_lowercase()))
            {
                commands.insert(command.to_string());
            }
        }
    }
    assert!(commands.contains("train"));
    for command in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_luspo-under-test")).args([&command, "--help"]).output().unwrap();
        assert!(output.status.success(), "there is no command `luspo {command}`");
    }
}

/// A run with a critic and with most of what else is off by default, for the metrics that come with it.
const MOST: &str = "loss_mode=ppo adv_estimator=gae use_kl_in_reward=true algorithm.entropy_ctrl.target=9 \
                    old_log_probs=trainer rollout_is=token rollout_rs=seq_mean_k3 rollout_rs_threshold=1 \
                    off_policy_mask_threshold=1 top_entropy_quantile=0.5 \
                    algorithm.filter_groups.enable=true max_num_gen_batches=2";

#[test]
fn every_metric_that_the_book_names_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    // Of runs with servers, which tests/servers has, and on GPUs.
    let mut measured = BTreeSet::from(["rollout/staleness", "perf/max_memory_reserved_gb"].map(String::from));
    for (name, overrides) in [
        ("kl", "use_kl_loss=true"),
        ("cut", "mask_truncated_completions=true"),
        ("unjudged", "reward.components.none.command=false"),
        ("all", MOST),
    ] {
        let status = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
            .current_dir(dir.path())
            .args(["train", "-q"])
            .arg(repository().join("configs/arithmetic.toml"))
            .args(shell::SMALL.split_whitespace())
            .args(["total_training_steps=2", &format!("run.name={name}")])
            .args(overrides.split_whitespace())
            .status();
        assert!(status.unwrap().success());
        let lines = fs::read_to_string(dir.path().join("runs").join(name).join("metrics.jsonl")).unwrap();
        let names = |line: &str| serde_json::from_str::<serde_json::Map<_, _>>(line).unwrap().into_iter();
        measured.extend(lines.lines().flat_map(names).map(|(key, _)| key));
    }
    let families: BTreeSet<&str> =
        measured.iter().filter_map(|key| key.split_once('/')).map(|(name, _)| name).collect();
    for page in pages() {
        for code in page.codes.iter().filter(|code| !code.contains(['{', '*', '…'])) {
            if code.split_once('/').is_some_and(|(family, rest)| families.contains(family) && !rest.contains('.')) {
                // A run without right answers does not measure their length.
                let names = [code.clone(), code.replace("/correct/", "/wrong/")];
                let known = measured.iter().any(|key| names.iter().any(|name| key.starts_with(name)));
                assert!(known, "{}: there is no metric `{code}`", page.name());
            }
        }
    }
}

#[test]
fn the_commands_of_the_readme_run() {
    let readme = pages().into_iter().find(|page| page.path.ends_with("README.md")).unwrap();
    shell::run_blocks(&readme);
}

#[test]
fn the_commands_of_the_book_run() {
    for page in pages().iter().filter(|page| !page.path.ends_with("README.md")) {
        shell::run_blocks(page);
    }
}
