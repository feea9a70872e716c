//! What a run draws its batches from, and what a warm-up learns from.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use luspo_core::{Message, Prompt};
use luspo_data::{DataError, LoadOptions, PromptDataset, PromptOverlong, PromptText, Row, Tokenizer};
use luspo_data::{load_sft, write_rows};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

fn tokenizer() -> Tokenizer {
    Tokenizer::train_byte_level(std::iter::empty(), 259).unwrap()
}

fn row(question: &str, gold: &str) -> Row {
    Row {
        prompt: PromptText::Messages(vec![Message::new("user", question)]),
        data_source: "luspo/arithmetic".into(),
        ability: None,
        ground_truth: gold.into(),
        extra_info: json!({ "answer": format!("so {gold}"), "level": 3 }),
    }
}

fn file(dir: &Path, name: &str, rows: &[Row]) -> PathBuf {
    let file = dir.join(name);
    write_rows(&file, rows).unwrap();
    file
}

fn load(files: &[PathBuf], max_prompt_length: usize, overlong: PromptOverlong) -> Result<PromptDataset, DataError> {
    PromptDataset::load(
        files,
        &tokenizer(),
        LoadOptions { max_prompt_length, overlong, filter_invalid: false, by_extra_info: false },
    )
}

fn prompts(dataset: &PromptDataset) -> Vec<Prompt> {
    dataset.iter().collect::<Result<_, _>>().unwrap()
}

fn numbered(len: usize) -> PromptDataset {
    let dir = TempDir::new().unwrap();
    let rows: Vec<Row> = (0..len).map(|i| row(&format!("{i:04}"), "1")).collect();
    load(&[file(dir.path(), "rows", &rows)], 100, PromptOverlong::Error).unwrap()
}

fn ids(dataset: &PromptDataset, step: u64, batch_size: usize, seed: u64) -> Vec<u64> {
    dataset.batch(step, batch_size, seed).unwrap().iter().map(|prompt| prompt.id).collect()
}

proptest! {
    #[test]
    fn every_epoch_has_each_prompt_once_and_no_batch_has_one_twice(
        len in 1usize..30, part in 0.0..1.0f64, seed: u64,
    ) {
        let dataset = numbered(len);
        let batch_size = 1 + (part * len as f64) as usize;
        let steps = 6 * len as u64;
        let batches: Vec<Vec<u64>> = (1..=steps).map(|step| ids(&dataset, step, batch_size, seed)).collect();
        for batch in &batches {
            prop_assert_eq!(batch.len(), batch_size);
            prop_assert_eq!(batch.iter().collect::<HashSet<_>>().len(), batch_size);
        }
        for epoch in batches.concat().chunks_exact(len) {
            prop_assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), len);
        }
    }
}

#[test]
fn a_batch_is_a_function_of_step_and_seed_alone() {
    let dataset = numbered(50);
    let forwards: Vec<_> = (1..=20).map(|step| ids(&dataset, step, 8, 1)).collect();
    let again = numbered(50);
    let backwards: Vec<_> = (1..=20).rev().map(|step| ids(&again, step, 8, 1)).collect();
    assert!(forwards.iter().eq(backwards.iter().rev()));
    assert_ne!(forwards[0], ids(&dataset, 1, 8, 2));
}

#[test]
fn epochs_differ_in_order() {
    let dataset = numbered(50);
    assert_ne!(ids(&dataset, 1, 50, 7), ids(&dataset, 2, 50, 7));
    assert_ne!(ids(&dataset, 1, 50, 7), (0..50).collect::<Vec<_>>());
}

#[test]
#[should_panic(expected = "a batch of 4 prompts from a dataset of 3")]
fn a_batch_larger_than_the_dataset_is_a_mistake_of_the_caller() {
    let _ = numbered(3).batch(1, 4, 0);
}

#[test]
fn ids_are_row_numbers_over_all_files_whatever_is_left_out() {
    let dir = TempDir::new().unwrap();
    let first = file(dir.path(), "first", &[row("short", "1"), row("much too long", "2")]);
    let second = file(dir.path(), "second", &[row("brief", "3")]);
    let dataset = load(&[first, second], 5, PromptOverlong::Filter).unwrap();
    let kept: Vec<_> = prompts(&dataset).into_iter().map(|p| (p.id, p.ground_truth)).collect();
    assert_eq!(kept, [(0, "1".to_string()), (2, "3".to_string())]);
    let report = dataset.report();
    assert_eq!((report.rows, report.filtered, report.truncated), (3, 1, 0));
    assert_eq!((dataset.len(), dataset.is_empty()), (2, false));
}

