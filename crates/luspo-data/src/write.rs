//! Rows to Parquet in verl's schema.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_json::ReaderBuilder;
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value, json};

use crate::{DataError, PromptText, Row};

/// Writes rows in verl's schema, compressed with zstd. Equal rows give equal bytes.
///
/// What [`read_rows`](crate::read_rows) reads back is equal, but for what a Parquet column cannot say in `extra_info`:
/// - null values are absent, and so are structs that are empty in every row; where all of `extra_info` is, it is null;
/// - where one key has integers and floats, all become floats, and so do its integers where one is above [`i64::MAX`].
///
/// # Errors
/// Where `extra_info` holds values of different kinds under one key, or messages and plain text are mixed among the
/// prompts: a Parquet column has one type; and where the file cannot be written.
pub fn write_rows(file: &Path, rows: &[Row]) -> Result<(), DataError> {
    let not_writable = |key: String, problem: String| DataError::NotWritable { file: file.into(), key, problem };
    let failed = |problem: &dyn ToString| not_writable("the file".into(), problem.to_string());

    let schema = Arc::new(schema(rows).map_err(|(key, problem)| not_writable(key, problem))?);
    let values: Vec<Value> = rows.iter().map(json_row).collect();
    let mut decoder = ReaderBuilder::new(schema.clone()).build_decoder().map_err(|e| failed(&e))?;
    decoder.serialize(&values).map_err(|e| failed(&e))?;
    let batch = decoder.flush().map_err(|e| failed(&e))?;

    let created = File::create(file).map_err(|source| DataError::Io { path: file.into(), source })?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = ArrowWriter::try_new(created, schema, Some(properties)).map_err(|e| failed(&e))?;
    if let Some(batch) = batch {
        writer.write(&batch).map_err(|e| failed(&e))?;
    }
    writer.close().map_err(|e| failed(&e))?;
    Ok(())
}

fn json_row(row: &Row) -> Value {
    json!({
        "data_source": row.data_source,
        "prompt": row.prompt,
        "ability": row.ability,
        "reward_model": { "ground_truth": row.ground_truth, "style": "rule" },
        "extra_info": row.extra_info,
    })
}

/// verl's schema, with the struct of `extra_info` as the rows have it.
fn schema(rows: &[Row]) -> Result<Schema, (String, String)> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let texts = rows.iter().filter(|row| matches!(row.prompt, PromptText::Text(_))).count();
    let prompt = match texts {
        0 => list(DataType::Struct(Fields::from(vec![text("role"), text("content")]))),
        n if n == rows.len() => DataType::Utf8,
        _ => return Err(("prompt".into(), "is messages in some rows and plain text in others".into())),
    };
    let mut columns = vec![
        text("data_source"),
        Field::new("prompt", prompt, true),
        text("ability"),
        Field::new("reward_model", DataType::Struct(Fields::from(vec![text("ground_truth"), text("style")])), true),
    ];
    let extra_info: Vec<&Value> = rows.iter().map(|row| &row.extra_info).collect();
    if let Some(data_type) = data_type("extra_info", &extra_info)? {
        columns.push(Field::new("extra_info", data_type, true));
    }
    Ok(Schema::new(columns))
}

/// The type that holds all these values; none where they say nothing (null, or structs without content).
fn data_type(key: &str, values: &[&Value]) -> Result<Option<DataType>, (String, String)> {
    let values: Vec<&Value> = values.iter().copied().filter(|value| !value.is_null()).collect();
    let all = |kind: fn(&Value) -> bool| values.iter().all(|value| kind(value));
    Ok(if values.is_empty() {
        None
    } else if all(Value::is_string) {
        Some(DataType::Utf8)
    } else if all(Value::is_boolean) {
        Some(DataType::Boolean)
    } else if all(Value::is_i64) {
        Some(DataType::Int64)
    } else if all(Value::is_number) {
        Some(DataType::Float64)
    } else if all(Value::is_array) {
        let items: Vec<&Value> = values.iter().filter_map(|value| value.as_array()).flatten().collect();
        Some(list(data_type(&format!("{key}[]"), &items)?.unwrap_or(DataType::Utf8)))
    } else if all(Value::is_object) {
        let objects: Vec<&Map<String, Value>> = values.iter().filter_map(|value| value.as_object()).collect();
        let fields = struct_fields(key, &objects)?;
        (!fields.is_empty()).then(|| DataType::Struct(Fields::from(fields)))
    } else {
        return Err((key.to_owned(), "has values of different kinds; a Parquet column has one".into()));
    })
}

/// One field a key, in the order in which keys first appear.
fn struct_fields(key: &str, objects: &[&Map<String, Value>]) -> Result<Vec<Field>, (String, String)> {
    let mut columns: Map<String, Value> = Map::new();
    for name in objects.iter().flat_map(|object| object.keys()) {
        columns.entry(name.clone()).or_insert(Value::Null);
    }
    let mut fields = Vec::new();
    for name in columns.keys() {
        let values: Vec<&Value> = objects.iter().filter_map(|object| object.get(name)).collect();
        if let Some(data_type) = data_type(&format!("{key}.{name}"), &values)? {
            fields.push(Field::new(name, data_type, true));
        }
    }
    Ok(fields)
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}
