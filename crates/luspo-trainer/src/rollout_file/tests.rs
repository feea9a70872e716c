use std::path::PathBuf;
use std::process::Command;

use luspo_core::{Purpose, RandomKey, Rollout, Score};

use super::*;

fn rows() -> Vec<RolloutRow> {
    let whole = RolloutRow {
        prompt_id: u64::MAX,
        sample: 7,
        data_source: "openai/gsm8k".into(),
        prompt: "<|im_start|>user\n2 + 2 = ?\0 \u{1F980}<|im_end|>\n".into(),
        response: "vier – ٤\r\n".into(),
        prompt_ids: vec![0, u32::MAX, 5],
        response_ids: vec![19, 256],
        // A signalling NaN, whose payload arithmetic would not keep.
        log_probs: vec![f32::from_bits(0x7fa0_0001), f32::NEG_INFINITY],
        finish: FinishReason::Stop,
        reward: -0.0,
        components: vec![("format".into(), 0.5), ("accuracy".into(), f64::NAN), ("a.b c".into(), f64::MIN_POSITIVE)],
        correct: true,
        advantage: f64::from_bits(0xfff8_0000_0000_0001),
    };
    let empty = RolloutRow {
        prompt_id: 0,
        sample: 0,
        data_source: String::new(),
        prompt: String::new(),
        response: String::new(),
        prompt_ids: Vec::new(),
        response_ids: Vec::new(),
        log_probs: Vec::new(),
        finish: FinishReason::Length,
        reward: 0.0,
        components: Vec::new(),
        correct: false,
        advantage: f64::INFINITY,
    };
    let other = RolloutRow {
        components: vec![("accuracy".into(), 1.0), ("format".into(), -0.0)],
        log_probs: vec![-0.0, 1e-45],
        ..whole.clone()
    };
    vec![whole, empty, other]
}

/// Equality of every bit: `NaN` is itself, and 0 is not −0.
fn bits(rows: &[RolloutRow]) -> Vec<String> {
    let of = |row: &RolloutRow| {
        let log_probs: Vec<u32> = row.log_probs.iter().map(|x| x.to_bits()).collect();
        let components: Vec<u64> = row.components.iter().map(|(_, x)| x.to_bits()).collect();
        let (reward, advantage) = (row.reward.to_bits(), row.advantage.to_bits());
        format!("{row:?} {log_probs:?} {components:?} {reward} {advantage}")
    };
    rows.iter().map(of).collect()
}

#[test]
fn rows_come_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rollouts/step_000001.parquet");
    for rows in [rows(), Vec::new(), rows().into_iter().cycle().take(2 * BATCH + 1).collect()] {
        write_rollouts(&file, &rows).unwrap();
        assert_eq!(bits(&read_rollouts(&file).unwrap()), bits(&rows));
    }
}

#[test]
fn equal_rows_give_equal_bytes_and_nothing_is_left_aside() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["a.parquet", "b.parquet"].map(|name| dir.path().join(name));
    for file in &files {
        write_rollouts(file, &rows()).unwrap();
    }
    assert_eq!(fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_damaged_file_is_refused_or_read_but_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("step.parquet");
    write_rollouts(&file, &rows()).unwrap();
    let whole = fs::read(&file).unwrap();
    for length in (0..whole.len()).step_by(7) {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(matches!(read_rollouts(&file), Err(TrainError::RolloutFile { .. })), "cut to {length} bytes");
    }
    for place in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&file, &bytes).unwrap();
        assert!(matches!(read_rollouts(&file), Ok(_) | Err(TrainError::RolloutFile { .. })), "byte {place}");
    }
    assert!(matches!(read_rollouts(&dir.path().join("none")), Err(TrainError::Read { .. })));
}

#[test]
fn a_missing_column_and_one_of_another_type_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("other.parquet");
    let mut columns = columns(&rows()).unwrap();
    let mut fields: Vec<Field> = schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let write = |fields: &[Field], columns: &[ArrayRef]| {
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let mut writer = ArrowWriter::try_new(File::create(&file).unwrap(), schema.clone(), None).unwrap();
        writer.write(&RecordBatch::try_new(schema, columns.to_vec()).unwrap()).unwrap();
        writer.close().unwrap();
        read_rollouts(&file).unwrap_err().to_string()
    };
    let message = write(&fields[..12], &columns[..12]);
    assert!(message.contains("column `advantage` is missing; it has prompt_id, sample"), "{message}");
    columns[9] = columns[1].clone();
    fields[9] = Field::new("reward", DataType::UInt32, true);
    let message = write(&fields, &columns);
    assert!(message.contains("column `reward` is UInt32 with nulls, where luspo writes Float64"), "{message}");
}

