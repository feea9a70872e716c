//! Attention weights: softmax over the keys that a query may see.
//!
//! ```text
//! pⱼ = exp(c (sⱼ − max s)) / Σ exp(c (sⱼ − max s)) for the keys j that are seen, else 0
//! ∂L/∂sⱼ = c pⱼ (gⱼ − Σₖ gₖ pₖ)
//! ```

use burn::tensor::activation::softmax;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use crate::attention::MASKED;
use crate::host;

/// How many of its row's keys each query of a part sees: the first ones.
pub(crate) struct Seen {
    /// By the first query of each row; each further one sees one more.
    pub(crate) first: Vec<usize>,
    /// Queries a row.
    pub(crate) queries: usize,
    /// [`MASKED`] where a key is not seen, else 0, `[rows, 1, 1, queries, keys]`; on backends whose memory is not the
    /// host's.
    pub(super) bias: Option<Tensor<5>>,
}

impl Seen {
    /// `on` is absent where the host's own loops do the work.
    pub(crate) fn new(first: Vec<usize>, queries: usize, keys: usize, on: Option<&Device>) -> Self {
        let bias = on.map(|device| {
            let seen = first.iter().flat_map(|first| *first..first + queries);
            let bias: Vec<f32> =
                seen.flat_map(|seen| (0..keys).map(move |key| if key < seen { 0.0 } else { MASKED })).collect();
            Tensor::from_data(TensorData::new(bias, [first.len(), 1, 1, queries, keys]), device)
        });
        Self { first, queries, bias }
    }

    /// The weights of scores `[rows, kv_heads, group · queries, keys]` that are to be multiplied by `scale`, in f32.
    pub(crate) fn softmax(&self, scores: Tensor<4>, scale: f32) -> Tensor<4> {
        let Some(bias) = &self.bias else { return host::softmax_forward(self, scores, scale) };
        let [rows, kv_heads, queries, keys] = scores.dims();
        let scores = scores.cast(FloatDType::F32).mul_scalar(scale);
        let scores = scores.reshape([rows, kv_heads, queries / self.queries, self.queries, keys]) + bias.clone();
        softmax(scores, 4).reshape([rows, kv_heads, queries, keys])
    }

    /// The gradient of the scores before they are scaled, from the weights and their gradient; in f32.
    pub(crate) fn backward(&self, weights: &mut Tensor<4>, gradient: Tensor<4>, scale: f32) -> Tensor<4> {
        if self.bias.is_none() {
            return host::softmax_backward(self, weights, gradient, scale);
        }
        let weighted = gradient.cast(FloatDType::F32) * weights.clone();
        let along = weighted.clone().sum_dim(3);
        (weighted - weights.clone() * along).mul_scalar(scale)
    }
}