#[test]
fn a_prompt_carries_what_judges_its_answer() {
    let dir = TempDir::new().unwrap();
    let file = file(dir.path(), "rows", &[row("1+1=", "2")]);
    let dataset = load(&[file], 100, PromptOverlong::Error).unwrap();
    let prompt = &prompts(&dataset)[0];
    assert_eq!(prompt.messages, [Message::new("user", "1+1=")]);
    assert_eq!(prompt.token_ids, tokenizer().encode("1+1=").unwrap());
    assert_eq!((prompt.data_source.as_str(), prompt.ground_truth.as_str()), ("luspo/arithmetic", "2"));
    assert_eq!(prompt.extra_info, json!({ "answer": "so 2", "level": 3 }));
}

#[test]
fn cutting_on_one_side_keeps_the_other() {
    let dir = TempDir::new().unwrap();
    let file = file(dir.path(), "rows", &[row("much too long", "2")]);
    for (side, kept) in [(PromptOverlong::TruncateLeft, "long"), (PromptOverlong::TruncateRight, "much")] {
        let dataset = load(std::slice::from_ref(&file), 4, side).unwrap();
        assert_eq!(tokenizer().decode(&prompts(&dataset)[0].token_ids).unwrap(), kept);
        assert_eq!((dataset.report().truncated, dataset.longest_prompt()), (1, 4));
    }
}

#[test]
fn rows_that_cannot_be_used_are_refused_or_left_out_and_counted() {
    let dir = TempDir::new().unwrap();
    let whole = r#"{"prompt": "1+1=", "data_source": "x", "reward_model": {"ground_truth": "2"}}"#;
    let invalid = [
        (whole.replace("\"2\"", "\" \""), "`reward_model.ground_truth` is empty"),
        (whole.replace("\"2\"", "null"), "`reward_model.ground_truth` is missing"),
        (whole.replace("1+1=", ""), "`prompt` has no token"),
        (whole.replace("\"x\"", "7"), "`data_source` is not text"),
    ];
    let file = dir.path().join("rows.jsonl");
    let read = |filter_invalid| {
        let options = LoadOptions {
            max_prompt_length: 9,
            overlong: PromptOverlong::Filter,
            filter_invalid,
            by_extra_info: false,
        };
        PromptDataset::load(std::slice::from_ref(&file), &tokenizer(), options)
    };
    for (line, problem) in invalid {
        fs::write(&file, format!("{whole}\n{line}\n{whole}\n")).unwrap();
        let error = read(false).unwrap_err().to_string();
        assert!(error.contains("row 1: ") && error.contains(problem), "{error}");
        let kept = read(true).unwrap();
        assert_eq!(kept.report().invalid, 1);
        assert_eq!(prompts(&kept).iter().map(|prompt| prompt.id).collect::<Vec<_>>(), [0, 2]);
        fs::write(&file, format!("{line}\n{line}\n")).unwrap();
        let error = read(true).unwrap_err().to_string();
        assert!(error.contains("none of the 2 rows") && error.contains(problem), "{error}");
    }
    fs::write(&file, format!("{whole}\n{{\n{whole}\n")).unwrap();
    assert!(read(true).unwrap_err().to_string().contains("line 2 is no JSON"), "damage is no row to leave out");
}

#[test]
fn repetitions_and_conflicting_golds_are_counted() {
    let dir = TempDir::new().unwrap();
    let rows = [row("1+1=", "2"), row("1+2=", "3"), row("1+1=", "2"), row("1+1=", "3"), row("1+1=", "4")];
    let report = load(&[file(dir.path(), "rows", &rows)], 9, PromptOverlong::Error).unwrap().report();
    assert_eq!((report.rows, report.duplicates, report.conflicting_golds), (5, 1, 1));
}

/// The order of the batches is part of what a checkpoint relies on: these were drawn by version 0.1.0.
#[test]
fn the_order_of_the_prompts_is_what_it_always_was() {
    let dataset = numbered(10);
    let drawn: Vec<Vec<u64>> = (1..=4).map(|step| ids(&dataset, step, 4, 7)).collect();
    assert_eq!(drawn, [[9, 2, 6, 3], [5, 7, 0, 8], [4, 1, 2, 3], [4, 8, 0, 1]]);
}

