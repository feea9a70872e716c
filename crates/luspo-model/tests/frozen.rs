//! Models that are not trained, whose matrices stay in their files' own type.

mod adapted;
mod reference;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use adapted::{ALL, trained};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use luspo_core::{Purpose, RandomKey};
use luspo_model::{
    Backend, PassOptions, Pretrained, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification, ResponseBatch,
    SaveOptions, WeightDtype, frozen_dtype,
};
use reference::{decoded, host, max_difference, prefilled, read_safetensors, relative_difference, write_tensors};
use safetensors::Dtype;

const HALVES: [(WeightDtype, DType); 2] = [(WeightDtype::Bf16, DType::BF16), (WeightDtype::F16, DType::F16)];

/// Sums of a few dozen numbers below 1 in f32, in another order.
const SUMS: f32 = 2e-6;

fn flex() -> Device {
    Backend::Flex.device().unwrap()
}

/// A model's folder in this type. (Vectors of 40 and 24 numbers fill no whole registers.)
fn folder(tied: bool, dtype: WeightDtype) -> tempfile::TempDir {
    let config = Qwen2Config::new(61, 24, 40, 2, 4, 2).with_tie_word_embeddings(tied);
    let model = Qwen2ForCausalLM::init(&config, RandomKey::new(3, Purpose::Init), &flex()).cast(dtype);
    let dir = tempfile::tempdir().unwrap();
    Pretrained { model, config, eos_token_ids: vec![0] }.save(dir.path()).unwrap();
    dir
}

/// The model held in f32, and the same frozen.
fn both(dir: &Path, device: &Device) -> [Qwen2ForCausalLM; 2] {
    let whole = Pretrained::load_as(dir, device, WeightDtype::F32).unwrap().model;
    [whole, Pretrained::load_frozen(dir, device, WeightDtype::F32).unwrap().model]
}

/// A long row, for which products go by the kernels for many rows, and a short one.
fn batch() -> ResponseBatch {
    let long: Vec<u32> = (0..48).map(|i| i * 7 % 61).collect();
    ResponseBatch::new(&[(&long[..8], &long[8..]), (&[60], &[3, 1])])
}

fn log_probs(model: &Qwen2ForCausalLM) -> Vec<f32> {
    host(model.response_stats(&batch(), &PassOptions::default()).log_probs)
}

/// The types of matrices and of everything else.
fn dtypes(model: &impl Module) -> [Vec<DType>; 2] {
    struct Dtypes([Vec<DType>; 2]);
    impl ModuleVisitor for Dtypes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0[usize::from(D != 2)].push(param.dtype());
        }
    }
    let mut found = Dtypes([vec![], vec![]]);
    model.visit(&mut found);
    found.0.map(|mut dtypes| {
        dtypes.dedup();
        dtypes
    })
}

#[test]
fn a_frozen_model_computes_in_f32_with_the_numbers_of_its_file() {
    for (stored, held) in HALVES {
        for tied in [true, false] {
            let dir = folder(tied, stored);
            for device in [flex(), flex().autodiff()] {
                let [whole, frozen] = both(dir.path(), &device);
                assert_eq!(dtypes(&frozen), [vec![held], vec![DType::F32]]);
                assert_eq!((frozen.dtype(), dtypes(&whole)), (WeightDtype::F32, [vec![DType::F32], vec![DType::F32]]));
                let difference = max_difference(&log_probs(&frozen), &log_probs(&whole));
                assert!(difference < SUMS, "{stored}, tied {tied}: {difference}");

                let ids = Tensor::<2, Int>::from_data(TensorData::new(vec![5i64, 9, 60, 2], [1, 4]), &device);
                let [expected, found] = [&whole, &frozen].map(|model| host(model.hidden(ids.clone()).inner()));
                assert!(max_difference(&found, &expected) < 10.0 * SUMS, "states are about 1 to 3");
            }
        }
    }
}

#[test]
fn a_frozen_model_reads_prompts_and_decodes_as_one_in_f32() {
    for (stored, _) in HALVES {
        let dir = folder(true, stored);
        let steps = |model: &Qwen2ForCausalLM| {
            let (hidden, sequences, mut cache) = prefilled(model, &[&[1, 2, 3, 4, 5], &[60, 8]], 12);
            let mut steps = host(model.logits(hidden));
            for tokens in [[7, 9], [11, 13], [17, 19]] {
                steps.extend(host(model.logits(decoded(model, &sequences, &tokens, &mut cache))));
            }
            steps
        };
        let [expected, found] = both(dir.path(), &flex()).map(|model| steps(&model));
        let difference = max_difference(&found, &expected);
        assert!(difference < 10.0 * SUMS, "{stored}: {difference}, of logits about 1");
    }
}

