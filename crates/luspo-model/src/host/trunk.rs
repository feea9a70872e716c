//! The trunk's forward pass, remembering, and its backward pass by hand.
//!
//! Each step backward is the transpose of one forward, in the opposite order; the names are those of the forward pass.
//! Everything is `[tokens, width]` except inside attention.

use burn::module::{Param, ParamId};
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use super::heads::{Heads, copy};
use super::rope::Rotation;
use super::{attention, norm, swiglu};
use crate::batch::ResponseBatch;
use crate::modeling::{Qwen2DecoderLayer, Qwen2Model};
use crate::norm::RmsNorm;

/// The blocks' attention weights are kept for the backward pass if they are no more than this together (128 MB);
/// otherwise they are computed again.
const KEPT_WEIGHTS: usize = 1 << 25;

/// What a forward pass leaves for its backward pass.
pub(crate) struct Tape {
    ids: Tensor<1, Int>,
    /// Which tokens went through the last feed-forward part.
    positions: Tensor<1, Int>,
    blocks: Vec<(Attended, Fed)>,
    /// What the last norm saw.
    last: Tensor<2>,
    heads: Heads,
    rotation: Rotation,
}

/// Of a block's attention.
struct Attended {
    x: Tensor<2>,
    normed: Tensor<2>,
    attention: attention::Tape,
    output: Tensor<2>,
}

/// Of a block's feed-forward part.
struct Fed {
    x: Tensor<2>,
    normed: Tensor<2>,
    gate: Tensor<2>,
    up: Tensor<2>,
}

/// The states that predict response tokens, `[tokens, hidden]`.
pub(crate) fn forward(trunk: &Qwen2Model, batch: &ResponseBatch) -> Tensor<2> {
    let mut last = run(trunk, batch, 0, |_| {}).last;
    norm::forward(&trunk.norm, &mut last)
}

/// A pass up to the last norm; `keep` is handed what each block leaves, with at most `weights` attention weights in all.
fn run(trunk: &Qwen2Model, batch: &ResponseBatch, weights: usize, mut keep: impl FnMut((Attended, Fed))) -> Tape {
    let device = trunk.embed_tokens.weight.device();
    let ids = batch.ids(&device);
    let [rows, seq] = ids.dims();
    let attention = &trunk.layers[0].self_attn;
    let (kv_heads, head_dim) = (attention.kv_heads, trunk.head_dim());
    let heads = Heads { batch: rows, seq, kv_heads, group: attention.heads / kv_heads, head_dim };
    let rotation = Rotation::new(seq, head_dim, trunk.rope_theta);
    let positions = batch.positions(&device);
    let keep_weights = rows * attention.heads * seq * seq * trunk.layers.len() <= weights;

    let mut x = trunk.embed_tokens.forward(ids.clone()).reshape([rows * seq, attention.heads * head_dim]);
    for (index, layer) in trunk.layers.iter().enumerate() {
        let (mut between, attended) = attend(layer, x, heads, &rotation, keep_weights);
        if index + 1 == trunk.layers.len() {
            between = between.select(0, positions.clone());
        }
        let (sum, fed) = feed_forward(layer, between);
        keep((attended, fed));
        x = sum;
    }
    Tape { ids: ids.reshape([rows * seq]), positions, blocks: Vec::new(), last: x, heads, rotation }
}

impl Tape {
    /// As [`forward`], with the tape of how the states came about.
    pub(crate) fn record(trunk: &Qwen2Model, batch: &ResponseBatch) -> (Tensor<2>, Self) {
        let mut blocks = Vec::with_capacity(trunk.layers.len());
        let mut tape = run(trunk, batch, KEPT_WEIGHTS, |block| blocks.push(block));
        tape.blocks = blocks;
        (norm::forward(&trunk.norm, &mut tape.last), tape)
    }

    /// The gradient of every parameter of the trunk, given that of the states.
    pub(crate) fn backward(self, trunk: &Qwen2Model, d_hidden: Tensor<2>) -> GradientsParams {
        let Self { ids, positions, blocks, last, heads, rotation } = self;
        let mut gradients = Gradients(GradientsParams::new());
        let none = d_hidden.zeros_like();
        let mut gradient = gradients.of_norm(&trunk.norm, last, d_hidden, none);
        for (index, (layer, (attended, fed))) in trunk.layers.iter().zip(blocks).enumerate().rev() {
            gradient = gradients.of_feed_forward(layer, fed, gradient);
            if index + 1 == trunk.layers.len() {
                let all = attended.x.zeros_like();
                gradient = all.select_assign(0, positions.clone(), gradient, IndexingUpdateOp::Add);
            }
            gradient = gradients.of_attention(layer, attended, gradient, heads, &rotation);
        }
        let embedding = trunk.embed_tokens.weight.val().zeros_like();
        let embedding = embedding.select_assign(0, ids, gradient, IndexingUpdateOp::Add);
        gradients.register(trunk.embed_tokens.weight.id, embedding);
        gradients.0
    }
}

