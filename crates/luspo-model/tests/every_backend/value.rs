//! The value model: its values are those of its head on the trunk's states, its gradients those of the loss, and its
//! folder is one that transformers reads.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::reference::{devices, host, max_difference, read_safetensors, relative_difference, write_tensors};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData, s};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{
    Backend, MemoryOptions, ModelError, Pretrained, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification,
    ResponseBatch,
};
use safetensors::Dtype;
use serde_json::{Value, json};

const MEMORY: MemoryOptions = MemoryOptions { log_prob_chunk: 7, attention_chunk: 3, activation_checkpointing: false };

/// Prompt and response of each row.
const ROWS: [(&[u32], &[u32]); 3] =
    [(&[1, 2, 3], &[4, 5, 6, 7, 36]), (&[8], &[9, 0]), (&[10, 11, 12, 13, 14, 15, 16], &[17])];

fn key(seed: u64) -> RandomKey {
    RandomKey::new(seed, Purpose::Init)
}

fn config(tied: bool) -> Qwen2Config {
    Qwen2Config::new(37, 24, 40, 2, 4, 2).with_tie_word_embeddings(tied)
}

fn policy(tied: bool, device: &Device) -> Qwen2ForCausalLM {
    Qwen2ForCausalLM::init(&config(tied), key(3), device)
}

fn value_model(device: &Device) -> Qwen2ForTokenClassification {
    Qwen2ForTokenClassification::from_policy(&policy(true, device), key(4))
}

fn flex() -> Device {
    Backend::Flex.device().unwrap()
}

/// Some gradient that differs from token to token.
fn upstream(device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..15).map(|i| (i as f32 * 1.7).sin()).collect();
    Tensor::from_data(TensorData::new(values, [3, 5]), device)
}

fn gradients(model: &Qwen2ForTokenClassification, batch: &ResponseBatch) -> GradientsParams {
    collected(model, batch, |values| upstream(&values.device()))
}

fn collected(
    model: &Qwen2ForTokenClassification,
    batch: &ResponseBatch,
    objective: impl FnOnce(&Tensor<2>) -> Tensor<2>,
) -> GradientsParams {
    let mut gradients = GradientsParams::new();
    model.value_gradients(batch, &MEMORY, &mut gradients, objective);
    gradients
}

/// Σ g · V, padding left out.
fn loss(model: &Qwen2ForTokenClassification, batch: &ResponseBatch) -> f64 {
    let values = host(model.response_values(batch, &MEMORY));
    let weights = host(upstream(&model.device().without_autodiff()));
    values.iter().zip(weights).map(|(value, weight)| f64::from(*value) * f64::from(weight)).sum()
}

struct Flat<'a>(&'a GradientsParams, Vec<Vec<f32>>);

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.1.push(host(self.0.get::<D>(param.id).expect("every parameter has a gradient")));
    }
}

/// Every parameter's gradient, in the order of the module.
fn flat(model: &Qwen2ForTokenClassification, gradients: &GradientsParams) -> Vec<Vec<f32>> {
    let mut flat = Flat(gradients, Vec::new());
    model.visit(&mut flat);
    flat.1
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = relative_difference(found, expected);
        assert!(difference < tolerance, "parameter {index}: {difference}");
    }
}

/// The values of each row's response tokens, with Burn's tensor operations on that row alone.
fn naive_values(model: &Qwen2ForTokenClassification) -> Vec<Tensor<1>> {
    let trunk = Qwen2ForCausalLM { model: model.model.clone(), lm_head: None };
    let of_row = |(prompt, response): (&[u32], &[u32])| {
        let ids: Vec<i64> = prompt.iter().chain(response).map(|id| i64::from(*id)).collect();
        let n = ids.len();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, n]), &model.device().without_autodiff());
        let values = model.score.forward(trunk.hidden(ids)).reshape([n]);
        values.slice(s![prompt.len() - 1..n - 1])
    };
    ROWS.into_iter().map(of_row).collect()
}

#[test]
fn a_value_is_the_head_on_the_state_that_predicts_the_token() {
    for (_, device) in devices() {
        for device in [device.clone(), device.autodiff()] {
            let model = value_model(&device);
            let found = model.response_values(&ResponseBatch::new(&ROWS), &MEMORY);
            assert!(!found.is_autodiff());
            assert_eq!(found.dims(), [3, 5]);
            for (found, expected) in host(found).chunks(5).zip(naive_values(&model)) {
                let expected = host(expected);
                let (values, padding) = found.split_at(expected.len());
                // Values are about 0.1; f32 sums in another order.
                assert!(max_difference(values, &expected) < 1e-6);
                assert!(padding.iter().all(|value| *value == 0.0));
            }
        }
    }
}

