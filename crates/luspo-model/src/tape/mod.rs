//! The trunk's forward pass over packed tokens, remembering, and its backward pass by hand, on every backend.
//!
//! Each step backward is the transpose of one forward, in the opposite order; the names are those of the forward pass.
//! Everything is `[tokens, width]` except inside attention, where alone rows are padded. A pass by hand holds what it
//! must and no more, computes again what it was told not to hold, and sums gradients in f32; Burn's autodiff does the
//! same to tell whether it is right, in the tests.

mod attention;
mod block;
mod gradients;
mod layout;
mod parts;
mod rotation;
mod softmax;
mod swiglu;

#[cfg(test)]
mod tests;

use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use attention::Attention;
use block::{Activations, Attended};
use rotation::Rotation;

use crate::batch::ResponseBatch;
use crate::host;
use crate::modeling::{Qwen2DecoderLayer, Qwen2Model};
use crate::options::MemoryOptions;

pub(crate) use attention::SCORES;
pub(crate) use block::Fed;
pub(crate) use gradients::Gradients;
pub(crate) use layout::Heads;
pub(crate) use swiglu::GATED_TOKENS;

/// What a forward pass leaves for its backward pass.
pub(crate) struct Tape<'a> {
    pass: Pass<'a>,
    blocks: Vec<Kept>,
    /// What the last norm saw.
    last: Tensor<2>,
}

/// Of a block.
enum Kept {
    All(Box<Activations>),
    /// Its input.
    Input(Box<Tensor<2>>),
}

/// What is the same in every block.
struct Pass<'a> {
    batch: &'a ResponseBatch,
    /// Which tokens go through the last feed-forward part; nobody looks at the others behind it.
    positions: Tensor<1, Int>,
    attention: Attention,
    rotation: Rotation<'a>,
}

/// The states that predict response tokens, `[responses, hidden]`. `trunk` is plain, without autodiff.
pub(crate) fn forward(trunk: &Qwen2Model, batch: &ResponseBatch, memory: &MemoryOptions) -> Tensor<2> {
    trunk.norm.of_tokens(&Pass::new(trunk, batch, memory).run(trunk, |_| {}))
}

impl<'a> Pass<'a> {
    fn new(trunk: &Qwen2Model, batch: &'a ResponseBatch, memory: &MemoryOptions) -> Self {
        memory.check();
        let norm = trunk.norm.weight.val();
        let (on_host, device) = (host::serves(&norm), norm.device());
        let on = (!on_host).then_some(&device);
        Self {
            batch,
            positions: batch.positions(&device),
            attention: Attention::new(trunk, batch.spans(), memory.attention_chunk),
            rotation: Rotation::new(batch.places(), trunk.head_dim(), trunk.rope_theta, on),
        }
    }

    /// The states behind the last block; `keep` is handed each block's activations.
    fn run(&self, trunk: &Qwen2Model, mut keep: impl FnMut(Activations)) -> Tensor<2> {
        let mut x = trunk.embed(self.batch.ids_on(&trunk.norm.weight.device()));
        for (index, layer) in trunk.layers.iter().enumerate() {
            let activations = self.block(layer, x, index + 1 == trunk.layers.len());
            x = activations.fed.output(layer);
            keep(activations);
        }
        x
    }

    /// A block up to where its output is one product away.
    fn block(&self, layer: &Qwen2DecoderLayer, x: Tensor<2>, last: bool) -> Activations {
        let attended = Attended::new(layer, x, self);
        let mut between = attended.output(layer);
        if last {
            between = between.select(0, self.positions.clone());
        }
        Activations { attended, fed: Fed::new(layer, between) }
    }
}

impl<'a> Tape<'a> {
    /// As [`forward`], with the tape of how the states came about.
    pub(crate) fn record(trunk: &Qwen2Model, batch: &'a ResponseBatch, memory: &MemoryOptions) -> (Tensor<2>, Self) {
        let pass = Pass::new(trunk, batch, memory);
        let mut blocks = Vec::with_capacity(trunk.layers.len());
        let last = pass.run(trunk, |activations| {
            blocks.push(match memory.activation_checkpointing {
                true => Kept::Input(Box::new(activations.attended.x)),
                false => Kept::All(Box::new(activations)),
            });
        });
        (trunk.norm.of_tokens(&last), Self { pass, blocks, last })
    }

    /// Adds the gradient of every parameter of the trunk, given that of the states.
    pub(crate) fn backward(self, trunk: &Qwen2Model, d_hidden: Tensor<2>, gradients: &mut Gradients) {
        let Self { pass, blocks, last } = self;
        let none = d_hidden.zeros_like();
        let mut gradient = trunk.norm.backward(&last, &d_hidden, none, gradients);
        for (index, (layer, kept)) in trunk.layers.iter().zip(blocks).enumerate().rev() {
            let last = index + 1 == trunk.layers.len();
            let Activations { attended, fed } = match kept {
                Kept::All(activations) => *activations,
                Kept::Input(x) => pass.block(layer, *x, last),
            };
            gradient = fed.backward(layer, gradient, gradients);
            if last {
                let all = attended.x.zeros_like();
                gradient = all.select_assign(0, pass.positions.clone(), gradient, IndexingUpdateOp::Add);
            }
            gradient = attended.backward(layer, &pass, gradient, gradients);
        }
        gradients.add_rows(&trunk.embed_tokens.weight, pass.batch.ids(), gradient);
    }
}
