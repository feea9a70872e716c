//! Folders of adapters in PEFT's format: what is written is read, what is not implemented or damaged is refused.

mod adapted;
mod reference;

use std::fs;
use std::path::Path;

use adapted::{ALL, base, config, log_probs, lora, trained};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{
    Adapter, Backend, LoraConfig, Pretrained, Qwen2Config, Qwen2ForCausalLM, SaveOptions, WeightDtype, export_merged,
    fingerprint,
};
use reference::max_difference;
use serde_json::{Value, json};

fn adapter(targets: &[&str]) -> Adapter {
    Adapter { config: lora(targets), base: "../base".into(), revision: None }
}

#[test]
fn a_folder_holds_an_adapter_and_gives_it_back() {
    for dtype in [WeightDtype::F32, WeightDtype::Bf16] {
        let base = base(&Backend::Flex.device().unwrap()).cast(dtype);
        for targets in [&ALL[..], &["k_proj", "down_proj"]] {
            let (dir, model) = (tempfile::tempdir().unwrap(), trained(&base, targets));
            adapter(targets).save(dir.path(), &model).unwrap();
            let read = Adapter::from_folder(dir.path()).unwrap();
            assert_eq!(read, adapter(targets));
            let again = read.load(dir.path(), &base).unwrap();
            assert_eq!(log_probs(&again), log_probs(&model));
            let other = tempfile::tempdir().unwrap();
            read.save(other.path(), &again).unwrap();
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                let bytes = |dir: &Path| fs::read(dir.join(file)).unwrap();
                assert!(bytes(dir.path()) == bytes(other.path()), "{file}");
            }
        }
    }
}

#[test]
fn an_export_with_the_adapter_in_it_is_the_merged_model() {
    let device = Backend::Flex.device().unwrap();
    for dtype in [WeightDtype::F32, WeightDtype::Bf16] {
        let (from, peft) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let base = base(&device).cast(dtype);
        let whole = |model: &Qwen2ForCausalLM| Pretrained {
            model: model.clone(),
            config: config(false),
            eos_token_ids: vec![0],
        };
        whole(&base).save(from.path()).unwrap();
        let untouched = fingerprint(from.path()).unwrap();
        let model = trained(&base, &["q_proj", "up_proj"]);
        adapter(&["q_proj", "up_proj"]).save(peft.path(), &model).unwrap();
        for wanted in [None, Some(WeightDtype::F32), Some(WeightDtype::F16)] {
            let to = tempfile::tempdir().unwrap();
            let options = SaveOptions { dtype: wanted, ..SaveOptions::default() };
            let written = export_merged(from.path(), peft.path(), to.path(), &options).unwrap();
            assert_eq!(written, Some(wanted.unwrap_or(dtype)));
            let exported = Pretrained::load(to.path(), &device).unwrap().model;
            let expected = base.clone().cast(WeightDtype::F32);
            let expected = log_probs(&adapter(&["q_proj", "up_proj"]).load(peft.path(), &expected).unwrap().merged());
            let difference = max_difference(&log_probs(&exported), &expected);
            let (tolerance, why) = match wanted.unwrap_or(dtype) {
                WeightDtype::F32 => (2e-5, "the order of sums"),
                WeightDtype::F16 => (0.01, "11 significant bits of each weight"),
                WeightDtype::Bf16 => (0.08, "8 significant bits of each weight"),
            };
            println!("{dtype} as {wanted:?}: {difference}");
            assert!(difference < tolerance, "{dtype} as {wanted:?}: {difference}, {why}");
            assert_ne!(fingerprint(to.path()).unwrap(), untouched);
        }
        // What a folder of a whole model has for an adapted one is the same.
        let to = tempfile::tempdir().unwrap();
        whole(&model).save(to.path()).unwrap();
        let saved = Pretrained::load_as(to.path(), &device, dtype).unwrap().model;
        assert_eq!(log_probs(&saved), log_probs(&model.merged()));
        assert_eq!(fingerprint(from.path()).unwrap(), untouched);
    }
}

#[test]
fn a_fingerprint_is_of_the_numbers_and_not_of_the_files() {
    let device = Backend::Flex.device().unwrap();
    let folder = |model: Qwen2ForCausalLM, config: Qwen2Config, max_shard_bytes| {
        let dir = tempfile::tempdir().unwrap();
        let options = SaveOptions { dtype: None, max_shard_bytes };
        Pretrained { model, config, eos_token_ids: vec![0] }.save_with(dir.path(), &options).unwrap();
        fingerprint(dir.path()).unwrap()
    };
    let whole = folder(base(&device), config(false), u64::MAX);
    assert_eq!(folder(base(&device), config(false), 5000), whole);
    let mut other = base(&device);
    let weight = other.model.layers[1].mlp.up_proj.weight.clone();
    other.model.layers[1].mlp.up_proj.weight = weight.map(|weight| weight.slice_fill([39..40, 23..24], 0.5));
    assert_ne!(folder(other, config(false), u64::MAX), whole);
    assert_ne!(folder(base(&device), config(false).with_rope_theta(5e5), u64::MAX), whole);
}

