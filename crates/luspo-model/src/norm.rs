//! RMS norm and its backward.
//!
//! ```text
//! y = r x w,  r = 1/√(mean(x²) + ε)        ∂L/∂x = r (w g − r x mean(w g r x))        ∂L/∂w = Σ r x g
//! ```

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor};

use crate::host;
use crate::tape::Gradients;

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
        let scale = self.inverse_rms(&x);
        (x * scale).cast(dtype) * self.weight.val().unsqueeze()
    }

    /// As [`forward`](Self::forward), for packed tokens without a graph.
    pub(crate) fn of_tokens(&self, x: &Tensor<2>) -> Tensor<2> {
        match host::serves(x) {
            true => host::norm_forward(self, x),
            false => self.forward(x.clone()),
        }
    }

    /// Adds ∂L/∂x to `sum` and returns it; adds the weight's gradient. `gradient` is ∂L/∂y, `[tokens, hidden]`.
    pub(crate) fn backward(
        &self,
        x: &Tensor<2>,
        gradient: &Tensor<2>,
        sum: Tensor<2>,
        gradients: &mut Gradients,
    ) -> Tensor<2> {
        if host::serves(x) {
            let (sum, d_weight) = host::norm_backward(self, x, gradient, sum);
            gradients.add(&self.weight, || d_weight);
            return sum;
        }
        let x = x.clone().cast(FloatDType::F32);
        let gradient = gradient.clone().cast(FloatDType::F32);
        let scale = self.inverse_rms(&x);
        let normed = x * scale.clone();
        gradients.add(&self.weight, || (normed.clone() * gradient.clone()).sum_dim(0).squeeze_dim(0));
        let gradient = gradient * self.weight.val().cast(FloatDType::F32).unsqueeze();
        let along = (gradient.clone() * normed.clone()).mean_dim(1);
        let dtype = sum.dtype();
        sum + ((gradient - normed * along) * scale).cast(dtype)
    }

    /// `[.., 1]` of f32.
    fn inverse_rms<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
        (x.clone().square().mean_dim(D - 1) + self.epsilon).sqrt().recip()
    }
}
