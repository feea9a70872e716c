//! Parquet in verl's schema: what is written is read back, other writers' forms are read too, and what is malformed is
//! refused by file, row and key.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, DictionaryArray, FixedSizeListArray, LargeBinaryArray,
    LargeStringArray, RecordBatch, StructArray,
};
use arrow_schema::{DataType, Field};
use luspo_core::Message;
use luspo_data::{DataError, PromptText, Row, inspect, read_rows, write_rows};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

fn row(question: &str, gold: &str, extra_info: Value) -> Row {
    Row {
        prompt: PromptText::Messages(vec![Message::new("system", "Be brief."), Message::new("user", question)]),
        data_source: "openai/gsm8k".into(),
        ability: Some("math".into()),
        ground_truth: gold.into(),
        extra_info,
    }
}

fn write_batch(file: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(file).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// A Parquet file of these JSON rows, whatever they are.
fn parquet(dir: &TempDir, rows: &[Value]) -> PathBuf {
    let file = dir.path().join("rows.parquet");
    let schema = arrow_json::reader::infer_json_schema_from_iterator(rows.iter().map(Ok)).unwrap();
    let mut decoder = arrow_json::ReaderBuilder::new(Arc::new(schema)).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    write_batch(&file, &decoder.flush().unwrap().unwrap());
    file
}

fn question(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

fn refusal(dir: &TempDir, rows: &[Value]) -> String {
    read_rows(&[parquet(dir, rows)]).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_back() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    let rows = [
        row("1+1?", "2", json!({ "index": 0, "split": "train", "scores": [0.5, 1.0], "meta": { "ok": true } })),
        row("größer?\n\"—\"", "", json!({ "index": 1, "split": "train", "scores": [], "meta": { "ok": false } })),
        Row { ability: None, ..row("2+2?", "4", Value::Null) },
    ];
    write_rows(&file, &rows).unwrap();
    assert_eq!(read_rows(&[file.clone(), file]).unwrap(), [rows.clone(), rows].concat());
}

proptest! {
    #[test]
    fn any_text_survives(question: String, gold: String, note: String) {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("rows.parquet");
        let rows = [row(&question, &gold, json!({ "note": note }))];
        write_rows(&file, &rows).unwrap();
        prop_assert_eq!(read_rows(&[file]).unwrap(), rows);
    }
}

#[test]
fn plain_text_prompts_stay_plain_text() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    let rows = [Row { prompt: PromptText::Text("1+1=".into()), ..row("", "2", Value::Null) }];
    write_rows(&file, &rows).unwrap();
    assert_eq!(read_rows(&[file]).unwrap(), rows);
}

#[test]
fn nulls_and_empty_structs_of_extra_info_are_absent() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    let extra_info = json!({ "index": 0, "note": null, "tags": {}, "names": [null, "x"] });
    write_rows(&file, &[row("?", "1", extra_info), row("?", "2", json!({ "index": 1 }))]).unwrap();
    let read = read_rows(&[file]).unwrap();
    assert_eq!(read[0].extra_info, json!({ "index": 0, "names": [null, "x"] }));
    assert_eq!(read[1].extra_info, json!({ "index": 1 }));
}

#[test]
fn extra_info_that_is_empty_in_every_row_reads_back_as_null() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    write_rows(&file, &[row("?", "1", json!({})), row("?", "2", json!({ "tags": {} }))]).unwrap();
    assert!(read_rows(std::slice::from_ref(&file)).unwrap().iter().all(|row| row.extra_info == Value::Null));

    // Where one row has content, the column can say which rows are empty and which are null.
    let rows = [row("?", "1", json!({})), row("?", "2", Value::Null), row("?", "3", json!({ "index": 1 }))];
    write_rows(&file, &rows).unwrap();
    assert_eq!(read_rows(&[file]).unwrap(), rows);
}

