//! Parameters in f32, bf16 and f16.

mod reference;

use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{
    Backend, ModelError, Pretrained, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification, SaveOptions,
    WeightDtype, export,
};
use reference::{fixtures, host, max_difference, read_safetensors, write_tensors};
use safetensors::Dtype;
use serde_json::Value;

const DTYPES: [(WeightDtype, Dtype, DType); 3] = [
    (WeightDtype::F32, Dtype::F32, DType::F32),
    (WeightDtype::Bf16, Dtype::BF16, DType::BF16),
    (WeightDtype::F16, Dtype::F16, DType::F16),
];

fn flex() -> Device {
    Backend::Flex.device().unwrap()
}

fn key() -> RandomKey {
    RandomKey::new(5, Purpose::Init)
}

fn untied() -> Qwen2Config {
    Qwen2Config::new(500, 16, 24, 2, 2, 1).with_tie_word_embeddings(false)
}

/// The tiny checkpoint in another type.
fn tiny(dtype: Dtype) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join("tiny/config.json"), dir.path().join("config.json")).unwrap();
    let tensors = read_safetensors(&fixtures().join("tiny/model.safetensors"));
    write_tensors(&dir.path().join("model.safetensors"), &tensors, dtype);
    dir
}

#[derive(Default)]
struct Parameters(Vec<(u64, DType, bool, bool, Vec<f32>)>);

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let about = (param.id.val(), value.dtype(), value.is_autodiff(), value.is_require_grad());
        self.0.push((about.0, about.1, about.2, about.3, host(value.inner())));
    }
}

/// Id, type, whether it is on an autodiff device, whether it is trained, values.
fn parameters(module: &impl Module) -> Vec<(u64, DType, bool, bool, Vec<f32>)> {
    let mut found = Parameters::default();
    module.visit(&mut found);
    found.0
}

#[test]
fn parameters_have_the_type_that_was_asked_for() {
    for (_, stored, _) in DTYPES {
        let dir = tiny(stored);
        for (dtype, _, expected) in DTYPES {
            for device in [flex(), flex().autodiff()] {
                let model = Pretrained::load_as(dir.path(), &device, dtype).unwrap().model;
                assert_eq!(model.dtype(), dtype);
                for (_, found, autodiff, trained, _) in parameters(&model) {
                    assert_eq!((found, autodiff, trained), (expected, device.is_autodiff(), device.is_autodiff()));
                }
                assert_eq!(model.device().is_autodiff(), device.is_autodiff());
            }
        }
    }
}

#[test]
fn loading_in_a_type_and_casting_to_it_are_the_same() {
    let dir = tiny(Dtype::F32);
    for (dtype, ..) in DTYPES {
        let loaded = Pretrained::load_as(dir.path(), &flex(), dtype).unwrap().model;
        let cast = Pretrained::load(dir.path(), &flex()).unwrap().model.cast(dtype);
        for (a, b) in parameters(&loaded).into_iter().zip(parameters(&cast)) {
            assert_eq!((a.1, a.4), (b.1, b.4));
        }
    }
}

#[test]
fn random_weights_are_the_same_numbers_in_every_type() {
    for (dtype, ..) in DTYPES {
        let begun = Qwen2ForCausalLM::init_as(&untied(), key(), &flex(), dtype);
        let cast = Qwen2ForCausalLM::init(&untied(), key(), &flex()).cast(dtype);
        for (a, b) in parameters(&begun).into_iter().zip(parameters(&cast)) {
            assert_eq!((a.1, a.4), (b.1, b.4));
        }
    }
}

