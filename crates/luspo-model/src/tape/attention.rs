//! Causal attention over packed tokens, a part at a time. The backward pass computes the weights again.
//!
//! ```text
//! P = softmax(Q Kᵀ / √d),  O = P V        ∂V = Pᵀ ∂O,  ∂P = ∂O Vᵀ,  ∂Q = ∂S K,  ∂K = ∂Sᵀ Q
//! ```

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};

use super::layout::{Heads, Places};
use super::parts::{Run, parts};
use super::softmax::Seen;
use crate::backend::is_host;
use crate::batch::Span;
use crate::host::{self, HostAttention};
use crate::modeling::Qwen2Model;

/// As many scores exist at once as tensors, those of padding included: 8 MB in host memory, which stay in the cache,
/// elsewhere 512 MB, which keep a GPU busy. A run of `attention_chunk` queries may have more.
pub(crate) const SCORES: [usize; 2] = [1 << 21, 1 << 27];

/// Rotated queries and keys, and values, of all tokens.
pub(super) struct Projected {
    /// `[tokens, heads · head_dim]`
    pub queries: Tensor<2>,
    /// `[tokens, kv_heads · head_dim]`
    pub keys: Tensor<2>,
    /// `[tokens, kv_heads · head_dim]`
    pub values: Tensor<2>,
}

/// Who looks at whom, the same in every block.
pub(super) enum Attention {
    /// By the host's own loops.
    Host(HostAttention),
    /// By tensor operations.
    Tensor(Parts),
}

pub(super) struct Parts {
    parts: Vec<Part>,
    of_queries: Heads,
    of_keys: Heads,
}

struct Part {
    queries: Places,
    keys: Places,
    seen: Seen,
}

impl Attention {
    /// `chunk` is the most queries of a row whose scores exist at once.
    pub(super) fn new(trunk: &Qwen2Model, spans: &[Span], chunk: usize) -> Self {
        let norm = trunk.norm.weight.val();
        let layer = &trunk.layers[0].self_attn;
        let heads = Heads { kv_heads: layer.kv_heads, group: layer.heads / layer.kv_heads, head_dim: trunk.head_dim() };
        match host::serves(&norm) {
            true => Self::Host(HostAttention::new(spans, heads, chunk)),
            false => Self::Tensor(Parts::new(spans, heads, chunk, &norm.device())),
        }
    }

    /// The output, `[tokens, heads · head_dim]`.
    pub(super) fn forward(&self, projected: &Projected) -> Tensor<2> {
        let Projected { queries, keys, values } = projected;
        match self {
            Self::Host(attention) => attention.forward([queries, keys, values]),
            Self::Tensor(parts) => parts.forward(projected),
        }
    }

    /// The gradients of queries, keys and values from that of the output.
    pub(super) fn backward(&self, projected: Projected, d_output: Tensor<2>) -> [Tensor<2>; 3] {
        let Projected { queries, keys, values } = &projected;
        match self {
            Self::Host(attention) => attention.backward([queries, keys, values], &d_output),
            Self::Tensor(parts) => parts.backward(projected, d_output),
        }
    }
}

impl Parts {
    pub(super) fn new(spans: &[Span], of_queries: Heads, chunk: usize, device: &Device) -> Self {
        let of_keys = Heads { group: 1, ..of_queries };
        let budget = SCORES[usize::from(!is_host(device))] / of_queries.count();
        let parts = parts(spans, chunk, budget).into_iter().map(|runs| {
            let places =
                |of: fn(&Run) -> [Range<usize>; 2]| Places::new(&runs.iter().map(of).collect::<Vec<_>>(), device);
            let (queries, keys) = (places(|run| [run.queries.clone(), 0..0]), places(|run| run.keys.clone()));
            let first: Vec<usize> = runs.iter().map(|run| run.seen).collect();
            let seen = Seen::new(&first, queries.len, device);
            Part { queries, keys, seen }
        });
        Self { parts: parts.collect(), of_queries, of_keys }
    }

    fn forward(&self, projected: &Projected) -> Tensor<2> {
        let mut output = projected.queries.zeros_like();
        for part in &self.parts {
            let [queries, keys] = self.folded(part, projected);
            let weights = self.weights(part, queries, keys);
            let values = part.keys.fold(&projected.values, self.of_keys);
            let attended = weights.cast(values.dtype()).matmul(values);
            part.queries.unfold(attended, self.of_queries, &mut output);
        }
        output
    }

    fn backward(&self, projected: Projected, d_output: Tensor<2>) -> [Tensor<2>; 3] {
        // A key's gradient has a part from every run that sees it: summed in f32.
        let zeros = |like: &Tensor<2>| Tensor::zeros(like.dims(), (&like.device(), DType::F32));
        let mut d_queries = projected.queries.zeros_like();
        let (mut d_keys, mut d_values) = (zeros(&projected.keys), zeros(&projected.values));
        for part in &self.parts {
            let [queries, keys] = self.folded(part, &projected);
            let weights = self.weights(part, queries.clone(), keys.clone());
            let values = part.keys.fold(&projected.values, self.of_keys);
            let d_attended = part.queries.fold(&d_output, self.of_queries);
            let dtype = values.dtype();
            let d_weights = d_attended.clone().matmul(values.swap_dims(2, 3));
            let d_scores = part.seen.backward(weights.clone(), d_weights, self.scale()).cast(dtype);
            part.keys.unfold(weights.cast(dtype).swap_dims(2, 3).matmul(d_attended), self.of_keys, &mut d_values);

            part.keys.unfold(d_scores.clone().swap_dims(2, 3).matmul(queries), self.of_keys, &mut d_keys);
            part.queries.unfold(d_scores.matmul(keys), self.of_queries, &mut d_queries);
        }
        let dtype = projected.queries.dtype();
        [d_queries, d_keys.cast(dtype), d_values.cast(dtype)]
    }

    /// A part's queries and keys.
    fn folded(&self, part: &Part, projected: &Projected) -> [Tensor<4>; 2] {
        let queries = part.queries.fold(&projected.queries, self.of_queries);
        [queries, part.keys.fold(&projected.keys, self.of_keys)]
    }

    /// `[rows, kv_heads, group · queries, keys]`, in f32.
    fn weights(&self, part: &Part, queries: Tensor<4>, keys: Tensor<4>) -> Tensor<4> {
        part.seen.softmax(queries.matmul(keys.swap_dims(2, 3)), self.scale())
    }

    fn scale(&self) -> f32 {
        (self.of_queries.head_dim as f32).sqrt().recip()
    }
}
