//! JSON Lines: one object a line, with the fields that the columns of a Parquet file would have.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use luspo_core::open_file;
use serde_json::{Map, Value};

use super::JsonRow;
use crate::{Column, DataError};

/// The longest line, in bytes: what has no line breaks is no JSON Lines, and would be read into memory whole.
const LONGEST: u64 = 64 << 20;

/// The objects of a file; blank lines are skipped.
pub(super) struct Lines {
    file: PathBuf,
    reader: BufReader<File>,
    line: usize,
}

impl Lines {
    pub(super) fn open(file: &Path) -> Result<Self, DataError> {
        let opened = open_file(file).map_err(|source| DataError::Io { path: file.into(), source })?;
        Ok(Self { file: file.into(), reader: BufReader::new(opened), line: 0 })
    }

    /// The next line that is not blank.
    fn line(&mut self) -> Result<Option<Vec<u8>>, DataError> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader).take(LONGEST).read_until(b'\n', &mut line);
            if read.map_err(|source| DataError::Io { path: self.file.clone(), source })? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if line.len() as u64 == LONGEST {
                return Err(self.wrong(format!("has more than {LONGEST} bytes")));
            }
            // Some editors begin a file with a mark of its encoding.
            if self.line == 1 && line.starts_with("\u{feff}".as_bytes()) {
                line.drain(.."\u{feff}".len());
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn wrong(&self, problem: String) -> DataError {
        DataError::NotJson { file: self.file.clone(), line: self.line, problem }
    }
}

impl Iterator for Lines {
    type Item = Result<JsonRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.line() {
            Ok(line) => line?,
            Err(error) => return Some(Err(error)),
        };
        Some(match serde_json::from_slice(&line) {
            Ok(Value::Object(mut object)) => {
                drop_nulls(&mut object);
                Ok(object)
            }
            Ok(_) => Err(self.wrong("is no object".into())),
            Err(e) => Err(self.wrong(format!("is no JSON: {e}"))),
        })
    }
}

/// Takes null values out of objects at any depth; those of lists stay, as in Parquet.
fn drop_nulls(object: &mut JsonRow) {
    object.retain(|_, value| !value.is_null());
    object.values_mut().for_each(drop_nulls_inside);
}

fn drop_nulls_inside(value: &mut Value) {
    match value {
        Value::Object(object) => drop_nulls(object),
        Value::Array(items) => items.iter_mut().for_each(drop_nulls_inside),
        _ => {}
    }
}

/// The leaves of all objects with the kinds of their values, in the order in which they appear.
pub(super) fn columns(file: &Path) -> Result<Vec<Column>, DataError> {
    let mut kinds: Map<String, Value> = Map::new();
    for object in Lines::open(file)? {
        leaves("", &Value::Object(object?), &mut |path, kind| {
            let known = kinds.entry(path).or_insert_with(|| kind.into());
            if let Some(known_kinds) = known.as_str().filter(|known| !known.split(" or ").any(|known| known == kind)) {
                *known = format!("{known_kinds} or {kind}").into();
            }
        });
    }
    let column = |(path, kind): (String, Value)| Column { path, kind: kind.as_str().unwrap_or_default().into() };
    Ok(kinds.into_iter().map(column).collect())
}

/// Calls `f` with the dotted path and the kind of every value that holds no others.
fn leaves(path: &str, value: &Value, f: &mut impl FnMut(String, &'static str)) {
    let kind = match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, value) in object {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(&format!("{path}{dot}{key}"), value, f);
            }
            return;
        }
        Value::Array(items) if !items.is_empty() => {
            return items.iter().for_each(|item| leaves(&format!("{path}[]"), item, f));
        }
        Value::Object(_) => "object",
        Value::Array(_) => "list",
        Value::String(_) => "text",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    f(path.to_owned(), kind);
}