#[test]
fn a_cast_keeps_ids_devices_and_what_is_trained() {
    for device in [flex(), flex().autodiff()] {
        let model = Qwen2ForCausalLM::init(&untied(), key(), &device);
        let critic = Qwen2ForTokenClassification::from_policy(&model, key());
        let frozen = model.clone().no_grad();
        let cases = [
            (parameters(&model), parameters(&model.clone().cast(WeightDtype::Bf16))),
            (parameters(&frozen), parameters(&frozen.clone().cast(WeightDtype::Bf16))),
            (parameters(&critic), parameters(&critic.clone().cast(WeightDtype::Bf16))),
        ];
        for (before, after) in cases {
            for (a, b) in before.iter().zip(&after) {
                assert_eq!((a.0, a.2, a.3), (b.0, b.2, b.3));
                assert_eq!(b.1, DType::BF16);
                // Half a unit in the last of 8 significant bits.
                assert!(a.4.iter().zip(&b.4).all(|(a, b)| (a - b).abs() <= a.abs() / 256.0));
            }
            assert_eq!(before.len(), after.len());
        }
        let names = |model: &Qwen2ForCausalLM| model.parameter_names();
        assert_eq!(names(&model), names(&model.clone().cast(WeightDtype::Bf16)));
        // There and back: what bf16 can hold.
        let once = model.clone().cast(WeightDtype::Bf16);
        let back = once.clone().cast(WeightDtype::F32).cast(WeightDtype::Bf16);
        assert_eq!(parameters(&once), parameters(&back));
        assert_eq!(parameters(&model), parameters(&model.clone().cast(WeightDtype::F32)));
    }
}

#[test]
fn a_plain_view_of_a_cast_model_can_be_trained_again() {
    let model = Qwen2ForCausalLM::init(&untied(), key(), &flex().autodiff()).cast(WeightDtype::Bf16);
    let plain = model.valid();
    assert!(parameters(&plain).iter().all(|about| !about.2 && about.1 == DType::BF16));
    assert!(parameters(&plain.train()).iter().all(|about| about.2 && about.3 && about.1 == DType::BF16));
}

