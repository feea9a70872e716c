//! Adapters: they begin as nothing, alone have gradients, and are the same merged, saved and loaded.

mod reference;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{
    Adapter, Backend, Linear, LoraConfig, PassOptions, Pretrained, Qwen2Config, Qwen2ForCausalLM,
    Qwen2ForTokenClassification, ResponseBatch, SaveOptions, WeightDtype, export_merged, fingerprint,
};
use reference::{MEMORY, devices, host, max_difference, relative_difference};
use serde_json::{Value, json};

const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn config(tied: bool) -> Qwen2Config {
    Qwen2Config::new(37, 24, 40, 2, 4, 2).with_tie_word_embeddings(tied)
}

fn base(device: &Device) -> Qwen2ForCausalLM {
    Qwen2ForCausalLM::init(&config(false), RandomKey::new(3, Purpose::Init), device)
}

fn lora(targets: &[&str]) -> LoraConfig {
    let target_modules = targets.iter().map(|name| name.to_string()).collect();
    LoraConfig { rank: 3, alpha: 5.0, use_rslora: false, target_modules }
}

fn fresh(base: &Qwen2ForCausalLM, targets: &[&str]) -> Qwen2ForCausalLM {
    base.with_lora(&lora(targets), RandomKey::new(3, Purpose::Lora)).unwrap()
}

/// Every B with some numbers, as training leaves it.
fn trained(base: &Qwen2ForCausalLM, targets: &[&str]) -> Qwen2ForCausalLM {
    let mut model = fresh(base, targets);
    for (index, linear) in projections(&mut model).into_iter().enumerate() {
        let Some(lora) = &mut linear.lora else { continue };
        lora.b = lora.b.clone().map(|b| {
            let shape = b.dims();
            let values: Vec<f32> =
                (0..shape[0] * shape[1]).map(|i| 0.3 * ((i + 7 * index) as f32 * 1.3).sin()).collect();
            let b = Tensor::<2>::from_data(TensorData::new(values, shape), (&b.device(), b.dtype()));
            if b.is_autodiff() { b.require_grad() } else { b }
        });
    }
    model
}

fn projections(model: &mut Qwen2ForCausalLM) -> Vec<&mut Linear> {
    let blocks = model.model.layers.iter_mut().map(|block| (&mut block.self_attn, &mut block.mlp));
    let all = blocks.flat_map(|(attention, mlp)| {
        let [q, k, v, o] = [&mut attention.q_proj, &mut attention.k_proj, &mut attention.v_proj, &mut attention.o_proj];
        [q, k, v, o, &mut mlp.gate_proj, &mut mlp.up_proj, &mut mlp.down_proj]
    });
    all.collect()
}

const ROWS: [(&[u32], &[u32]); 3] =
    [(&[1, 2, 3], &[4, 5, 6, 7, 36]), (&[8], &[9, 0]), (&[10, 11, 12, 13, 14, 15, 16], &[17])];

fn log_probs(model: &Qwen2ForCausalLM) -> Vec<f32> {
    host(model.response_stats(&ResponseBatch::new(&ROWS), &PassOptions::default()).log_probs)
}

fn upstream(device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..15).map(|i| (i as f32 * 1.7).sin()).collect();
    Tensor::from_data(TensorData::new(values, [3, 5]), device)
}

/// Σ g · log p with Burn's autodiff through everything at once, one row after the other.
fn naive_gradients(model: &Qwen2ForCausalLM, device: &Device) -> GradientsParams {
    let mut loss = Tensor::<1>::zeros([1], device);
    for (row, (prompt, response)) in ROWS.into_iter().enumerate() {
        let ids: Vec<i64> = [prompt, response].concat().into_iter().map(i64::from).collect();
        let (n, length, from) = (ids.len(), response.len(), prompt.len());
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, n]), device);
        let hidden = model.hidden(ids.clone().slice([0..1, 0..n - 1])).squeeze_dim::<2>(0);
        let log_p = log_softmax(model.logits(hidden), 1).slice([from - 1..n - 1, 0..37]);
        let target = ids.slice([0..1, from..n]).swap_dims(0, 1);
        let weight = upstream(device).slice([row..row + 1, 0..length]).swap_dims(0, 1);
        loss = loss + (log_p.gather(1, target) * weight).sum();
    }
    GradientsParams::from_grads(loss.backward(), model)
}

/// Gradients by name, those that there are.
fn by_name(model: &Qwen2ForCausalLM, gradients: &GradientsParams) -> BTreeMap<String, Vec<f32>> {
    struct Collect<'a>(&'a GradientsParams, BTreeMap<ParamId, Vec<f32>>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.extend(self.0.get::<D>(param.id).map(|gradient| (param.id, host(gradient))));
        }
    }
    let mut collect = Collect(gradients, BTreeMap::new());
    model.visit(&mut collect);
    let names = model.parameter_names().into_iter();
    names.filter_map(|(name, id)| Some((name, collect.1.remove(&id)?))).collect()
}

#[test]
fn adapters_alone_have_gradients_and_they_are_those_of_plain_autodiff() {
    for (backend, device) in devices() {
        let device = device.autodiff();
        for targets in [&ALL[..], &["q_proj", "v_proj"], &["down_proj"]] {
            let model = trained(&base(&device), targets);
            let expected = by_name(&model, &naive_gradients(&model, &device));
            for memory in MEMORY {
                let mut gradients = GradientsParams::new();
                let options = PassOptions { memory, ..PassOptions::default() };
                model.response_gradients(&ResponseBatch::new(&ROWS), &options, &mut gradients, |stats| {
                    (upstream(&stats.log_probs.device()), None)
                });
                assert_eq!(gradients.len(), 2 * 2 * targets.len(), "A and B of two blocks");
                for (name, found) in by_name(&model, &gradients) {
                    assert!(name.ends_with(".lora.a") || name.ends_with(".lora.b"), "{name}");
                    // Two f32 computations of the same sums in another order.
                    let difference = relative_difference(&found, &expected[&name]);
                    assert!(difference < 1e-5, "{backend}, {name}: {difference}");
                }
            }
        }
    }
}

