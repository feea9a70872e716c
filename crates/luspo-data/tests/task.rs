//! Built-in tasks.

use std::collections::HashSet;
use std::fs;

use luspo_data::task::{Arithmetic, Procedural, Styles, TaskConfig, TaskFiles, generate};
use luspo_data::{PromptText, Row, Tokenizer, load_sft, read_rows};
use luspo_reward::verifier_for;
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
    let task: TaskConfig = toml::from_str("name = \"arithmetic\"").unwrap();
    assert_eq!(task, TaskConfig::Arithmetic(Arithmetic::default()));
    let config: TaskConfig =
        toml::from_str("name = \"arithmetic\"\nval_prompts = 64\nstyles = { terse = 0.35, medium_totals = 4 }")
            .unwrap();
    let TaskConfig::Arithmetic(task) = &config else { panic!("{config:?}") };
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

/// The procedural tasks at every level, small.
fn procedural() -> impl Iterator<Item = TaskConfig> {
    let sized = |difficulty| Procedural { difficulty, train_prompts: 60, val_prompts: 20, sft_examples: 60 };
    (1..=5).map(sized).flat_map(|task| {
        [
            TaskConfig::Countdown(task.clone()),
            TaskConfig::LinearEquation(task.clone()),
            TaskConfig::BaseConversion(task.clone()),
            TaskConfig::Sorting(task),
        ]
    })
}

#[test]
fn worked_answers_are_right_and_those_to_other_problems_are_wrong() {
    let dir = TempDir::new().unwrap();
    for task in procedural() {
        let [train, val, sft] = rows(&generate(&task, dir.path(), 0).unwrap());
        assert_eq!((train.len(), val.len(), sft.len()), (60, 20, 60));
        for (number, row) in sft.iter().enumerate() {
            let verifier = verifier_for(&row.data_source).unwrap();
            assert_eq!(verifier.name(), task.name());
            let judged = |row: &Row, gold: &str| verifier.verify(row.extra_info["answer"].as_str().unwrap(), gold);
            assert!(
                judged(row, &row.ground_truth).correct,
                "{} is not {:?}",
                row.extra_info["answer"],
                row.ground_truth
            );
            let other = &sft[(number + 1) % sft.len()];
            if other.ground_truth != row.ground_truth {
                assert!(!judged(other, &row.ground_truth).correct, "{task:?}");
            }
        }
    }
}

#[test]
fn golds_of_procedural_tasks_answer_their_questions() {
    let dir = TempDir::new().unwrap();
    let integers = |text: &str| -> Vec<i64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    for task in procedural() {
        for row in rows(&generate(&task, dir.path(), 1).unwrap()).concat() {
            let question = text(&row).lines().next().unwrap();
            let gold = row.ground_truth.as_str();
            match task {
                TaskConfig::Sorting(_) => {
                    let mut numbers = integers(question);
                    numbers.sort();
                    assert_eq!(integers(gold), numbers);
                }
                TaskConfig::BaseConversion(_) => {
                    let words: Vec<&str> = question.split([' ', ')', '.']).collect();
                    let [_, digits, _, from, _, _, _, to, ..] = words[..] else { panic!("{question}") };
                    let value = |digits, base: &str| u32::from_str_radix(digits, base.parse().unwrap()).unwrap();
                    assert_eq!(value(digits, from), value(gold, to), "{question}");
                }
                TaskConfig::Countdown(_) => {
                    let mut numbers = integers(gold);
                    let target = numbers.pop().unwrap();
                    assert_eq!(integers(question), [vec![target], numbers].concat());
                }
                TaskConfig::LinearEquation(_) => {
                    let (left, right) = question
                        .strip_prefix("Solve ")
                        .unwrap()
                        .strip_suffix(" for x.")
                        .unwrap()
                        .split_once(" = ")
                        .unwrap();
                    let x = match gold.split_once('/') {
                        Some((a, b)) => a.parse::<f64>().unwrap() / b.parse::<f64>().unwrap(),
                        None => gold.parse().unwrap(),
                    };
                    // Numbers below a thousand: rounding stays far below a thousandth.
                    assert!((value(left, x) - value(right, x)).abs() < 1e-6, "{question} {gold}");
                }
                TaskConfig::Arithmetic(_) => unreachable!(),
            }
        }
    }
}

/// The value of `a(bx + c) + d` or a part of it.
fn value(side: &str, x: f64) -> f64 {
    let spaced = side.replace(" - ", " + -");
    if let Some((factor, rest)) = spaced.split_once('(') {
        let (inner, added) = rest.split_once(')').unwrap();
        return factor.parse::<f64>().unwrap() * value(inner, x) + value(added.trim_start_matches(" + "), x);
    }
    let term = |term: &str| match term.strip_suffix('x') {
        Some("") => x,
        Some("-") => -x,
        Some(slope) => slope.parse::<f64>().unwrap() * x,
        None => term.parse().unwrap(),
    };
    spaced.split(" + ").filter(|part| !part.is_empty()).map(term).sum()
}

#[test]
fn a_level_beyond_the_last_and_more_prompts_than_there_are_problems_are_refused() {
    let dir = TempDir::new().unwrap();
    let refused = |task: TaskConfig| generate(&task, &dir.path().join("new"), 0).unwrap_err().to_string();
    let harder = TaskConfig::named("sorting").unwrap().with_difficulty(6).unwrap();
    assert!(refused(harder).contains("task sorting: `difficulty` is 6"));
    assert!(TaskConfig::named("arithmetic").unwrap().with_difficulty(2).is_err());
    let many = Procedural { train_prompts: 1 << 20, ..Procedural::default() };
    let error = refused(TaskConfig::LinearEquation(many));
    assert!(error.contains("`train_prompts` is 1048576; of difficulty 1 only "), "{error}");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn every_task_has_enough_problems_for_its_default_sizes() {
    for name in TaskConfig::NAMES {
        let dir = TempDir::new().unwrap();
        let [train, val, _] = rows(&generate(&TaskConfig::named(name).unwrap(), dir.path(), 3).unwrap());
        let distinct = |rows: &[Row]| rows.iter().map(|row| text(row).to_owned()).collect::<HashSet<_>>();
        let (train_texts, val_texts) = (distinct(&train), distinct(&val));
        assert_eq!((train_texts.len(), val_texts.len()), (4096, 256), "{name}");
        assert!(train_texts.is_disjoint(&val_texts));
    }
}