#[test]
fn gradients_are_those_of_plain_autodiff() {
    for (_, device) in devices() {
        let model = value_model(&device.autodiff());
        let found = gradients(&model, &ResponseBatch::new(&ROWS));
        assert_eq!(found.len(), 28);

        let weights = upstream(&model.device());
        let terms = naive_values(&model).into_iter().enumerate().map(|(row, values)| {
            let [n] = values.dims();
            (values * weights.clone().slice([row..row + 1, 0..n]).reshape([n])).sum()
        });
        let loss = terms.reduce(|sum, term| sum + term).unwrap();
        let expected = GradientsParams::from_grads(loss.backward(), &model);
        // Two f32 computations of the same sums in another order.
        assert_close(&flat(&model, &found), &flat(&model, &expected), 1e-5);
    }
}

/// θ + h · ∂L/∂θ
struct Along<'a>(&'a GradientsParams, f64);

impl ModuleMapper for Along<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.0.get::<D>(param.id).unwrap();
        param.map(|value| (value.inner() + gradient * self.1).autodiff().require_grad())
    }
}

#[test]
fn the_loss_changes_along_its_gradient_by_the_gradients_square() {
    for (_, device) in devices() {
        let (model, batch) = (value_model(&device.autodiff()), ResponseBatch::new(&ROWS));
        let gradients = gradients(&model, &batch);
        let square: f64 = flat(&model, &gradients).concat().iter().map(|g| f64::from(*g).powi(2)).sum();
        let at = |h: f64| loss(&model.clone().map(&mut Along(&gradients, h)), &batch);
        // Small enough that the third derivative does not show, large enough that rounding in f32 does not.
        let h = 1e-3 / square.sqrt();
        let found = (at(h) - at(-h)) / (2.0 * h);
        assert!((found / square - 1.0).abs() < 2e-3, "{found} {square}");
    }
}

#[test]
fn the_objective_sees_the_values_and_nan_in_the_padding_of_its_gradient_has_no_effect() {
    let (model, batch) = (value_model(&flex().autodiff()), ResponseBatch::new(&ROWS));
    let poisoned = collected(&model, &batch, |values| {
        assert_eq!(values.to_data(), model.response_values(&batch, &MEMORY).to_data());
        let padding = Tensor::<1, Int>::arange(0..5, &values.device()).unsqueeze::<2>().expand([3, 5]);
        let lengths = Tensor::<2, Int>::from_data([[5], [2], [1]], &values.device()).expand([3, 5]);
        upstream(&values.device()).mask_fill(padding.greater_equal(lengths), f32::NAN)
    });
    assert_eq!(flat(&model, &poisoned), flat(&model, &gradients(&model, &batch)));
}

#[test]
fn accumulated_gradients_are_the_gradients_of_all_rows() {
    for (_, device) in devices() {
        let model = value_model(&device.autodiff());
        let mut sum = GradientsParams::new();
        for rows in [&ROWS[..1], &ROWS[1..]] {
            model.value_gradients(&ResponseBatch::new(rows), &MEMORY, &mut sum, Tensor::ones_like);
        }
        let whole = collected(&model, &ResponseBatch::new(&ROWS), Tensor::ones_like);
        // Batch composition changes the order of sums only.
        assert_close(&flat(&model, &sum), &flat(&model, &whole), 1e-5);
    }
}

