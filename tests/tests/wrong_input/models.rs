//! `config.json`, weights, and what else a model's folder holds.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::ground::{edit, edit_weights, put, safetensors, set};
use crate::{Case, refused};

const GENERATE: &str = "generate --model model --prompt ab --max-response-length 4";

const NORM: &str = "model.norm.weight";

fn config(dir: &Path, key: &str, value: Value) {
    edit(dir.join("model/config.json"), |config| config[key] = value);
}

/// Moves the weights into two shards with an index, and changes the index.
fn shards(dir: &Path, change: impl FnOnce(&mut Value)) {
    let model = dir.join("model");
    let [mut map, mut one, mut two] = [(); 3].map(|()| serde_json::Map::new());
    let [mut one_data, mut two_data] = [const { Vec::new() }; 2];
    edit_weights(dir, |header, data| {
        for (name, info) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
            let (shard, tensors, bytes) = match name == NORM {
                true => ("model-2.safetensors", &mut two, &mut two_data),
                false => ("model-1.safetensors", &mut one, &mut one_data),
            };
            let [from, to] = [0, 1].map(|end| info["data_offsets"][end].as_u64().unwrap() as usize);
            let mut info = info.clone();
            info["data_offsets"] = json!([bytes.len(), bytes.len() + to - from]);
            bytes.extend(&data[from..to]);
            tensors.insert(name.clone(), info);
            map.insert(name.clone(), json!(shard));
        }
    });
    put(model.join("model-1.safetensors"), safetensors(&Value::Object(one), &one_data));
    put(model.join("model-2.safetensors"), safetensors(&Value::Object(two), &two_data));
    fs::remove_file(model.join("model.safetensors")).unwrap();
    let mut index = json!({ "weight_map": map });
    change(&mut index);
    put(model.join("model.safetensors.index.json"), index.to_string());
}

pub fn cases() -> Vec<Case> {
    [folders(), names(), configs(), sizes(), weights(), sharded(), generation()].into_iter().flatten().collect()
}

/// In a build that cannot fetch; `tests/hub.rs` is about one that can.
fn names() -> Vec<Case> {
    let says = |case: Case| case.says(&["Qwen/Qwen2.5-0.5B", "no such folder", "--features hub", "hf download"]);
    let lines = [
        "generate --model Qwen/Qwen2.5-0.5B --prompt ab",
        "eval --model Qwen/Qwen2.5-0.5B --data val.parquet",
        "score --model Qwen/Qwen2.5-0.5B@main --input score.jsonl",
        "export Qwen/Qwen2.5-0.5B --out new",
        "train config.toml model.path=Qwen/Qwen2.5-0.5B",
    ];
    match cfg!(feature = "hub") {
        true => Vec::new(),
        false => lines.map(|line| says(refused("a name at the hub, in a build without the feature", 2, line))).into(),
    }
}

fn folders() -> Vec<Case> {
    vec![
        refused("a model that is not there", 1, "generate --model nowhere --prompt ab").says(&["nowhere"]),
        refused("a file for a model", 1, "generate --model config.toml --prompt ab").says(&["config.toml"]),
        refused("a run for a model", 1, "score --model . --input score.jsonl").says(&["config.json"]),
        refused("a model without weights", 1, GENERATE)
            .after(|dir| fs::remove_file(dir.join("model/model.safetensors")).unwrap())
            .says(&["model", "neither model.safetensors nor model.safetensors.index.json"]),
        refused("a model without weights to train", 1, "train config.toml")
            .after(|dir| fs::remove_file(dir.join("model/model.safetensors")).unwrap())
            .says(&["model", "neither model.safetensors nor model.safetensors.index.json"]),
        refused("a model without config.json", 1, GENERATE)
            .after(|dir| fs::remove_file(dir.join("model/config.json")).unwrap())
            .says(&["model", "no config.json"]),
        refused("a folder in place of the weights", 1, GENERATE)
            .after(|dir| {
                fs::remove_file(dir.join("model/model.safetensors")).unwrap();
                fs::create_dir(dir.join("model/model.safetensors")).unwrap();
            })
            .says(&["model/model.safetensors", "directory"]),
    ]
}

