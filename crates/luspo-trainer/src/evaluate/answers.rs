//! Judged answers as Parquet, for people and programs to read, and for an evaluation to go on with.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_json::ReaderBuilder;
use arrow_schema::{DataType, Field, Fields, Schema};
use luspo_core::durable::Draft;
use luspo_core::{FinishReason, Prompt, Rollout, Score, contain};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::Serialize;

use super::Answers;
use crate::rollout_file::finish_of;
use crate::{Policy, TrainError};

/// Rows encoded at a time: the text of a batch must stay below 2 GiB.
const BATCH: usize = 1024;

/// Under this key the file says what went wrong with rewards of the user's own, as JSON.
const ERRORS: &str = "luspo.errors";

/// One judged answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnswerRow {
    /// The policy, as it was named.
    pub model: String,
    /// The prompt's row in the data, from 0, counted over all files.
    pub prompt_id: u64,
    /// Number of the answer among those to its prompt, from 0.
    pub sample: u32,
    /// Which dataset the prompt belongs to.
    pub data_source: String,
    /// The conversation as the model read it, special tokens included.
    pub prompt: String,
    /// The gold answer.
    pub ground_truth: String,
    /// The answer as the verifiers read it, without special tokens.
    pub response: String,
    /// Its length in tokens, the end-of-sequence token included.
    pub response_length: u64,
    /// Why it ended.
    pub finish: FinishReason,
    /// The total score; none where the answer could not be judged.
    pub score: Option<f64>,
    /// The weighted terms of the score, by name; none for one that could not be judged.
    pub components: BTreeMap<String, Option<f64>>,
    /// Whether it is right; none where it could not be judged.
    pub correct: Option<bool>,
    /// What the verifier took for the answer in it, where it found one.
    pub extracted: Option<String>,
    /// The verifier's name for the manner of the answer, where it tells manners apart.
    pub style: Option<String>,
}

impl AnswerRow {
    pub(super) fn of(
        model: &str,
        policy: &Policy,
        prompt: &Prompt,
        rollout: &Rollout,
        score: Score,
    ) -> Result<Self, TrainError> {
        let known = score.is_known();
        let components = score.components.into_iter();
        Ok(Self {
            model: model.into(),
            prompt_id: prompt.id,
            sample: rollout.sample,
            data_source: prompt.data_source.clone(),
            prompt: policy.tokenizer.decode_with_special_tokens(&prompt.token_ids)?,
            ground_truth: prompt.ground_truth.clone(),
            response: policy.text(rollout)?,
            response_length: rollout.response_len() as u64,
            finish: rollout.finish,
            score: known.then_some(score.total),
            components: components.map(|(name, value)| (name, Some(value).filter(|value| value.is_finite()))).collect(),
            correct: known.then_some(score.correct),
            extracted: score.extracted,
            style: score.style,
        })
    }

    /// Whether it could be judged and is right.
    pub fn is_right(&self) -> bool {
        self.correct == Some(true)
    }
}

/// Writes answers as Parquet, compressed with zstd; equal answers give equal bytes. The file appears whole or not at
/// all.
///
/// # Errors
/// A file that cannot be written.
pub fn write_answers(file: &Path, answers: &Answers) -> Result<(), TrainError> {
    let write = || encode(Draft::create(file)?, answers).map_err(io::Error::other)?.finish();
    write().map_err(TrainError::write(file))
}

/// Reads what [`write_answers`] wrote; every number comes back bit for bit.
///
/// # Errors
/// A file that cannot be opened, is damaged, or has other columns.
pub fn read_answers(file: &Path) -> Result<Answers, TrainError> {
    let opened = File::open(file).map_err(|source| TrainError::Read { file: file.into(), source })?;
    // The parquet crate panics on some damaged files.
    contain(|| decode(opened))
        .unwrap_or_else(|panic| Err(format!("the parquet crate panics on it: {panic}")))
        .map_err(|problem| TrainError::AnswerFile { file: file.into(), problem })
}

fn schema() -> Schema {
    let entry = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Float64, true)];
    let entries = Field::new("key_value", DataType::Struct(Fields::from(entry)), false);
    let columns = [
        ("model", DataType::Utf8, false),
        ("prompt_id", DataType::UInt64, false),
        ("sample", DataType::UInt32, false),
        ("data_source", DataType::Utf8, false),
        ("prompt", DataType::Utf8, false),
        ("ground_truth", DataType::Utf8, false),
        ("response", DataType::Utf8, false),
        ("response_length", DataType::UInt64, false),
        ("finish", DataType::Utf8, false),
        ("score", DataType::Float64, true),
        ("components", DataType::Map(Arc::new(entries), false), false),
        ("correct", DataType::Boolean, true),
        ("extracted", DataType::Utf8, true),
        ("style", DataType::Utf8, true),
    ];
    Schema::new(columns.map(|(name, kind, nullable)| Field::new(name, kind, nullable)).to_vec())
}

