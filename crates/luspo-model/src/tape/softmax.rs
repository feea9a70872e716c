//! Attention weights: softmax over the keys that a query may see.
//!
//! ```text
//! pⱼ = exp(c (sⱼ − max s)) / Σ exp(c (sⱼ − max s)) for the keys j that are seen, else 0
//! ∂L/∂sⱼ = c pⱼ (gⱼ − Σₖ gₖ pₖ)
//! ```

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, FloatDType, Int, Tensor, TensorData};

/// How many of its row's keys each query of a part sees: the first ones.
pub(super) struct Seen {
    /// Queries a row.
    queries: usize,
    /// As many keys as each query sees, `[rows, 1, 1, queries, 1]`.
    seen: Tensor<5, Int>,
}

impl Seen {
    /// `first` has what the first query of each row sees; each further one sees one more.
    pub(super) fn new(first: &[usize], queries: usize, device: &Device) -> Self {
        let seen: Vec<i64> = first.iter().flat_map(|first| *first..first + queries).map(|n| n as i64).collect();
        let seen = Tensor::from_data(TensorData::new(seen, [first.len(), 1, 1, queries, 1]), device);
        Self { queries, seen }
    }

    /// The weights of scores `[rows, kv_heads, group · queries, keys]` that are to be multiplied by `scale`, in f32.
    pub(super) fn softmax(&self, scores: Tensor<4>, scale: f32) -> Tensor<4> {
        let [rows, kv_heads, queries, keys] = scores.dims();
        let scores = scores.cast(FloatDType::F32).mul_scalar(scale);
        let folded = [rows, kv_heads, queries / self.queries, self.queries, keys];
        let ahead = ahead(&self.seen, keys).expand(folded);
        softmax(scores.reshape(folded).mask_fill(ahead, f32::NEG_INFINITY), 4).reshape([rows, kv_heads, queries, keys])
    }

    /// The gradient of the scores before they are scaled, from the weights and their gradient; in f32.
    pub(super) fn backward(&self, weights: Tensor<4>, gradient: Tensor<4>, scale: f32) -> Tensor<4> {
        let weighted = gradient.cast(FloatDType::F32) * weights.clone();
        let along = weighted.clone().sum_dim(3);
        (weighted - weights * along).mul_scalar(scale)
    }
}

/// Which keys a query does not see, `[rows, 1, 1, queries, keys]`.
pub(super) fn ahead(seen: &Tensor<5, Int>, keys: usize) -> Tensor<5, Bool> {
    let [rows, _, _, queries, _] = seen.dims();
    let shape = [rows, 1, 1, queries, keys];
    let key = Tensor::<1, Int>::arange(0..keys as i64, &seen.device()).reshape([1, 1, 1, 1, keys]);
    key.expand(shape).greater_equal(seen.clone().expand(shape))
}
