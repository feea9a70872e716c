//! Parquet: column batches become JSON, so that any physical form of a value (dictionary, large or view strings, text
//! written as plain bytes, nested lists) is read by one rule.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, FieldRef, Schema};
use luspo_core::{contain, open_file};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::JsonRow;
use crate::{Column, DataError};

/// The columns that are read; any other is left alone.
const COLUMNS: [&str; 5] = ["data_source", "prompt", "ability", "reward_model", "extra_info"];

/// Rows decoded at a time.
const BATCH: usize = 256;

/// The rows of a file as JSON, decoded row group by row group.
pub(super) struct Objects {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    /// The next row group to be opened.
    next_group: usize,
    batches: Option<ParquetRecordBatchReader>,
    decoded: std::vec::IntoIter<JsonRow>,
}

impl Objects {
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let (file, metadata) = open(path)?;
        let schema = metadata.parquet_schema();
        let found: Vec<&str> = schema.root_schema().get_fields().iter().map(|column| column.name()).collect();
        for column in ["prompt", "data_source", "reward_model"] {
            if !found.contains(&column) {
                return Err(DataError::MissingColumn { file: path.into(), column, found: found.join(", ") });
            }
        }
        let wanted = (0..found.len()).filter(|&column| COLUMNS.contains(&found[column]));
        let mask = ProjectionMask::roots(schema, wanted);
        let decoded = Vec::new().into_iter();
        Ok(Self { path: path.into(), file, metadata, mask, next_group: 0, batches: None, decoded })
    }

    /// The rows of the next batch; none at the end of the file.
    fn batch(&mut self) -> Result<Option<Vec<JsonRow>>, DataError> {
        loop {
            let batch = match &mut self.batches {
                Some(batches) => batches.next(),
                None => None,
            };
            if let Some(batch) = batch {
                let batch = as_json_has_it(&self.path, &batch.map_err(|e| not_parquet(&self.path, &e))?)?;
                return json_rows(&batch).map(Some).map_err(|e| not_parquet(&self.path, &e));
            }
            if self.next_group == self.metadata.metadata().num_row_groups() {
                return Ok(None);
            }
            let file = self.file.try_clone().map_err(|source| DataError::Io { path: self.path.clone(), source })?;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_row_groups(vec![self.next_group])
                .with_projection(self.mask.clone())
                .with_batch_size(BATCH);
            self.next_group += 1;
            self.batches = Some(builder.build().map_err(|e| not_parquet(&self.path, &e))?);
        }
    }

    /// The error with the row group in which it was met.
    fn placed(&self, error: DataError) -> DataError {
        match error {
            DataError::NotParquet { file, problem } => {
                let (group, groups) = (self.next_group.saturating_sub(1), self.metadata.metadata().num_row_groups());
                DataError::NotParquet { file, problem: format!("row group {group} of {groups}: {problem}") }
            }
            other => other,
        }
    }
}

impl Iterator for Objects {
    type Item = Result<JsonRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.decoded.next() {
            return Some(Ok(row));
        }
        let path = self.path.clone();
        match contained(&path, || self.batch()) {
            Ok(batch) => {
                self.decoded = batch?.into_iter();
                self.next()
            }
            Err(error) => Some(Err(self.placed(error))),
        }
    }
}

/// The leaf columns of a file, in its order.
pub(super) fn columns(path: &Path) -> Result<Vec<Column>, DataError> {
    let (_, metadata) = open(path)?;
    let column = |leaf: &parquet::schema::types::ColumnDescPtr| {
        let logical = leaf.logical_type_ref().map(|logical| format!(" ({logical:?})")).unwrap_or_default();
        Column { path: leaf.path().string(), kind: format!("{}{logical}", leaf.physical_type()) }
    };
    Ok(metadata.parquet_schema().columns().iter().map(column).collect())
}

fn open(path: &Path) -> Result<(File, ArrowReaderMetadata), DataError> {
    let file = open_file(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let metadata =
        contained(path, || ArrowReaderMetadata::load(&file, Default::default()).map_err(|e| not_parquet(path, &e)))?;
    Ok((file, metadata))
}

/// Runs the parquet crate, which panics on some damaged files.
fn contained<T>(file: &Path, f: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    contain(f).unwrap_or_else(|problem| Err(not_parquet(file, &problem)))
}

fn not_parquet(file: &Path, problem: &dyn ToString) -> DataError {
    DataError::NotParquet { file: file.into(), problem: problem.to_string() }
}

/// The batch in types that JSON has a form for. Text where it had bytes: some writers store text without saying so, and
/// JSON would show it as hex. And moments without the names of time zones, of which no table is in this build.
fn as_json_has_it(file: &Path, batch: &RecordBatch) -> Result<RecordBatch, DataError> {
    // Not safe: bytes that are no UTF-8 are an error, where they would become null.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let fields: Vec<FieldRef> = batch.schema().fields().iter().map(json_field).collect();
    let columns = fields.iter().zip(batch.columns()).map(|(field, column)| {
        cast_with_options(column, field.data_type(), &options).map_err(|e| DataError::NotText {
            file: file.into(),
            column: field.name().clone(),
            problem: e.to_string(),
        })
    });
    let columns = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| not_parquet(file, &e))
}

fn json_field(field: &FieldRef) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(json_type(field.data_type())))
}

/// The type with text in place of bytes and UTC in place of time zones, at any depth.
fn json_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Binary | DataType::BinaryView => DataType::Utf8,
        DataType::LargeBinary => DataType::LargeUtf8,
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("+00:00".into())),
        DataType::Dictionary(key, value) => DataType::Dictionary(key.clone(), Box::new(json_type(value))),
        DataType::List(item) => DataType::List(json_field(item)),
        DataType::LargeList(item) => DataType::LargeList(json_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(json_field(item), *size),
        DataType::Map(entry, sorted) => DataType::Map(json_field(entry), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(json_field).collect()),
        other => other.clone(),
    }
}

/// One JSON object a row; null values are absent from it.
fn json_rows(batch: &RecordBatch) -> Result<Vec<JsonRow>, ArrowError> {
    let mut writer = arrow_json::ArrayWriter::new(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    serde_json::from_slice(&writer.into_inner()).map_err(|e| ArrowError::JsonError(e.to_string()))
}
