//! The linear map of a projection.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::host;
use crate::lora::Lora;
use crate::tape::Gradients;

/// `y = x Wᵀ + b`, with the weight as checkpoints hold it, and what an adapter adds to it.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`, or none.
    pub bias: Option<Param<Tensor<1>>>,
    /// The adapter, or none.
    pub lora: Option<Lora>,
}

/// Up to this many tokens a product of tensors multiplies matrix by states rather than states by the matrix's transpose:
/// then the time goes into streaming the matrix, for which kernels want its rows, and some backends copy a transposed one
/// first. For more tokens the turned result costs more than it saves.
const FEW_TOKENS: usize = 16;

/// `x Mᵀ + b`, of `[tokens, in]`, `[out, in]` and `[out]`.
pub(crate) fn by_transposed(x: &Tensor<2>, matrix: &Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<2> {
    if host::multiplies(x) && host::multiplies(matrix) {
        return host::by_transposed(x, matrix, bias);
    }
    let ([tokens, _], matrix) = (x.dims(), matrix.clone().cast(x.dtype()));
    let y = match tokens <= FEW_TOKENS {
        true => matrix.matmul(x.clone().transpose()).transpose(),
        false => x.clone().matmul(matrix.transpose()),
    };
    match bias {
        Some(bias) => y + bias.clone().unsqueeze(),
        None => y,
    }
}

/// `x M`, of `[tokens, out]` and `[out, in]`, added to `sum` if there is one.
pub(crate) fn times(x: &Tensor<2>, matrix: &Tensor<2>, sum: Option<Tensor<2>>) -> Tensor<2> {
    if host::multiplies(x) && host::multiplies(matrix) {
        return host::times(x, matrix, sum);
    }
    let product = x.clone().matmul(matrix.clone());
    match sum {
        Some(sum) => sum + product,
        None => product,
    }
}

impl Linear {
    /// `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let [outputs, inputs] = self.weight.dims();
        let x = x.reshape([-1, inputs as i64]);
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let y = by_transposed(&x, &self.weight.val(), bias.as_ref());
        let y = match &self.lora {
            Some(lora) => y + lora.forward(x),
            None => y,
        };
        shape[D - 1] = outputs;
        y.reshape(shape)
    }

    /// ∂L/∂x from ∂L/∂y, `[tokens, in]` and `[tokens, out]`, added to `sum` if there is one; adds the parameters'
    /// gradients.
    pub(crate) fn backward(
        &self,
        x: &Tensor<2>,
        gradient: &Tensor<2>,
        sum: Option<Tensor<2>>,
        gradients: &mut Gradients,
    ) -> Tensor<2> {
        if let Some(bias) = &self.bias {
            gradients.add_rows_of(bias, gradient);
        }
        gradients.add_outer(&self.weight, gradient, x);
        let d_x = times(gradient, &self.weight.val(), sum);
        match &self.lora {
            Some(lora) => d_x + lora.backward(x.clone(), gradient.clone(), gradients),
            None => d_x,
        }
    }
}
