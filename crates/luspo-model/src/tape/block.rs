//! The two halves of a block: what each leaves behind, and the way back through it.

use burn::tensor::Tensor;

use super::attention::Projected;
use super::{Gradients, Pass, swiglu};
use crate::modeling::Qwen2DecoderLayer;

/// What a block leaves behind.
pub(super) struct Activations {
    pub attended: Attended,
    pub fed: Fed,
}

/// Of a block's attention.
pub(super) struct Attended {
    /// The block's input.
    pub x: Tensor<2>,
    normed: Tensor<2>,
    projected: Projected,
    /// What the heads say, before it is projected.
    output: Tensor<2>,
}

impl Attended {
    pub fn new(layer: &Qwen2DecoderLayer, x: Tensor<2>, pass: &Pass) -> Self {
        let attention = &layer.self_attn;
        let normed = layer.input_layernorm.of_tokens(&x);
        let projected = Projected {
            queries: pass.rotation.forward(attention.q_proj.forward(normed.clone()), attention.heads),
            keys: pass.rotation.forward(attention.k_proj.forward(normed.clone()), attention.kv_heads),
            values: attention.v_proj.forward(normed.clone()),
        };
        let output = pass.attention.forward(&projected);
        Self { x, normed, projected, output }
    }

    /// What the feed-forward part reads.
    pub fn output(&self, layer: &Qwen2DecoderLayer) -> Tensor<2> {
        self.x.clone() + layer.self_attn.o_proj.forward(self.output.clone())
    }

    /// ∂L/∂x from that of the output.
    pub fn backward(
        self,
        layer: &Qwen2DecoderLayer,
        pass: &Pass,
        gradient: Tensor<2>,
        gradients: &mut Gradients,
    ) -> Tensor<2> {
        let Self { x, normed, projected, output } = self;
        let attention = &layer.self_attn;
        let d_output = attention.o_proj.backward(&output, &gradient, None, gradients);
        let [d_queries, d_keys, d_values] = pass.attention.backward(projected, d_output);
        let d_queries = pass.rotation.backward(d_queries, attention.heads);
        let d_keys = pass.rotation.backward(d_keys, attention.kv_heads);
        let d_normed = attention.q_proj.backward(&normed, &d_queries, None, gradients);
        let d_normed = attention.k_proj.backward(&normed, &d_keys, Some(d_normed), gradients);
        let d_normed = attention.v_proj.backward(&normed, &d_values, Some(d_normed), gradients);
        layer.input_layernorm.backward(&x, &d_normed, gradient, gradients)
    }
}

/// Of a block's feed-forward part.
pub(crate) struct Fed {
    x: Tensor<2>,
    normed: Tensor<2>,
    gate: Tensor<2>,
    up: Tensor<2>,
}

impl Fed {
    pub(crate) fn new(layer: &Qwen2DecoderLayer, x: Tensor<2>) -> Self {
        let normed = layer.post_attention_layernorm.of_tokens(&x);
        let gate = layer.mlp.gate_proj.forward(normed.clone());
        let up = layer.mlp.up_proj.forward(normed.clone());
        Self { x, normed, gate, up }
    }

    /// What the next block reads.
    pub(crate) fn output(&self, layer: &Qwen2DecoderLayer) -> Tensor<2> {
        self.x.clone() + layer.mlp.down_proj.forward(swiglu::forward(&self.gate, &self.up))
    }

    /// ∂L/∂x from that of the output.
    pub(super) fn backward(
        self,
        layer: &Qwen2DecoderLayer,
        gradient: Tensor<2>,
        gradients: &mut Gradients,
    ) -> Tensor<2> {
        let Self { x, normed, gate, up } = self;
        let product = swiglu::forward(&gate, &up);
        let d_product = layer.mlp.down_proj.backward(&product, &gradient, None, gradients);
        drop(product);
        let (d_gate, d_up) = swiglu::backward(gate, up, &d_product);
        drop(d_product);
        let d_normed = layer.mlp.gate_proj.backward(&normed, &d_gate, None, gradients);
        drop(d_gate);
        let d_normed = layer.mlp.up_proj.backward(&normed, &d_up, Some(d_normed), gradients);
        layer.post_attention_layernorm.backward(&x, &d_normed, gradient, gradients)
    }
}
