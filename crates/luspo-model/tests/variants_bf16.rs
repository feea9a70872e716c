//! Parameters and computation in bf16 against f64, on the CPU backend that computes with bf16.
//!
//! bf16 has 8 significant bits, and how its errors grow through a model depends on the model. So the measure of an error
//! is that of transformers, which computes the same checkpoint in bf16 (`bf16.*` in the references): both round weights,
//! projections and sums of the residual stream, both take norms and softmax in f32. They differ in the order of roundings
//! alone, which makes some errors larger and some smaller. How much, transformers' two ways to compute attention tell: the
//! distances of `eager` from f64, in the norm over all tokens or entries, are up to 1.25 times those of `sdpa` for
//! log-probs, up to 2.2 times for single gradients, and up to 1.25 times for those of a model in the geometric mean.

mod reference;

use burn::tensor::Tensor;
use luspo_model::{Backend, Pretrained, WeightDtype};
use reference::variant::{Variant, batch_of, packed};
use reference::{MEMORY, decoded, host, prefilled, stats};

/// Of log-probs, entropies and states.
const STATES: f64 = 1.5;
/// Of a single gradient.
const GRADIENT: f64 = 4.0;
/// Of all gradients of a model, in the geometric mean.
const GRADIENTS: f64 = 1.3;

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
            assert!(ratio < STATES, "{}, {what}: {ratio}", variant.name);
        }
    }
}

#[test]
fn bf16_states_of_the_last_tokens_are_as_near_as_those_of_transformers() {
    let device = Backend::Flex.device().unwrap();
    for variant in Variant::all() {
        let model = Pretrained::load_as(&variant.folder, &device, WeightDtype::Bf16).unwrap().model;
        // The prompts at once, then each row's response token by token.
        let states = variant.rows().into_iter().map(|(prompt, response)| {
            let (mut hidden, sequences, mut cache) = prefilled(&model, &[&prompt], prompt.len() + response.len());
            for token in response {
                hidden = decoded(&model, &sequences, &[token], &mut cache);
            }
            hidden
        });
        let hidden = Tensor::cat(states.collect(), 0);
        for (what, found) in [("hidden", hidden.clone()), ("logits", model.logits(hidden))] {
            let ratio = variant.ratio(what, &host(found));
            assert!(ratio < STATES, "{}, {what}: {ratio}", variant.name);
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
            let ratios: Vec<(f64, &String)> =
                found.iter().map(|(name, gradient)| (variant.ratio(name, gradient), name)).collect();
            for (ratio, name) in &ratios {
                assert!(*ratio < GRADIENT, "{}, {memory:?}, {name}: {ratio}", variant.name);
            }
            let mean = (ratios.iter().map(|(ratio, _)| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
            assert!(mean < GRADIENTS, "{}, {memory:?}: {mean}", variant.name);
        }
    }
}
