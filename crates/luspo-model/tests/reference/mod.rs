//! transformers' outputs for a small checkpoint: `models/{name}` and `models/reference/{name}_ref.*`.
#![allow(dead_code)] // each test file uses its part

pub mod variant;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use half::{bf16, f16};
use luspo_model::{
    Backend, KvCache, MemoryOptions, PassOptions, Pretrained, Qwen2ForCausalLM, ResponseBatch, Sequence, TokenStats,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// The reference numbers in this repository.
pub fn fixtures() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models")).to_path_buf()
}

/// The larger ones, elsewhere.
pub fn test_data() -> PathBuf {
    let folder = std::env::var_os("LUSPO_TEST_DATA").expect("LUSPO_TEST_DATA is the folder of the larger test data");
    Path::new(&folder).join("models")
}

/// The backends that every number is checked on: those that need no GPU, or those that `LUSPO_TEST_BACKENDS` names, such
/// as `wgpu`.
pub fn devices() -> Vec<(Backend, Device)> {
    let named = std::env::var("LUSPO_TEST_BACKENDS").unwrap_or("flex,ndarray".into());
    let backends = named.split(',').map(|name| name.parse::<Backend>().unwrap());
    backends.map(|backend| (backend, backend.device().unwrap())).collect()
}

/// Reads each prompt into a sequence with room for `capacity` tokens: the states at their ends, the sequences, and the
/// cache that they are in.
pub fn prefilled(model: &Qwen2ForCausalLM, prompts: &[&[u32]], capacity: usize) -> (Tensor<2>, Vec<Sequence>, KvCache) {
    let mut cache = KvCache::new(model, prompts.len() * capacity).unwrap();
    let sequences: Vec<Sequence> = prompts.iter().map(|_| cache.begin(capacity).unwrap()).collect();
    let chunks: Vec<(Sequence, &[u32])> = sequences.iter().copied().zip(prompts.iter().copied()).collect();
    let hidden = model.prefill(&chunks, &mut cache);
    (hidden, sequences, cache)
}

/// Reads one more token of each sequence.
pub fn decoded(model: &Qwen2ForCausalLM, sequences: &[Sequence], tokens: &[u32], cache: &mut KvCache) -> Tensor<2> {
    assert_eq!(sequences.len(), tokens.len());
    let next: Vec<(Sequence, u32)> = sequences.iter().copied().zip(tokens.iter().copied()).collect();
    model.decode(&next, cache)
}

pub struct Reference {
    pub folder: PathBuf,
    pub about: About,
    pub tensors: HashMap<String, Values>,
}

/// A tensor of the reference, integers as floats too.
#[derive(Clone)]
pub struct Values {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

#[derive(Deserialize)]
pub struct About {
    pub lens: Vec<usize>,
    pub prompt_lens: Vec<usize>,
    pub greedy: Vec<Greedy>,
    pub eps_lo: f64,
    pub eps_hi: f64,
    pub loss: f64,
    pub seq_ratio: Vec<f64>,
    pub grad_abs_sums: Option<HashMap<String, f64>>,
}

#[derive(Deserialize)]
pub struct Greedy {
    pub prompt: Vec<u32>,
    pub new: Vec<u32>,
    pub logprobs: Vec<f32>,
}

impl Reference {
    pub fn open(models: &Path, name: &str) -> Self {
        let reference = models.join("reference");
        let about = std::fs::read_to_string(reference.join(format!("{name}_ref.json"))).unwrap();
        Self {
            folder: models.join(name),
            about: serde_json::from_str(&about).unwrap(),
            tensors: read_safetensors(&reference.join(format!("{name}_ref.safetensors"))),
        }
    }

    pub fn load(&self, device: &Device) -> Pretrained {
        Pretrained::load(&self.folder, device).unwrap()
    }

    /// The token ids without padding.
    pub fn rows(&self) -> Vec<Vec<u32>> {
        let ids = &self.tensors["right.input_ids"];
        let width = ids.shape[1];
        let row = |(r, len): (usize, &usize)| ids.values[r * width..][..*len].iter().map(|id| *id as u32).collect();
        self.about.lens.iter().enumerate().map(row).collect()
    }