/// The configuration that PEFT 0.21 writes.
fn peft() -> Value {
    json!({
        "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
        "base_model_name_or_path": "../base", "bias": "none", "corda_config": null, "ensure_weight_tying": false,
        "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
        "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
        "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 5, "lora_bias": false, "lora_dropout": 0.05,
        "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
        "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 3,
        "rank_pattern": {}, "revision": null, "target_modules": ["q_proj", "v_proj"], "target_parameters": null,
        "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false,
        "use_qalora": false, "use_rslora": false, "velora_config": null
    })
}

fn read(keys: &Value) -> Result<Adapter, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("adapter_config.json"), keys.to_string()).unwrap();
    Adapter::from_folder(dir.path()).map_err(|error| error.to_string())
}

#[test]
fn what_peft_writes_is_read() {
    assert_eq!(read(&peft()).unwrap(), adapter(&["q_proj", "v_proj"]));
    let mut keys = peft();
    (keys["target_modules"], keys["use_rslora"]) = (json!("all-linear"), json!(true));
    let config = read(&keys).unwrap().config;
    assert_eq!((config.target_modules, config.use_rslora), (ALL.map(String::from).into(), true));
    let scale = |use_rslora| LoraConfig { rank: 4, alpha: 6.0, use_rslora, target_modules: vec![] }.scale();
    assert_eq!((scale(false), scale(true)), (1.5, 3.0));
}

#[test]
fn what_is_not_implemented_is_refused_by_its_key() {
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("r", json!(-1)),
        ("r", json!("8")),
        ("lora_alpha", json!("8")),
        ("target_modules", json!(".*_proj")),
        ("target_modules", json!([1])),
        ("target_modules", Value::Null),
        ("bias", json!("lora_only")),
        ("use_dora", json!(true)),
        ("use_qalora", json!(true)),
        ("modules_to_save", json!(["embed_tokens"])),
        ("rank_pattern", json!({ "q_proj": 4 })),
        ("alpha_pattern", json!({ "q_proj": 4 })),
        ("layers_to_transform", json!([0])),
        ("layer_replication", json!([[0, 1]])),
        ("exclude_modules", json!(["v_proj"])),
        ("trainable_token_indices", json!([1])),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("base_model_name_or_path", Value::Null),
        ("a_key_of_times_to_come", json!("on")),
    ] {
        let mut keys = peft();
        keys[key] = value;
        let error = read(&keys).unwrap_err();
        assert!(error.contains(&format!("{key} = ")) && error.contains("adapter_config.json"), "{error}");
    }
    for (key, value, words) in [
        ("r", json!(0), "rank is 0"),
        ("lora_alpha", json!(0), "no scale"),
        ("target_modules", json!([]), "no projection"),
        ("target_modules", json!(["q_proj", "lm_head"]), "`lm_head`"),
    ] {
        let mut keys = peft();
        keys[key] = value;
        let error = read(&keys).unwrap_err();
        assert!(error.contains(words) && error.contains("adapter_config.json"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(!Adapter::is_in(dir.path()));
    fs::write(dir.path().join("adapter_config.json"), "{\"peft_type\"").unwrap();
    assert!(Adapter::from_folder(dir.path()).unwrap_err().to_string().contains("adapter_config.json"));
}

#[test]
fn a_damaged_or_foreign_adapter_is_refused() {
    let base = base(&Backend::Flex.device().unwrap());
    let folder = |targets: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        adapter(targets).save(dir.path(), &trained(&base, targets)).unwrap();
        dir
    };
    let load = |dir: &Path, adapter: &Adapter, base: &Qwen2ForCausalLM| {
        let error = adapter.load(dir, base).unwrap_err().to_string();
        assert!(error.contains("adapter_model.safetensors"), "{error}");
        error
    };
    let dir = folder(&["q_proj"]);
    let error = load(dir.path(), &adapter(&["q_proj", "k_proj"]), &base);
    assert!(error.contains("base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"), "{error}");
    let error = load(folder(&["q_proj", "k_proj"]).path(), &adapter(&["q_proj"]), &base);
    assert!(error.contains("k_proj.lora_B.weight") && error.contains("belong to no projection"), "{error}");
    let ranked = Adapter { config: LoraConfig { rank: usize::MAX, ..lora(&["q_proj"]) }, ..adapter(&["q_proj"]) };
    assert!(load(dir.path(), &ranked, &base).contains("has shape [3, 24]"));
    let wide = Qwen2Config::new(37, 32, 40, 2, 4, 2);
    let wide = Qwen2ForCausalLM::init(&wide, RandomKey::new(3, Purpose::Init), &Backend::Flex.device().unwrap());
    assert!(load(dir.path(), &adapter(&["q_proj"]), &wide).contains("has shape [3, 24]"));

    let file = dir.path().join("adapter_model.safetensors");
    let good = fs::read(&file).unwrap();
    let nan = good.len() - 4;
    fs::write(&file, [&good[..nan], &f32::NAN.to_le_bytes()].concat()).unwrap();
    assert!(load(dir.path(), &adapter(&["q_proj"]), &base).contains("NaN"));
    for bad in [&good[..nan], &good[..5], b"", &[255; 64]] {
        fs::write(&file, bad).unwrap();
        load(dir.path(), &adapter(&["q_proj"]), &base);
    }
    fs::remove_file(&file).unwrap();
    load(dir.path(), &adapter(&["q_proj"]), &base);
}