#[test]
fn a_model_is_saved_in_its_own_type_byte_for_byte() {
    for tied in [true, false] {
        for (dtype, stored, _) in DTYPES {
            for max_shard_bytes in [u64::MAX, 20_000] {
                let options = SaveOptions { dtype: None, max_shard_bytes };
                let config = untied().with_tie_word_embeddings(tied);
                let model = Qwen2ForCausalLM::init(&config, key(), &flex().autodiff()).cast(dtype);
                let (first, second, third) =
                    (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let written = Pretrained { model, config, eos_token_ids: vec![2, 7] };
                written.save_with(first.path(), &options).unwrap();
                assert!(
                    read(first.path()).iter().all(|(_, tensor_types, _)| tensor_types.iter().all(|t| *t == stored))
                );

                let loaded = Pretrained::load_as(first.path(), &flex(), dtype).unwrap();
                loaded.save_with(second.path(), &options).unwrap();
                assert!(read(first.path()) == read(second.path()), "{dtype}");
                let config = json_of(&second.path().join("config.json"));
                assert_eq!(config["torch_dtype"], dtype.torch_name());
                for file in ["config.json", "generation_config.json"] {
                    let [a, b] = [&first, &second].map(|dir| fs::read(dir.path().join(file)).unwrap());
                    assert!(a == b, "{file} differs");
                }
                // f32 holds every bf16 and f16.
                let wide = Pretrained::load(first.path(), &flex()).unwrap();
                wide.save_with(third.path(), &SaveOptions { dtype: Some(dtype), max_shard_bytes }).unwrap();
                assert!(read(first.path()) == read(third.path()), "{dtype}");
                // From file to file.
                let fourth = tempfile::tempdir().unwrap();
                export(first.path(), fourth.path(), &options).unwrap();
                assert!(read(first.path()) == read(fourth.path()), "{dtype}");
            }
        }
    }
}

/// Name, types and bytes of each weight file and the index, sorted.
fn read(dir: &Path) -> Vec<(String, Vec<Dtype>, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.contains("safetensors") {
            continue;
        }
        let bytes = fs::read(dir.join(&name)).unwrap();
        let types = match name.ends_with(".safetensors") {
            true => safetensors::SafeTensors::deserialize(&bytes).unwrap().iter().map(|(_, t)| t.dtype()).collect(),
            false => Vec::new(),
        };
        files.push((name, types, bytes));
    }
    files.sort();
    assert!(!files.is_empty());
    files
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn tensors_that_another_program_wrote_keep_their_bytes() {
    for (dtype, stored, _) in DTYPES {
        let (from, to) = (tiny(stored), tempfile::tempdir().unwrap());
        Pretrained::load_as(from.path(), &flex(), dtype).unwrap().save(to.path()).unwrap();
        let [a, b] = [&from, &to].map(|dir| fs::read(dir.path().join("model.safetensors")).unwrap());
        let [a, b] = [&a, &b].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
        assert_eq!(a.len(), b.len());
        for (name, tensor) in a.iter() {
            assert!(b.tensor(name).unwrap().data() == tensor.data(), "{dtype}: {name}");
        }
    }
}

#[test]
fn a_value_model_has_a_type_too() {
    for (dtype, stored, _) in DTYPES {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // The trunk of a policy and a new head …
        let policy = tiny(Dtype::BF16);
        let (model, config) = Qwen2ForTokenClassification::load_as(policy.path(), key(), &flex(), dtype).unwrap();
        assert!(parameters(&model).iter().all(|about| about.1 == dtype.into()));
        let begun = Qwen2ForTokenClassification::from_policy(
            &Pretrained::load_as(policy.path(), &flex(), dtype).unwrap().model,
            key(),
        );
        assert_eq!((model.dtype(), begun.dtype()), (dtype, dtype));
        assert_eq!(host(model.score.weight.val()), host(begun.score.weight.val()));
        // … and all of it again.
        model.save(first.path(), &config).unwrap();
        assert!(read(first.path())[0].1.iter().all(|found| *found == stored));
        assert_eq!(json_of(&first.path().join("config.json"))["torch_dtype"], dtype.torch_name());
        let (model, config) = Qwen2ForTokenClassification::load_as(first.path(), key(), &flex(), dtype).unwrap();
        model.save(second.path(), &config).unwrap();
        assert!(read(first.path()) == read(second.path()));
    }
}

#[test]
fn a_number_beyond_the_type_is_refused_by_name() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let dir = tiny(Dtype::F32);
    let path = dir.path().join("model.safetensors");
    let mut tensors = read_safetensors(&path);
    tensors.get_mut(name).unwrap().values[7] = 70_000.0;
    write_tensors(&path, &tensors, Dtype::F32);
    let error = Pretrained::load_as(dir.path(), &flex(), WeightDtype::F16).unwrap_err();
    assert!(matches!(&error, ModelError::OutOfRange { tensor, value: 70_000.0, .. } if tensor == name), "{error}");
    assert!(Pretrained::load_as(dir.path(), &flex(), WeightDtype::Bf16).is_ok());
}

#[test]
fn a_type_that_the_backend_does_not_compute_with_is_refused() {
    let device = Backend::NdArray.device().unwrap();
    let dir = tiny(Dtype::BF16);
    for dtype in [WeightDtype::Bf16, WeightDtype::F16] {
        let error = Pretrained::load_as(dir.path(), &device, dtype).unwrap_err();
        assert!(matches!(&error, ModelError::DtypeNotComputed { .. }), "{error}");
        assert!(error.to_string().contains(&dtype.to_string()), "{error}");
        assert!(Qwen2ForTokenClassification::load_as(dir.path(), key(), &device, dtype).is_err());
    }
    let wide = Pretrained::load(dir.path(), &device).unwrap().model;
    let flex = Pretrained::load(dir.path(), &flex()).unwrap().model;
    let [a, b] = [wide, flex].map(|model| host(model.model.embed_tokens.weight.val()));
    assert_eq!(max_difference(&a, &b), 0.0);
}

#[test]
fn weights_beyond_a_size_are_split_by_default() {
    assert_eq!(SaveOptions::default(), SaveOptions { dtype: None, max_shard_bytes: 5_000_000_000 });
}
