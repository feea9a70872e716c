//! Adapters: they begin as nothing, alone have gradients, and are the same merged.

use std::collections::BTreeMap;

use crate::adapted::{ALL, ROWS, base, fresh, log_probs, lora, trained};
use crate::reference::{MEMORY, decoded, devices, host, max_difference, prefilled, relative_difference};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{
    Backend, PassOptions, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification, ResponseBatch, WeightDtype,
};

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
            let (hidden, sequences, mut cache) = prefilled(model, &[&[1, 2, 3], &[4, 5]], 8);
            let next = decoded(model, &sequences, &[6, 7], &mut cache);
            (host(model.logits(hidden)), host(model.logits(next)))
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
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
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