#[test]
fn a_model_made_from_a_policy_has_its_trunk_and_parameters_of_its_own() {
    for (_, device) in devices() {
        let policy = policy(true, &device.clone().autodiff());
        let model = Qwen2ForTokenClassification::from_policy(&policy, key(4));
        assert!(model.device().is_autodiff());

        let of_policy: HashSet<_> = policy.parameter_names().into_iter().map(|(_, id)| id).collect();
        let names = model.parameter_names();
        assert!(names.iter().all(|(_, id)| !of_policy.contains(id)));
        let mut expected: Vec<String> = policy.parameter_names().into_iter().map(|(name, _)| name).collect();
        expected.extend(["score.bias".to_string(), "score.weight".to_string()]);
        assert_eq!(names.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), expected);

        let trunk = Qwen2ForCausalLM { model: model.model.clone(), lm_head: None };
        let ids = Tensor::<2, Int>::from_data([[1, 2, 3]], &device);
        let before = host(policy.hidden(ids.clone()));
        assert_eq!(host(trunk.hidden(ids.clone())), before);

        // What happens to the one does not happen to the other.
        let batch = ResponseBatch::new(&ROWS);
        let moved = model.clone().map(&mut Along(&gradients(&model, &batch), 1.0));
        assert_ne!(host(moved.response_values(&batch, &MEMORY)), host(model.response_values(&batch, &MEMORY)));
        assert_eq!(host(policy.hidden(ids)), before);
    }
}

#[test]
fn a_fresh_head_is_small_and_the_same_on_every_backend() {
    let mut seen = Vec::new();
    for (_, device) in devices() {
        let policy = Qwen2ForCausalLM::init(&Qwen2Config::new(50, 512, 64, 1, 4, 2), key(3), &device);
        let head = |seed| host(Qwen2ForTokenClassification::from_policy(&policy, key(seed)).score.weight.val());
        let std = (head(4).iter().map(|w| w * w).sum::<f32>() / 512.0).sqrt();
        // The relative standard error of a standard deviation of 512 numbers is 3 %.
        assert!((std / 0.02 - 1.0).abs() < 0.12, "{std}");
        assert_ne!(head(4), head(5));
        let score = Qwen2ForTokenClassification::from_policy(&policy, key(4)).score;
        assert_eq!(host(score.bias.unwrap().val()), [0.0]);
        seen.push(head(4));
    }
    assert!(seen.iter().all(|other| *other == seen[0]));
}

/// A saved value model, its configuration changed.
fn saved(model: &Qwen2ForTokenClassification, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path(), &config(true)).unwrap();
    let path = dir.path().join("config.json");
    let mut value = config_of(dir.path());
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
    dir
}

fn config_of(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
}

fn load(dir: &Path, seed: u64) -> Result<(Qwen2ForTokenClassification, Qwen2Config), ModelError> {
    Qwen2ForTokenClassification::load(dir, key(seed), &flex())
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    let batch = ResponseBatch::new(&ROWS);
    for tied in [true, false] {
        let model = Qwen2ForTokenClassification::from_policy(&policy(tied, &flex().autodiff()), key(4));
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        model.save(first.path(), &config(tied).with_rope_theta(5e5)).unwrap();
        let (read, read_config) = load(first.path(), 0).unwrap();
        assert_eq!(read_config.rope_theta, 5e5);
        // With the base that the model was made with.
        model.save(first.path(), &config(tied)).unwrap();
        let (again, read_config) = load(first.path(), 0).unwrap();
        assert_eq!(host(again.response_values(&batch, &MEMORY)), host(model.response_values(&batch, &MEMORY)));
        assert_ne!(host(again.response_values(&batch, &MEMORY)), host(read.response_values(&batch, &MEMORY)));

        again.save(second.path(), &read_config).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let (a, b) = (fs::read(first.path().join(file)).unwrap(), fs::read(second.path().join(file)).unwrap());
            assert!(a == b, "{file} differs");
        }
        let tensors = read_safetensors(&first.path().join("model.safetensors"));
        assert_eq!(tensors["score.weight"].shape, [1, 24]);
        assert_eq!(tensors["score.bias"].shape, [1]);
        assert!(!tensors.contains_key("lm_head.weight"));
    }
}

#[test]
fn a_language_models_folder_is_the_trunk_of_a_new_value_model() {
    for tied in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let policy = policy(tied, &flex());
        Pretrained { model: policy.clone(), config: config(tied), eos_token_ids: vec![0] }.save(dir.path()).unwrap();
        let (read, read_config) = load(dir.path(), 4).unwrap();
        let expected = Qwen2ForTokenClassification::from_policy(&policy, key(4));
        let batch = ResponseBatch::new(&ROWS);
        assert_eq!(host(read.response_values(&batch, &MEMORY)), host(expected.response_values(&batch, &MEMORY)));
        assert_ne!(
            host(load(dir.path(), 5).unwrap().0.response_values(&batch, &MEMORY)),
            host(read.response_values(&batch, &MEMORY))
        );

        // Saved, it is a value model's.
        read.save(dir.path(), &read_config).unwrap();
        assert_eq!(config_of(dir.path())["architectures"], json!(["Qwen2ForTokenClassification"]));
        let (again, _) = load(dir.path(), 5).unwrap();
        assert_eq!(host(again.response_values(&batch, &MEMORY)), host(read.response_values(&batch, &MEMORY)));
    }
}

