//! The model against transformers, on every backend.
//!
//! The checkpoint in this repository is `tiny`; the ignored tests run the same checks on `tiny` and `small` of
//! `LUSPO_TEST_DATA/models`.

use std::path::Path;

use crate::reference::{
    Reference, Values, by_name, decoded, devices, fixtures, host, max_difference, prefilled, read_safetensors,
    relative_difference, test_data,
};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use luspo_model::{MemoryOptions, PassOptions, ResponseBatch};

/// f32 against f32: transformers itself is within 2e-5 of its f64 logits here.
const LOGITS: f32 = 1e-4;
/// The fraction of a gradient's largest value; transformers itself is within 1.5e-5.
const GRADIENTS: f32 = 1e-3;

const MEMORY: MemoryOptions = MemoryOptions { log_prob_chunk: 7, attention_chunk: 5, activation_checkpointing: false };
const PLAIN: PassOptions = PassOptions { temperature: 1.0, entropy: true, sum_pi_squared: false, memory: MEMORY };

fn padded(rows: &[Vec<u32>], device: &Device) -> Tensor<2, Int> {
    let width = rows.iter().map(Vec::len).max().unwrap();
    let ids: Vec<i64> = rows
        .iter()
        .flat_map(|row| row.iter().map(|id| i64::from(*id)).chain(std::iter::repeat_n(0, width - row.len())))
        .collect();
    Tensor::from_data(TensorData::new(ids, [rows.len(), width]), device)
}

/// Compares `[n, vocab]` logits with positions `from..from + n` of a row of the reference.
fn compare_logits(reference: &Reference, side: &str, row: usize, from: usize, logits: Tensor<2>) {
    let [n, vocab] = logits.dims();
    let (to, logits) = (from + n, host(logits));
    let compare = |name: &str, found: &[f32]| {
        let difference = max_difference(found, reference.part(&format!("{side}.{name}"), row, from, to));
        assert!(difference < LOGITS, "{side}.{name}, row {row}, from {from}: {difference}");
    };
    if reference.tensors.contains_key(&format!("{side}.logits")) {
        compare("logits", &logits);
    } else {
        let columns =
            |first: usize| logits.chunks(vocab).flat_map(|row| row[first..first + 8].to_vec()).collect::<Vec<_>>();
        compare("logits_first8", &columns(0));
        compare("logits_last8", &columns(vocab - 8));
        let sums: Vec<f32> =
            logits.chunks(vocab).map(|row| row.iter().map(|z| f64::from(*z).exp()).sum::<f64>().ln() as f32).collect();
        compare("logsumexp", &sums);
    }
}

fn logits_of_right_padded_rows(models: &Path, name: &str) {
    let reference = Reference::open(models, name);
    for (_, device) in devices() {
        let model = reference.load(&device).model;
        let rows = reference.rows();
        let hidden = model.hidden(padded(&rows, &device));
        let [_, _, size] = hidden.dims();
        for (row, ids) in rows.iter().enumerate() {
            let of_row = hidden.clone().slice([row..row + 1, 0..ids.len(), 0..size]).reshape([ids.len(), size]);
            compare_logits(&reference, "right", row, 0, model.logits(of_row));
        }
    }
}

fn logits_of_rows_read_one_by_one(models: &Path, name: &str) {
    let reference = Reference::open(models, name);
    for (_, device) in devices() {
        let model = reference.load(&device).model;
        let rows = reference.rows();
        let width = rows.iter().map(Vec::len).max().unwrap();
        // The last six tokens of each row come one by one, after a prefill of prompts of different lengths.
        let prompts: Vec<&[u32]> = rows.iter().map(|row| &row[..row.len() - 6]).collect();
        let (mut hidden, sequences, mut cache) = prefilled(&model, &prompts, width);
        for step in 0..=6 {
            let [_, size] = hidden.dims();
            for row in 0..rows.len() {
                let of_row = hidden.clone().slice([row..row + 1, 0..size]);
                compare_logits(&reference, "left", row, width - 7 + step, model.logits(of_row));
            }
            if step < 6 {
                let tokens: Vec<u32> = rows.iter().map(|row| row[row.len() - 6 + step]).collect();
                hidden = decoded(&model, &sequences, &tokens, &mut cache);
            }
        }
        assert!(sequences.iter().zip(&rows).all(|(sequence, row)| cache.len(*sequence) == row.len()));
    }
}

fn log_probs_and_entropy(models: &Path, name: &str) {
    let reference = Reference::open(models, name);
    for (backend, device) in devices() {
        let model = reference.load(&device).model;
        let rows = reference.rows();
        let split: Vec<(&[u32], &[u32])> = rows.iter().map(|row| row.split_at(1)).collect();
        let batch = ResponseBatch::new(&split);
        let stats = model.response_stats(&batch, &PLAIN);
        let (log_probs, entropy) = (host(stats.log_probs), host(stats.entropy.unwrap()));
        for (row, length) in batch.lengths().iter().enumerate() {
            let slots = row * batch.seq()..row * batch.seq() + length;
            let difference =
                max_difference(&log_probs[slots.clone()], reference.part("right.logprobs", row, 0, *length));
            assert!(difference < LOGITS, "{backend}, log-probs of row {row}: {difference}");
            let difference = max_difference(&entropy[slots], reference.part("right.entropy", row, 0, *length));
            assert!(difference < LOGITS, "{backend}, entropy of row {row}: {difference}");
        }
    }
}

