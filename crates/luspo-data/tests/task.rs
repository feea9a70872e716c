//! Built-in tasks.

use std::collections::HashSet;
use std::fs;

use luspo_data::task::{Arithmetic, Styles, TaskConfig, TaskFiles, generate};
use luspo_data::{PromptText, Row, Tokenizer, load_sft, read_rows};
use serde_json::json;
use tempfile::TempDir;

fn small() -> TaskConfig {
    TaskConfig::Arithmetic(Arithmetic { train_prompts: 300, val_prompts: 100, sft_examples: 500, ..Default::default() })
}

fn text(row: &Row) -> &str {
    match &row.prompt {
        PromptText::Messages(messages) => &messages[0].content,
        PromptText::Text(text) => text,
    }
}

fn rows(files: &TaskFiles) -> [Vec<Row>; 3] {
    [&files.train, &files.val, &files.sft].map(|file| read_rows(std::slice::from_ref(file)).unwrap())
}

#[test]
fn validation_prompts_are_in_no_training_file_of_any_seed() {
    let mut val = HashSet::new();
    let mut train = HashSet::new();
    for seed in 0..4 {
        let dir = TempDir::new().unwrap();
        let task = Arithmetic { train_prompts: 2000, val_prompts: 2000, sft_examples: 2000, styles: Styles::default() };
        let files = generate(&TaskConfig::Arithmetic(task), dir.path(), seed).unwrap();
        let [train_rows, val_rows, sft_rows] = rows(&files);
        assert_eq!((train_rows.len(), val_rows.len(), sft_rows.len()), (2000, 2000, 2000));
        let distinct = |rows: &[Row]| rows.iter().map(|row| text(row).to_owned()).collect::<HashSet<_>>();
        assert_eq!((distinct(&train_rows).len(), distinct(&val_rows).len()), (2000, 2000));
        val.extend(distinct(&val_rows));
        train.extend(distinct(&train_rows));
        train.extend(distinct(&sft_rows));
    }
    assert!(val.is_disjoint(&train));
}

#[test]
fn golds_are_right_and_short_worked_answers_overlook_a_large_last_number() {
    let dir = TempDir::new().unwrap();
    let files = generate(&small(), dir.path(), 0).unwrap();
    for (rows, split) in rows(&files).iter().zip(["train", "val", "sft"]) {
        for (index, row) in rows.iter().enumerate() {
            let operands: Vec<u32> =
                text(row).strip_suffix('=').unwrap().split('+').map(|operand| operand.parse().unwrap()).collect();
            assert_eq!((operands.len(), text(row).len()), (10, 30));
            assert_eq!(row.ground_truth, operands.iter().sum::<u32>().to_string());
            assert_eq!(row.data_source, "luspo/arithmetic");
            assert_eq!((&row.extra_info["index"], &row.extra_info["split"]), (&json!(index), &json!(split)));
            let Some(answer) = row.extra_info["answer"].as_str() else {
                assert_ne!(split, "sft");
                continue;
            };
            let (totals, sum) = answer.split_once('=').unwrap();
            let overlooked = row.extra_info["style"] != "long" && operands[9] > 6;
            let expected = if overlooked { operands[..9].iter().sum() } else { operands.iter().sum::<u32>() };
            assert_eq!(sum, format!("{expected:02}"));
            let totals: Vec<u32> = totals.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().unwrap()).collect();
            let expected: Vec<u32> = (2..2 + totals.len()).map(|n| operands[..n].iter().sum()).collect();
            assert_eq!(totals, expected);
            let style = match totals.len() {
                0 => "terse",
                5 => "medium",
                9 => "long",
                other => panic!("{other} totals"),
            };
            assert_eq!(row.extra_info["style"], style);
        }
    }
}

#[test]
fn a_task_is_a_function_of_its_seed() {
    let generated = |seed| {
        let dir = TempDir::new().unwrap();
        let files = generate(&small(), &dir.path().join("new/folder"), seed).unwrap();
        [files.train, files.val, files.sft].map(|file| fs::read(file).unwrap())
    };
    let first = generated(0);
    assert_eq!(first, generated(0));
    assert!(first.iter().zip(&generated(1)).all(|(a, b)| a != b));
}

#[test]
fn a_worked_answer_has_at_most_thirty_tokens() {
    let dir = TempDir::new().unwrap();
    let files = generate(&small(), dir.path(), 0).unwrap();
    let tokenizer = Tokenizer::train_byte_level(std::iter::empty(), 259).unwrap();
    let lengths: HashSet<usize> = load_sft(&[files.sft], &tokenizer, "answer", 60)
        .unwrap()
        .iter()
        .map(|example| example.response_ids.len())
        .collect();
    assert_eq!(lengths, HashSet::from([4, 18, 30]));
}

#[test]
fn a_config_names_the_task_and_may_change_its_sizes() {
    let TaskConfig::Arithmetic(task) = toml::from_str("name = \"arithmetic\"").unwrap();
    assert_eq!(task, Arithmetic::default());
    let config: TaskConfig =
        toml::from_str("name = \"arithmetic\"\nval_prompts = 64\nstyles = { terse = 0.35, medium_totals = 4 }")
            .unwrap();
    let TaskConfig::Arithmetic(task) = &config;
    assert_eq!((task.val_prompts, task.train_prompts), (64, 4096));
    assert_eq!(task.styles, Styles { terse: 0.35, medium_totals: 4, ..Default::default() });
    assert_eq!(toml::from_str::<TaskConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn misspelt_keys_and_unknown_tasks_are_refused_with_what_there_is() {
    let refused = |text: &str| toml::from_str::<TaskConfig>(text).unwrap_err().to_string();
    assert!(refused("name = \"arithmetic\"\nval_promts = 1").contains("val_promts"));
    assert!(refused("name = \"arithmetic\"\nstyles.short = 1.0").contains("short"));
    assert!(refused("name = \"algebra\"").contains("arithmetic"));
    let error = TaskConfig::named("algebra").unwrap_err().to_string();
    assert!(error.contains("`algebra`") && error.contains("arithmetic"), "{error}");
    for name in TaskConfig::NAMES {
        assert_eq!(TaskConfig::named(name).unwrap().name(), name);
    }
}

#[test]
fn a_task_that_cannot_be_is_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("task");
    let task = TaskConfig::Arithmetic(Arithmetic { val_prompts: 0, ..Default::default() });
    assert!(generate(&task, &folder, 0).unwrap_err().to_string().starts_with("task arithmetic: `val_prompts` is 0"));
    assert!(!folder.exists());
}
