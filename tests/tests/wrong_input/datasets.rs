//! Parquet files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema};
use serde_json::{Value, json};

use crate::ground::{edit, parquet, parquet_as, put, row};
use crate::{Case, refused};

/// Replaces `train.parquet` by eight right rows of which one is not.
fn spoil(dir: &Path, number: usize, change: impl FnOnce(&mut Value)) {
    let mut rows = vec![row(); 8];
    change(&mut rows[number]);
    parquet(dir.join("train.parquet"), &rows);
}

/// Replaces `train.parquet` by eight rows that are all wrong.
fn spoil_all(dir: &Path, change: impl FnOnce(&mut Value)) {
    let mut wrong = row();
    change(&mut wrong);
    parquet(dir.join("train.parquet"), &vec![wrong; 8]);
}

pub fn cases() -> Vec<Case> {
    [files(), columns(), values(), lengths(), other_commands()].into_iter().flatten().collect()
}

fn files() -> Vec<Case> {
    vec![
        refused("a dataset that is not there", 1, "train config.toml train_files=nowhere.parquet")
            .says(&["nowhere.parquet", "No such file"]),
        refused("a folder for a dataset", 1, "train config.toml train_files=model").says(&["model", "directory"]),
        refused("a dataset of no bytes", 1, "train config.toml")
            .after(|dir| put(dir.join("train.parquet"), ""))
            .says(&["train.parquet", "Parquet"]),
        refused("text for a dataset", 1, "train config.toml train_files=config.toml")
            .says(&["config.toml", "not a readable Parquet file"]),
        refused("a dataset cut short", 1, "train config.toml")
            .after(|dir| {
                let whole = fs::read(dir.join("train.parquet")).unwrap();
                put(dir.join("train.parquet"), &whole[..whole.len() / 2]);
            })
            .says(&["train.parquet", "not a readable Parquet file"]),
        refused("a dataset with garbage between its ends", 1, "train config.toml")
            .after(|dir| {
                let mut whole = fs::read(dir.join("train.parquet")).unwrap();
                let metadata =
                    whole.len() - 8 - u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
                whole[4..metadata].fill(0xa5);
                put(dir.join("train.parquet"), whole);
            })
            .says(&["train.parquet", "not a readable Parquet file"]),
        refused("a dataset with garbage for its metadata", 1, "train config.toml")
            .after(|dir| {
                let mut whole = fs::read(dir.join("train.parquet")).unwrap();
                let end = whole.len() - 8;
                whole[end / 2..end].fill(0xff);
                put(dir.join("train.parquet"), whole);
            })
            .says(&["train.parquet", "not a readable Parquet file"]),
        refused("a dataset without rows", 1, "train config.toml")
            .after(|dir| {
                let text = |name: &str| Field::new(name, DataType::Utf8, true);
                let reward = DataType::Struct(Fields::from(vec![text("ground_truth")]));
                let columns = vec![text("data_source"), text("prompt"), Field::new("reward_model", reward, true)];
                parquet_as(dir.join("train.parquet"), Schema::new(columns), &[]);
            })
            .says(&["no rows in train.parquet"]),
        refused("no dataset", 2, "train config.toml train_files=[]").says(&["data.train_files is empty"]),
        refused("worked answers that are not there", 1, "sft config.toml sft.files=nowhere.parquet")
            .says(&["nowhere.parquet"]),
        refused("no worked answers", 2, "sft config.toml sft.files=[]").says(&["[sft] needs `files`"]),
    ]
}

fn columns() -> Vec<Case> {
    vec![
        refused("no prompts", 1, "train config.toml")
            .after(|dir| spoil_all(dir, |row| drop(row.as_object_mut().unwrap().remove("prompt"))))
            .says(&["train.parquet", "no column `prompt`", "data_source, extra_info, reward_model"]),
        refused("no data sources", 1, "train config.toml")
            .after(|dir| spoil_all(dir, |row| drop(row.as_object_mut().unwrap().remove("data_source"))))
            .says(&["train.parquet", "no column `data_source`"]),
        refused("no gold answers", 1, "train config.toml")
            .after(|dir| spoil_all(dir, |row| drop(row.as_object_mut().unwrap().remove("reward_model"))))
            .says(&["train.parquet", "no column `reward_model`"]),
        refused("another schema for validation", 1, "train config.toml val_files=other.parquet")
            .after(|dir| parquet(dir.join("other.parquet"), &[json!({ "question": "1+1", "answer": "2" })]))
            .says(&["other.parquet", "no column `prompt`", "question, answer"]),
        refused("numbers for prompts", 1, "train config.toml")
            .after(|dir| spoil_all(dir, |row| row["prompt"] = json!(7)))
            .says(&["train.parquet: row 0", "`prompt`"]),
        refused("lists of text for prompts", 1, "train config.toml")
            .after(|dir| spoil_all(dir, |row| row["prompt"] = json!(["1+1="])))
            .says(&["train.parquet: row 0", "`prompt[0]`", "role"]),
        refused("numbers for data sources", 1, "train config.toml")
            .after(|dir| spoil_all(dir, |row| row["data_source"] = json!(7)))
            .says(&["train.parquet: row 0", "`data_source`", "7"]),
        refused("text for the struct of the gold answer", 1, "train config.toml")
            .after(|dir| spoil_all(dir, |row| row["reward_model"] = json!("2")))
            .says(&["train.parquet: row 0", "`reward_model`", "ground_truth"]),
        refused("bytes that are no text for prompts", 1, "train config.toml")
            .after(|dir| {
                // The JSON decoder reads binary columns as hex.
                let mut columns: Vec<Field> = vec![Field::new("prompt", DataType::Binary, true)];
                columns.push(Field::new("data_source", DataType::Utf8, true));
                let gold = Field::new("ground_truth", DataType::Utf8, true);
                columns.push(Field::new("reward_model", DataType::Struct(Fields::from(vec![Arc::new(gold)])), true));
                let mut wrong = row();
                wrong["prompt"] = json!("ff00ff");
                wrong["reward_model"] = json!({ "ground_truth": "2" });
                parquet_as(dir.join("train.parquet"), Schema::new(columns), &vec![wrong; 8]);
            })
            .says(&["train.parquet", "`prompt`", "UTF-8"]),
    ]
}

