//! The update of one parameter: one fused pass over buffers in host memory, or tensor operations. Both do the same f32
//! operations on a number in the same order, so that the results are the same bits.

use burn::tensor::{DType, Tensor, TensorData};
use half::bf16;
use rayon::prelude::*;

use super::state::{Numbers, State};
use crate::config::OptimizerConfig;

/// Numbers that one thread updates at a time: all that belongs to them stays in a core's own cache.
const PIECE: usize = 1 << 14;

/// What one update does to every number: the constants of the equations, as they are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coefficients {
    /// Of the gradient: min(1, c / (‖g‖₂ + 1e-6)).
    scale: f64,
    /// β₁ and 1 − β₁.
    first: [f64; 2],
    /// β₂ and 1 − β₂.
    second: [f64; 2],
    /// √(1 − β₂ᵗ)
    root: f64,
    eps: f64,
    /// 1 − η λ
    keep: f64,
    /// η / (1 − β₁ᵗ)
    rate: f64,
}

impl Coefficients {
    /// Of update number `t` (from 1), for a gradient of this norm.
    pub fn new(config: &OptimizerConfig, t: i32, norm: f64, lr: f64) -> Self {
        let OptimizerConfig { betas: [beta1, beta2], eps, weight_decay, grad_clip, .. } = *config;
        Self {
            scale: (grad_clip / (norm + 1e-6)).min(1.0),
            first: [beta1, 1.0 - beta1],
            second: [beta2, 1.0 - beta2],
            root: (1.0 - beta2.powi(t)).sqrt(),
            eps,
            keep: 1.0 - lr * weight_decay,
            rate: lr / (1.0 - beta1.powi(t)),
        }
    }
}

/// The parameter and its state after the update, by tensor operations on the parameter's device, where both stay.
pub(super) fn by_tensors<const D: usize>(
    c: &Coefficients,
    value: Tensor<D>,
    gradient: Tensor<D>,
    state: Option<State>,
) -> (Tensor<D>, State) {
    let (shape, device, dtype) = (value.dims(), value.device(), value.dtype());
    let rounded = dtype != DType::F32;
    let gradient = gradient.reshape([-1]).mul_scalar(c.scale);
    let (first, second, master) = match state {
        None => (gradient.zeros_like(), gradient.zeros_like(), None),
        Some(State { first, second, master }) => {
            (first.into_device(&device), second.into_device(&device), master.map(|master| master.into_device(&device)))
        }
    };
    let theta = match master {
        Some(master) => master,
        None if rounded => value.reshape([-1]).cast(DType::F32),
        None => value.reshape([-1]),
    };

    let first = first.mul_scalar(c.first[0]) + gradient.clone().mul_scalar(c.first[1]);
    let second = second.mul_scalar(c.second[0]) + gradient.square().mul_scalar(c.second[1]);
    let denominator = second.clone().sqrt().div_scalar(c.root).add_scalar(c.eps);
    let direction = first.clone() / denominator;
    let theta = theta.mul_scalar(c.keep) - direction.mul_scalar(c.rate);

    let value = if rounded { theta.clone().cast(dtype) } else { theta.clone() };
    let master = rounded.then_some(Numbers::Device(theta));
    (value.reshape(shape), State { first: Numbers::Device(first), second: Numbers::Device(second), master })
}

/// The same in one pass over host memory, by all threads, for an f32 or bf16 parameter, with the state in host memory. Of
/// a parameter that is elsewhere the gradient comes, and the new value goes there: much less than the state would be.
pub(super) fn on_host<const D: usize>(
    c: &Coefficients,
    value: Tensor<D>,
    gradient: Tensor<D>,
    state: Option<State>,
) -> (Tensor<D>, State) {
    let device = value.device();
    let from_master = state.as_ref().is_some_and(|state| state.master.is_some());
    let value = match from_master && !luspo_model::is_host(&device) {
        true => TensorData::new(vec![bf16::ZERO; value.shape().num_elements()], value.shape()),
        false => value.into_data(),
    };
    let (value, state) = fused(c, value, &gradient.into_data(), state);
    (luspo_model::lasting(value, &device), state)
}

fn fused(c: &Coefficients, mut value: TensorData, gradient: &TensorData, state: Option<State>) -> (TensorData, State) {
    let state = state.unwrap_or_else(|| {
        let len = value.num_elements();
        let master = (value.dtype() != DType::F32).then(|| Numbers::of(value.iter::<f32>().collect()));
        State { first: Numbers::zeros(len), second: Numbers::zeros(len), master }
    });
    let (mut first, mut second) = (state.first.into_host(), state.second.into_host());
    let mut master = state.master.map(Numbers::into_host);
    let factors = Factors::of(c);
    let pieces = numbers(gradient)
        .par_chunks(PIECE)
        .zip(numbers_mut(&mut first).par_chunks_mut(PIECE))
        .zip(numbers_mut(&mut second).par_chunks_mut(PIECE));
    match &mut master {
        None => pieces
            .zip(numbers_mut(&mut value).par_chunks_mut(PIECE))
            .for_each(|(((gradient, first), second), theta)| factors.update(theta, gradient, first, second)),
        Some(master) => {
            let rounded = value.as_mut_slice::<bf16>().expect("a parameter of bf16");
            pieces.zip(numbers_mut(master).par_chunks_mut(PIECE)).zip(rounded.par_chunks_mut(PIECE)).for_each(
                |((((gradient, first), second), theta), rounded)| {
                    factors.update(theta, gradient, first, second);
                    rounded.iter_mut().zip(theta).for_each(|(rounded, theta)| *rounded = nearest(*theta));
                },
            );
        }
    }
    let state = State { first: Numbers::Host(first), second: Numbers::Host(second), master: master.map(Numbers::Host) };
    (value, state)
}

fn numbers(data: &TensorData) -> &[f32] {
    data.as_slice().expect("a tensor of f32")
}

fn numbers_mut(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("a tensor of f32")
}

/// The nearest bf16, and from the middle the even one, as `bf16::from_f32`, without a branch: vectors of numbers at once.
fn nearest(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40; // what a NaN becomes
    bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
}

/// The coefficients in f32, as tensor operations round them.
struct Factors {
    scale: f32,
    first: [f32; 2],
    second: [f32; 2],
    root: f32,
    eps: f32,
    keep: f32,
    rate: f32,
}

impl Factors {
    fn of(c: &Coefficients) -> Self {
        let pair = |[a, b]: [f64; 2]| [a as f32, b as f32];
        Self {
            scale: c.scale as f32,
            first: pair(c.first),
            second: pair(c.second),
            root: c.root as f32,
            eps: c.eps as f32,
            keep: c.keep as f32,
            rate: c.rate as f32,
        }
    }

    fn update(&self, theta: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        for (((theta, gradient), m), v) in theta.iter_mut().zip(gradient).zip(first).zip(second) {
            let gradient = gradient * self.scale;
            *m = *m * self.first[0] + gradient * self.first[1];
            *v = *v * self.second[0] + gradient * gradient * self.second[1];
            let direction = *m / (v.sqrt() / self.root + self.eps);
            *theta = *theta * self.keep - direction * self.rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_library() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x4000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(high) << 16 | low);
                assert_eq!(nearest(value).to_bits(), bf16::from_f32(value).to_bits(), "{value}");
            }
        }
    }
}
