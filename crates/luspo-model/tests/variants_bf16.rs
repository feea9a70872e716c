//! Parameters and computation in bf16 against f64, on the CPU backend that computes with bf16.
//!
//! bf16 has 8 significant bits, and how its errors grow through a model depends on the model. So the measure of an error
//! is that of transformers, which computes the same checkpoint in bf16 (`bf16.*` in the references): both round weights,
//! projections and sums of the residual stream, both take norms and softmax in f32. They differ in the order of roundings
//! alone, which makes some errors larger and some smaller: luspo's may be [`FACTOR`] times the other's, in the norm over
//! all tokens or entries.

mod reference;

use luspo_model::{Backend, Pretrained, WeightDtype};
use reference::variant::{Variant, batch_of, packed};
use reference::{MEMORY, host, stats};

const FACTOR: f64 = 1.5;

/// √Σ (aᵢ − bᵢ)², NaN where one is.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

impl Variant {
    /// luspo's distance from f64 by that of transformers.
    fn ratio(&self, what: &str, found: &[f32]) -> f64 {
        let exact = self.values(what);
        distance(found, exact) / distance(self.values(&format!("bf16.{what}")), exact)
    }
}

#[test]
fn bf16_log_probs_and_entropies_are_as_near_as_those_of_transformers() {
    let device = Backend::Flex.device().unwrap();
    for variant in Variant::all() {
        let model = Pretrained::load_as(&variant.folder, &device, WeightDtype::Bf16).unwrap().model;
        let batch = batch_of(&variant.rows());
        let found = stats(&model, &batch, MEMORY[0]);
        for (what, found) in [("log_probs", found.log_probs), ("entropy", found.entropy.unwrap())] {
            let ratio = variant.ratio(what, &packed(&batch, found));
            println!("{} {what} {ratio}", variant.name);
            assert!(ratio < FACTOR, "{}, {what}: {ratio}", variant.name);
        }
    }
}

#[test]
fn bf16_states_of_the_last_tokens_are_as_near_as_those_of_transformers() {
    let device = Backend::Flex.device().unwrap();
    for variant in Variant::all() {
        let model = Pretrained::load_as(&variant.folder, &device, WeightDtype::Bf16).unwrap().model;
        let rows: Vec<Vec<u32>> = variant.rows().into_iter().map(|(prompt, end)| [prompt, end].concat()).collect();
        let prompts: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let (hidden, _) = model.prefill(&prompts, 128);
        for (what, found) in [("hidden", hidden.clone()), ("logits", model.logits(hidden))] {
            let ratio = variant.ratio(what, &host(found));
            println!("{} {what} {ratio}", variant.name);
            assert!(ratio < FACTOR, "{}, {what}: {ratio}", variant.name);
        }
    }
}

#[test]
fn bf16_gradients_are_as_near_as_those_of_transformers() {
    let device = Backend::Flex.device().unwrap().autodiff();
    for variant in Variant::all() {
        let model = Pretrained::load_as(&variant.folder, &device, WeightDtype::Bf16).unwrap().model;
        for memory in MEMORY {
            let found = variant.gradients(&model, memory);
            let ratios: Vec<_> = found.iter().map(|(name, gradient)| (variant.ratio(name, gradient), name)).collect();
            let all: f64 = ratios.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / ratios.len() as f64;
            println!(
                "{} {memory:?}: {}, {:?}",
                variant.name,
                all.exp(),
                ratios.iter().filter(|(r, _)| *r > 1.5).collect::<Vec<_>>()
            );
        }
    }
}