fn configs() -> Vec<Case> {
    vec![
        refused("a config.json of no bytes", 1, GENERATE)
            .after(|dir| put(dir.join("model/config.json"), ""))
            .says(&["model/config.json", "line 1"]),
        refused("a config.json that is no JSON", 1, GENERATE)
            .after(|dir| put(dir.join("model/config.json"), "{ hidden_size: 16 }"))
            .says(&["model/config.json", "line 1"]),
        refused("a config.json that is no text", 1, GENERATE)
            .after(|dir| put(dir.join("model/config.json"), [0xff, 0x00]))
            .says(&["model/config.json", "UTF-8"]),
        refused("a config.json that is a list", 1, GENERATE)
            .after(|dir| put(dir.join("model/config.json"), "[]"))
            .says(&["model/config.json"]),
        refused("a missing size", 1, GENERATE)
            .after(|dir| {
                edit(dir.join("model/config.json"), |config| {
                    drop(config.as_object_mut().unwrap().remove("hidden_size"))
                });
            })
            .says(&["model/config.json", "`hidden_size`"]),
        refused("another architecture", 1, GENERATE).after(|dir| config(dir, "model_type", json!("llama"))).says(&[
            "model/config.json",
            "model_type = \"llama\"",
            "qwen2",
        ]),
        refused("another head", 1, GENERATE)
            .after(|dir| config(dir, "architectures", json!(["Qwen2ForSequenceClassification"])))
            .says(&["model/config.json", "architectures", "Qwen2ForCausalLM"]),
        refused("scaled rotary positions", 1, GENERATE)
            .after(|dir| config(dir, "rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 })))
            .says(&["model/config.json", "rope_scaling", "yarn"]),
        refused("a sliding window", 1, GENERATE)
            .after(|dir| config(dir, "use_sliding_window", json!(true)))
            .says(&["model/config.json", "use_sliding_window"]),
        refused("a word for a sliding window", 1, GENERATE)
            .after(|dir| config(dir, "use_sliding_window", json!("yes")))
            .says(&["model/config.json", "use_sliding_window = \"yes\""]),
        refused("a word for the kinds of layers", 1, GENERATE)
            .after(|dir| config(dir, "layer_types", json!("sliding")))
            .says(&["model/config.json", "layer_types = \"sliding\""]),
        refused("a list for the rotary positions", 1, GENERATE)
            .after(|dir| config(dir, "rope_parameters", json!([1e6])))
            .says(&["model/config.json", "`rope_parameters`", "not an object"]),
        refused("a word for the rotary base", 1, GENERATE)
            .after(|dir| config(dir, "rope_parameters", json!({ "rope_theta": "large" })))
            .says(&["model/config.json", "`rope_parameters.rope_theta`", "large"]),
        refused("another activation", 1, GENERATE).after(|dir| config(dir, "hidden_act", json!("gelu"))).says(&[
            "model/config.json",
            "hidden_act",
            "silu",
        ]),
        refused("a number for the architecture", 1, GENERATE).after(|dir| config(dir, "model_type", json!(7))).says(&[
            "model/config.json",
            "`model_type`",
            "7",
        ]),
        refused("a model trained on with another architecture", 1, "train config.toml")
            .after(|dir| config(dir, "model_type", json!("llama")))
            .says(&["model/config.json", "llama"]),
    ]
}

fn sizes() -> Vec<Case> {
    vec![
        refused("no heads", 1, GENERATE)
            .after(|dir| config(dir, "num_attention_heads", json!(0)))
            .says(&["model/config.json", "num_attention_heads = 0"]),
        refused("no key heads", 1, GENERATE)
            .after(|dir| config(dir, "num_key_value_heads", json!(0)))
            .says(&["model/config.json", "num_key_value_heads = 0"]),
        refused("a vocabulary of 2⁶³", 1, GENERATE)
            .after(|dir| config(dir, "vocab_size", json!(1u64 << 63)))
            .says(&["model/config.json", "vocab_size = 9223372036854775808"]),
        refused("a vocabulary of 10³⁰", 1, GENERATE).after(|dir| config(dir, "vocab_size", json!(1e30))).says(&[
            "model/config.json",
            "`vocab_size`",
            "1e+30",
        ]),
        refused("a width below zero", 1, GENERATE).after(|dir| config(dir, "hidden_size", json!(-16))).says(&[
            "model/config.json",
            "`hidden_size`",
            "-16",
        ]),
        refused("a fraction for a width", 1, GENERATE).after(|dir| config(dir, "hidden_size", json!(16.5))).says(&[
            "model/config.json",
            "`hidden_size`",
            "16.5",
        ]),
        refused("text for a width", 1, GENERATE).after(|dir| config(dir, "intermediate_size", json!("wide"))).says(&[
            "model/config.json",
            "`intermediate_size`",
            "wide",
        ]),
        refused("more layers than there are", 1, GENERATE)
            .after(|dir| config(dir, "num_hidden_layers", json!(2)))
            .says(&["model/model.safetensors", "`model.layers.1.self_attn.q_proj.weight`", "are missing"]),
        refused("another width than the weights'", 1, GENERATE)
            .after(|dir| config(dir, "hidden_size", json!(32)))
            .says(&["model/model.safetensors", "`model.embed_tokens.weight`", "[259, 16]", "[259, 32]"]),
        refused("an untied head that is not there", 1, GENERATE)
            .after(|dir| config(dir, "tie_word_embeddings", json!(false)))
            .says(&["model/model.safetensors", "`lm_head.weight` is missing"]),
        refused("a head of an odd width", 1, GENERATE)
            .after(|dir| config(dir, "num_attention_heads", json!(16)))
            .says(&["model/config.json", "even"]),
        refused("an epsilon of zero", 1, GENERATE)
            .after(|dir| config(dir, "rms_norm_eps", json!(0)))
            .says(&["model/config.json", "rms_norm_eps = 0"]),
        refused("an epsilon that is zero in f32", 1, GENERATE)
            .after(|dir| config(dir, "rms_norm_eps", json!(1e-60)))
            .says(&["model/config.json", "rms_norm_eps", "f32"]),
        refused("a rotary base beyond f32", 1, GENERATE).after(|dir| config(dir, "rope_theta", json!(1e60))).says(&[
            "model/config.json",
            "rope_theta",
            "f32",
        ]),
    ]
}

fn weights() -> Vec<Case> {
    vec![
        refused("weights of no bytes", 1, GENERATE)
            .after(|dir| put(dir.join("model/model.safetensors"), ""))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("garbage for weights", 1, GENERATE)
            .after(|dir| put(dir.join("model/model.safetensors"), vec![0xa5; 4096]))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("weights cut short", 1, GENERATE)
            .after(|dir| {
                let whole = fs::read(dir.join("model/model.safetensors")).unwrap();
                put(dir.join("model/model.safetensors"), &whole[..whole.len() - 1]);
            })
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("weights with bytes to spare", 1, GENERATE)
            .after(|dir| edit_weights(dir, |_, data| data.push(0)))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("a header of 2⁶³ bytes", 1, GENERATE)
            .after(|dir| {
                let mut whole = fs::read(dir.join("model/model.safetensors")).unwrap();
                whole[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
                put(dir.join("model/model.safetensors"), whole);
            })
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("a header that is no JSON", 1, GENERATE)
            .after(|dir| {
                let header = 4u64.to_le_bytes();
                put(dir.join("model/model.safetensors"), [&header[..], b"nope"].concat());
            })
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("a header without tensors", 1, GENERATE)
            .after(|dir| put(dir.join("model/model.safetensors"), safetensors(&json!({}), &[])))
            .says(&["model/model.safetensors", "`model.embed_tokens.weight`", "are missing"]),
        refused("a missing tensor", 1, GENERATE)
            .after(|dir| {
                edit_weights(dir, |header, _| {
                    let norm = header.as_object_mut().unwrap().remove(NORM).unwrap();
                    header["model.norm.scale"] = norm;
                });
            })
            .says(&["model/model.safetensors", "`model.norm.weight` is missing"]),
        refused("a tensor of another shape", 1, GENERATE)
            .after(|dir| edit_weights(dir, |header, _| header[NORM]["shape"] = json!([4, 4])))
            .says(&["model/model.safetensors", "`model.norm.weight`", "[4, 4]", "[16]"]),
        refused("a shape beyond the bytes", 1, GENERATE)
            .after(|dir| edit_weights(dir, |header, _| header[NORM]["shape"] = json!([17])))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("a shape beyond 64 bits", 1, GENERATE)
            .after(|dir| edit_weights(dir, |header, _| header[NORM]["shape"] = json!([u64::MAX, u64::MAX])))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("integers for weights", 1, GENERATE)
            .after(|dir| {
                edit_weights(dir, |header, _| {
                    header[NORM]["dtype"] = json!("I64");
                    header[NORM]["shape"] = json!([8]);
                    header["model.layers.0.input_layernorm.weight"]["dtype"] = json!("I32");
                });
            })
            .says(&["model/model.safetensors", "`model.layers.0.input_layernorm.weight`", "I32", "BF16"]),
        refused("an unknown type", 1, GENERATE)
            .after(|dir| edit_weights(dir, |header, _| header[NORM]["dtype"] = json!("F31")))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("offsets that overlap", 1, GENERATE)
            .after(|dir| edit_weights(dir, |header, _| header[NORM]["data_offsets"] = json!([0, 64])))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("offsets that run backwards", 1, GENERATE)
            .after(|dir| edit_weights(dir, |header, _| header[NORM]["data_offsets"] = json!([64, 0])))
            .says(&["model/model.safetensors", "not a sound safetensors file"]),
        refused("a weight that is no number", 1, GENERATE)
            .after(|dir| edit_weights(dir, |_, data| data[..4].copy_from_slice(&f32::NAN.to_le_bytes())))
            .says(&["model/model.safetensors", "`model.embed_tokens.weight`", "not finite"]),
        refused("an infinite weight to evaluate", 1, "eval --model model --data val.parquet")
            .after(|dir| edit_weights(dir, |_, data| data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes())))
            .says(&["model/model.safetensors", "not finite"]),
        refused("weights so large that the logits overflow", 1, "eval --model model --data val.parquet")
            .after(|dir| {
                edit_weights(dir, |_, data| {
                    for value in data.chunks_exact_mut(4) {
                        value.copy_from_slice(&1e30f32.to_le_bytes());
                    }
                });
            })
            .says(&["non-finite logits"]),
        refused("weights so large that the log-probs overflow", 1, "score --model model --input score.jsonl")
            .after(|dir| {
                edit_weights(dir, |_, data| {
                    for value in data.chunks_exact_mut(4) {
                        value.copy_from_slice(&1e30f32.to_le_bytes());
                    }
                });
            })
            .says(&["score.jsonl: line 1", "not finite"]),
    ]
}

fn sharded() -> Vec<Case> {
    vec![
        refused("an index that is no JSON", 1, GENERATE)
            .after(|dir| {
                shards(dir, |_| ());
                put(dir.join("model/model.safetensors.index.json"), "nope");
            })
            .says(&["model/model.safetensors.index.json"]),
        refused("an index without a map", 1, GENERATE)
            .after(|dir| shards(dir, |index| *index = json!({})))
            .says(&["model/model.safetensors.index.json", "weight_map"]),
        refused("an index of nothing", 1, GENERATE)
            .after(|dir| shards(dir, |index| index["weight_map"] = json!({})))
            .says(&["model/model.safetensors.index.json", "`model.embed_tokens.weight`", "are missing"]),
        refused("a shard that is not there", 1, GENERATE)
            .after(|dir| {
                shards(dir, |_| ());
                fs::remove_file(dir.join("model/model-2.safetensors")).unwrap();
            })
            .says(&["model/model-2.safetensors", "No such file"]),
        refused("a shard outside the folder", 1, GENERATE)
            .after(|dir| shards(dir, |index| index["weight_map"][NORM] = json!("../model-2.safetensors")))
            .says(&["model.safetensors.index.json", "`../model-2.safetensors`", "not a plain file name"]),
        refused("a shard without its tensor", 1, GENERATE)
            .after(|dir| shards(dir, |index| index["weight_map"]["model.other.weight"] = json!("model-2.safetensors")))
            .says(&["model/model-2.safetensors", "`model.other.weight` is missing"]),
        refused("a tensor in the other shard", 1, GENERATE)
            .after(|dir| shards(dir, |index| index["weight_map"][NORM] = json!("model-1.safetensors")))
            .says(&["model/model-1.safetensors", "`model.norm.weight` is missing"]),
        refused("a tensor in both shards", 1, GENERATE)
            .after(|dir| {
                let whole = fs::read(dir.join("model/model.safetensors")).unwrap();
                shards(dir, |_| ());
                put(dir.join("model/model-1.safetensors"), whole);
            })
            .says(&[
                "model.safetensors.index.json",
                "`model.norm.weight`",
                "model-1.safetensors",
                "model-2.safetensors",
            ]),
    ]
}

fn generation() -> Vec<Case> {
    vec![
        refused("a generation config that is no JSON", 1, GENERATE)
            .after(|dir| put(dir.join("model/generation_config.json"), "{"))
            .says(&["model/generation_config.json"]),
        refused("a generation config that is a list", 1, GENERATE)
            .after(|dir| put(dir.join("model/generation_config.json"), "[]"))
            .says(&["model/generation_config.json"]),
        refused("a word for an end of sequence", 1, GENERATE)
            .after(|dir| put(dir.join("model/generation_config.json"), r#"{ "eos_token_id": "</s>" }"#))
            .says(&["model/generation_config.json", "eos_token_id = \"</s>\""]),
        refused("an end of sequence below zero among others", 1, GENERATE)
            .after(|dir| config(dir, "eos_token_id", json!([256, -1])))
            .says(&["model/config.json", "eos_token_id = [256,-1]"]),
        refused("no end of sequence anywhere", 2, GENERATE)
            .after(|dir| {
                fs::remove_file(dir.join("model/generation_config.json")).unwrap();
                set(dir, "config.json", "/eos_token_id", Value::Null);
                set(dir, "tokenizer_config.json", "/eos_token", Value::Null);
            })
            .says(&["model", "no end-of-sequence token"]),
    ]
}
