//! Parquet to rows: column batches become JSON, so that any physical form of a value (dictionary, large or view
//! strings, text written as plain bytes, nested lists) is read by one rule.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, FieldRef, Schema};
use luspo_core::{contain, open_file};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use crate::error::names;
use crate::{DataError, Row};

/// The columns that are read; any other is left alone.
const COLUMNS: [&str; 5] = ["data_source", "prompt", "ability", "reward_model", "extra_info"];

/// Rows decoded at a time.
const BATCH: usize = 1024;

/// Reads datasets in verl's schema; columns beyond it are ignored.
///
/// # Errors
/// Names file, row and key where a file is missing or not Parquet, a column is absent or holds bytes that are no UTF-8,
/// or a value cannot be used; and the files where they hold no row at all.
pub fn read_rows(files: &[PathBuf]) -> Result<Vec<Row>, DataError> {
    let mut rows = Vec::new();
    for file in files {
        rows.extend(read_file(file)?);
    }
    if rows.is_empty() {
        return Err(DataError::Empty { files: names(files) });
    }
    Ok(rows)
}

/// The rows of one file, which may be none.
pub(crate) fn read_file(file: &Path) -> Result<Vec<Row>, DataError> {
    contained(file, || rows(file))
}

fn rows(file: &Path) -> Result<Vec<Row>, DataError> {
    let not_parquet =
        |problem: &dyn ToString| DataError::NotParquet { file: file.into(), problem: problem.to_string() };
    let reader = open(file)?;
    let schema = reader.parquet_schema();
    let found: Vec<&str> = schema.root_schema().get_fields().iter().map(|column| column.name()).collect();
    for column in ["prompt", "data_source", "reward_model"] {
        if !found.contains(&column) {
            return Err(DataError::MissingColumn { file: file.into(), column, found: found.join(", ") });
        }
    }
    let wanted = (0..found.len()).filter(|&column| COLUMNS.contains(&found[column]));
    let mask = ProjectionMask::roots(schema, wanted);
    let batches = reader.with_projection(mask).with_batch_size(BATCH).build().map_err(|e| not_parquet(&e))?;

    let mut rows = Vec::new();
    for batch in batches {
        let batch = batch.map_err(|e| not_parquet(&e))?;
        let batch = bytes_as_text(file, &batch)?;
        for value in json_rows(&batch).map_err(|e| not_parquet(&e))? {
            let row = Row::from_json(value).map_err(|(key, problem)| DataError::Value {
                file: file.into(),
                row: rows.len(),
                key,
                problem,
            })?;
            rows.push(row);
        }
    }
    Ok(rows)
}

/// A reader of the file's column batches, with its schema.
pub(crate) fn open(file: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, DataError> {
    let opened = open_file(file).map_err(|source| DataError::Io { path: file.into(), source })?;
    contained(file, || {
        ParquetRecordBatchReaderBuilder::try_new(opened)
            .map_err(|e| DataError::NotParquet { file: file.into(), problem: e.to_string() })
    })
}

/// Runs the parquet crate, which panics on some damaged files.
fn contained<T>(file: &Path, f: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    contain(f).unwrap_or_else(|problem| Err(DataError::NotParquet { file: file.into(), problem }))
}

/// The batch with text where it had bytes: some writers store text without saying so, and JSON would show it as hex.
fn bytes_as_text(file: &Path, batch: &RecordBatch) -> Result<RecordBatch, DataError> {
    // Not safe: bytes that are no UTF-8 are an error, where they would become null.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let fields: Vec<FieldRef> = batch.schema().fields().iter().map(text_field).collect();
    let columns = fields.iter().zip(batch.columns()).map(|(field, column)| {
        cast_with_options(column, field.data_type(), &options).map_err(|e| DataError::NotText {
            file: file.into(),
            column: field.name().clone(),
            problem: e.to_string(),
        })
    });
    let columns = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|e| DataError::NotParquet { file: file.into(), problem: e.to_string() })
}

fn text_field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(text_type(field.data_type())))
}

/// The type with text in place of bytes, at any depth.
fn text_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Binary | DataType::BinaryView => DataType::Utf8,
        DataType::LargeBinary => DataType::LargeUtf8,
        DataType::Dictionary(key, value) => DataType::Dictionary(key.clone(), Box::new(text_type(value))),
        DataType::List(item) => DataType::List(text_field(item)),
        DataType::LargeList(item) => DataType::LargeList(text_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(text_field(item), *size),
        DataType::Map(entry, sorted) => DataType::Map(text_field(entry), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(text_field).collect()),
        other => other.clone(),
    }
}

/// One JSON object a row; null values are absent from it.
fn json_rows(batch: &RecordBatch) -> Result<Vec<Map<String, Value>>, ArrowError> {
    let mut writer = arrow_json::ArrayWriter::new(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    serde_json::from_slice(&writer.into_inner()).map_err(|e| ArrowError::JsonError(e.to_string()))
}
