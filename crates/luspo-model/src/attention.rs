//! Grouped-query attention.
//!
//! The query heads that share a key head are folded into the query's rows, `[batch, kv_heads, group · seq, head_dim]`,
//! so keys and values are never repeated, on any backend.

use burn::module::Module;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use crate::linear::Linear;
use crate::rope::Rope;

/// What is added to the score of a key that a query must not see: its weight becomes exactly 0. Every query sees at least
/// itself, so no row is masked throughout. (A large finite number would do too, but exp is slow where it underflows.)
pub(crate) const MASKED: f32 = f32::NEG_INFINITY;

/// Attention with biases on queries, keys and values.
#[derive(Module, Debug)]
pub struct Qwen2Attention {
    /// Queries, hidden → heads · head_dim.
    pub q_proj: Linear,
    /// Keys, hidden → kv_heads · head_dim.
    pub k_proj: Linear,
    /// Values, hidden → kv_heads · head_dim.
    pub v_proj: Linear,
    /// Output, heads · head_dim → hidden.
    pub o_proj: Linear,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
}

/// Queries folded by group, `[batch, kv_heads, group · seq, head_dim]`; keys and values
/// `[batch, kv_heads, seq, head_dim]`.
pub(crate) struct Projected {
    pub(crate) queries: Tensor<4>,
    pub(crate) keys: Tensor<4>,
    pub(crate) values: Tensor<4>,
}

impl Qwen2Attention {
    /// Projects `[batch, seq, hidden]` and rotates queries and keys by position.
    pub(crate) fn project(&self, x: Tensor<3>, rope: &Rope) -> Projected {
        let [batch, seq, hidden] = x.dims();
        let head_dim = hidden / self.heads;
        let split = |x: Tensor<3>, heads| x.reshape([batch, seq, heads, head_dim]);

        let queries = rope.rotate(split(self.q_proj.forward(x.clone()), self.heads));
        let keys = rope.rotate(split(self.k_proj.forward(x.clone()), self.kv_heads));
        let values = split(self.v_proj.forward(x), self.kv_heads);

        let group = self.heads / self.kv_heads;
        let queries = queries.reshape([batch, seq, self.kv_heads, group, head_dim]).permute([0, 2, 3, 1, 4]).reshape([
            batch,
            self.kv_heads,
            group * seq,
            head_dim,
        ]);
        Projected { queries, keys: keys.swap_dims(1, 2), values: values.swap_dims(1, 2) }
    }

    /// Unfolds what [`attend`] gives and projects it back: `[batch, kv_heads, group · seq, head_dim]` →
    /// `[batch, seq, hidden]`.
    pub(crate) fn output(&self, attended: Tensor<4>) -> Tensor<3> {
        let group = self.heads / self.kv_heads;
        let [batch, kv_heads, rows, head_dim] = attended.dims();
        let seq = rows / group;
        let attended = attended.reshape([batch, kv_heads, group, seq, head_dim]).permute([0, 3, 1, 2, 4]).reshape([
            batch,
            seq,
            self.heads * head_dim,
        ]);
        self.o_proj.forward(attended)
    }

    /// The bias that keeps a query from looking ahead, `[1, 1, group · seq, seq]`.
    pub(crate) fn causal_bias(&self, seq: usize, device: &Device) -> Tensor<4> {
        let group = self.heads / self.kv_heads;
        let bias: Vec<f32> =
            (0..seq).flat_map(|query| (0..seq).map(move |key| if key > query { MASKED } else { 0.0 })).collect();
        Tensor::<4>::from_data(TensorData::new(bias, [1, 1, seq, seq]), device).repeat_dim(2, group)
    }
}

/// `softmax(q kᵀ / √head_dim + bias) v`, the softmax in f32. The bias broadcasts over batch and heads.
pub(crate) fn attend(queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, bias: Option<Tensor<4>>) -> Tensor<4> {
    if !queries.is_autodiff() {
        // The backend's own kernel need not materialise the scores.
        let dtype = queries.dtype();
        let bias = bias.map(|bias| bias.cast(dtype)); // 0 or −∞ in any type
        return attention(queries, keys, values, None, bias, AttentionModuleOptions::default());
    }
    let [.., head_dim] = queries.dims();
    let dtype = values.dtype();
    let scores = (queries / (head_dim as f64).sqrt()).matmul(keys.swap_dims(2, 3)).cast(FloatDType::F32);
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    let highest = scores.clone().inner().max_dim(3); // cancels in the quotient, so no gradient is due
    let weights = (scores - highest).exp();
    let total = weights.clone().sum_dim(3);
    weights.cast(dtype).matmul(values) / total.cast(dtype)
}