#[test]
fn adapters_on_a_frozen_base_are_in_f32_and_learn_what_they_learn_on_one_in_f32() {
    for (stored, held) in HALVES {
        let dir = folder(true, stored);
        let found = both(dir.path(), &flex().autodiff()).map(|base| {
            let model = trained(&base, &ALL);
            assert!(model.adapters().all(|lora| [lora.a.dtype(), lora.b.dtype()] == [DType::F32; 2]));
            let mut gradients = GradientsParams::new();
            model.response_gradients(&batch(), &PassOptions::default(), &mut gradients, |stats| {
                (stats.log_probs.clone(), None)
            });
            let of_adapters: Vec<f32> = model
                .adapters()
                .flat_map(|lora| [&lora.a, &lora.b].map(|param| host(gradients.get::<2>(param.id).unwrap())))
                .flatten()
                .collect();
            (of_adapters, log_probs(&model), log_probs(&model.merged()), model)
        });
        let [expected, frozen] = &found;
        assert!(relative_difference(&frozen.0, &expected.0) < 1e-5, "{stored}");
        assert!(max_difference(&frozen.1, &expected.1) < SUMS && max_difference(&frozen.2, &expected.2) < SUMS);

        // What has an adapter in it is no number of the file's type any more; the embedding has none.
        let merged = frozen.3.merged();
        assert_eq!(dtypes(&merged.model.layers), [vec![DType::F32], vec![DType::F32]]);
        assert_eq!(merged.model.embed_tokens.weight.dtype(), held);
        let critic = Qwen2ForTokenClassification::from_policy(&frozen.3, RandomKey::new(3, Purpose::Critic));
        assert_eq!(dtypes(&critic), [vec![DType::F32], vec![DType::F32]], "which is trained");
    }
}

#[test]
fn a_frozen_model_is_written_in_the_type_that_it_computes_in() {
    let dir = folder(false, WeightDtype::Bf16);
    let written = [Pretrained::load_as, Pretrained::load_frozen].map(|load| {
        let loaded = load(dir.path(), &flex(), WeightDtype::F32).unwrap();
        let bytes = |options: &SaveOptions| {
            let to = tempfile::tempdir().unwrap();
            loaded.save_with(to.path(), options).unwrap();
            ["model.safetensors", "config.json"].map(|file| fs::read(to.path().join(file)).unwrap())
        };
        [None, Some(WeightDtype::Bf16)].map(|dtype| bytes(&SaveOptions { dtype, ..SaveOptions::default() }))
    });
    assert!(written[0] == written[1]);
    assert!(written[1][1][0] == fs::read(dir.path().join("model.safetensors")).unwrap());
}

#[test]
fn matrices_keep_the_files_type_on_the_cpu_in_f32_and_nowhere_else() {
    let dir = folder(true, WeightDtype::Bf16);
    let of = |dtype, backend| frozen_dtype(dir.path(), dtype, backend).unwrap();
    assert_eq!(of(WeightDtype::F32, Backend::Flex), WeightDtype::Bf16);
    assert_eq!(of(WeightDtype::F16, Backend::Flex), WeightDtype::F16);
    for other in [Backend::NdArray, Backend::Wgpu, Backend::Cuda(0)] {
        assert_eq!(of(WeightDtype::F32, other), WeightDtype::F32);
    }
    let model = Pretrained::load_frozen(dir.path(), &flex(), WeightDtype::F16).unwrap().model;
    assert_eq!(dtypes(&model), [vec![DType::F16], vec![DType::F16]]);

    // A file of several types: the prediction is of the widest.
    let file = dir.path().join("model.safetensors");
    let (mut halves, mut wide) = (read_safetensors(&file), HashMap::new());
    let name = "model.layers.1.mlp.up_proj.weight";
    wide.insert(name.to_string(), halves.remove(name).unwrap());
    write_tensors(&dir.path().join("model-00001-of-00002.safetensors"), &halves, Dtype::BF16);
    write_tensors(&dir.path().join("model-00002-of-00002.safetensors"), &wide, Dtype::F32);
    let places = halves.keys().map(|name| (name.clone(), 1)).chain([(name.to_string(), 2)]);
    let map: HashMap<String, String> =
        places.map(|(name, shard)| (name, format!("model-0000{shard}-of-00002.safetensors"))).collect();
    fs::remove_file(file).unwrap();
    fs::write(
        dir.path().join("model.safetensors.index.json"),
        serde_json::json!({ "metadata": {}, "weight_map": map }).to_string(),
    )
    .unwrap();
    assert_eq!(frozen_dtype(dir.path(), WeightDtype::F32, Backend::Flex).unwrap(), WeightDtype::F32);
    let [whole, frozen] = both(dir.path(), &flex());
    assert_eq!(dtypes(&frozen)[0], [DType::BF16, DType::F32, DType::BF16]);
    assert!(max_difference(&log_probs(&frozen), &log_probs(&whole)) < SUMS);
}
