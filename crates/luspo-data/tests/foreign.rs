//! Files that others write: every physical form in which verl's schema is found, and files that are damaged.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use luspo_core::Message;
use luspo_data::{DataError, PromptText, Row, Rows, inspect, read_rows, write_rows};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Ten rows in every form that pyarrow writes, `NAME.parquet`, and `rows.jsonl` beside them.
const WRITE: &str = r#"
import datetime, decimal, json, sys
import pyarrow as pa, pyarrow.parquet as pq

out = sys.argv[1]
rows = [{
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"größer {i}? \U0001f600"}],
    "ability": "math" if i % 3 else None,
    "reward_model": {"style": "rule", "ground_truth": str(i)},
    "extra_info": {"index": i, "share": i / 4, "tags": ["a", None] if i % 2 else [],
                   "parts": [{"k": "v", "n": [[i], [i, 1]]}], "nothing": None},
    "unrelated": {"x": [b"\xff\xd8"]},
} for i in range(10)]
with open(f"{out}/rows.jsonl", "w", encoding="utf-8") as lines:
    for row in rows:
        lines.write(json.dumps({k: v for k, v in row.items() if k != "unrelated"}) + "\n")
table = pa.Table.from_pylist(rows)

def write(name, table, **options):
    pq.write_table(table, f"{out}/{name}.parquet", **options)

for codec in ["none", "snappy", "gzip", "zstd", "lz4"]:
    write(codec, table, compression=codec)
write("row_groups", table, row_group_size=3)
write("pages", table, data_page_size=1, data_page_version="2.0", write_batch_size=1)
write("no_dictionary", table, use_dictionary=False)
write("no_arrow_schema", table, store_schema=False)
write("checksums", table, write_page_checksum=True, write_page_index=True)
write("version_1", table, version="1.0")
texts = ["data_source", "ability", "reward_model.ground_truth", "prompt.list.element.content"]
for encoding in ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"]:
    write(encoding.lower(), table, use_dictionary=False, column_encoding={text: encoding for text in texts})
write("delta_numbers", table, use_dictionary=False,
      column_encoding={"extra_info.index": "DELTA_BINARY_PACKED", "extra_info.share": "BYTE_STREAM_SPLIT"})

def with_text(kind, list_of=pa.list_):
    def change(t):
        if pa.types.is_struct(t):
            return pa.struct([pa.field(f.name, change(f.type)) for f in t])
        if pa.types.is_list(t):
            return list_of(change(t.value_type))
        return kind if pa.types.is_string(t) else t
    fields = [f if f.name == "unrelated" else pa.field(f.name, change(f.type)) for f in table.schema]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))

write("large_strings", with_text(pa.large_string(), pa.large_list))
write("bytes", with_text(pa.binary()))
sources = table.column("data_source").dictionary_encode()
write("dictionary", table.set_column(table.schema.get_field_index("data_source"), "data_source", sources))
write("other_order", table.select(list(reversed(table.column_names))))
"#;

fn python() -> String {
    std::env::var("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON names a Python interpreter with pyarrow")
}

#[test]
#[ignore = "needs LUSPO_TEST_PYTHON"]
fn python_every_form_that_pyarrow_writes_is_read_alike() {
    let dir = TempDir::new().unwrap();
    let output = Command::new(python()).args(["-c", WRITE]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = read_rows(&[dir.path().join("rows.jsonl")]).unwrap();
    assert_eq!(expected.len(), 10);
    assert_eq!(expected[3].extra_info["parts"], json!([{ "k": "v", "n": [[3], [3, 1]] }]));
    let mut forms = 0;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let file = entry.unwrap().path();
        assert_eq!(read_rows(std::slice::from_ref(&file)).unwrap(), expected, "{}", file.display());
        let seen = inspect(std::slice::from_ref(&file), &[], None).unwrap();
        assert_eq!((seen.rows, seen.distinct_prompts), (10, 10), "{}", file.display());
        forms += 1;
    }
    assert_eq!(forms, 20);
}

/// Values that JSON has no form for, in `extra_info`, and a codec that is not in this build.
const EXOTIC: &str = r#"
import datetime, decimal, sys
import pyarrow as pa, pyarrow.parquet as pq

out = sys.argv[1]
def column(value, kind):
    return pa.array([value], type=kind)
