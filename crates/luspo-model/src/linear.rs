//! The linear map of a projection.

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor};

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

/// Up to this many tokens a product multiplies matrix by states rather than states by the matrix's transpose: then the
/// time goes into streaming the matrix, for which kernels want its rows, and some backends copy a transposed one first.
/// Decoding 8 rows takes a quarter less time that way on flex. For more tokens the turned result costs more than it saves.
const FEW_TOKENS: usize = 16;

/// `x Mᵀ`, of `[tokens, in]` and `[out, in]`.
pub(crate) fn by_transposed(x: Tensor<2>, matrix: Tensor<2>) -> Tensor<2> {
    let [tokens, _] = x.dims();
    match tokens <= FEW_TOKENS {
        true => matrix.matmul(x.transpose()).transpose(),
        false => x.matmul(matrix.transpose()),
    }
}

impl Linear {
    /// `[.., in]` → `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let [outputs, inputs] = self.weight.dims();
        let x = x.reshape([-1, inputs as i64]);
        let added = self.lora.as_ref().map(|lora| lora.forward(x.clone()));
        let y = by_transposed(x, self.weight.val());
        let y = match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        };
        let y = match added {
            Some(added) => y + added,
            None => y,
        };
        shape[D - 1] = outputs;
        y.reshape(shape)
    }

    /// ∂L/∂x from ∂L/∂y, `[tokens, in]` and `[tokens, out]`; adds the parameters' gradients.
    pub(crate) fn backward(&self, x: Tensor<2>, gradient: Tensor<2>, gradients: &mut Gradients) -> Tensor<2> {
        let added = self.lora.as_ref().map(|lora| lora.backward(x.clone(), gradient.clone(), gradients));
        if let Some(bias) = &self.bias {
            gradients.add(bias, || gradient.clone().cast(FloatDType::F32).sum_dim(0).squeeze_dim(0));
        }
        gradients.add(&self.weight, || gradient.clone().transpose().matmul(x));
        let d_x = gradient.matmul(self.weight.val());
        match added {
            Some(added) => d_x + added,
            None => d_x,
        }
    }
}
