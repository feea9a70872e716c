//! `rollouts/step_NNNNNN.parquet`: every answer of a step, with all that the update used of it.
//!
//! `components` is a map from name to reward, so that names, their order, and rows with different components survive.
//! Polars and DuckDB read it as a map, pandas as a list of pairs.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float32Builder, Float64Builder, ListBuilder, MapBuilder, MapFieldNames, StringBuilder,
    UInt32Builder, UInt64Builder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema};
use luspo_core::durable::Draft;
use luspo_core::{FinishReason, Prompt, contain};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::{Policy, Sample, TrainError};

/// Rows encoded at a time: the text of a batch must stay below 2 GiB.
const BATCH: usize = 1024;

/// One answer of a step, with its score and its advantage.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutRow {
    /// The prompt's row in the training data.
    pub prompt_id: u64,
    /// Number of the answer within its group, from 0.
    pub sample: u32,
    /// Which dataset the prompt belongs to.
    pub data_source: String,
    /// The conversation as the model read it, special tokens included.
    pub prompt: String,
    /// The answer as the verifiers read it, without special tokens.
    pub response: String,
    /// Tokens of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Tokens of the answer as sampled, the end-of-sequence token included.
    pub response_ids: Vec<u32>,
    /// The sampler's log-prob of each response token, in nats.
    pub log_probs: Vec<f32>,
    /// Why the answer ended.
    pub finish: FinishReason,
    /// The reward that the policy was trained on.
    pub reward: f64,
    /// The weighted terms of the reward, by name.
    pub components: Vec<(String, f64)>,
    /// Whether the answer is right, whatever the shaping says.
    pub correct: bool,
    /// The mean of its tokens' advantages; most estimators give all tokens the same.
    pub advantage: f64,
}

/// The rows of a step: groups of `n` samples, in the order of `prompts`.
///
/// # Errors
/// Ids that the tokenizer cannot decode.
pub fn rollout_rows(
    policy: &Policy,
    prompts: &[Prompt],
    samples: &[Sample],
    n: usize,
) -> Result<Vec<RolloutRow>, TrainError> {
    let mut rows = Vec::with_capacity(samples.len());
    for (prompt, group) in prompts.iter().zip(samples.chunks(n)) {
        let text = policy.tokenizer.decode_with_special_tokens(&prompt.token_ids)?;
        for sample in group {
            let Sample { rollout, score, .. } = sample;
            rows.push(RolloutRow {
                prompt_id: rollout.prompt_id,
                sample: rollout.sample,
                data_source: prompt.data_source.clone(),
                prompt: text.clone(),
                response: policy.text(rollout)?,
                prompt_ids: rollout.prompt_ids.clone(),
                response_ids: rollout.response_ids.clone(),
                log_probs: rollout.log_probs.clone(),
                finish: rollout.finish,
                reward: score.total,
                components: score.components.clone(),
                correct: score.correct,
                advantage: sample.advantage(),
            });
        }
    }
    Ok(rows)
}

/// Writes the rows as Parquet, compressed with zstd; equal rows give equal bytes. The file appears whole or not at all:
/// it is written aside and renamed. Its folder is made if need be.
///
/// # Errors
/// A file that cannot be written.
pub fn write_rollouts(file: &Path, rows: &[RolloutRow]) -> Result<(), TrainError> {
    let write = || {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        encode(Draft::create(file)?, rows).map_err(io::Error::other)?.finish()
    };
    write().map_err(TrainError::write(file))
}

fn encode(file: Draft, rows: &[RolloutRow]) -> Result<Draft, ParquetError> {
    let schema = Arc::new(schema());
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
    for rows in rows.chunks(BATCH) {
        writer.write(&RecordBatch::try_new(schema.clone(), columns(rows)?)?)?;
    }
    writer.into_inner()
}

/// Reads what [`write_rollouts`] wrote; every number comes back bit for bit.
///
/// # Errors
/// A file that cannot be opened, is damaged, or has other columns.
pub fn read_rollouts(file: &Path) -> Result<Vec<RolloutRow>, TrainError> {
    let damaged = |problem: String| TrainError::RolloutFile { file: file.into(), problem };
    let opened = File::open(file).map_err(|source| TrainError::Read { file: file.into(), source })?;
    // The parquet crate panics on some damaged files.
    contain(|| decode_all(opened))
        .unwrap_or_else(|panic| Err(format!("it is damaged: the parquet crate panics on it: {panic}")))
        .map_err(damaged)
}

fn decode_all(file: File) -> Result<Vec<RolloutRow>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| e.to_string())?;
    check_columns(reader.schema())?;
    let mut rows = Vec::new();
    for batch in reader.with_batch_size(BATCH).build().map_err(|e| e.to_string())? {
        let batch = batch.map_err(|e| e.to_string())?;
        for row in 0..batch.num_rows() {
            rows.push(decode(&batch, row).map_err(|problem| format!("row {}: {problem}", rows.len()))?);
        }
    }
    Ok(rows)
}

fn list(item: DataType) -> DataType {
    DataType::List(element(item))
}

fn element(item: DataType) -> FieldRef {
    Arc::new(Field::new("element", item, false))
}

fn components_type() -> DataType {
    let entry =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Float64, false)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false)
}

