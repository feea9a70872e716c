//! A checkpoint of `tests/fixtures/models/variants`, and what transformers computes with it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use luspo_model::{MemoryOptions, Qwen2ForCausalLM, ResponseBatch};

use super::{Values, by_name, fixtures, gradients, host, read_safetensors};

/// A prompt and a response.
pub type Row = (Vec<u32>, Vec<u32>);

pub struct Variant {
    pub name: String,
    pub folder: PathBuf,
    pub expected: HashMap<String, Values>,
}

impl Variant {
    pub fn all() -> Vec<Self> {
        let mut all: Vec<_> = std::fs::read_dir(fixtures().join("variants"))
            .unwrap()
            .map(|entry| {
                let folder = entry.unwrap().path();
                let expected = read_safetensors(&folder.join("reference.safetensors"));
                Self { name: folder.file_name().unwrap().to_string_lossy().into_owned(), folder, expected }
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub fn values(&self, name: &str) -> &[f32] {
        &self.expected.get(name).unwrap_or_else(|| panic!("{} has no {name}", self.name)).values
    }

    /// One of them has an empty response.
    pub fn rows(&self) -> Vec<Row> {
        let mut tokens = self.values("tokens").iter().map(|id| *id as u32);
        let lengths = self.values("lengths").iter().zip(self.values("prompts"));
        lengths
            .map(|(length, prompt)| {
                let prompt_ids = tokens.by_ref().take(*prompt as usize).collect();
                (prompt_ids, tokens.by_ref().take((length - prompt) as usize).collect())
            })
            .collect()
    }

    /// The gradients that the reference has, by its names; of every parameter, from the reference's gradients by
    /// log-probs and entropies.
    pub fn gradients(&self, model: &Qwen2ForCausalLM, memory: MemoryOptions) -> BTreeMap<String, Vec<f32>> {
        let device = model.device().without_autodiff();
        let batch = batch_of(&self.rows());
        let upstream = |name: &str| spread(&batch, self.values(name), &device);
        let found = gradients(model, &batch, memory, upstream("d_log_probs"), upstream("d_entropy"));
        let found = by_name(model, &found);
        let found: BTreeMap<_, _> = found.iter().flat_map(|(name, gradient)| in_short(name, gradient)).collect();
        let mut expected: Vec<_> = self.expected.keys().filter(|name| name.starts_with("d.")).collect();
        expected.sort();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected);
        found
    }
}

pub fn batch_of(rows: &[Row]) -> ResponseBatch {
    let rows: Vec<(&[u32], &[u32])> = rows.iter().map(|(prompt, response)| (&prompt[..], &response[..])).collect();
    ResponseBatch::new(&rows)
}

/// `[rows, seq]` → the response tokens, row behind row.
pub fn packed(batch: &ResponseBatch, values: Tensor<2>) -> Vec<f32> {
    let values = host(values);
    let rows = values.chunks(batch.seq()).zip(batch.lengths());
    rows.flat_map(|(row, length)| row[..*length].to_vec()).collect()
}

/// The inverse of [`packed`], with NaN where there is no token.
fn spread(batch: &ResponseBatch, values: &[f32], device: &Device) -> Tensor<2> {
    let mut rest = values;
    let mut all = Vec::with_capacity(batch.rows() * batch.seq());
    for length in batch.lengths() {
        let (row, others) = rest.split_at(*length);
        all.extend(row.iter().copied().chain(std::iter::repeat_n(f32::NAN, batch.seq() - length)));
        rest = others;
    }
    assert!(rest.is_empty());
    Tensor::from_data(TensorData::new(all, [batch.rows(), batch.seq()]), device)
}

/// Between -1 and 1: what the reference multiplies the gradient of a matrix with.
fn weights(size: usize) -> Vec<f64> {
    (0..size).map(|i| ((7919 * i) % 17) as f64 / 8.0 - 1.0).collect()
}

/// What the reference has of a gradient: a vector as it is; of a matrix G, G x and Gᵀ y.
fn in_short(name: &str, gradient: &Values) -> Vec<(String, Vec<f32>)> {
    let Values { shape, values } = gradient;
    match shape[..] {
        [rows, columns] => {
            let (mut by_row, mut by_column) = (vec![0.0; rows], vec![0.0; columns]);
            for (row, (values, y)) in values.chunks(columns).zip(weights(rows)).enumerate() {
                for (column, (value, x)) in values.iter().zip(weights(columns)).enumerate() {
                    by_row[row] += f64::from(*value) * x;
                    by_column[column] += f64::from(*value) * y;
                }
            }
            let single = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
            vec![(format!("d.{name}.rows"), single(by_row)), (format!("d.{name}.columns"), single(by_column))]
        }
        _ => vec![(format!("d.{name}"), values.clone())],
    }
}
