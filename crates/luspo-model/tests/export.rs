//! Weights written in other number types and in several files.

mod reference;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use luspo_model::{Backend, ModelError, Pretrained, SaveOptions, WeightDtype, export};
use reference::{Values, fixtures, read_safetensors, write_tensors};
use safetensors::Dtype;
use serde_json::{Value, json};

const DTYPES: [(WeightDtype, Dtype); 3] =
    [(WeightDtype::F32, Dtype::F32), (WeightDtype::Bf16, Dtype::BF16), (WeightDtype::F16, Dtype::F16)];

/// Smaller than the embedding of the tiny checkpoint in f32, larger than each of its other tensors.
const SHARD: u64 = 100_000;

fn tiny() -> HashMap<String, Values> {
    read_safetensors(&fixtures().join("tiny/model.safetensors"))
}

/// The tiny checkpoint with these tensors in this type, as another program would have written it.
fn stored(tensors: &HashMap<String, Values>, dtype: Dtype) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json"] {
        fs::copy(fixtures().join("tiny").join(file), dir.path().join(file)).unwrap();
    }
    write_tensors(&dir.path().join("model.safetensors"), tensors, dtype);
    dir
}

fn exported(from: &Path, dtype: Option<WeightDtype>, max_shard_bytes: u64) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    export(from, to.path(), &SaveOptions { dtype, max_shard_bytes }).unwrap();
    to
}

fn load(dir: &Path) -> Pretrained {
    Pretrained::load(dir, &Backend::Flex.device().unwrap()).unwrap()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_written_again_in_its_own_type_keeps_every_byte() {
    for (dtype, stored_as) in DTYPES {
        let from = stored(&tiny(), stored_as);
        let expected = fs::read(from.path().join("model.safetensors")).unwrap();
        for wanted in [None, Some(dtype)] {
            let to = exported(from.path(), wanted, u64::MAX);
            assert!(fs::read(to.path().join("model.safetensors")).unwrap() == expected, "{dtype}, {wanted:?}");
        }
        // Through the model in memory, which is f32.
        let to = tempfile::tempdir().unwrap();
        let options = SaveOptions { dtype: Some(dtype), ..SaveOptions::default() };
        load(from.path()).save_with(to.path(), &options).unwrap();
        assert!(fs::read(to.path().join("model.safetensors")).unwrap() == expected, "{dtype}, from memory");
        assert_eq!(json_of(&to.path().join("config.json"))["torch_dtype"], dtype.torch_name());
    }
}

#[test]
fn another_type_holds_the_numbers_rounded_as_the_reference_rounds_them() {
    for (dtype, stored_as) in DTYPES {
        let to = exported(&fixtures().join("tiny"), Some(dtype), u64::MAX);
        let expected = stored(&tiny(), stored_as);
        let [found, expected] = [&to, &expected].map(|dir| fs::read(dir.path().join("model.safetensors")).unwrap());
        assert!(found == expected, "{dtype}");
    }
}

#[test]
fn shards_stay_below_the_size_and_are_the_same_model() {
    for (dtype, _) in DTYPES {
        let whole = exported(&fixtures().join("tiny"), Some(dtype), u64::MAX);
        let parts = exported(&fixtures().join("tiny"), Some(dtype), SHARD);
        assert!(!parts.path().join("model.safetensors").exists());
        let index = json_of(&parts.path().join("model.safetensors.index.json"));
        assert_eq!(index["metadata"]["total_size"], 107_072 * if dtype == WeightDtype::F32 { 4 } else { 2 });

        let shards: Vec<String> =
            names(parts.path()).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
        assert!(shards.len() > 1);
        let mut found = HashMap::new();
        for (number, shard) in shards.iter().enumerate() {
            assert_eq!(*shard, format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len()));
            let tensors = read_safetensors(&parts.path().join(shard));
            assert!(tensors.keys().all(|name| index["weight_map"][name] == **shard));
            let bytes = fs::metadata(parts.path().join(shard)).unwrap().len();
            // A header of this checkpoint takes less than 4 kB.
            assert!(bytes < SHARD + 4096 || tensors.len() == 1, "{shard}: {bytes}");
            found.extend(tensors);
        }
        assert_eq!(found.len(), index["weight_map"].as_object().unwrap().len());
        let expected = read_safetensors(&whole.path().join("model.safetensors"));
        assert_eq!(found.len(), expected.len());
        assert!(expected.iter().all(|(name, tensor)| found[name].values == tensor.values));
        // And back into one file.
        let joined = exported(parts.path(), None, u64::MAX);
        let [joined, whole] = [&joined, &whole].map(|dir| fs::read(dir.path().join("model.safetensors")).unwrap());
        assert!(joined == whole, "{dtype}");
    }
}

#[test]
fn a_tensor_larger_than_a_shard_has_a_file_of_its_own() {
    let to = exported(&fixtures().join("tiny"), None, 1);
    let index = json_of(&to.path().join("model.safetensors.index.json"));
    let mut shards: Vec<&str> =
        index["weight_map"].as_object().unwrap().values().map(|shard| shard.as_str().unwrap()).collect();
    shards.sort_unstable();
    shards.dedup();
    assert_eq!(shards.len(), tiny().len());
    load(to.path());
}

