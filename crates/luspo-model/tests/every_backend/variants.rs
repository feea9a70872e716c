//! Every kind of Qwen2 folder against transformers, on every backend: tied and untied, one and seven query heads a
//! key head, both layouts of `config.json`, f32 and bf16 files, whole and in shards, odd vocabularies and widths.
//!
//! `tests/fixtures/models/variants.py` made the folders and says what is in them. Its references are of f64.

use std::collections::BTreeSet;

use crate::reference::variant::{Row, Variant, batch_of, packed};
use crate::reference::{MEMORY, decoded, devices, host, max_difference, prefilled, relative_difference, stats};
use burn::tensor::{Device, Tensor};
use luspo_model::{Pretrained, Qwen2ForCausalLM};

/// Nats and logits. transformers in f32 is up to 5e-6 from f64 here (the references' metadata has it by variant).
const DISTRIBUTION: f32 = 2e-5;
/// The fraction of a gradient's largest value; transformers in f32 is up to 3.4e-6 from f64 here.
const GRADIENT: f32 = 2e-5;

fn load(variant: &Variant, device: &Device) -> Pretrained {
    Pretrained::load(&variant.folder, device).unwrap()
}

#[test]
fn the_folders_are_of_every_kind() {
    let kinds: BTreeSet<_> = Variant::all()
        .iter()
        .map(|variant| {
            let text = std::fs::read_to_string(variant.folder.join("config.json")).unwrap();
            let newer = text.contains("rope_parameters");
            let config = load(variant, &devices()[0].1).config;
            assert_eq!(config.vocab_size % 2, 1);
            (config.tie_word_embeddings, config.num_attention_heads / config.num_key_value_heads, newer)
        })
        .collect();
    let every = |tied| [(tied, 1, false), (tied, 1, true), (tied, 7, false), (tied, 7, true)];
    assert_eq!(kinds, [every(false), every(true)].concat().into_iter().collect());
}

#[test]
fn log_probs_and_entropies_are_those_of_transformers() {
    for variant in Variant::all() {
        for (backend, device) in devices() {
            let model = load(&variant, &device).model;
            let rows = variant.rows();
            let check = |rows: &[Row], from: usize, memory, context: &str| {
                let batch = batch_of(rows);
                let found = stats(&model, &batch, memory);
                let tokens = batch.lengths().iter().sum::<usize>();
                let (log_probs, entropy) = (packed(&batch, found.log_probs), packed(&batch, found.entropy.unwrap()));
                for (what, found) in [("log_probs", log_probs), ("entropy", entropy)] {
                    compare(&variant, what, &found, &variant.values(what)[from..from + tokens], context);
                }
                from + tokens
            };
            for memory in MEMORY {
                let all = check(&rows, 0, memory, &format!("{backend}, all rows, {memory:?}"));
                assert_eq!(all, variant.values("log_probs").len());
            }
            let mut from = 0;
            for (index, row) in rows.iter().enumerate().filter(|(_, (_, response))| !response.is_empty()) {
                from = check(std::slice::from_ref(row), from, MEMORY[0], &format!("{backend}, row {index} alone"));
            }
            assert_eq!(from, variant.values("log_probs").len());
        }
    }
}

/// Compares numbers of each response token, packed, or `[row, width]`.
fn compare(variant: &Variant, what: &str, found: &[f32], expected: &[f32], context: &str) {
    let difference = max_difference(found, expected);
    assert!(difference < DISTRIBUTION, "{}, {context}: {what} differs by {difference}", variant.name);
}

/// Compares hidden states `[n, hidden]` at the last tokens of the given rows, and the logits made of them.
fn compare_last(variant: &Variant, model: &Qwen2ForCausalLM, rows: &[usize], hidden: Tensor<2>, context: &str) {
    for (what, found) in [("hidden", hidden.clone()), ("logits", model.logits(hidden))] {
        let [_, width] = found.dims();
        let expected: Vec<f32> =
            rows.iter().flat_map(|row| variant.values(what)[row * width..][..width].to_vec()).collect();
        compare(variant, what, &host(found), &expected, context);
    }
}

#[test]
fn a_prompt_read_at_once_ends_in_the_states_of_transformers() {
    for variant in Variant::all() {
        for (backend, device) in devices() {
            let model = load(&variant, &device).model;
            let rows: Vec<Vec<u32>> = variant.rows().into_iter().map(|(prompt, end)| [prompt, end].concat()).collect();
            let prompts: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let (hidden, ..) = prefilled(&model, &prompts, 128);
            let all: Vec<usize> = (0..rows.len()).collect();
            compare_last(&variant, &model, &all, hidden, &format!("{backend}, {} prompts", rows.len()));
        }
    }
}

#[test]
fn tokens_read_one_by_one_end_in_the_states_of_transformers() {
    for variant in Variant::all() {
        for (backend, device) in devices() {
            let model = load(&variant, &device).model;
            // Prompts of different lengths; a row leaves the cache when its last token is read.
            let mut rows: Vec<(usize, Row)> = variant.rows().into_iter().enumerate().collect();
            let prompts: Vec<&[u32]> = rows.iter().map(|(_, (prompt, _))| prompt.as_slice()).collect();
            let (mut hidden, mut sequences, mut cache) = prefilled(&model, &prompts, 128);
            for read in 0.. {
                let (ended, going): (Vec<_>, Vec<_>) =
                    (0..rows.len()).partition(|place| rows[*place].1.1.len() == read);
                for place in ended {
                    let (row, _) = rows[place];
                    let [_, width] = hidden.dims();
                    let last = hidden.clone().slice([place..place + 1, 0..width]);
                    compare_last(&variant, &model, &[row], last, &format!("{backend}, row {row} by {read}"));
                }
                if going.is_empty() {
                    break;
                }
                sequences = going.iter().map(|place| sequences[*place]).collect();
                rows = going.into_iter().map(|place| rows[place].clone()).collect();
                let next: Vec<u32> = rows.iter().map(|(_, (_, response))| response[read]).collect();
                hidden = decoded(&model, &sequences, &next, &mut cache);
            }
        }
    }
}

#[test]
fn gradients_are_those_of_transformers() {
    for variant in Variant::all() {
        for (backend, device) in devices() {
            let model = load(&variant, &device.clone().autodiff()).model;
            for memory in MEMORY {
                for (name, gradient) in variant.gradients(&model, memory) {
                    let difference = relative_difference(&gradient, variant.values(&name));
                    assert!(difference < GRADIENT, "{}, {backend}, {memory:?}, {name}: {difference}", variant.name);
                }
            }
        }
    }
}