/// The columns, none of which has nulls.
fn schema() -> Schema {
    let columns = [
        ("prompt_id", DataType::UInt64),
        ("sample", DataType::UInt32),
        ("data_source", DataType::Utf8),
        ("prompt", DataType::Utf8),
        ("response", DataType::Utf8),
        ("prompt_ids", list(DataType::UInt32)),
        ("response_ids", list(DataType::UInt32)),
        ("log_probs", list(DataType::Float32)),
        ("finish", DataType::Utf8),
        ("reward", DataType::Float64),
        ("components", components_type()),
        ("correct", DataType::Boolean),
        ("advantage", DataType::Float64),
    ];
    Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, false)).to_vec())
}

/// Whether the file has our columns, each of our type and without nulls; others are ignored.
fn check_columns(found: &Schema) -> Result<(), String> {
    for wanted in schema().fields() {
        let name = wanted.name();
        let Ok(column) = found.field_with_name(name) else {
            let names: Vec<&str> = found.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(format!("column `{name}` is missing; it has {}", names.join(", ")));
        };
        if column.data_type() != wanted.data_type() || column.is_nullable() {
            return Err(format!(
                "column `{name}` is {}{}, where luspo writes {}",
                column.data_type(),
                if column.is_nullable() { " with nulls" } else { "" },
                wanted.data_type()
            ));
        }
    }
    Ok(())
}

/// The rows by column, in the order of [`schema`].
fn columns(rows: &[RolloutRow]) -> Result<Vec<ArrayRef>, ArrowError> {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let (mut prompt_id, mut sample) = (UInt64Builder::new(), UInt32Builder::new());
    let [mut data_source, mut prompt, mut response, mut finish] = [(); 4].map(|()| StringBuilder::new());
    let [mut prompt_ids, mut response_ids] =
        [(); 2].map(|()| ListBuilder::new(UInt32Builder::new()).with_field(element(DataType::UInt32)));
    let mut log_probs = ListBuilder::new(Float32Builder::new()).with_field(element(DataType::Float32));
    let [mut reward, mut advantage] = [(); 2].map(|()| Float64Builder::new());
    let mut components = MapBuilder::new(Some(names), StringBuilder::new(), Float64Builder::new())
        .with_values_field(Field::new("value", DataType::Float64, false));
    let mut correct = BooleanBuilder::new();
    for row in rows {
        prompt_id.append_value(row.prompt_id);
        sample.append_value(row.sample);
        data_source.append_value(&row.data_source);
        prompt.append_value(&row.prompt);
        response.append_value(&row.response);
        for (list, ids) in [(&mut prompt_ids, &row.prompt_ids), (&mut response_ids, &row.response_ids)] {
            list.values().append_slice(ids);
            list.append(true);
        }
        log_probs.values().append_slice(&row.log_probs);
        log_probs.append(true);
        finish.append_value(finish_name(row.finish));
        reward.append_value(row.reward);
        for (name, value) in &row.components {
            components.keys().append_value(name);
            components.values().append_value(*value);
        }
        components.append(true)?;
        correct.append_value(row.correct);
        advantage.append_value(row.advantage);
    }
    Ok(vec![
        Arc::new(prompt_id.finish()),
        Arc::new(sample.finish()),
        Arc::new(data_source.finish()),
        Arc::new(prompt.finish()),
        Arc::new(response.finish()),
        Arc::new(prompt_ids.finish()),
        Arc::new(response_ids.finish()),
        Arc::new(log_probs.finish()),
        Arc::new(finish.finish()),
        Arc::new(reward.finish()),
        Arc::new(components.finish()),
        Arc::new(correct.finish()),
        Arc::new(advantage.finish()),
    ])
}

/// One row of a batch whose columns were [checked](check_columns).
fn decode(batch: &RecordBatch, row: usize) -> Result<RolloutRow, String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column `{name}`"));
    let text = |name: &str| Ok::<_, String>(column(name)?.as_string::<i32>().value(row).to_owned());
    let float = |name: &str| Ok::<_, String>(column(name)?.as_primitive::<Float64Type>().value(row));
    let list = |name: &str| Ok::<_, String>(column(name)?.as_list::<i32>().value(row));
    let ids = |name: &str| Ok::<_, String>(list(name)?.as_primitive::<UInt32Type>().values().to_vec());
    let entries = column("components")?.as_map().value(row);
    let (names, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_primitive::<Float64Type>());
    Ok(RolloutRow {
        prompt_id: column("prompt_id")?.as_primitive::<UInt64Type>().value(row),
        sample: column("sample")?.as_primitive::<UInt32Type>().value(row),
        data_source: text("data_source")?,
        prompt: text("prompt")?,
        response: text("response")?,
        prompt_ids: ids("prompt_ids")?,
        response_ids: ids("response_ids")?,
        log_probs: list("log_probs")?.as_primitive::<Float32Type>().values().to_vec(),
        finish: finish_of(&text("finish")?)?,
        reward: float("reward")?,
        components: (0..entries.len()).map(|entry| (names.value(entry).to_owned(), values.value(entry))).collect(),
        correct: column("correct")?.as_boolean().value(row),
        advantage: float("advantage")?,
    })
}

fn finish_name(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

pub(crate) fn finish_of(name: &str) -> Result<FinishReason, String> {
    match name {
        "stop" => Ok(FinishReason::Stop),
        "length" => Ok(FinishReason::Length),
        other => Err(format!("`finish` is {other:?}, which is neither \"stop\" nor \"length\"")),
    }
}

#[cfg(test)]
mod tests;