#[test]
fn folders_that_are_not_a_value_models_are_refused_by_name() {
    let model = value_model(&flex());
    let refused = |change: fn(&mut Value), words: [&str; 3]| {
        let error = load(saved(&model, change).path(), 0).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    refused(|config| config["id2label"] = json!({ "0": "a", "1": "b" }), ["config.json", "num_labels", "2"]);
    refused(|config| drop(config.as_object_mut().unwrap().remove("id2label")), ["config.json", "num_labels", "2"]);
    refused(|config| config["token_classification_bias"] = json!(false), ["config.json", "_bias", "false"]);
    refused(
        |config| config["architectures"] = json!(["Qwen2ForSequenceClassification"]),
        [
            "config.json",
            "Qwen2ForSequenceClassification",
            "\"Qwen2ForTokenClassification\" and \"Qwen2ForCausalLM\" are",
        ],
    );
    let plain = saved(&model, |_| {});
    let file = plain.path().join("model.safetensors");
    let mut tensors = read_safetensors(&file);
    tensors.remove("score.bias");
    write_tensors(&file, &tensors, Dtype::F32);
    let error = load(plain.path(), 0).unwrap_err();
    assert!(matches!(&error, ModelError::MissingTensors { tensors, .. } if *tensors == ["score.bias"]), "{error}");

    // And a value model is no policy.
    let error = Pretrained::load(saved(&model, |_| {}).path(), &flex()).unwrap_err().to_string();
    assert!(error.contains("Qwen2ForTokenClassification") && error.contains("only \"Qwen2ForCausalLM\" is"), "{error}");
}

/// Moves biases and norms away from the zeros and ones that a reader would have put there too.
struct Shift;

impl ModuleMapper for Shift {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value + 0.05)
    }
}

const READ: &str = r#"
import json, sys
import torch
from transformers import AutoModelForTokenClassification

folder, rows = sys.argv[1], json.loads(sys.argv[2])
model, about = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
keys = {key: sorted(about[key]) for key in ["missing_keys", "unexpected_keys", "mismatched_keys"]}
values = []
with torch.no_grad():
    for prompt, response in rows:
        logits = model.train()(torch.tensor([prompt + response])).logits[0, :, 0]
        values.append(logits[len(prompt) - 1 : -1].tolist())
print(json.dumps({"keys": keys, "labels": model.config.num_labels, "values": values}))
model.save_pretrained(sys.argv[3])
"#;

#[test]
#[ignore = "needs LUSPO_TEST_PYTHON"]
fn python_transformers_reads_what_is_saved_and_writes_what_is_read() {
    let python = std::env::var_os("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON names a Python with transformers");
    for tied in [true, false] {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let model = Qwen2ForTokenClassification::from_policy(&policy(tied, &flex()), key(4));
        let moved = model.map(&mut Shift);
        moved.save(ours.path(), &config(tied)).unwrap();
        let output = Command::new(&python)
            .env("HF_HUB_OFFLINE", "1")
            .args(["-c", READ])
            .args([ours.path().as_os_str(), json!(ROWS).to_string().as_ref(), theirs.path().as_os_str()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(seen["keys"], json!({ "missing_keys": [], "unexpected_keys": [], "mismatched_keys": [] }));
        assert_eq!(seen["labels"], 1);

        let batch = ResponseBatch::new(&ROWS);
        let values = host(moved.response_values(&batch, &MEMORY));
        for (row, found) in values.chunks(5).enumerate() {
            let expected: Vec<f32> = serde_json::from_value(seen["values"][row].clone()).unwrap();
            // Values are about 1; f32 on both sides. In training mode: dropout before the head would show.
            assert!(max_difference(&found[..expected.len()], &expected) < 1e-5, "{found:?} {expected:?}");
        }
        let (back, _) = load(theirs.path(), 0).unwrap();
        assert_eq!(host(back.response_values(&batch, &MEMORY)), values);
    }
}