#[test]
fn integers_beside_floats_or_beyond_i64_read_back_as_floats() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    let written = [json!({ "mixed": 1, "large": u64::MAX, "exact": i64::MAX }), json!({ "mixed": 0.5, "large": 1 })];
    write_rows(&file, &written.map(|extra_info| row("?", "1", extra_info))).unwrap();
    let read = read_rows(&[file]).unwrap();
    assert_eq!(read[0].extra_info, json!({ "mixed": 1.0, "large": u64::MAX as f64, "exact": i64::MAX }));
    assert_eq!(read[1].extra_info, json!({ "mixed": 0.5, "large": 1.0 }));
}

#[test]
fn equal_rows_give_equal_bytes() {
    let dir = TempDir::new().unwrap();
    let rows = [row("1+1?", "2", json!({ "z": 1, "a": 2, "m": { "y": 1, "b": 2 }, "k": "v" }))];
    let written: Vec<Vec<u8>> = ["first", "second"]
        .iter()
        .map(|name| {
            let file = dir.path().join(name);
            write_rows(&file, &rows).unwrap();
            fs::read(file).unwrap()
        })
        .collect();
    assert_eq!(written[0], written[1]);
}

#[test]
fn values_of_different_kinds_under_one_key_cannot_be_written() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    let rows = [row("?", "1", json!({ "meta": { "index": 0 } })), row("?", "1", json!({ "meta": { "index": "a" } }))];
    let error = write_rows(&file, &rows).unwrap_err().to_string();
    assert!(error.contains("`extra_info.meta.index`"), "{error}");

    let rows = [row("?", "1", Value::Null), Row { prompt: PromptText::Text("?".into()), ..row("", "1", Value::Null) }];
    let error = write_rows(&file, &rows).unwrap_err().to_string();
    assert!(error.contains("`prompt`"), "{error}");
}

#[test]
fn dictionaries_large_strings_and_foreign_columns_are_read() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    let sources: DictionaryArray<Int32Type> = vec!["aime", "aime"].into_iter().collect();
    let gold: ArrayRef = Arc::new(LargeStringArray::from(vec!["45", "7"]));
    let reward_model = StructArray::from(vec![(Arc::new(Field::new("ground_truth", DataType::LargeUtf8, true)), gold)]);
    let columns: [(&str, ArrayRef); 4] = [
        ("images", Arc::new(BinaryArray::from(vec![&b"\xff\xd8"[..], b""]))),
        ("data_source", Arc::new(sources)),
        ("prompt", Arc::new(LargeStringArray::from(vec!["one", "two"]))),
        ("reward_model", Arc::new(reward_model)),
    ];
    write_batch(&file, &RecordBatch::try_from_iter(columns).unwrap());
    let rows = read_rows(&[file]).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1].prompt, PromptText::Text("two".into()));
    assert_eq!(
        (rows[1].data_source.as_str(), rows[1].ground_truth.as_str(), &rows[1].ability, &rows[1].extra_info),
        ("aime", "7", &None, &Value::Null)
    );
}

