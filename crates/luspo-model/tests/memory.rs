//! What loading and saving take of memory, measured as the peak of a process of its own.
#![cfg(target_os = "linux")]

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use half::bf16;
use luspo_model::{Backend, Pretrained, Qwen2Config, SaveOptions, WeightDtype};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

const CHILD: &str = "LUSPO_TEST_CHILD";

/// Untied, so that the largest tensor comes last too: 110 million parameters, 30 % of them in one tensor.
fn config() -> Qwen2Config {
    Qwen2Config::new(32_000, 1024, 2816, 4, 16, 2).with_tie_word_embeddings(false)
}

/// Numbers of about 1/64, in a pattern.
fn write_model(dir: &Path, dtype: Dtype) {
    fs::write(dir.join("config.json"), serde_json::to_string(&config()).unwrap()).unwrap();
    let (size, block): (usize, Vec<u8>) = match dtype {
        Dtype::BF16 => {
            (2, (0..1 << 19).flat_map(|i| bf16::from_bits(0x3c00 | (i % 509) as u16).to_le_bytes()).collect())
        }
        _ => (4, (0..1 << 18).flat_map(|i| (1.0 / (64 + i % 509) as f32).to_le_bytes()).collect()),
    };
    let (mut end, mut header) = (0, serde_json::Map::new());
    for (name, shape) in config().parameters() {
        let start = end;
        end += shape.iter().product::<usize>() * size;
        let info = TensorInfo { dtype, shape, data_offsets: (start, end) };
        header.insert(name, serde_json::to_value(info).unwrap());
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(dir.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    for start in (0..end).step_by(block.len()) {
        file.write_all(&block[..block.len().min(end - start)]).unwrap();
    }
    file.into_inner().unwrap();
}

/// The most memory that this process has held, file pages included.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Loads and saves; prints the peak after each.
fn child(words: &str) {
    let [from, to, dtype] = words.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let dtype: WeightDtype = dtype.parse().unwrap();
    let loaded = Pretrained::load_as(Path::new(from), &Backend::Flex.device().unwrap(), dtype).unwrap();
    assert_eq!(loaded.model.dtype(), dtype);
    let after_load = peak();
    let options = SaveOptions { dtype: None, max_shard_bytes: 100_000_000 };
    loaded.save_with(Path::new(to), &options).unwrap();
    println!("peaks {after_load} {}", peak());
}

#[test]
fn loading_and_saving_take_little_more_than_the_parameters() {
    if let Ok(words) = env::var(CHILD) {
        return child(&words);
    }
    for (stored, dtype, bytes) in [
        (Dtype::BF16, WeightDtype::Bf16, 2),
        (Dtype::BF16, WeightDtype::F32, 4),
        (Dtype::F32, WeightDtype::F32, 4),
        (Dtype::F32, WeightDtype::Bf16, 2),
    ] {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_model(from.path(), stored);
        let words = format!("{}\n{}\n{dtype}", from.path().display(), to.path().display());
        let name = "loading_and_saving_take_little_more_than_the_parameters";
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, words)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let line = said.lines().find_map(|line| line.split_once("peaks ")).unwrap().1;
        let parameters = config().num_params() as f64 * f64::from(bytes);
        assert!(parameters > 200e6);
        for (what, peak) in ["loading", "saving"].into_iter().zip(line.split(' ')) {
            let peak: f64 = peak.parse().unwrap();
            println!("{stored:?} as {dtype}: {what} {:.0} MB, {:.3} of the parameters", peak / 1e6, peak / parameters);
            // The whole process, which alone takes about 10 MB.
            assert!(peak <= 1.2 * parameters, "{stored:?} as {dtype}: {what} takes {peak} bytes for {parameters}");
            assert!(peak >= parameters, "the parameters are in memory");
        }
        let shards = fs::read_dir(to.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".safetensors"));
        assert!(shards.count() >= 3);
    }
}
