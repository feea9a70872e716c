//! The blocks of Qwen2 and their stack, named as in Hugging Face checkpoints.

use burn::module::{Module, Param};
use burn::nn::Embedding;
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Int, Tensor};

use crate::attention::{Projected, Qwen2Attention, attend};
use crate::linear::{Linear, by_transposed};
use crate::norm::RmsNorm;
use crate::rope::Rope;

/// Qwen2 with a language-model head, tied to the embedding or not.
#[derive(Module, Debug)]
pub struct Qwen2ForCausalLM {
    /// The trunk.
    pub model: Qwen2Model,
    /// The head, hidden → vocabulary; absent where the embedding serves as its matrix.
    pub lm_head: Option<Linear>,
}

/// Embedding, blocks and the last norm.
#[derive(Module, Debug)]
pub struct Qwen2Model {
    /// `[vocab, hidden]`
    pub embed_tokens: Embedding,
    /// The blocks, first to last.
    pub layers: Vec<Qwen2DecoderLayer>,
    /// The norm before the head.
    pub norm: RmsNorm,
    pub(crate) rope_theta: f64,
}

/// One block: attention and feed-forward, each behind a norm and added to its input.
#[derive(Module, Debug)]
pub struct Qwen2DecoderLayer {
    /// The attention.
    pub self_attn: Qwen2Attention,
    /// The feed-forward part.
    pub mlp: Qwen2Mlp,
    /// The norm before the attention.
    pub input_layernorm: RmsNorm,
    /// The norm before the feed-forward part.
    pub post_attention_layernorm: RmsNorm,
}

/// `down(silu(gate(x)) · up(x))`
#[derive(Module, Debug)]
pub struct Qwen2Mlp {
    /// hidden → intermediate
    pub gate_proj: Linear,
    /// hidden → intermediate
    pub up_proj: Linear,
    /// intermediate → hidden
    pub down_proj: Linear,
}

impl Qwen2Mlp {
    /// `[batch, seq, hidden]` → `[batch, seq, hidden]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.down_proj.forward(silu(self.gate_proj.forward(x.clone())) * self.up_proj.forward(x))
    }
}

impl Qwen2DecoderLayer {
    /// One block over `[batch, seq, hidden]`; `bias` is the attention's.
    fn forward(&self, x: Tensor<3>, rope: &Rope, bias: &Tensor<4>) -> Tensor<3> {
        let Projected { queries, keys, values } = self.self_attn.project(self.input_layernorm.forward(x.clone()), rope);
        let x = x + self.self_attn.output(attend(queries, keys, values, Some(bias.clone())));
        x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x))
    }
}

impl Qwen2Model {
    pub(crate) fn head_dim(&self) -> usize {
        let [_, hidden] = self.embed_tokens.weight.dims();
        hidden / self.layers[0].self_attn.heads
    }

    /// The number type that is computed with. Frozen matrices may be held in a shorter one.
    pub(crate) fn dtype(&self) -> DType {
        self.norm.weight.dtype()
    }

    /// `[tokens]` → `[tokens, hidden]`
    pub(crate) fn embed(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        self.embed_tokens.weight.val().select(0, ids).cast(self.dtype())
    }

    /// The whole stack over right-padded ids, `[batch, seq]` → `[batch, seq, hidden]`.
    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, seq] = ids.dims();
        let device = ids.device().without_autodiff();
        let rope = Rope::new(seq, self.head_dim(), self.rope_theta, &device);
        let bias = self.layers[0].self_attn.causal_bias(seq, &device);
        let mut x = self.embed_tokens.forward(ids).cast(self.dtype());
        for layer in &self.layers {
            x = layer.forward(x, &rope, &bias);
        }
        self.norm.forward(x)
    }
}

impl Qwen2ForCausalLM {
    /// Where the parameters are, with autodiff if they are trained.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.device()
    }

    /// Columns of the logits.
    pub fn vocab_size(&self) -> usize {
        let [vocab, _] = self.model.embed_tokens.weight.dims();
        vocab
    }

    /// Hidden states after the last norm, `[batch, seq]` → `[batch, seq, hidden]`.
    ///
    /// Rows are padded on the right: positions count from the left, and since no token looks ahead, what stands in the
    /// padding reaches no real position.
    pub fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.forward(ids)
    }

    /// The next token's logits at each of the given positions, `[tokens, hidden]` → `[tokens, vocab]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        by_transposed(&hidden, &self.vocabulary().val(), None)
    }

    /// The view without autodiff: itself where there is none. Shares storage either way.
    pub(crate) fn plain(&self) -> Self {
        if self.device().is_autodiff() { self.valid() } else { self.clone() }
    }

    /// The matrix that makes logits, `[vocab, hidden]`: the head's weight, or the embedding.
    pub(crate) fn vocabulary(&self) -> &Param<Tensor<2>> {
        match &self.lm_head {
            Some(head) => &head.weight,
            None => &self.model.embed_tokens.weight,
        }
    }
}