#[test]
fn a_number_beyond_the_type_is_an_error_that_names_the_tensor() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let mut tensors = tiny();
    tensors.get_mut(name).unwrap().values[7] = 70_000.0;
    let (from, to) = (stored(&tensors, Dtype::F32), tempfile::tempdir().unwrap());
    let options = SaveOptions { dtype: Some(WeightDtype::F16), max_shard_bytes: u64::MAX };
    let error = export(from.path(), to.path(), &options).unwrap_err();
    assert!(matches!(&error, ModelError::OutOfRange { tensor, value: 70_000.0, .. } if tensor == name), "{error}");
    assert!(error.to_string().contains("f16"), "{error}");
    assert_eq!(names(to.path()), [""; 0], "no half-written file");
    exported(from.path(), Some(WeightDtype::Bf16), u64::MAX);
}

#[test]
fn a_config_is_copied_and_changed_only_where_it_names_another_type() {
    let from = stored(&tiny(), Dtype::BF16);
    let config = from.path().join("config.json");
    for (before, dtype, after) in [
        (json!({ "torch_dtype": "bfloat16" }), None, json!({ "torch_dtype": "bfloat16" })),
        (json!({ "dtype": "bfloat16" }), None, json!({ "dtype": "bfloat16" })),
        (json!({ "torch_dtype": "float32" }), None, json!({ "torch_dtype": "bfloat16" })),
        (json!({}), None, json!({ "torch_dtype": "bfloat16" })),
        (
            json!({ "dtype": "bfloat16" }),
            Some(WeightDtype::F16),
            json!({ "torch_dtype": "float16", "dtype": "float16" }),
        ),
    ] {
        let mut keys = json_of(&fixtures().join("tiny/config.json"));
        let all = keys.as_object_mut().unwrap();
        all.shift_remove("torch_dtype");
        all.extend(before.as_object().unwrap().clone());
        fs::write(&config, keys.to_string()).unwrap();
        let to = exported(from.path(), dtype, u64::MAX);
        let mut found = json_of(&to.path().join("config.json"));
        for key in ["torch_dtype", "dtype"] {
            assert_eq!(found.get(key), after.get(key), "{before}, {dtype:?}: {key}");
            for keys in [&mut found, &mut keys] {
                keys.as_object_mut().unwrap().shift_remove(key);
            }
        }
        assert_eq!(found, keys, "the other keys");
        if before == after {
            let [from, to] = [&from, &to].map(|dir| fs::read(dir.path().join("config.json")).unwrap());
            assert!(from == to, "byte for byte");
        }
    }
}

#[test]
fn tokenizer_and_generation_files_are_copied_byte_for_byte() {
    let from = stored(&tiny(), Dtype::F32);
    // Odd on purpose: they are not parsed.
    for (file, bytes) in [("tokenizer.json", &b"{ \n}"[..]), ("merges.txt", b"\xff\x00"), ("vocab.json", b"")] {
        fs::write(from.path().join(file), bytes).unwrap();
    }
    fs::write(from.path().join("optimizer.safetensors"), "not part of a model").unwrap();
    let to = exported(from.path(), Some(WeightDtype::Bf16), u64::MAX);
    let expected =
        ["config.json", "generation_config.json", "merges.txt", "model.safetensors", "tokenizer.json", "vocab.json"];
    assert_eq!(names(to.path()), expected);
    for file in ["generation_config.json", "tokenizer.json", "merges.txt", "vocab.json"] {
        assert!(fs::read(to.path().join(file)).unwrap() == fs::read(from.path().join(file)).unwrap(), "{file}");
    }
}

#[test]
fn tensors_of_several_types_keep_them() {
    let tensors = tiny();
    let (norms, others): (HashMap<_, _>, HashMap<_, _>) =
        tensors.into_iter().partition(|(name, _)| name.ends_with("norm.weight"));
    let from = stored(&others, Dtype::BF16);
    let single = from.path().join("model.safetensors");
    fs::rename(&single, from.path().join("a.safetensors")).unwrap();
    write_tensors(&from.path().join("b.safetensors"), &norms, Dtype::F32);
    let place = |(name, _): (&String, &Values)| {
        (name.clone(), Value::from(if name.ends_with("norm.weight") { "b.safetensors" } else { "a.safetensors" }))
    };
    let weight_map: serde_json::Map<_, _> = norms.iter().chain(&others).map(place).collect();
    fs::write(from.path().join("model.safetensors.index.json"), json!({ "weight_map": weight_map }).to_string())
        .unwrap();

    let to = tempfile::tempdir().unwrap();
    assert_eq!(export(from.path(), to.path(), &SaveOptions::default()).unwrap(), None);
    let bytes = fs::read(to.path().join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, tensor) in file.tensors() {
        assert_eq!(tensor.dtype(), if name.ends_with("norm.weight") { Dtype::F32 } else { Dtype::BF16 }, "{name}");
    }
    assert_eq!(file.len(), norms.len() + others.len());
}

#[test]
fn a_later_save_is_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = tiny();
    let save = |tensors: &HashMap<String, Values>, max_shard_bytes| {
        let model = load(stored(tensors, Dtype::F32).path());
        model.save_with(dir.path(), &SaveOptions { dtype: None, max_shard_bytes }).unwrap();
    };
    for (round, max_shard_bytes) in [u64::MAX, SHARD, u64::MAX].into_iter().enumerate() {
        tensors.get_mut("model.norm.weight").unwrap().values[0] = round as f32;
        save(&tensors, max_shard_bytes);
        let norm = reference::host(load(dir.path()).model.model.norm.weight.val());
        assert_eq!(norm[0], round as f32);
    }
}
