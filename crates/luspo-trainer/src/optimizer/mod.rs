//! AdamW with decoupled weight decay and global-norm clipping.
//!
//! ```text
//! g ← g · min(1, c / (‖g‖₂ + 1e-6))
//! m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
//! θ ← θ − η λ θ − η · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
//! ```
//!
//! Loshchilov & Hutter, arXiv 1711.05101; constants and the clipping's 1e-6 as in PyTorch. Burn's own AdamW clips each
//! parameter by itself, which is another algorithm.
//!
//! Gradients, moments and θ are f32. Where a parameter of the model is not, θ is its master copy, kept here, and the
//! parameter is θ rounded. Parameters are updated one after the other, in their place, and each gradient is freed when
//! it has been used.

mod arithmetic;
mod file;
mod norm;
mod state;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};

use crate::config::OptimizerConfig;
use arithmetic::Coefficients;
use state::State;

pub use norm::global_norm;

/// AdamW over the parameters of a model.
///
/// Its state (moments, and masters of parameters that are not f32) is on the model's device or, with
/// [`OptimizerConfig::offload`], in host memory, where the update is then computed: one gradient at a time comes, and the
/// new parameter goes back (ZeRO-Offload, Ren et al., arXiv 2101.06840). The arithmetic is the same; so are the bits,
/// where the device rounds square roots and divisions as IEEE 754 says.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    updates: i32,
    states: HashMap<ParamId, State>,
}

impl AdamW {
    /// An optimizer without history.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, updates: 0, states: HashMap::new() }
    }

    /// How many updates it has made.
    pub fn updates(&self) -> i32 {
        self.updates
    }

    /// Makes one update at learning rate `lr` and returns the gradient's global norm before clipping. Parameters without
    /// a gradient stay as they are.
    ///
    /// A norm that is not finite leaves policy and state as they were; the caller decides what that means.
    pub fn step(&mut self, model: &mut impl Module, mut gradients: GradientsParams, lr: f64) -> f64 {
        let norm = global_norm(model, &mut gradients);
        if !norm.is_finite() {
            return norm;
        }
        self.updates += 1;
        let coefficients = Coefficients::new(&self.config, self.updates, norm, lr);
        // `model` lets go of its tensors first: a tensor that has one owner is changed in place.
        let taken = model.clone();
        *model = model.clone().map(&mut Hollow);
        *model = taken.map(&mut Update { optimizer: self, gradients, coefficients });
        norm
    }
}

/// Leaves parameters without values.
struct Hollow;

impl ModuleMapper for Hollow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, Tensor::empty([0; D], (&value.device(), value.dtype())), mapper)
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: GradientsParams,
    coefficients: Coefficients,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, value, mapper) = param.consume();
        let value = value.inner();
        let AdamW { states, config, .. } = &mut *self.optimizer;
        let state = states.remove(&id);
        let host = config.offload || luspo_model::is_host(&value.device());
        let (value, state) = match host && matches!(value.dtype(), DType::F32 | DType::BF16) {
            true => arithmetic::on_host(&self.coefficients, value, gradient, state),
            false => arithmetic::by_tensors(&self.coefficients, value, gradient, state),
        };
        states.insert(id, state);
        Param::from_mapped_value(id, value.autodiff().require_grad(), mapper)
    }
}