    /// Row r's values from column `from` to `to` of a `[rows, columns, ..]` tensor.
    pub fn part(&self, name: &str, row: usize, from: usize, to: usize) -> &[f32] {
        let Values { shape, values } = &self.tensors[name];
        let size: usize = shape[2..].iter().product();
        let start = row * shape[1] * size;
        &values[start + from * size..start + to * size]
    }
}

pub fn read_safetensors(path: &Path) -> HashMap<String, Values> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let values = |dtype, bytes: &[u8]| -> Vec<f32> {
        let words = bytes.as_chunks::<4>().0.iter();
        let halves = bytes.as_chunks::<2>().0.iter();
        match dtype {
            Dtype::F32 => words.map(|word| f32::from_le_bytes(*word)).collect(),
            Dtype::I32 => words.map(|word| i32::from_le_bytes(*word) as f32).collect(),
            Dtype::BF16 => halves.map(|half| bf16::from_le_bytes(*half).to_f32()).collect(),
            Dtype::F16 => halves.map(|half| f16::from_le_bytes(*half).to_f32()).collect(),
            other => panic!("{other:?} in a reference"),
        }
    };
    tensors
        .iter()
        .map(|(name, view)| {
            (name.to_string(), Values { shape: view.shape().to_vec(), values: values(view.dtype(), view.data()) })
        })
        .collect()
}

pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // NaN must not pass for equal.
    a.iter().zip(b).map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() }).fold(0.0, f32::max)
}

/// The largest difference as a fraction of the largest value of `expected`.
pub fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    max_difference(found, expected) / scale.max(f32::MIN_POSITIVE)
}

/// Writes tensors with the safetensors crate, as transformers does in Python.
pub fn write_tensors(path: &Path, tensors: &HashMap<String, Values>, dtype: Dtype) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, Values { shape, values })| {
            let bytes = match dtype {
                Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            (name.clone(), shape.clone(), bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(format), path).unwrap();
}

/// Two ways to the same numbers: with room, and with as little as there can be of everything.
pub const MEMORY: [MemoryOptions; 2] = [
    MemoryOptions { log_prob_chunk: 1024, attention_chunk: 512, activation_checkpointing: false },
    MemoryOptions { log_prob_chunk: 50, attention_chunk: 5, activation_checkpointing: true },
];

/// Log-probs and entropies.
pub fn stats(model: &Qwen2ForCausalLM, batch: &ResponseBatch, memory: MemoryOptions) -> TokenStats {
    model.response_stats(batch, &options(memory))
}

/// The gradients of a loss whose gradients by log-probs and entropies are given, `[rows, seq]` on the plain device.
pub fn gradients(
    model: &Qwen2ForCausalLM,
    batch: &ResponseBatch,
    memory: MemoryOptions,
    log_probs: Tensor<2>,
    entropy: Tensor<2>,
) -> GradientsParams {
    let mut gradients = GradientsParams::new();
    model.response_gradients(batch, &options(memory), &mut gradients, |_| (log_probs, Some(entropy)));
    gradients
}

fn options(memory: MemoryOptions) -> PassOptions {
    PassOptions { entropy: true, memory, ..PassOptions::default() }
}

/// Gradients by name, in the layout of a checkpoint. Every parameter has one, and nothing else does.
pub fn by_name(model: &Qwen2ForCausalLM, gradients: &GradientsParams) -> BTreeMap<String, Values> {
    let names = model.parameter_names().into_iter().map(|(name, id)| (id, name)).collect();
    let mut collect = Collect { gradients, names, found: BTreeMap::new() };
    model.visit(&mut collect);
    assert_eq!(collect.found.len(), gradients.len());
    collect.found
}

struct Collect<'a> {
    gradients: &'a GradientsParams,
    names: HashMap<ParamId, String>,
    found: BTreeMap<String, Values>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = &self.names[&param.id];
        let gradient = self.gradients.get::<D>(param.id).unwrap_or_else(|| panic!("no gradient of {name}"));
        let values = Values { shape: gradient.dims().to_vec(), values: host(gradient) };
        self.found.insert(name.clone(), values);
    }
}