values = {
    "time": column(datetime.datetime(2025, 1, 2, 3, 4, 5), pa.timestamp("us")),
    "zone": column(datetime.datetime(2025, 1, 2, 3, 4, 5), pa.timestamp("ns", tz="UTC")),
    "date": column(datetime.date(2025, 1, 2), pa.date32()),
    "clock": column(datetime.time(1, 2, 3), pa.time64("us")),
    "price": column(decimal.Decimal("12.50"), pa.decimal128(6, 2)),
    "small": column(7, pa.uint8()),
    "half": column(1.5, pa.float32()),
    "infinite": column(float("inf"), pa.float64()),
    "pairs": column([("k", 1)], pa.map_(pa.string(), pa.int32())),
    "none": column(None, pa.null()),
    "fixed": column([1, 2], pa.list_(pa.int8(), 2)),
}
extra = pa.StructArray.from_arrays(list(values.values()), names=list(values))
table = pa.table({
    "data_source": ["x"], "prompt": ["?"],
    "reward_model": pa.array([{"ground_truth": 7}]), "extra_info": extra,
})
pq.write_table(table, f"{out}/exotic.parquet")
pq.write_table(table, f"{out}/brotli.parquet", compression="brotli")
"#;

#[test]
#[ignore = "needs LUSPO_TEST_PYTHON"]
fn python_extra_info_may_have_any_shape_and_a_foreign_codec_is_named() {
    let dir = TempDir::new().unwrap();
    let output = Command::new(python()).args(["-c", EXOTIC]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = read_rows(&[dir.path().join("exotic.parquet")]).unwrap();
    assert_eq!((rows[0].prompt.clone(), rows[0].ground_truth.as_str()), (PromptText::Text("?".into()), "7"));
    let extra_info = &rows[0].extra_info;
    for (key, value) in [
        ("time", json!("2025-01-02T03:04:05")),
        ("zone", json!("2025-01-02T03:04:05Z")),
        ("date", json!("2025-01-02")),
        ("clock", json!("01:02:03")),
        ("price", json!(12.5)),
        ("small", json!(7)),
        ("half", json!(1.5)),
        ("infinite", Value::Null),
        ("pairs", json!({ "k": 1 })),
        ("none", Value::Null),
        ("fixed", json!([1, 2])),
    ] {
        assert_eq!(extra_info[key], value, "{key}");
    }
    let error = read_rows(&[dir.path().join("brotli.parquet")]).unwrap_err().to_string();
    assert!(error.contains("brotli.parquet") && error.to_lowercase().contains("brotli"), "{error}");
}

fn row(number: usize) -> Row {
    Row {
        prompt: PromptText::Messages(vec![Message::new("user", format!("What is {number} plus {number}?"))]),
        data_source: "openai/gsm8k".into(),
        ability: None,
        ground_truth: (2 * number).to_string(),
        extra_info: json!({ "index": number }),
    }
}

/// Three row groups of eight rows, as plain as bytes can be, so that damage hits values, sizes and page headers.
fn three_groups(dir: &Path) -> PathBuf {
    let (written, file) = (dir.join("written.parquet"), dir.join("rows.parquet"));
    write_rows(&written, &(0..24).map(row).collect::<Vec<_>>()).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(written).unwrap()).unwrap();
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(8)).set_dictionary_enabled(false).build();
    let schema = Arc::clone(reader.schema());
    let mut writer = ArrowWriter::try_new(File::create(&file).unwrap(), schema, Some(properties)).unwrap();
    for batch in reader.build().unwrap() {
        writer.write(&batch.unwrap()).unwrap();
    }
    assert_eq!(writer.close().unwrap().num_row_groups(), 3);
    file
}

#[test]
fn damage_is_an_error_that_names_file_and_row_group_or_goes_unseen_but_never_panics() {
    let dir = TempDir::new().unwrap();
    let file = three_groups(dir.path());
    let whole = fs::read(&file).unwrap();
    let data = whole.len() - 8 - u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
    let mut in_groups = 0;
    for place in 0..whole.len() {
        for flipped in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[place] ^= flipped;
            fs::write(&file, &bytes).unwrap();
            let Err(error) = read_rows(std::slice::from_ref(&file)) else { continue };
            let text = error.to_string();
            assert!(text.contains("rows.parquet"), "{text}");
            if place < data && matches!(error, DataError::NotParquet { .. }) && place >= 4 {
                assert!(text.contains("row group ") && text.contains(" of 3: "), "{place}: {text}");
                in_groups += 1;
            }
        }
    }
    assert!(in_groups > 100, "{in_groups}");
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(matches!(read_rows(std::slice::from_ref(&file)), Err(DataError::NotParquet { .. })), "{length} bytes");
    }
}

#[test]
fn rows_before_the_damage_are_read() {
    let dir = TempDir::new().unwrap();
    let file = three_groups(dir.path());
    let mut bytes = fs::read(&file).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).unwrap()).unwrap();
    let column = reader.metadata().row_group(1).column(0);
    let start = column.data_page_offset() as usize;
    bytes[start..start + 16].fill(0xff);
    fs::write(&file, bytes).unwrap();
    let read: Vec<_> = Rows::open(&file).unwrap().collect();
    assert_eq!(read.len(), 9, "eight rows and the error");
    assert!(read[..8].iter().enumerate().all(|(number, read)| *read.as_ref().unwrap() == row(number)));
    let error = read[8].as_ref().unwrap_err().to_string();
    assert!(error.contains("row group 1 of 3"), "{error}");
}

