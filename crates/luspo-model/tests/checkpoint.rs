//! Hugging Face folders in and out, sound and damaged.

mod reference;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{Backend, ModelError, Pretrained, Qwen2Config, Qwen2ForCausalLM, SaveOptions, WeightDtype, export};
use reference::{Values, fixtures, host, max_difference, read_safetensors, write_tensors};
use safetensors::Dtype;
use serde_json::{Value, json};

type Tensors = HashMap<String, Values>;

fn flex() -> Device {
    Backend::Flex.device().unwrap()
}

fn hidden(model: &Qwen2ForCausalLM) -> Vec<f32> {
    host(model.hidden(Tensor::<2, Int>::from_data([[1, 200, 3, 400, 5]], &model.device())).inner())
}

fn tiny_tensors() -> Tensors {
    read_safetensors(&fixtures().join("tiny/model.safetensors"))
}

/// A copy of the tiny checkpoint with another configuration and other tensors.
fn folder(config: impl FnOnce(&mut Value), tensors: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixtures().join("tiny/config.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    config(&mut value);
    fs::write(dir.path().join("config.json"), value.to_string()).unwrap();
    let mut all = tiny_tensors();
    tensors(&mut all);
    write_tensors(&dir.path().join("model.safetensors"), &all, Dtype::F32);
    dir
}

fn error_of(dir: &Path) -> String {
    Pretrained::load(dir, &flex()).unwrap_err().to_string()
}

#[test]
fn both_layouts_of_the_configuration_give_the_same_model() {
    let older = Pretrained::load(&fixtures().join("tiny"), &flex()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("tiny/config_transformers5.json"), dir.path().join("config.json")).unwrap();
    fs::copy(fixtures().join("tiny/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let newer = Pretrained::load(dir.path(), &flex()).unwrap();
    assert_eq!(newer.config.rope_theta, 1e6);
    assert_eq!(hidden(&older.model), hidden(&newer.model));
    assert_eq!((older.config.num_params(), older.eos_token_ids), (107_072, vec![0]));
    assert_eq!(newer.eos_token_ids, [0]);
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    for tied in [true, false] {
        let config = Qwen2Config::new(500, 16, 24, 2, 2, 1).with_tie_word_embeddings(tied).with_rope_theta(5e5);
        let model = Qwen2ForCausalLM::init(&config, RandomKey::new(5, Purpose::Init), &flex().autodiff());
        let written = Pretrained { model, config, eos_token_ids: vec![2, 7] };
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        written.save(first.path()).unwrap();
        let read = Pretrained::load(first.path(), &flex()).unwrap();
        assert_eq!(read.eos_token_ids, [2, 7]);
        assert_eq!(read.config.rope_theta, 5e5);
        assert_eq!(hidden(&read.model), hidden(&written.model.valid()));
        assert_eq!(read.model.lm_head.is_none(), tied);

        read.save(second.path()).unwrap();
        for file in ["config.json", "generation_config.json", "model.safetensors"] {
            let (a, b) = (fs::read(first.path().join(file)).unwrap(), fs::read(second.path().join(file)).unwrap());
            assert!(a == b, "{file} differs");
        }
    }
}

#[test]
fn a_saved_checkpoint_has_the_tensors_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    Pretrained::load(&fixtures().join("tiny"), &flex()).unwrap().save(dir.path()).unwrap();
    let (found, expected) = (read_safetensors(&dir.path().join("model.safetensors")), tiny_tensors());
    assert_eq!(found.len(), expected.len());
    for (name, Values { shape, values }) in expected {
        assert_eq!((&found[&name].shape, &found[&name].values), (&shape, &values), "{name}");
    }
    let header = fs::read(dir.path().join("model.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&header[..200]).contains(r#""__metadata__":{"format":"pt"}"#));

    let text = fs::read_to_string(dir.path().join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["sliding_window"], 512, "keys that are not ours are kept");
    assert_eq!((&config["torch_dtype"], &config["eos_token_id"]), (&json!("float32"), &json!(0)));
    let keys: Vec<&String> = config.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted());
}

#[test]
fn end_of_sequence_ids_are_united() {
    let dir = folder(|config| config["eos_token_id"] = json!(9), |_| {});
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [3, 9], "temperature": 0.7}"#).unwrap();
    assert_eq!(Pretrained::load(dir.path(), &flex()).unwrap().eos_token_ids, [3, 9]);
}

#[test]
fn half_precision_files_are_read_as_f32() {
    for (dtype, bits) in [(Dtype::BF16, 8), (Dtype::F16, 11)] {
        let dir = folder(|_| {}, |_| {});
        write_tensors(&dir.path().join("model.safetensors"), &tiny_tensors(), dtype);
        let read = Pretrained::load(dir.path(), &flex()).unwrap();
        let weight = host(read.model.model.embed_tokens.weight.val());
        let expected = &tiny_tensors()["model.embed_tokens.weight"].values;
        let largest = expected.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let rounding = max_difference(&weight, expected) / largest;
        // Half a unit in the last of 8 or 11 significant bits, and not nothing.
        assert!(rounding > 0.0 && rounding <= 0.5f32.powi(bits), "{dtype:?}: {rounding}");
    }
}

fn shards(dir: &Path, index: impl FnOnce(&mut Value)) {
    let mut parts = [Tensors::new(), Tensors::new()];
    let mut map = serde_json::Map::new();
    for (i, (name, values)) in tiny_tensors().into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-0000{}-of-00002.safetensors", i % 2 + 1)));
        parts[i % 2].insert(name, values);
    }
    for (i, part) in parts.iter().enumerate() {
        write_tensors(&dir.join(format!("model-0000{}-of-00002.safetensors", i + 1)), part, Dtype::F32);
    }
    let mut value = json!({ "metadata": { "total_size": 428288 }, "weight_map": map });
    index(&mut value);
    fs::write(dir.join("model.safetensors.index.json"), value.to_string()).unwrap();
    let _ = fs::remove_file(dir.join("model.safetensors"));
}

#[test]
fn shards_are_one_checkpoint() {
    let dir = folder(|_| {}, |_| {});
    shards(dir.path(), |_| {});
    let read = Pretrained::load(dir.path(), &flex()).unwrap();
    let whole = Pretrained::load(&fixtures().join("tiny"), &flex()).unwrap();
    assert_eq!(hidden(&read.model), hidden(&whole.model));
}

#[test]
fn a_shard_outside_the_folder_is_refused() {
    for shard in ["../model.safetensors", "/etc/passwd", "..", "a/b.safetensors"] {
        let dir = folder(|_| {}, |_| {});
        shards(dir.path(), |index| index["weight_map"]["model.norm.weight"] = json!(shard));
        let error = error_of(dir.path());
        assert!(
            error.contains("index.json") && error.contains(shard) && error.contains("model.norm.weight"),
            "{error}"
        );
    }
}

#[test]
fn a_missing_shard_or_a_tensor_missing_from_its_shard_is_named() {
    let dir = folder(|_| {}, |_| {});
    shards(dir.path(), |index| index["weight_map"]["model.norm.weight"] = json!("other.safetensors"));
    assert!(error_of(dir.path()).contains("other.safetensors"));
    let dir = folder(|_| {}, |_| {});
    shards(dir.path(), |index| index["weight_map"]["extra.weight"] = json!("model-00001-of-00002.safetensors"));
    let error = error_of(dir.path());
    assert!(error.contains("model-00001-of-00002.safetensors") && error.contains("`extra.weight`"), "{error}");
}

fn to_bf16(value: &mut f32) {
    *value = f32::from_bits(value.to_bits() & 0xffff_0000);
}

#[test]
fn a_stored_head_is_the_embedding_where_it_is_tied_and_needed_where_it_is_not() {
    let scaled = |factor: f32| {
        move |tensors: &mut Tensors| {
            let mut head = tensors["model.embed_tokens.weight"].clone();
            head.values.iter_mut().for_each(|value| *value *= factor);
            tensors.insert("lm_head.weight".into(), head);
        }
    };
    let logits = |dir: &Path| {
        let model = Pretrained::load(dir, &flex()).unwrap().model;
        host(model.logits(Tensor::ones([1, 64], &flex())))
    };
    let tied = logits(folder(|_| {}, scaled(1.0)).path());
    assert_eq!(tied, logits(&fixtures().join("tiny")));
    let untied = logits(folder(|config| config["tie_word_embeddings"] = json!(false), scaled(2.0)).path());
    let doubled: Vec<f32> = tied.iter().map(|logit| logit * 2.0).collect();
    assert!(max_difference(&untied, &doubled) < 1e-4);

    let other = folder(|_| {}, scaled(2.0));
    for error in
        [error_of(other.path()), export(other.path(), other.path(), &SaveOptions::default()).unwrap_err().to_string()]
    {
        assert!(error.contains("model.safetensors") && error.contains("set tie_word_embeddings to false"), "{error}");
    }

    let wide = |tensors: &mut Tensors| {
        tensors.insert("lm_head.weight".into(), Values { shape: vec![1, 64], values: vec![0.0; 64] });
    };
    assert!(error_of(folder(|_| {}, wide).path()).contains("set tie_word_embeddings to false"));

    // A head in another number type than the embedding's: equal is what it is in f32.
    for (factor, equal) in [(1.0, true), (2.0, false)] {
        let dir =
            folder(|_| {}, |tensors| tensors.values_mut().flat_map(|tensor| &mut tensor.values).for_each(to_bf16));
        let mut tensors = read_safetensors(&dir.path().join("model.safetensors"));
        scaled(factor)(&mut tensors);
        let head = HashMap::from([("lm_head.weight".to_string(), tensors.remove("lm_head.weight").unwrap())]);
        write_tensors(&dir.path().join("1.safetensors"), &tensors, Dtype::BF16);
        write_tensors(&dir.path().join("2.safetensors"), &head, Dtype::F32);
        let places =
            tensors.keys().map(|name| (name, "1.safetensors")).chain(head.keys().map(|name| (name, "2.safetensors")));
        let index = json!({ "weight_map": places.collect::<HashMap<_, _>>() });
        fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        let loaded = Pretrained::load(dir.path(), &flex());
        assert!(if equal { loaded.is_ok() } else { matches!(loaded, Err(ModelError::UntiedHead { .. })) });
    }

    let without = folder(|config| config["tie_word_embeddings"] = json!(false), |_| {});
    assert!(error_of(without.path()).contains("tensor `lm_head.weight` is missing"));
}

#[test]
fn a_tensor_missing_misshaped_or_of_another_type_is_named() {
    let name = "model.layers.1.self_attn.k_proj.bias";
    let missing = error_of(folder(|_| {}, |tensors| drop(tensors.remove(name))).path());
    assert!(missing.contains(name) && missing.contains("model.safetensors"), "{missing}");

    let misshaped = error_of(folder(|_| {}, |tensors| tensors.get_mut(name).unwrap().shape = vec![16, 2]).path());
    assert!(misshaped.contains(name) && misshaped.contains("[16, 2]") && misshaped.contains("[32]"), "{misshaped}");

    let dir = folder(|_| {}, |_| {});
    write_tensors(&dir.path().join("model.safetensors"), &tiny_tensors(), Dtype::F64);
    assert!(error_of(dir.path()).contains("F64"));
}

#[test]
fn sizes_that_contradict_the_tensors_are_refused_before_memory_is_taken() {
    let dir = folder(|config| config["vocab_size"] = json!(1 << 24), |_| {});
    let error = error_of(dir.path());
    assert!(error.contains("model.embed_tokens.weight") && error.contains("16777216"), "{error}");
    let error = error_of(folder(|config| config["num_hidden_layers"] = json!(3), |_| {}).path());
    assert!(error.contains("model.layers.2.self_attn.q_proj.weight"), "{error}");
}

#[test]
fn damaged_files_are_named() {
    for (file, bytes) in
        [("model.safetensors", &b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"[..]), ("config.json", b"{\"model_type\":")]
    {
        let dir = folder(|_| {}, |_| {});
        fs::write(dir.path().join(file), bytes).unwrap();
        assert!(error_of(dir.path()).contains(file));
    }
    let dir = folder(|_| {}, |_| {});
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    assert!(error_of(dir.path()).contains("model.safetensors"));
    fs::write(&path, b"").unwrap();
    assert!(error_of(dir.path()).contains("model.safetensors"));
    fs::remove_file(&path).unwrap();
    assert!(error_of(dir.path()).contains("neither model.safetensors nor model.safetensors.index.json"));
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let cases = [
        ("model_type", json!("llama")),
        ("architectures", json!(["Qwen2ForSequenceClassification"])),
        ("hidden_act", json!("gelu")),
        ("use_sliding_window", json!(true)),
        ("rope_scaling", json!({ "type": "yarn", "factor": 4.0 })),
        ("rope_scaling", json!({ "factor": 4.0 })),
        ("rope_parameters", json!({ "rope_type": "linear", "rope_theta": 1e6, "factor": 2.0 })),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("head_dim", json!(32)),
    ];
    for (key, value) in cases {
        let dir = folder(|config| config[key] = value, |_| {});
        let error = Pretrained::load(dir.path(), &flex()).unwrap_err();
        assert!(matches!(&error, ModelError::Unsupported { key: named, .. } if named == key), "{error}");
        assert!(error.to_string().contains("config.json"), "{error}");
    }
    let harmless = json!({ "rope_type": "default", "rope_theta": 1e6 });
    let dir = folder(|config| (config["rope_parameters"], config["rope_scaling"]) = (harmless, Value::Null), |_| {});
    Pretrained::load(dir.path(), &flex()).unwrap();
}

#[test]
fn impossible_sizes_are_refused_by_name() {
    let cases = [
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(5)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("hidden_size", json!(66)),
        ("hidden_size", json!(0)),
        ("vocab_size", json!(0)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("intermediate_size", json!(u64::MAX)),
        ("rms_norm_eps", json!(0.0)),
        ("rope_theta", json!(-1.0)),
    ];
    for (key, value) in cases {
        let dir = folder(|config| config[key] = value, |_| {});
        let error = error_of(dir.path());
        assert!(error.contains(key) && error.contains("config.json"), "{error}");
    }
    let odd = Qwen2Config::new(10, 12, 8, 1, 4, 4);
    assert!(odd.validate().unwrap_err().to_string().contains("even"));
    let dir = folder(|config| drop(config.as_object_mut().unwrap().remove("hidden_size")), |_| {});
    assert!(error_of(dir.path()).contains("hidden_size"));
    let dir = folder(|config| config["hidden_size"] = json!("64"), |_| {});
    assert!(error_of(dir.path()).contains("config.json"));
}

#[test]
fn both_places_of_the_rotary_base_say_the_same_after_a_change() {
    let text = fs::read_to_string(fixtures().join("tiny/config_transformers5.json")).unwrap();
    let mut config: Qwen2Config = serde_json::from_str(&text).unwrap();
    config.rope_theta = 5e4;
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!((&written["rope_theta"], &written["rope_parameters"]["rope_theta"]), (&json!(5e4), &json!(5e4)));
    assert_eq!(serde_json::from_value::<Qwen2Config>(written).unwrap().rope_theta, 5e4);
}

#[test]
fn a_config_is_written_back_with_every_key_of_either_layout() {
    for file in ["config.json", "config_transformers5.json"] {
        let (from, to) = (folder(|_| {}, |_| {}), tempfile::tempdir().unwrap());
        let mut before: Value =
            serde_json::from_str(&fs::read_to_string(fixtures().join("tiny").join(file)).unwrap()).unwrap();
        before["a_key_of_others"] = json!({ "nested": [1, null, 1e-7] });
        fs::write(from.path().join("config.json"), before.to_string()).unwrap();
        let loaded = Pretrained::load_as(from.path(), &flex(), WeightDtype::Bf16).unwrap();
        loaded.save(to.path()).unwrap();
        let after: Value = serde_json::from_str(&fs::read_to_string(to.path().join("config.json")).unwrap()).unwrap();
        for (key, value) in before.as_object().unwrap() {
            let expected = if key.ends_with("dtype") { &json!("bfloat16") } else { value };
            assert_eq!(&after[key], expected, "{file}: {key}");
        }
        assert_eq!(after["torch_dtype"], "bfloat16", "{file}");
        assert_eq!(Pretrained::load(to.path(), &flex()).unwrap().config.rope_theta, loaded.config.rope_theta);
    }
}

#[test]
fn all_missing_tensors_are_named_or_counted() {
    let names = ["model.norm.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.bias"];
    let dir = folder(|_| {}, |tensors| names.iter().for_each(|name| drop(tensors.remove(*name))));
    let error = error_of(dir.path());
    assert!(names.iter().all(|name| error.contains(name)), "{error}");
    let error = error_of(folder(|_| {}, |tensors| tensors.retain(|name, _| name.contains("norm"))).path());
    // The tiny checkpoint has 26 tensors, 5 of them norms; 8 of the others are named.
    assert!(error.contains("`model.embed_tokens.weight`") && error.contains("and 13 more"), "{error}");
}

#[test]
fn null_in_a_config_means_the_default() {
    let text = fs::read_to_string(fixtures().join("tiny/config.json")).unwrap();
    let mut keys: Value = serde_json::from_str(&text).unwrap();
    for key in ["architectures", "rope_theta", "hidden_act", "num_key_value_heads"] {
        keys[key] = Value::Null;
    }
    let config: Qwen2Config = serde_json::from_value(keys).unwrap();
    assert_eq!((config.rope_theta, config.num_key_value_heads), (10_000.0, 4));
    config.validate().unwrap();
}
