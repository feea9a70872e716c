//! The working directory that the cases spoil, and ways to spoil its files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow_json::ReaderBuilder;
use arrow_schema::Schema;
use luspo::core::{Purpose, RandomKey};
use luspo::data::{PromptText, Row, Tokenizer, write_rows};
use luspo::model::Qwen2Config;
use luspo::trainer::Policy;
use luspo::{Backend, core::Message};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIG: &str = r#"
[run]
name = "run"
threads = 1
[model]
path = "model"
[data]
train_files = ["train.parquet"]
val_files = ["val.parquet"]
train_batch_size = 4
max_prompt_length = 24
max_response_length = 8
[sft]
files = ["sft.parquet"]
steps = 1
batch_size = 2
[rollout]
n = 2
[optimizer]
lr = 1e-4
[trainer]
total_training_steps = 1
"#;

const TASK: &str = r#"
[run]
name = "task"
threads = 1
[model.init]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 128
[data]
train_batch_size = 4
max_prompt_length = 40
max_response_length = 39
[data.task]
name = "arithmetic"
train_prompts = 16
val_prompts = 4
sft_examples = 16
[rollout]
n = 2
[trainer]
total_training_steps = 1
"#;

/// A new working directory where everything is right: `model/`, `train.parquet`, `val.parquet`, `sft.parquet`,
/// `config.toml` that names them, `task.toml` for a built-in task and a new model, and `score.jsonl`.
pub fn lay() -> TempDir {
    static FIRST: OnceLock<TempDir> = OnceLock::new();
    let first = FIRST.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        model(&dir.path().join("model"));
        for (name, first) in [("train", 0), ("val", 100), ("sft", 200)] {
            write_rows(&dir.path().join(format!("{name}.parquet")), &rows(first)).unwrap();
        }
        fs::write(dir.path().join("config.toml"), CONFIG).unwrap();
        fs::write(dir.path().join("task.toml"), TASK).unwrap();
        fs::write(dir.path().join("score.jsonl"), "{\"token_ids\": [1, 2, 3]}\n").unwrap();
        dir
    });
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in contents(first.path()) {
        // A folder comes before what is in it.
        match bytes {
            Some(bytes) => fs::write(dir.path().join(path), bytes).unwrap(),
            None => fs::create_dir(dir.path().join(path)).unwrap(),
        }
    }
    dir
}

/// A model of 259 ids and 64 positions.
fn model(dir: &Path) {
    let tokenizer = Tokenizer::train_byte_level(["ab"].into_iter(), 259).unwrap();
    let shape = Qwen2Config::new(259, 16, 32, 1, 2, 1).with_max_position_embeddings(64);
    let device = Backend::Flex.device().unwrap();
    Policy::init(shape, tokenizer, RandomKey::new(0, Purpose::Init), &device).unwrap().save(dir).unwrap();
}

fn rows(first: usize) -> Vec<Row> {
    let row = |number: usize| Row {
        prompt: PromptText::Messages(vec![Message::new("user", format!("{number}+1="))]),
        data_source: "openai/gsm8k".into(),
        ability: None,
        ground_truth: (number + 1).to_string(),
        extra_info: json!({ "answer": format!("#### {}", number + 1) }),
    };
    (first..first + 8).map(row).collect()
}

/// Every file below a directory with its bytes, and every folder without.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = path.is_file().then(|| fs::read(&path).unwrap());
            found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), bytes);
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

/// Writes a file, its folder with it.
pub fn put(path: PathBuf, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Changes a JSON file.
pub fn edit(path: PathBuf, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Puts a value into `model/NAME`, a JSON file.
pub fn set(dir: &Path, name: &str, pointer: &str, value: Value) {
    edit(dir.join("model").join(name), |file| *file.pointer_mut(pointer).expect("the key is there") = value);
}

/// Changes the header and the data of `model/model.safetensors`.
pub fn edit_weights(dir: &Path, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
    let path = dir.join("model/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let (mut header, mut data) = (serde_json::from_slice(header).unwrap(), data.to_vec());
    change(&mut header, &mut data);
    fs::write(path, safetensors(&header, &data)).unwrap();
}

/// A safetensors file of any header and data.
pub fn safetensors(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// A right row of verl's schema, as JSON.
pub fn row() -> Value {
    json!({
        "data_source": "openai/gsm8k",
        "prompt": [{ "role": "user", "content": "1+1=" }],
        "reward_model": { "style": "rule", "ground_truth": "2" },
        "extra_info": { "answer": "#### 2" },
    })
}

/// Writes JSON rows as Parquet, with the types that the values have.
pub fn parquet(path: PathBuf, rows: &[Value]) {
    let schema = arrow_json::reader::infer_json_schema_from_iterator(rows.iter().map(Ok)).unwrap();
    parquet_as(path, schema, rows);
}

/// Writes JSON rows as Parquet of this schema.
pub fn parquet_as(path: PathBuf, schema: Schema, rows: &[Value]) {
    let schema = Arc::new(schema);
    let mut decoder = ReaderBuilder::new(schema.clone()).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    let batch = decoder.flush().unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    batch.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
}