fn encode(file: Draft, answers: &Answers) -> Result<Draft, ParquetError> {
    let schema = Arc::new(schema());
    let errors = serde_json::to_string(&answers.errors).map_err(|error| ParquetError::External(Box::new(error)))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(Some(vec![KeyValue::new(ERRORS.into(), errors)]))
        .build();
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
    for rows in answers.rows.chunks(BATCH) {
        let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(BATCH).build_decoder()?;
        decoder.serialize(rows)?;
        if let Some(batch) = decoder.flush()? {
            writer.write(&batch)?;
        }
    }
    writer.into_inner()
}

fn decode(file: File) -> Result<Answers, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
    for wanted in schema().fields() {
        match reader.schema().field_with_name(wanted.name()) {
            Ok(found) if found.data_type() == wanted.data_type() => {}
            Ok(found) => return Err(format!("column `{}` is {}", wanted.name(), found.data_type())),
            Err(_) => return Err(format!("there is no column `{}`", wanted.name())),
        }
    }
    let metadata = reader.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let errors = metadata.filter(|entry| entry.key == ERRORS).find_map(|entry| entry.value.as_deref());
    let errors = serde_json::from_str(errors.unwrap_or("[]")).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for batch in reader.with_batch_size(BATCH).build().map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        for row in 0..batch.num_rows() {
            rows.push(decode_row(&batch, row).map_err(|problem| format!("row {}: {problem}", rows.len()))?);
        }
    }
    Ok(Answers { rows, errors })
}

/// One row of a batch whose columns were looked at.
fn decode_row(batch: &RecordBatch, row: usize) -> Result<AnswerRow, String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column `{name}`"));
    let maybe_text = |name: &str| {
        let column = column(name)?.as_string::<i32>();
        Ok::<_, String>(column.is_valid(row).then(|| column.value(row).to_owned()))
    };
    let text = |name: &str| maybe_text(name)?.ok_or_else(|| format!("`{name}` is null"));
    let number = |name: &str| Ok::<_, String>(column(name)?.as_primitive::<UInt64Type>().value(row));
    let (score, correct) = (column("score")?.as_primitive::<Float64Type>(), column("correct")?.as_boolean());
    let entries = column("components")?.as_map().value(row);
    let (names, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_primitive::<Float64Type>());
    let component = |at: usize| (names.value(at).to_owned(), values.is_valid(at).then(|| values.value(at)));
    Ok(AnswerRow {
        model: text("model")?,
        prompt_id: number("prompt_id")?,
        sample: column("sample")?.as_primitive::<UInt32Type>().value(row),
        data_source: text("data_source")?,
        prompt: text("prompt")?,
        ground_truth: text("ground_truth")?,
        response: text("response")?,
        response_length: number("response_length")?,
        finish: finish_of(&text("finish")?)?,
        score: score.is_valid(row).then(|| score.value(row)),
        components: (0..entries.len()).map(component).collect(),
        correct: correct.is_valid(row).then(|| correct.value(row)),
        extracted: maybe_text("extracted")?,
        style: maybe_text("style")?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An answer of which nothing is known.
    pub fn blank() -> AnswerRow {
        AnswerRow {
            model: String::new(),
            prompt_id: 0,
            sample: 0,
            data_source: "s".into(),
            prompt: String::new(),
            ground_truth: String::new(),
            response: String::new(),
            response_length: 0,
            finish: FinishReason::Stop,
            score: None,
            components: BTreeMap::new(),
            correct: None,
            extracted: None,
            style: None,
        }
    }

    #[test]
    fn what_is_written_is_read_again_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.parquet"), dir.path().join("two.parquet"));
        let components = [("accuracy", Some(0.1 + 0.2)), ("own", None)].map(|(name, value)| (name.to_string(), value));
        let judged = AnswerRow {
            prompt_id: u64::MAX,
            response: "é\n\0".into(),
            response_length: 7,
            finish: FinishReason::Length,
            score: Some(-f64::MIN_POSITIVE),
            components: components.into(),
            correct: Some(false),
            extracted: Some(String::new()),
            style: Some("long".into()),
            ..blank()
        };
        let rows: Vec<AnswerRow> =
            (0..2500).map(|sample| AnswerRow { sample, ..judged.clone() }).chain([blank()]).collect();
        let answers = Answers { rows, errors: vec![("reward/errors/own/exited".into(), 3.0)] };
        write_answers(&one, &answers).unwrap();
        let read = read_answers(&one).unwrap();
        assert!(read == answers);
        write_answers(&two, &read).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());

        std::fs::write(&two, &std::fs::read(&one).unwrap()[..500]).unwrap();
        assert!(read_answers(&two).unwrap_err().to_string().contains("two.parquet"));
    }
}
