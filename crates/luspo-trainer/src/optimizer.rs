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

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::config::OptimizerConfig;

/// AdamW over the parameters of a model. Moments live beside the parameters, in f32.
#[derive(Debug)]
pub struct AdamW {
    pub(crate) config: OptimizerConfig,
    pub(crate) updates: i32,
    pub(crate) moments: HashMap<ParamId, Moments>,
}

/// Running means of the gradient and of its square, flat: `[elements]`.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub first: Tensor<1>,
    pub second: Tensor<1>,
}

impl AdamW {
    /// An optimizer without history.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, updates: 0, moments: HashMap::new() }
    }

    /// How many updates it has made.
    pub fn updates(&self) -> i32 {
        self.updates
    }

    /// Makes one update at learning rate `lr` and returns the gradient's global norm before clipping.
    ///
    /// A norm that is not finite leaves policy and moments as they were; the caller decides what that means.
    pub fn step(&mut self, model: &mut impl Module, gradients: GradientsParams, lr: f64) -> f64 {
        let norm = global_norm(model, &gradients);
        if !norm.is_finite() {
            return norm;
        }
        self.updates += 1;
        let scale = (self.config.grad_clip / (norm + 1e-6)).min(1.0);
        *model = model.clone().map(&mut Update { optimizer: self, gradients, scale, lr });
        norm
    }
}

/// ‖g‖₂ over all parameters.
pub fn global_norm(model: &impl Module, gradients: &GradientsParams) -> f64 {
    let mut visitor = SquaredNorm { gradients, sum: 0.0 };
    model.visit(&mut visitor);
    visitor.sum.sqrt()
}

struct SquaredNorm<'a> {
    gradients: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.sum += f64::from(gradient.square().sum().into_scalar::<f32>());
        }
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: GradientsParams,
    scale: f64,
    lr: f64,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, value, mapper) = param.consume();
        let shape = value.dims();
        let gradient = gradient.reshape([-1]).mul_scalar(self.scale);
        let value = self.moved(id, value.inner().reshape([-1]), gradient);
        Param::from_mapped_value(id, value.reshape(shape).autodiff().require_grad(), mapper)
    }
}

impl Update<'_> {
    /// The parameter after the update; all tensors flat.
    fn moved(&mut self, id: ParamId, value: Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
        let OptimizerConfig { betas: [beta1, beta2], eps, weight_decay, .. } = self.optimizer.config;
        let t = self.optimizer.updates;
        let first = gradient.clone().mul_scalar(1.0 - beta1);
        let second = gradient.square().mul_scalar(1.0 - beta2);
        let moments = match self.optimizer.moments.remove(&id) {
            None => Moments { first, second },
            Some(old) => {
                Moments { first: old.first.mul_scalar(beta1) + first, second: old.second.mul_scalar(beta2) + second }
            }
        };
        let denominator = moments.second.clone().sqrt().div_scalar((1.0 - beta2.powi(t)).sqrt()).add_scalar(eps);
        let direction = moments.first.clone() / denominator;
        self.optimizer.moments.insert(id, moments);
        value.mul_scalar(1.0 - self.lr * weight_decay) - direction.mul_scalar(self.lr / (1.0 - beta1.powi(t)))
    }
}
