//! The feed-forward part's nonlinearity.
//!
//! ```text
//! s = silu(a) b,  silu(a) = a σ(a),  silu'(a) = σ(a) (1 + a (1 − σ(a)))
//! ```

use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::{FloatDType, Tensor, s};

use crate::host;

/// Tokens that the tensor operations take at a time on the way back.
pub(crate) const GATED_TOKENS: usize = 4096;

/// `silu(gate) · up`, element by element.
pub(super) fn forward(gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
    match host::serves(gate) {
        true => host::swiglu_forward(gate, up),
        false => silu(gate.clone()) * up.clone(),
    }
}

/// The gradients of gate and up, from that of the product.
pub(super) fn backward(gate: Tensor<2>, up: Tensor<2>, gradient: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    if host::serves(&gate) {
        return host::swiglu_backward(gate, up, gradient);
    }
    // In f32, which for some tokens at a time takes no memory to speak of.
    let (mut d_gate, mut d_up) = (Vec::new(), Vec::new());
    let [tokens, _] = gate.dims();
    for from in (0..tokens).step_by(GATED_TOKENS) {
        let part = |all: &Tensor<2>| all.clone().slice(s![from..tokens.min(from + GATED_TOKENS), ..]);
        let (of_gate, of_up) = gradients(part(&gate), part(&up), part(gradient));
        d_gate.push(of_gate);
        d_up.push(of_up);
    }
    (Tensor::cat(d_gate, 0), Tensor::cat(d_up, 0))
}

/// Of some tokens.
fn gradients(gate: Tensor<2>, up: Tensor<2>, gradient: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let dtype = gate.dtype();
    let [gate, up, gradient] = [gate, up, gradient].map(|x| x.cast(FloatDType::F32));
    let sigmoid = sigmoid(gate.clone());
    let silu = gate * sigmoid.clone();
    let slope = sigmoid.clone() + silu.clone() * sigmoid.neg().add_scalar(1.0);
    ((gradient.clone() * up * slope).cast(dtype), (gradient * silu).cast(dtype))
}