fn values() -> Vec<Case> {
    vec![
        refused("a prompt that is null", 1, "train config.toml")
            .after(|dir| spoil(dir, 3, |row| row["prompt"] = Value::Null))
            .says(&["train.parquet: row 3", "`prompt` is empty"]),
        refused("a prompt without messages", 1, "train config.toml")
            .after(|dir| spoil(dir, 3, |row| row["prompt"] = json!([])))
            .says(&["train.parquet: row 3", "`prompt` is empty"]),
        refused("a prompt without text", 1, "train config.toml")
            .after(|dir| spoil(dir, 3, |row| row["prompt"][0]["content"] = json!("")))
            .says(&["train.parquet: row 3", "`prompt` has no token"]),
        refused("a message without a role", 1, "train config.toml")
            .after(|dir| spoil(dir, 3, |row| row["prompt"][0]["role"] = Value::Null))
            .says(&["train.parquet: row 3", "`prompt[0].role` is missing"]),
        refused("a message without content", 1, "train config.toml")
            .after(|dir| spoil(dir, 3, |row| row["prompt"][0]["content"] = Value::Null))
            .says(&["train.parquet: row 3", "`prompt[0].content` is missing"]),
        refused("a missing gold answer", 1, "train config.toml")
            .after(|dir| spoil(dir, 5, |row| row["reward_model"]["ground_truth"] = Value::Null))
            .says(&["train.parquet: row 5", "`reward_model.ground_truth` is missing"]),
        refused("a missing struct of the gold answer", 1, "train config.toml")
            .after(|dir| spoil(dir, 5, |row| row["reward_model"] = Value::Null))
            .says(&["train.parquet: row 5", "`reward_model.ground_truth` is missing"]),
        refused("a missing data source", 1, "train config.toml")
            .after(|dir| spoil(dir, 5, |row| row["data_source"] = Value::Null))
            .says(&["train.parquet: row 5", "`data_source` is missing"]),
        refused("a data source that nobody judges", 2, "train config.toml")
            .after(|dir| spoil(dir, 5, |row| row["data_source"] = json!("my/own")))
            .says(&["`my/own`", "gsm8k", "reward.verifier"]),
        refused("a missing worked answer", 1, "sft config.toml sft.files=train.parquet")
            .after(|dir| spoil(dir, 5, |row| row["extra_info"]["answer"] = Value::Null))
            .says(&["train.parquet: row 5", "`extra_info.answer`"]),
        refused("worked answers under another key", 1, "sft config.toml answer_key=solution")
            .says(&["sft.parquet: row 0", "`extra_info.solution`"]),
    ]
}

fn lengths() -> Vec<Case> {
    vec![
        refused("prompts that are all too long", 1, "train config.toml max_prompt_length=2").says(&[
            "all 8 rows of train.parquet",
            "2 tokens",
            "max_prompt_length",
        ]),
        refused("a prompt that is too long", 1, "train config.toml prompt_overlong=error")
            .after(|dir| spoil(dir, 6, |row| row["prompt"][0]["content"] = json!("1+".repeat(20))))
            .says(&["train.parquet: row 6", "40 tokens", "data.max_prompt_length = 24"]),
        refused("worked answers that are all too long", 1, "sft config.toml max_response_length=1 max_prompt_length=6")
            .says(&["all 8 rows of sft.parquet", "7 tokens", "max_response_length"]),
    ]
}

fn other_commands() -> Vec<Case> {
    vec![
        refused("a missing file to inspect", 1, "data inspect nowhere.parquet").says(&["nowhere.parquet"]),
        refused("text to inspect", 1, "data inspect config.toml").says(&["config.toml", "Parquet"]),
        refused("a file without prompts to inspect", 1, "data inspect train.parquet other.parquet")
            .after(|dir| parquet(dir.join("other.parquet"), &[json!({ "question": "1+1", "answer": "2" })]))
            .says(&["other.parquet", "no column `prompt`"]),
        refused("prompts that the chat template refuses", 1, "data inspect train.parquet --tokenizer model")
            .after(|dir| {
                edit(dir.join("model/tokenizer_config.json"), |config| {
                    config["chat_template"] = json!("{{ raise_exception('no ' ~ messages[0].role) }}");
                });
            })
            .says(&["train.parquet: row 0", "`prompt`", "no user"]),
        refused("a missing file to evaluate on", 1, "eval --model model --data nowhere.parquet")
            .says(&["nowhere.parquet"]),
        refused("a data source that nobody judges", 2, "eval --model model --data train.parquet")
            .after(|dir| spoil(dir, 5, |row| row["data_source"] = json!("my/own")))
            .says(&["`my/own`", "gsm8k", "--verifier"]),
        refused("prompts longer than the model", 1, "eval --model model --data train.parquet")
            .after(|dir| spoil(dir, 2, |row| row["prompt"][0]["content"] = json!("1+".repeat(50))))
            .says(&["prompt 2", "100 prompt tokens", "64"]),
        refused("only long prompts", 1, "eval --model model --data val.parquet --max-prompt-length 1")
            .says(&["all 8 rows of val.parquet", "max_prompt_length"]),
    ]
}