/// Reads this text as a `.jsonl` file.
fn lines(text: impl AsRef<[u8]>) -> Result<Vec<Row>, DataError> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.jsonl");
    fs::write(&file, text).unwrap();
    read_rows(&[file])
}

const LINE: &str =
    r#"{"prompt": [{"role": "user", "content": "?"}], "data_source": "x", "reward_model": {"ground_truth": 7}}"#;

#[test]
fn json_lines_have_the_same_fields() {
    let rich = r#"{"prompt": "1+1=", "data_source": "x", "ability": null, "reward_model": {"ground_truth": "2"},
        "extra_info": {"index": 1, "nothing": null, "list": [null, {"none": null}]}, "more": [1]}"#
        .replace('\n', "");
    let rows = lines(format!("\u{feff}{LINE}\r\n\n   \n{rich}")).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].prompt, PromptText::Messages(vec![Message::new("user", "?")]));
    assert_eq!(rows[0].ground_truth, "7");
    assert_eq!(rows[1].prompt, PromptText::Text("1+1=".into()));
    assert_eq!((&rows[1].ability, &rows[1].extra_info), (&None, &json!({ "index": 1, "list": [null, {}] })));
}

#[test]
fn lines_that_are_no_rows_are_named() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (second, problem) in [
        ("{\"prompt\": \"?\"", "line 3 is no JSON"),
        ("[1]", "line 3 is no object"),
        ("\u{0}", "line 3 is no JSON"),
        (deep.as_str(), "line 3 is no JSON"),
        ("{\"prompt\": \"?\", \"data_source\": \"x\"}", "row 1: `reward_model.ground_truth` is missing"),
        ("{\"prompt\": 1}", "row 1: `prompt` is neither"),
    ] {
        let error = lines(format!("{LINE}\n\n{second}\n{LINE}")).unwrap_err().to_string();
        assert!(error.contains("rows.jsonl") && error.contains(problem), "{error}");
    }
    let error = lines([LINE.as_bytes(), b"\n{\"prompt\": \"\xff\"}"].concat()).unwrap_err().to_string();
    assert!(error.contains("line 2 is no JSON"), "{error}");
    assert!(lines("\n \n").unwrap_err().to_string().contains("no rows in"));
}

#[test]
fn a_line_without_end_is_refused_before_it_fills_memory() {
    let error = lines(vec![b' '; (64 << 20) + 1]).unwrap_err().to_string();
    assert!(error.contains("line 1 has more than 67108864 bytes"), "{error}");
}

#[test]
fn json_lines_are_inspected_with_their_columns() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rows.jsonl");
    let other = LINE.replace("7", "\"7\"").replace("}}", "}, \"extra_info\": {\"tags\": []}}");
    fs::write(&file, format!("{LINE}\n{other}")).unwrap();
    let seen = inspect(&[file], &[], None).unwrap();
    let columns: Vec<_> = seen.columns.iter().map(|column| (column.path.as_str(), column.kind.as_str())).collect();
    let expected = [
        ("prompt[].role", "text"),
        ("prompt[].content", "text"),
        ("data_source", "text"),
        ("reward_model.ground_truth", "number or text"),
        ("extra_info.tags", "list"),
    ];
    assert_eq!(columns, expected);
    assert_eq!((seen.exact_duplicates, seen.conflicting_golds), (1, 0));
}

#[test]
fn an_inspection_shows_conflicts_and_what_validation_shares() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, rows: &[Row]| {
        let file = dir.path().join(name);
        write_rows(&file, rows).unwrap();
        file
    };
    let wrong = |number| Row { ground_truth: "0".into(), ..row(number) };
    let train = file("train.parquet", &[row(1), row(2), wrong(2), row(2), row(3)]);
    let val = file("val.parquet", &[row(3), row(3), wrong(2), row(9)]);
    let seen = inspect(&[train.clone(), train], &[val], None).unwrap();
    assert_eq!((seen.rows, seen.exact_duplicates, seen.conflicting_golds), (10, 6, 1));
    assert_eq!(seen.conflicts[0].prompt, "What is 2 plus 2?");
    assert_eq!(seen.conflicts[0].golds, [(1, "4".to_string()), (2, "0".to_string())]);
    let overlap = seen.overlap.unwrap();
    assert_eq!((overlap.val_prompts, overlap.shared), (3, 2));
    assert_eq!(overlap.examples, ["What is 3 plus 3?", "What is 2 plus 2?"]);
}
