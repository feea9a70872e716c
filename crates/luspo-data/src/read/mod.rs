//! Files to rows, one row at a time: Parquet and JSON Lines become JSON objects, which are read by one rule.

mod jsonl;
mod parquet;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::names;
use crate::{Column, DataError, Row};

/// A row as its file has it; null values are absent.
type JsonRow = Map<String, Value>;

/// Where the rows of a file come from.
type Source = Box<dyn Iterator<Item = Result<JsonRow, DataError>> + Send>;

/// The rows of a file in verl's schema, read while one iterates: a few hundred are in memory at a time.
///
/// An error that is [`DataError::Value`] is about one row, and the next call goes on behind it; any other ends the rows.
pub struct Rows {
    file: PathBuf,
    source: Option<Source>,
    row: usize,
}

impl Rows {
    /// Opens a file: JSON Lines where its name ends in `.jsonl`, else Parquet. Columns beyond verl's are ignored.
    ///
    /// # Errors
    /// Where the file is missing or not of its format, or a column is absent.
    pub fn open(file: &Path) -> Result<Self, DataError> {
        let source: Source = match is_jsonl(file) {
            true => Box::new(jsonl::Lines::open(file)?),
            false => Box::new(parquet::Objects::open(file)?),
        };
        Ok(Self { file: file.into(), source: Some(source), row: 0 })
    }
}

impl Iterator for Rows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let object = match self.source.as_mut()?.next()? {
            Ok(object) => object,
            Err(error) => {
                self.source = None;
                return Some(Err(error));
            }
        };
        let row = self.row;
        self.row += 1;
        let value = |(key, problem)| DataError::Value { file: self.file.clone(), row, key, problem };
        Some(Row::from_json(object).map_err(value))
    }
}

/// Reads whole datasets in verl's schema into memory; [`Rows`] reads one row after the other.
///
/// # Errors
/// Names file, row and key where a file is missing or not of its format, a column is absent or holds bytes that are no
/// UTF-8, or a value cannot be used; and the files where they hold no row at all.
pub fn read_rows(files: &[PathBuf]) -> Result<Vec<Row>, DataError> {
    let mut rows = Vec::new();
    for file in files {
        for row in Rows::open(file)? {
            rows.push(row?);
        }
    }
    if rows.is_empty() {
        return Err(DataError::Empty { files: names(files) });
    }
    Ok(rows)
}

/// The columns of a file: the leaves of a Parquet schema, or what the lines of JSON Lines have.
pub(crate) fn columns(file: &Path) -> Result<Vec<Column>, DataError> {
    if is_jsonl(file) { jsonl::columns(file) } else { parquet::columns(file) }
}

fn is_jsonl(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"))
}
