//! Causal attention, a few rows of the batch at a time. The weights are kept for the backward pass, or computed again.
//!
//! ```text
//! S = Q Kᵀ,  P = softmax(S),  O = P V        ∂V = Pᵀ ∂O,  ∂P = ∂O Vᵀ,  ∂Q = ∂S K,  ∂K = ∂Sᵀ Q
//! ```

use burn::tensor::{Tensor, s};

use super::softmax;

/// As many scores are held at once, or those of one row of the batch: 8 MB, which stay in the cache.
const SCORES: usize = 1 << 21;

/// What the output came from.
pub(super) struct Tape {
    /// `[batch, kv_heads, group · seq, head_dim]`, already scaled.
    queries: Tensor<4>,
    /// `[batch, kv_heads, seq, head_dim]`
    keys: Tensor<4>,
    /// `[batch, kv_heads, seq, head_dim]`
    values: Tensor<4>,
    /// Part by part, or nothing.
    weights: Vec<Tensor<4>>,
}

impl Tape {
    /// The output, `[batch, kv_heads, group · seq, head_dim]`, of scaled queries of that shape. `keep` says whether the
    /// weights are kept.
    pub(super) fn record(queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, keep: bool) -> (Tensor<4>, Self) {
        let mut tape = Self { queries, keys, values, weights: Vec::new() };
        let mut outputs = Vec::new();
        for part in tape.parts() {
            let weights = tape.weights(&part);
            outputs.push(weights.clone().matmul(part.of(&tape.values)));
            if keep {
                tape.weights.push(weights);
            }
        }
        (Tensor::cat(outputs, 0), tape)
    }

    /// The gradients of queries, keys and values from that of the output.
    pub(super) fn backward(mut self, d_output: &Tensor<4>) -> [Tensor<4>; 3] {
        let mut kept = std::mem::take(&mut self.weights).into_iter();
        let mut gradients: [Vec<Tensor<4>>; 3] = Default::default();
        for part in self.parts() {
            let [queries, keys, values, d_output] =
                [&self.queries, &self.keys, &self.values, d_output].map(|all| part.of(all));
            let mut weights = kept.next().unwrap_or_else(|| self.weights(&part));
            let d_weights = d_output.clone().matmul(values.swap_dims(2, 3));
            let d_scores = softmax::backward(&mut weights, d_weights);
            let d_keys = d_scores.clone().swap_dims(2, 3).matmul(queries);
            let d_values = weights.swap_dims(2, 3).matmul(d_output);
            for (all, part) in gradients.iter_mut().zip([d_scores.matmul(keys), d_keys, d_values]) {
                all.push(part);
            }
        }
        gradients.map(|parts| Tensor::cat(parts, 0))
    }

    fn weights(&self, part: &Part) -> Tensor<4> {
        softmax::forward(part.of(&self.queries).matmul(part.of(&self.keys).swap_dims(2, 3)))
    }

    fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let ([batch, kv_heads, rows, _], [_, _, seq, _]) = (self.queries.dims(), self.keys.dims());
        let size = (SCORES / (kv_heads * rows * seq)).max(1);
        (0..batch).step_by(size).map(move |from| Part { from, to: (from + size).min(batch) })
    }
}

/// Some rows of the batch.
struct Part {
    from: usize,
    to: usize,
}

impl Part {
    fn of(&self, all: &Tensor<4>) -> Tensor<4> {
        all.clone().slice(s![self.from..self.to, .., .., ..])
    }
}
