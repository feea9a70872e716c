//! Real datasets and the real Qwen2.5 tokenizer; the folder is named by `LUSPO_TEST_DATA`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use luspo_core::Message;
use luspo_data::{LoadOptions, PromptDataset, PromptOverlong, Tokenizer, inspect, load_sft, read_rows};
use serde_json::Value;
use tempfile::TempDir;

/// Every dataset and how many rows it has.
const DATASETS: [(&str, usize); 12] = [
    ("aime2024_test", 30),
    ("aime2025_test", 30),
    ("amc23_test", 40),
    ("dapo_math_17k_train", 17_917),
    ("gsm8k_test", 1319),
    ("gsm8k_train", 7473),
    ("math500_test", 500),
    ("math_test", 5000),
    ("math_train", 7500),
    ("minerva_math_test", 272),
    ("olympiad_bench_test", 675),
    ("reasoning_gym_3600_train", 3600),
];

fn data() -> PathBuf {
    PathBuf::from(std::env::var("LUSPO_TEST_DATA").expect("LUSPO_TEST_DATA names the test data")).join("data")
}

fn dataset(name: &str) -> PathBuf {
    data().join(format!("{name}.parquet"))
}

fn qwen() -> Tokenizer {
    Tokenizer::from_folder(&data().join("tokenizer_qwen2.5")).unwrap()
}

fn options() -> LoadOptions {
    LoadOptions {
        max_prompt_length: 1024,
        overlong: PromptOverlong::Error,
        filter_invalid: false,
        by_extra_info: false,
    }
}

fn reference() -> Value {
    serde_json::from_slice(&fs::read(data().join("qwen25_tokenizer_reference.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn every_dataset_reads_with_all_its_rows() {
    for (name, expected) in DATASETS {
        let rows = read_rows(&[dataset(name)]).unwrap();
        assert_eq!(rows.len(), expected, "{name}");
        // Two solutions of MATH end in an empty box.
        let empty = rows.iter().filter(|row| row.ground_truth.is_empty()).count();
        assert_eq!(empty, if name == "math_train" { 2 } else { 0 }, "{name}");
        assert!(rows.iter().all(|row| row.ability.is_some()), "{name}");
        assert!(rows.iter().all(|row| row.extra_info["index"].is_u64()), "{name}");
    }
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn qwen_tokens_are_the_reference_tokens() {
    let (tokenizer, reference) = (qwen(), reference());
    assert_eq!(tokenizer.vocab_size(), 151_665);
    assert_eq!(tokenizer.eos_token_id(), Some(151_645));
    let pairs = reference["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 32);
    for pair in pairs {
        let text = pair["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&pair["ids"]), "{text}");
        // The reference keeps special tokens when it decodes.
        let specials = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];
        let plain = specials.iter().fold(pair["decoded"].as_str().unwrap().to_owned(), |text, s| text.replace(s, ""));
        assert_eq!(tokenizer.decode(&ids(&pair["ids"])).unwrap(), plain);
    }
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn qwen_conversations_are_the_reference_conversations() {
    let (tokenizer, reference) = (qwen(), reference());
    let chats = reference["chat"].as_array().unwrap();
    assert_eq!(chats.len(), 6);
    for chat in chats {
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let text = chat["text"].as_str().unwrap();
        let rendered = tokenizer.apply_chat_template(&messages).unwrap();
        let generation_prompt = if chat["add_generation_prompt"] == true { "" } else { "<|im_start|>assistant\n" };
        assert_eq!(rendered, format!("{text}{generation_prompt}"));
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&chat["ids"]));
    }
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn qwen_tokens_of_whole_solutions_have_the_reference_hashes() {
    let (tokenizer, reference) = (qwen(), reference());
    let hashes = reference["corpus_hashes"].as_array().unwrap();
    assert_eq!(hashes.len(), 400);
    let corpora = ["gsm8k_test", "math_test"].map(|name| (name, read_rows(&[dataset(name)]).unwrap()));
    let dir = TempDir::new().unwrap();
    let mut files = Vec::new();
    for (number, hash) in hashes.iter().enumerate() {
        assert_eq!(hash["field"], "extra_info.answer");
        let rows = &corpora.iter().find(|corpus| hash["file"] == corpus.0).unwrap().1;
        let answer = rows[hash["index"].as_u64().unwrap() as usize].extra_info["answer"].as_str().unwrap();
        let tokens = tokenizer.encode(answer).unwrap();
        assert_eq!(tokens.len() as u64, hash["n_tokens"].as_u64().unwrap());
        let file = dir.path().join(format!("{number:03}"));
        fs::write(&file, tokens.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        files.push(file);
    }
    let output = Command::new("sha256sum").args(&files).output().expect("sha256sum runs");
    let found = String::from_utf8(output.stdout).unwrap();
    let found: Vec<&str> = found.lines().map(|line| &line[..64]).collect();
    let expected: Vec<&str> = hashes.iter().map(|hash| hash["sha256_le_u32"].as_str().unwrap()).collect();
    assert_eq!(found, expected);
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn aime_2024_has_thirty_problems_however_often_it_is_repeated() {
    let files = vec![dataset("aime2024_test"); 32];
    let aime = PromptDataset::load(&files, &qwen(), options()).unwrap();
    assert_eq!((aime.len(), aime.distinct_len(), aime.distinct().unwrap().len()), (960, 30, 30));
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn gsm8k_has_worked_answers() {
    let tokenizer = qwen();
    let examples = load_sft(&[dataset("gsm8k_train")], &tokenizer, "answer", 4096).unwrap();
    assert_eq!(examples.len(), 7473);
    assert!(examples.iter().all(|example| example.response_ids.last() == Some(&151_645)));
    let answer = tokenizer.decode(&examples[0].response_ids).unwrap();
    assert!(answer.ends_with("#### 72"), "{answer}");
}

#[test]
#[ignore = "needs LUSPO_TEST_DATA"]
fn the_dapo_prompts_repeat_and_some_contradict_each_other() {
    let seen = inspect(&[dataset("dapo_math_17k_train")], &[dataset("aime2024_test")], Some(&qwen())).unwrap();
    assert_eq!((seen.rows, seen.distinct_prompts), (17_917, 17_290));
    assert_eq!(seen.data_sources, [("math_dapo".to_owned(), 17_917)]);
    assert_eq!(seen.empty_golds, 0);
    assert_eq!((seen.exact_duplicates, seen.conflicting_golds, seen.conflicts.len()), (616, 11, 3));
    assert_eq!(seen.overlap.unwrap().shared, 0);
    let tokens = seen.prompt_tokens.unwrap();
    assert!(
        tokens.min <= tokens.p50 && tokens.p50 <= tokens.p90 && tokens.p90 <= tokens.p99 && tokens.p99 <= tokens.max
    );
    assert!(seen.examples[0].prompt.ends_with("<|im_start|>assistant\n"));
}