/// A batch of one row whose texts are bytes; `note` is inside `extra_info`.
fn of_bytes(note: &[u8]) -> RecordBatch {
    let bytes = |bytes: &[u8]| -> ArrayRef { Arc::new(BinaryArray::from(vec![bytes])) };
    let structure = |fields: Vec<(&str, ArrayRef)>| StructArray::try_from(fields).unwrap();
    let messages = structure(vec![
        ("role", Arc::new(BinaryViewArray::from(vec![&b"user"[..]]))),
        ("content", bytes("größer?".as_bytes())),
    ]);
    let element = Arc::new(Field::new("element", messages.data_type().clone(), true));
    let prompt = FixedSizeListArray::new(element, 1, Arc::new(messages), None);
    let abilities: DictionaryArray<Int32Type> =
        DictionaryArray::new(vec![0].into(), Arc::new(BinaryArray::from(vec![&b"math"[..]])));
    let gold: ArrayRef = Arc::new(LargeBinaryArray::from(vec![&b"45"[..]]));
    let columns: [(&str, ArrayRef); 5] = [
        ("data_source", bytes(b"aime")),
        ("prompt", Arc::new(prompt)),
        ("ability", Arc::new(abilities)),
        ("reward_model", Arc::new(structure(vec![("ground_truth", gold)]))),
        ("extra_info", Arc::new(structure(vec![("note", bytes(note))]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[test]
fn text_stored_as_plain_bytes_is_read_as_text() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    let expected = Row {
        prompt: PromptText::Messages(vec![Message::new("user", "größer?")]),
        data_source: "aime".into(),
        ..row("", "45", json!({ "note": "—" }))
    };
    let batch = of_bytes("—".as_bytes());
    write_batch(&file, &batch);
    assert_eq!(read_rows(std::slice::from_ref(&file)).unwrap(), std::slice::from_ref(&expected));

    // Other writers leave no Arrow schema in the file.
    let options = ArrowWriterOptions::new().with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(File::create(&file).unwrap(), batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    assert_eq!(inspect(std::slice::from_ref(&file), &[], None).unwrap().columns[0].kind, "BYTE_ARRAY");
    assert_eq!(read_rows(&[file]).unwrap(), [expected]);
}

#[test]
fn bytes_that_are_no_text_are_refused_with_file_and_column() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    write_batch(&file, &of_bytes(b"\xff\xd8"));
    let error = read_rows(&[file]).unwrap_err().to_string();
    assert!(error.contains("rows.parquet: column `extra_info` holds bytes that are no text"), "{error}");
}

#[test]
fn golds_that_are_no_text_become_text() {
    for (gold, text) in
        [(json!(7), "7"), (json!(2.5), "2.5"), (json!(true), "true"), (json!(["1", "2"]), r#"["1","2"]"#)]
    {
        let dir = TempDir::new().unwrap();
        let row = json!({ "data_source": "x", "prompt": question("?"), "reward_model": { "ground_truth": gold } });
        assert_eq!(read_rows(&[parquet(&dir, &[row])]).unwrap()[0].ground_truth, text);
    }
}

#[test]
fn what_is_missing_is_named_with_file_row_and_key() {
    let dir = TempDir::new().unwrap();
    let good = json!({ "data_source": "x", "prompt": question("?"), "reward_model": { "ground_truth": "1" } });
    let with = |key: &str, value: Value| {
        let mut row = good.clone();
        row[key] = value;
        refusal(&dir, &[good.clone(), row])
    };
    for (key, value, expected) in [
        ("reward_model", json!({ "style": "rule" }), "row 1: `reward_model.ground_truth` is missing"),
        ("reward_model", Value::Null, "row 1: `reward_model.ground_truth` is missing"),
        ("data_source", Value::Null, "row 1: `data_source` is missing"),
        ("prompt", Value::Null, "row 1: `prompt` is empty"),
        ("prompt", json!([]), "row 1: `prompt` is empty"),
        ("prompt", json!([{ "role": "user" }]), "row 1: `prompt[0].content` is missing"),
        ("prompt", json!([{ "content": "?" }]), "row 1: `prompt[0].role` is missing"),
    ] {
        let error = with(key, value);
        assert!(error.contains(expected) && error.contains("rows.parquet"), "{expected}: {error}");
    }
}

#[test]
fn what_has_the_wrong_form_is_named() {
    let dir = TempDir::new().unwrap();
    let good = json!({ "data_source": "x", "prompt": question("?"), "reward_model": { "ground_truth": "1" } });
    for (key, value, expected) in [
        ("prompt", json!(["?"]), "row 0: `prompt[0]` is not a message"),
        ("prompt", json!(3), "row 0: `prompt` is neither text nor a list of messages"),
        ("prompt", json!([{ "role": "user", "content": ["?"] }]), "row 0: `prompt[0].content` is not text"),
        ("reward_model", json!("1"), "row 0: `reward_model` is not a struct"),
        ("data_source", json!(1), "row 0: `data_source` is not text"),
    ] {
        let mut row = good.clone();
        row[key] = value;
        let error = refusal(&dir, &[row]);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn missing_columns_are_named_with_those_that_are_there() {
    let dir = TempDir::new().unwrap();
    let error = refusal(&dir, &[json!({ "question": "?", "answer": "1" })]);
    assert!(error.contains("no column `prompt` among ") && error.contains("question"), "{error}");
    let error = refusal(&dir, &[json!({ "prompt": "?", "data_source": "x" })]);
    assert!(error.contains("no column `reward_model`"), "{error}");
}

#[test]
fn files_that_are_no_parquet_are_refused() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("missing.parquet");
    assert!(matches!(read_rows(std::slice::from_ref(&missing)), Err(DataError::Io { path, .. }) if path == missing));

    let whole = dir.path().join("whole.parquet");
    write_rows(&whole, &[row("1+1?", "2", Value::Null)]).unwrap();
    let bytes = fs::read(&whole).unwrap();
    let damaged = dir.path().join("damaged.parquet");
    for content in [&b"{}"[..], b"", &bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
        fs::write(&damaged, content).unwrap();
        let error = read_rows(std::slice::from_ref(&damaged)).unwrap_err();
        assert!(matches!(&error, DataError::NotParquet { file, .. } if *file == damaged), "{error}");
    }
}

#[test]
fn a_dataset_without_rows_is_refused() {
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty.parquet");
    write_rows(&empty, &[]).unwrap();
    let error = read_rows(&[empty]).unwrap_err().to_string();
    assert!(error.starts_with("no rows in ") && error.contains("empty.parquet"), "{error}");
    assert!(read_rows(&[]).unwrap_err().to_string().contains("an empty list of files"));
}

#[test]
fn an_inspection_counts_what_a_run_would_trip_over() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.parquet");
    let mut rows = vec![row("1+1?", "2", Value::Null); 3];
    rows.push(row("1+1?", "3", Value::Null));
    rows.push(row("2+2?", " ", Value::Null));
    rows.push(Row { data_source: "aime".into(), ..row("What is 4+4?", "8", Value::Null) });
    write_rows(&file, &rows).unwrap();

    let seen = inspect(&[file], &[], None).unwrap();
    assert_eq!((seen.rows, seen.distinct_prompts, seen.exact_duplicates), (6, 3, 2));
    assert_eq!((seen.conflicting_golds, seen.empty_golds), (1, 1));
    assert_eq!(seen.data_sources, [("openai/gsm8k".to_owned(), 5), ("aime".to_owned(), 1)]);
    // "Be brief.", a line break and four or twelve characters.
    assert_eq!((seen.prompt_chars.min, seen.prompt_chars.p50, seen.prompt_chars.max), (14, 14, 22));
    assert_eq!(seen.prompt_chars.mean, 92.0 / 6.0);
    assert_eq!(seen.columns[0].path, "data_source");
    assert_eq!(seen.columns[0].kind, "BYTE_ARRAY (String)");
    assert_eq!(seen.examples.len(), 3);
    assert_eq!(seen.examples[0].prompt, "Be brief.\n1+1?");
    assert_eq!(serde_json::to_value(&seen).unwrap()["prompt_tokens"], Value::Null);
}

proptest! {
    // The parquet crate panics on about one in four hundred files that are damaged like this.
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn a_damaged_file_never_panics(place in 0.0..1.0, byte: u8) {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("rows.parquet");
        write_rows(&file, &[row("1+1", "2", json!({ "note": 1 })), row("1+2", "3", json!({ "note": 2 }))]).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        // The second half is the metadata.
        let place = bytes.len() / 2 + (place * (bytes.len() / 2) as f64) as usize;
        bytes[place] = byte;
        fs::write(&file, bytes).unwrap();
        if let Err(error) = read_rows(std::slice::from_ref(&file)) {
            prop_assert!(error.to_string().contains("rows.parquet"));
        }
    }
}