#[test]
fn a_dataset_beyond_what_stays_in_memory_is_read_back_whole() {
    let dir = TempDir::new().unwrap();
    let mut text = String::new();
    let long = "long ".repeat(100_000);
    for number in 0..160 {
        let row = json!({ "prompt": format!("{number}"), "data_source": "x", "extra_info": { "text": long },
            "reward_model": { "ground_truth": "2" } });
        text += &format!("{row}\n");
    }
    let file = dir.path().join("rows.jsonl");
    fs::write(&file, text).unwrap();
    let dataset = load(&[file], 9, PromptOverlong::Error).unwrap();
    let batch = dataset.batch(3, 50, 1).unwrap();
    assert!(batch.iter().all(|prompt| prompt.extra_info["text"] == long));
    let read: Vec<String> = dataset.iter().map(|prompt| prompt.unwrap().messages[0].content.clone()).collect();
    assert_eq!(read, (0..160).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_long_prompt_is_named_with_its_length() {
    let dir = TempDir::new().unwrap();
    let file = file(dir.path(), "rows", &[row("short", "1"), row("much too long", "2")]);
    let load = |max, overlong| load(std::slice::from_ref(&file), max, overlong);
    let error = load(5, PromptOverlong::Error).unwrap_err().to_string();
    assert!(error.contains("row 1: `prompt` has 13 tokens") && error.contains("max_prompt_length = 5"), "{error}");
    let error = load(4, PromptOverlong::Filter).unwrap_err().to_string();
    assert!(error.contains("all 2 rows") && error.contains("the shortest has 5"), "{error}");
}

#[test]
fn a_prompt_without_a_token_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = file(dir.path(), "rows", &[row("", "1")]);
    let error = load(&[file], 5, PromptOverlong::Filter).unwrap_err().to_string();
    assert!(error.contains("row 0: `prompt` has no token"), "{error}");
}

#[test]
fn a_prompt_that_the_template_refuses_is_named() {
    let dir = TempDir::new().unwrap();
    tokenizer().save(dir.path()).unwrap();
    let template = "{% if messages[0].content == '2' %}{{ raise_exception('no twos') }}{% endif %}one";
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    let file = file(dir.path(), "rows", &[row("1", "1"), row("2", "2")]);
    let options = LoadOptions {
        max_prompt_length: 9,
        overlong: PromptOverlong::Filter,
        filter_invalid: false,
        by_extra_info: false,
    };
    let error = PromptDataset::load(&[file], &tokenizer, options).unwrap_err().to_string();
    assert!(error.contains("row 1: `prompt` cannot be rendered") && error.contains("no twos"), "{error}");
}

#[test]
fn rows_with_the_same_prompt_and_gold_count_once() {
    let dir = TempDir::new().unwrap();
    let rows = [row("1+1=", "2"), row("1+2=", "3"), row("1+1=", "2"), row("1+1=", "3")];
    let dataset = load(&[file(dir.path(), "rows", &rows)], 9, PromptOverlong::Error);
    let dataset = dataset.unwrap();
    assert_eq!(dataset.distinct().unwrap().iter().map(|prompt| prompt.id).collect::<Vec<_>>(), [0, 1, 3]);
}

#[test]
fn overlong_is_spelt_as_in_a_config() {
    use PromptOverlong::{Error, Filter, TruncateLeft, TruncateRight};
    let spelt: [PromptOverlong; 4] =
        ["filter", "truncate_left", "truncate_right", "error"].map(|word| serde_json::from_value(json!(word)).unwrap());
    assert_eq!(spelt, [Filter, TruncateLeft, TruncateRight, Error]);
}

#[test]
fn a_worked_answer_ends_with_the_end_of_sequence() {
    let dir = TempDir::new().unwrap();
    let rows = [row("1+1=", "2"), row("a prompt that is too long", "2")];
    let examples = load_sft(&[file(dir.path(), "rows", &rows)], &tokenizer(), "answer", 20).unwrap();
    assert_eq!(examples.len(), 1);
    assert_eq!(examples[0].prompt_ids, tokenizer().encode("1+1=").unwrap());
    assert_eq!(examples[0].response_ids, [tokenizer().encode("so 2").unwrap(), vec![256]].concat());
}

#[test]
fn a_length_limit_counts_prompt_and_response() {
    let dir = TempDir::new().unwrap();
    let file = file(dir.path(), "rows", &[row("1+1=", "2")]);
    // Four bytes, four bytes and the end.
    let load = |max| load_sft(std::slice::from_ref(&file), &tokenizer(), "answer", max);
    assert_eq!(load(9).unwrap().len(), 1);
    assert!(load(8).unwrap_err().to_string().contains("the shortest has 9"));
}

#[test]
fn a_missing_worked_answer_is_named() {
    let dir = TempDir::new().unwrap();
    let empty = Row { extra_info: json!({ "answer": "", "level": 3 }), ..row("?", "1") };
    let none = Row { extra_info: Value::Null, ..row("?", "1") };
    for (key, bad) in [("answer", empty), ("answer", none), ("level", row("?", "1")), ("solution", row("?", "1"))] {
        let file = file(dir.path(), "rows", &[row("?", "1"), bad]);
        let error = load_sft(&[file], &tokenizer(), key, 20).unwrap_err().to_string();
        assert!(error.contains(&format!("`extra_info.{key}` is missing")), "{error}");
    }
}