#[test]
fn a_row_says_what_the_model_read_and_wrote() {
    let tokenizer = luspo_data::Tokenizer::train_byte_level(["ab"].into_iter(), 259).unwrap();
    let eos = tokenizer.eos_token_id().unwrap();
    let prompt_ids = tokenizer.encode("<|im_start|>1+1=").unwrap();
    let config = luspo_model::Qwen2Config::new(259, 16, 16, 1, 2, 1);
    let key = RandomKey::new(0, Purpose::Init);
    let policy = Policy::init(config, tokenizer, key, &burn::tensor::Device::flex()).unwrap();
    let prompt = |id: u64| Prompt {
        id,
        messages: Vec::new(),
        token_ids: prompt_ids.clone(),
        data_source: format!("source {id}"),
        ground_truth: "2".into(),
        extra_info: serde_json::Value::Null,
    };
    let sample = |prompt_id: u64, sample: u32| {
        let rollout = Rollout {
            prompt_id,
            sample,
            prompt_ids: prompt_ids.clone(),
            response_ids: vec![policy.tokenizer.encode("2").unwrap()[0], eos],
            log_probs: vec![-0.5, -0.25],
            finish: FinishReason::Stop,
        };
        let components = vec![("accuracy".into(), 1.5)];
        let score = Score { total: 1.5, components, correct: true, extracted: None, style: None };
        Sample { advantages: vec![0.75; 2], ..Sample::new(rollout, score) }
    };
    let samples = [sample(4, 0), sample(4, 1), sample(9, 0), sample(9, 1)];
    let rows = rollout_rows(&policy, &[prompt(4), prompt(9)], &samples, 2).unwrap();
    let keys: Vec<(u64, u32, &str)> = rows.iter().map(|r| (r.prompt_id, r.sample, r.data_source.as_str())).collect();
    assert_eq!(keys, [(4, 0, "source 4"), (4, 1, "source 4"), (9, 0, "source 9"), (9, 1, "source 9")]);
    for row in rows {
        assert_eq!((row.prompt.as_str(), row.response.as_str()), ("<|im_start|>1+1=", "2"));
        assert_eq!((row.response_ids.len(), row.reward, row.advantage), (2, 1.5, 0.75));
        assert_eq!(row.components, [("accuracy".to_string(), 1.5)]);
    }
}

/// The interpreter that `LUSPO_TEST_PYTHON` names.
fn python() -> PathBuf {
    std::env::var_os("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON names a Python with pyarrow").into()
}

#[test]
#[ignore = "needs LUSPO_TEST_PYTHON"]
fn python_pyarrow_reads_every_column() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("step.parquet");
    write_rollouts(&file, &rows()).unwrap();
    let script = r#"
import math, struct, sys
import pyarrow.parquet as pq
table = pq.read_table(sys.argv[1])
assert table.column_names == ["prompt_id", "sample", "data_source", "prompt", "response", "prompt_ids",
    "response_ids", "log_probs", "finish", "reward", "components", "correct", "advantage"], table.column_names
whole, empty, other = table.to_pylist()
assert (whole["prompt_id"], whole["sample"], whole["data_source"]) == (2**64 - 1, 7, "openai/gsm8k")
assert whole["prompt"] == "<|im_start|>user\n2 + 2 = ?\0 \U0001F980<|im_end|>\n"
assert whole["response"] == "vier \u2013 \u0664\r\n"
assert (whole["prompt_ids"], whole["response_ids"]) == ([0, 2**32 - 1, 5], [19, 256])
assert math.isnan(whole["log_probs"][0]) and whole["log_probs"][1] == -math.inf
assert (whole["finish"], empty["finish"], whole["correct"]) == ("stop", "length", True)
assert struct.pack(">d", whole["reward"]) == struct.pack(">d", -0.0)
assert [name for name, _ in whole["components"]] == ["format", "accuracy", "a.b c"]
assert [name for name, _ in other["components"]] == ["accuracy", "format"]
assert math.isnan(whole["advantage"]) and empty["advantage"] == math.inf
assert (empty["response"], empty["response_ids"], empty["log_probs"], empty["components"]) == ("", [], [], [])
"#;
    let status = Command::new(python()).args(["-c", script]).arg(&file).status().unwrap();
    assert!(status.success());
}