fn attend(
    layer: &Qwen2DecoderLayer,
    mut x: Tensor<2>,
    heads: Heads,
    rotation: &Rotation,
    keep_weights: bool,
) -> (Tensor<2>, Attended) {
    let projections = &layer.self_attn;
    let normed = norm::forward(&layer.input_layernorm, &mut x);
    let scale = (heads.head_dim as f32).sqrt().recip();
    let of_keys = Heads { group: 1, ..heads };
    let queries = heads.fold(projections.q_proj.forward(normed.clone()), |position, x, out| {
        rotation.forward(position, scale, x, out);
    });
    let keys = of_keys.fold(projections.k_proj.forward(normed.clone()), |position, x, out| {
        rotation.forward(position, 1.0, x, out);
    });
    let values = of_keys.fold(projections.v_proj.forward(normed.clone()), copy);

    let (output, attention) = attention::Tape::record(queries, keys, values, keep_weights);
    let output = heads.unfold(output, copy);
    let sum = x.clone() + projections.o_proj.forward(output.clone());
    (sum, Attended { x, normed, attention, output })
}

fn feed_forward(layer: &Qwen2DecoderLayer, mut x: Tensor<2>) -> (Tensor<2>, Fed) {
    let normed = norm::forward(&layer.post_attention_layernorm, &mut x);
    let mut gate = layer.mlp.gate_proj.forward(normed.clone());
    let mut up = layer.mlp.up_proj.forward(normed.clone());
    let product = swiglu::forward(&mut gate, &mut up);
    let sum = x.clone() + layer.mlp.down_proj.forward(product);
    (sum, Fed { x, normed, gate, up })
}

/// Takes each part's ∂L/∂output, registers its parameters' gradients, and returns ∂L/∂input.
struct Gradients(GradientsParams);

impl Gradients {
    fn of_attention(
        &mut self,
        layer: &Qwen2DecoderLayer,
        tape: Attended,
        gradient: Tensor<2>,
        heads: Heads,
        rotation: &Rotation,
    ) -> Tensor<2> {
        let Attended { x, normed, attention, output } = tape;
        let projections = &layer.self_attn;
        let scale = (heads.head_dim as f32).sqrt().recip();
        let of_keys = Heads { group: 1, ..heads };

        let d_output = heads.fold(self.of_linear(&projections.o_proj, output, gradient.clone()), copy);
        let [d_queries, d_keys, d_values] = attention.backward(&d_output);
        let d_queries = heads.unfold(d_queries, |position, x, out| rotation.backward(position, scale, x, out));
        let d_keys = of_keys.unfold(d_keys, |position, x, out| rotation.backward(position, 1.0, x, out));
        let d_normed = self.of_linear(&projections.q_proj, normed.clone(), d_queries)
            + self.of_linear(&projections.k_proj, normed.clone(), d_keys)
            + self.of_linear(&projections.v_proj, normed, of_keys.unfold(d_values, copy));
        self.of_norm(&layer.input_layernorm, x, d_normed, gradient)
    }

    fn of_feed_forward(&mut self, layer: &Qwen2DecoderLayer, tape: Fed, gradient: Tensor<2>) -> Tensor<2> {
        let Fed { x, normed, mut gate, mut up } = tape;
        let product = swiglu::forward(&mut gate, &mut up);
        let d_product = self.of_linear(&layer.mlp.down_proj, product, gradient.clone());
        let (d_gate, d_up) = swiglu::backward(gate, up, d_product);
        let d_normed = self.of_linear(&layer.mlp.gate_proj, normed.clone(), d_gate)
            + self.of_linear(&layer.mlp.up_proj, normed, d_up);
        self.of_norm(&layer.post_attention_layernorm, x, d_normed, gradient)
    }

    /// The input's gradient is added to `sum`, that of the path around the norm.
    fn of_norm(&mut self, norm: &RmsNorm, x: Tensor<2>, gradient: Tensor<2>, sum: Tensor<2>) -> Tensor<2> {
        let (sum, d_weight) = norm::backward(norm, x, gradient, sum);
        self.register(norm.weight.id, d_weight);
        sum
    }

    fn of_linear(&mut self, linear: &Linear, x: Tensor<2>, gradient: Tensor<2>) -> Tensor<2> {
        if let Some(Param { id, .. }) = &linear.bias {
            self.register(*id, gradient.clone().sum_dim(0).squeeze_dim::<1>(0));
        }
        self.register(linear.weight.id, x.transpose().matmul(gradient.clone()));
        gradient.matmul(linear.weight.val().transpose())
    }

    fn register<const D: usize>(&mut self, id: ParamId, gradient: Tensor<D>) {
        self.0.register(id, gradient);
    }
}