#[test]
fn a_new_adapter_is_nothing() {
    for (_, device) in devices() {
        let base = base(&device);
        let model = fresh(&base, &ALL);
        assert!(model.has_lora() && !base.has_lora());
        assert_eq!(model.num_params() - base.num_params(), model.adapters().map(Module::num_params).sum::<usize>());
        assert_eq!(log_probs(&model), log_probs(&base));
        let sampled = |model: &Qwen2ForCausalLM| {
            let (hidden, mut cache) = model.prefill(&[&[1, 2, 3], &[4, 5]], 8);
            (host(model.logits(hidden)), host(model.logits(model.decode(&[6, 7], &mut cache))))
        };
        assert_eq!(sampled(&model), sampled(&base));
        assert_ne!(sampled(&trained(&base, &ALL)), sampled(&base));
    }
}

#[test]
fn new_adapters_are_drawn_as_peft_draws_them_wherever_and_beside_whatever_they_are() {
    let of = |device: &Device, targets: &[&str]| -> Vec<(Vec<f32>, Vec<f32>)> {
        fresh(&base(device), targets).adapters().map(|lora| (host(lora.a.val()), host(lora.b.val()))).collect()
    };
    let all = of(&Backend::Flex.device().unwrap(), &ALL);
    assert_eq!(all, of(&Backend::NdArray.device().unwrap(), &ALL));
    let downs = of(&Backend::Flex.device().unwrap(), &["down_proj"]);
    assert_eq!(downs, [all[6].clone(), all[13].clone()]);
    for (index, (a, b)) in all.iter().enumerate() {
        assert!(b.iter().all(|value| *value == 0.0));
        let bound = if index % 7 == 6 { 1.0 / 40f32.sqrt() } else { 1.0 / 24f32.sqrt() };
        let largest = a.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        // Of 72 numbers or more, one comes as near as a tenth to the bound but once in 1 900 draws.
        assert!(largest <= bound && largest > 0.9 * bound, "{index}: {largest} {bound}");
        assert_ne!(all[(index + 7) % 14].0, *a, "each block has its own");
    }
}

#[test]
fn merged_weights_compute_what_the_adapter_computes() {
    for (_, device) in devices() {
        let base = base(&device);
        let model = trained(&base, &ALL);
        let merged = model.merged();
        assert_eq!(merged.num_params(), base.num_params());
        let (with, without) = (log_probs(&model), log_probs(&base));
        // f32 sums in another order; log-probs are about 4.
        assert!(max_difference(&log_probs(&merged), &with) < 2e-5);
        assert!(max_difference(&with, &without) > 0.1);
        assert_eq!(log_probs(&model.without_lora()), without);
    }
}

#[test]
fn merged_bf16_weights_differ_by_the_rounding_of_bf16() {
    let base = base(&Backend::Flex.device().unwrap());
    let exact = log_probs(&trained(&base, &ALL));
    let model = trained(&base.clone().cast(WeightDtype::Bf16), &ALL);
    assert_eq!(model.merged().dtype(), WeightDtype::Bf16);
    let error = max_difference(&log_probs(&model), &exact);
    let merged = max_difference(&log_probs(&model.merged()), &exact);
    println!("adapter {error}, merged {merged}");
    // 8 significant bits throughout; both round about as often. Adapters change log-probs by 0.1 and more.
    assert!(merged < 0.1 && error < 0.1, "{error} {merged}");
}

#[test]
fn a_critic_begins_as_the_merged_policy_and_has_no_adapter() {
    let device = Backend::Flex.device().unwrap().autodiff();
    let model = trained(&base(&device), &ALL);
    let key = RandomKey::new(0, Purpose::Critic);
    let values = |policy: &Qwen2ForCausalLM| {
        let critic = Qwen2ForTokenClassification::from_policy(policy, key);
        assert!(critic.parameter_names().iter().all(|(name, _)| !name.contains("lora")));
        host(critic.response_values(&ResponseBatch::new(&ROWS), &MEMORY[0]))
    };
    assert_eq!(values(&model), values(&model.merged()));
    assert_ne!(values(&model), values(&model.without_lora()));
}

/// The memory that this process has now.
#[cfg(target_os = "linux")]
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

#[test]
#[cfg(target_os = "linux")]
fn the_base_is_not_there_twice() {
    let device = Backend::Flex.device().unwrap().autodiff();
    let config = Qwen2Config::new(1000, 1024, 2816, 3, 16, 16);
    let model = Qwen2ForCausalLM::init(&config, RandomKey::new(3, Purpose::Init), &device);
    let before = resident();
    let adapted = model.with_lora(&lora(&ALL), RandomKey::new(3, Purpose::Lora)).unwrap();
    let reference = adapted.valid().without_lora();
    // Read, so that what is copied when it is first used would be seen.
    assert_eq!(log_probs(&reference), log_probs(&adapted));
    let bytes = 4.0 * config.num_params() as f64;
    let more = resident() - before;
    println!("{:.0} MB more beside {:.0} MB", more / 1e6, bytes / 1e6);
    // Other tests of this file take a few MB at the same time.
    assert!(bytes > 150e6 && more < 0.4 * bytes, "{more} {bytes}");
}

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