/// ∂L/∂log-prob of L = meanᵢ nᵢ · −min(sᵢ Aᵢ, clip(sᵢ) Aᵢ), by hand and in f64, and L itself. `log_probs` is `[rows, seq]`.
fn luspo_gradient(reference: &Reference, batch: &ResponseBatch, log_probs: &[f32]) -> (f64, Vec<f32>) {
    let (rows, seq, about) = (batch.rows(), batch.seq(), &reference.about);
    let mut loss = 0.0;
    let mut gradient = vec![0.0; rows * seq];
    for (row, length) in batch.lengths().iter().enumerate() {
        let start = about.prompt_lens[row] - 1;
        let old = reference.part("loss.old_logprobs", row, start, start + length);
        let advantage = f64::from(reference.tensors["loss.advantages"].values[row]);
        let new = &log_probs[row * seq..row * seq + length];
        let n = *length as f64;
        let s = (new.iter().zip(old).map(|(new, old)| f64::from(*new) - f64::from(*old)).sum::<f64>() / n).exp();
        assert!((s - about.seq_ratio[row]).abs() < 1e-4);
        let clipped = s.clamp(1.0 - about.eps_lo, 1.0 + about.eps_hi);
        loss -= n * (s * advantage).min(clipped * advantage) / rows as f64;
        if s * advantage <= clipped * advantage {
            gradient[row * seq..row * seq + length].fill((-advantage * s / rows as f64) as f32);
        }
    }
    (loss, gradient)
}

fn gradients_of_the_luspo_loss(models: &Path, name: &str) {
    let reference = Reference::open(models, name);
    let expected = models.join(format!("reference/{name}_luspo_grads.safetensors"));
    let expected = expected.exists().then(|| read_safetensors(&expected));
    for (backend, device) in devices() {
        let model = reference.load(&device.autodiff()).model;
        let rows = reference.rows();
        let split: Vec<(&[u32], &[u32])> =
            rows.iter().zip(&reference.about.prompt_lens).map(|(row, prompt)| row.split_at(*prompt)).collect();
        let batch = ResponseBatch::new(&split);
        let options = PassOptions { entropy: false, ..PLAIN };
        let mut gradients = GradientsParams::new();
        model.response_gradients(&batch, &options, &mut gradients, |stats| {
            let (loss, gradient) = luspo_gradient(&reference, &batch, &host(stats.log_probs.clone()));
            assert!((loss - reference.about.loss).abs() < 1e-4, "{backend}: loss {loss}");
            let shape = stats.log_probs.dims();
            (Tensor::from_data(TensorData::new(gradient, shape), &stats.log_probs.device()), None)
        });
        let found = by_name(&model, &gradients);
        if let Some(expected) = &expected {
            assert_eq!(found.len(), expected.len());
        }
        for (parameter, Values { shape, values: gradient }) in found {
            let difference = match (&expected, &reference.about.grad_abs_sums) {
                (Some(expected), _) => {
                    let Values { shape: expected_shape, values } = &expected[&parameter];
                    assert_eq!(&shape, expected_shape, "{parameter}");
                    relative_difference(&gradient, values)
                }
                (None, Some(sums)) => {
                    let sum: f64 = gradient.iter().map(|value| f64::from(value.abs())).sum();
                    (sum / sums[&parameter] - 1.0).abs() as f32
                }
                (None, None) => panic!("the reference has no gradients"),
            };
            assert!(difference < GRADIENTS, "{backend}, {parameter}: {difference}");
        }
    }
}

fn argmax(logits: Tensor<2>) -> Vec<u32> {
    logits.argmax(1).into_data().iter::<i64>().map(|id| id as u32).collect()
}

fn greedy_continuations(models: &Path, name: &str) {
    let reference = Reference::open(models, name);
    let greedy = &reference.about.greedy;
    for (backend, device) in devices() {
        let model = reference.load(&device).model;
        let mut batches: Vec<Vec<usize>> = (0..greedy.len()).map(|prompt| vec![prompt]).collect();
        batches.push((0..greedy.len()).collect());
        for batch in batches {
            let prompts: Vec<&[u32]> = batch.iter().map(|i| greedy[*i].prompt.as_slice()).collect();
            let steps = greedy[0].new.len();
            let capacity = prompts.iter().map(|prompt| prompt.len()).max().unwrap() + steps;
            let (mut hidden, sequences, mut cache) = prefilled(&model, &prompts, capacity);
            let mut found = vec![Vec::new(); batch.len()];
            for _ in 0..steps {
                let next = argmax(model.logits(hidden));
                for (row, id) in next.iter().enumerate() {
                    found[row].push(*id);
                }
                hidden = decoded(&model, &sequences, &next, &mut cache);
            }
            for (row, prompt) in batch.iter().enumerate() {
                assert_eq!(found[row], greedy[*prompt].new, "{backend}, prompt {prompt} in a batch of {}", batch.len());
                let scored = ResponseBatch::new(&[(&greedy[*prompt].prompt, &found[row])]);
                let log_probs = host(model.response_stats(&scored, &PLAIN).log_probs);
                assert!(max_difference(&log_probs, &greedy[*prompt].logprobs) < LOGITS, "{backend}, prompt {prompt}");
            }
        }
    }
}

macro_rules! parity {
    ($($test:ident),*) => {
        mod tiny {
            $(#[test] fn $test() { super::$test(&super::fixtures(), "tiny") })*
        }
        mod other_tiny {
            $(#[test] #[ignore = "needs LUSPO_TEST_DATA"] fn $test() { super::$test(&super::test_data(), "tiny") })*
        }
        mod small {
            $(#[test] #[ignore = "needs LUSPO_TEST_DATA"] fn $test() { super::$test(&super::test_data(), "small") })*
        }
    };
}

parity!(
    logits_of_right_padded_rows,
    logits_of_rows_read_one_by_one,
    log_probs_and_entropy,
    gradients_of_the_luspo_loss,
    greedy_continuations
);
