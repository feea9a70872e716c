//! Causal attention over packed tokens, a part at a time. The weights are kept for the backward pass, or computed again.
//!
//! ```text
//! P = softmax(Q Kᵀ / √d),  O = P V        ∂V = Pᵀ ∂O,  ∂P = ∂O Vᵀ,  ∂Q = ∂S K,  ∂K = ∂Sᵀ Q
//! ```

use burn::tensor::{DType, Tensor};

use super::layout::{Heads, Places};
use super::parts::parts;
use super::softmax::Seen;
use crate::backend::is_host;
use crate::batch::Span;
use crate::host;
use crate::modeling::Qwen2Model;

/// As many scores exist at once, those of padding included: 8 MB in host memory, which stay in the cache, elsewhere 512 MB,
/// which keep a GPU busy. A run of `attention_chunk` queries may have more.
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
pub(super) struct Attention {
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
        let embedding = trunk.embed_tokens.weight.val();
        let (on_host, device) = (host::serves(&embedding), embedding.device());
        let layer = &trunk.layers[0].self_attn;
        let of_keys = Heads { kv_heads: layer.kv_heads, group: 1, head_dim: trunk.head_dim() };
        let of_queries = Heads { group: layer.heads / layer.kv_heads, ..of_keys };
        let budget = SCORES[usize::from(!is_host(&device))] / of_queries.count();
        let parts = parts(spans, chunk, budget).into_iter().map(|runs| {
            let on = (!on_host).then_some(&device);
            let seen = runs.iter().map(|run| run.seen).collect();
            let queries = Places::new(runs.iter().map(|run| [run.queries.clone(), 0..0]).collect(), on);
            let keys = Places::new(runs.into_iter().map(|run| run.keys).collect(), on);
            let seen = Seen::new(seen, queries.len, on);
            Part { queries, keys, seen }
        });
        Self { parts: parts.collect(), of_queries, of_keys }
    }

    /// Attention weights of all parts.
    pub(super) fn weights(&self) -> usize {
        let per_head = self.parts.iter().map(|part| part.queries.rows.len() * part.queries.len * part.keys.len);
        per_head.sum::<usize>() * self.of_queries.count()
    }

    /// The output, `[tokens, heads · head_dim]`, and, where they are kept, the weights of each part.
    pub(super) fn forward(&self, projected: &mut Projected, keep: bool) -> (Tensor<2>, Vec<Tensor<4>>) {
        let mut output = projected.queries.zeros_like();
        let mut kept = Vec::new();
        for part in &self.parts {
            let [queries, keys] = self.folded(part, projected);
            let weights = self.weights_of(part, queries, keys);
            let values = part.keys.fold(&mut projected.values, self.of_keys);
            let attended = weights.clone().cast(values.dtype()).matmul(values);
            part.queries.unfold(attended, self.of_queries, &mut output);
            if keep {
                kept.push(weights);
            }
        }
        (output, kept)
    }

    /// The gradients of queries, keys and values from that of the output; `kept` is what [`forward`](Self::forward) gave.
    pub(super) fn backward(
        &self,
        mut projected: Projected,
        kept: Vec<Tensor<4>>,
        mut d_output: Tensor<2>,
    ) -> [Tensor<2>; 3] {
        // A key's gradient has a part from every run that sees it: summed in f32.
        let zeros = |like: &Tensor<2>| Tensor::zeros(like.dims(), (&like.device(), DType::F32));
        let mut d_queries = projected.queries.zeros_like();
        let (mut d_keys, mut d_values) = (zeros(&projected.keys), zeros(&projected.values));
        let mut kept = kept.into_iter();
        for part in &self.parts {
            let [queries, keys] = self.folded(part, &mut projected);
            let mut weights = kept.next().unwrap_or_else(|| self.weights_of(part, queries.clone(), keys.clone()));
            let values = part.keys.fold(&mut projected.values, self.of_keys);
            let d_attended = part.queries.fold(&mut d_output, self.of_queries);
            let dtype = values.dtype();
            let d_weights = d_attended.clone().matmul(values.swap_dims(2, 3));
            let d_scores = part.seen.backward(&mut weights, d_weights, self.scale()).cast(dtype);
            part.keys.unfold(weights.cast(dtype).swap_dims(2, 3).matmul(d_attended), self.of_keys, &mut d_values);

            part.keys.unfold(d_scores.clone().swap_dims(2, 3).matmul(queries), self.of_keys, &mut d_keys);
            part.queries.unfold(d_scores.matmul(keys), self.of_queries, &mut d_queries);
        }
        let dtype = projected.queries.dtype();
        [d_queries, d_keys.cast(dtype), d_values.cast(dtype)]
    }

    /// A part's queries and keys.
    fn folded(&self, part: &Part, projected: &mut Projected) -> [Tensor<4>; 2] {
        let queries = part.queries.fold(&mut projected.queries, self.of_queries);
        [queries, part.keys.fold(&mut projected.keys, self.of_keys)]
    }

    /// `[rows, kv_heads, group · queries, keys]`, in f32.
    fn weights_of(&self, part: &Part, queries: Tensor<4>, keys: Tensor<4>) -> Tensor<4> {
        part.seen.softmax(queries.matmul(keys.swap_dims(2, 3)), self.scale())
    }

    fn scale(&self) -> f32 {
        (self.of_queries.head_dim as f32).sqrt().recip()
    }
}
