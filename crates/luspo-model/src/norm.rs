use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor};

/// Root-mean-square normalisation, `x / √(mean(x²) + ε) · weight`, computed in f32 whatever the dtype of `x`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// The scale, `[hidden]`.
    pub weight: Param<Tensor<1>>,
    pub(crate) epsilon: f64,
}

impl RmsNorm {
    /// `[.., hidden]` → `[.., hidden]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let x = x.cast(FloatDType::F32);
        let scale = (x.clone().square().mean_dim(D - 1) + self.epsilon).sqrt().recip();
        (x * scale).cast(dtype) * self.weight.val().unsqueeze()
    }
}
