//! The feed-forward part's nonlinearity. The equations are those of `swiglu` in [`tape`](crate::tape).

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::exp::exp;
use super::room::written;
use super::{Values, View, vectorised};

/// Elements that one piece of parallel work has.
const PIECE: usize = 1 << 13;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `silu(gate) · up`, element by element.
pub(crate) fn swiglu_forward(gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
    let (shape, device) = (gate.dims(), gate.device());
    assert_eq!(shape, up.dims(), "gate and up have one shape");
    let (gate, up) = (View::of(gate), View::of(up));
    // SAFETY: every number is written: both operands have the room's size.
    let out = unsafe {
        written(shape[0] * shape[1], |out| {
            let pieces = out.par_chunks_mut(PIECE).zip(gate.as_slice().par_chunks(PIECE));
            pieces.zip(up.as_slice().par_chunks(PIECE)).for_each(|((out, gate), up)| {
                vectorised(|| {
                    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                        out.write(gate * sigmoid(*gate) * up);
                    }
                });
            });
        })
    };
    Tensor::from_data(TensorData::new(out, shape), &device)
}

/// The gradients of gate and up, from that of the product.
pub(crate) fn swiglu_backward(gate: Tensor<2>, up: Tensor<2>, gradient: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let (mut gate, mut up, gradient) = (Values::of(gate), Values::of(up), View::of(gradient));
    let both = gate.as_mut_slice().par_chunks_mut(PIECE).zip(up.as_mut_slice().par_chunks_mut(PIECE));
    both.zip(gradient.as_slice().par_chunks(PIECE)).for_each(|((gate, up), gradient)| {
        vectorised(|| {
            for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradient) {
                let sigmoid = sigmoid(*gate);
                let silu = *gate * sigmoid;
                let slope = sigmoid + silu * (1.0 - sigmoid);
                *gate = gradient * *up * slope;
                *up = gradient * silu;
            }
        });
    });
    (gate.into_tensor(), up.into_tensor())
}
