//! The trunk as policy and value model share it: states that predict response tokens, and the way back from them.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::batch::ResponseBatch;
use crate::host::{self, Tape};
use crate::modeling::Qwen2Model;

impl Qwen2Model {
    /// The states that predict response tokens, `[tokens, hidden]`, with a graph on the autodiff view.
    pub(crate) fn packed_hidden(&self, batch: &ResponseBatch) -> Tensor<2> {
        let embedding = self.embed_tokens.weight.val();
        if host::serves(&embedding) {
            return host::forward(self, batch);
        }
        let device = embedding.device().without_autodiff();
        self.forward(batch.ids(&device), Some(batch.positions(&device)), |_, _| {})
    }
}

/// A forward pass of the trunk that can be gone back.
pub(crate) enum Pass {
    /// By Burn's autodiff: the states with their graph.
    Graph(Tensor<2>),
    /// By hand: the plain states and what they came from.
    Tape(Tensor<2>, Box<Tape>),
}

impl Pass {
    /// `trunk` has autodiff, `plain` is its view without.
    pub(crate) fn record(trunk: &Qwen2Model, plain: &Qwen2Model, batch: &ResponseBatch) -> Self {
        if host::serves(&plain.embed_tokens.weight.val()) {
            let (hidden, tape) = Tape::record(plain, batch);
            return Self::Tape(hidden, Box::new(tape));
        }
        Self::Graph(trunk.packed_hidden(batch))
    }

    /// The plain states that predict response tokens, `[tokens, hidden]`.
    pub(crate) fn hidden(&self) -> Tensor<2> {
        match self {
            Self::Graph(hidden) => hidden.clone().inner(),
            Self::Tape(hidden, _) => hidden.clone(),
        }
    }

    /// The gradients of the trunk's parameters, given that of the states.
    pub(crate) fn backward(self, trunk: &Qwen2Model, plain: &Qwen2Model, d_hidden: Tensor<2>) -> GradientsParams {
        match self {
            // ∂/∂θ Σ hidden · g is what g pulls back through the blocks.
            Self::Graph(hidden) => GradientsParams::from_grads((hidden * d_hidden).sum().backward(), trunk),
            Self::Tape(_, tape) => tape.backward(plain, d_hidden),
        }
    }
}

/// Adds the gradients of `new` to those of `into`, parameter by parameter of `module`.
pub(crate) fn accumulate(module: &impl Module, into: &mut GradientsParams, new: GradientsParams) {
    module.visit(&mut Accumulate { into, new });
}

struct Accumulate<'a> {
    into: &'a mut GradientsParams,
    new: GradientsParams,
}

impl ModuleVisitor for Accumulate<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(new) = self.new.remove::<D>(param.id) else { return };
        let sum = match self.into.remove::<D>(param.id) {
            Some(old) => old + new,
            None => new,
        };
        self.into.register(param.id, sum);
    }
}

#[cfg(test)]
mod tests {
    use luspo_core::{Purpose, RandomKey};

    use super::*;
    use crate::{Backend, Qwen2Config, Qwen2ForCausalLM};

    struct Flat<'a>(&'a GradientsParams, Vec<Vec<f32>>);

    impl ModuleVisitor for Flat<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push(self.0.get::<D>(param.id).unwrap().into_data().iter().collect());
        }
    }

    #[test]
    fn the_graph_and_the_tape_give_the_same_states_and_gradients() {
        for backend in [Backend::Flex, Backend::NdArray] {
            let device = backend.device().unwrap().autodiff();
            let config = Qwen2Config::new(37, 24, 40, 2, 4, 2);
            let trunk = Qwen2ForCausalLM::init(&config, RandomKey::new(3, Purpose::Init), &device).model;
            let plain = trunk.valid();
            let batch = ResponseBatch::new(&[(&[1, 2, 3], &[4, 5, 6]), (&[8], &[9, 0]), (&[10, 11], &[])]);

            let (hidden, tape) = Tape::record(&plain, &batch);
            let passes = [Pass::Graph(trunk.packed_hidden(&batch)), Pass::Tape(hidden, Box::new(tape))];
            let [graph, tape] = passes.map(|pass| {
                let hidden = pass.hidden();
                let d_hidden = hidden.clone().sin(); // differs from state to state
                let gradients = pass.backward(&trunk, &plain, d_hidden);
                let mut flat = Flat(&gradients, vec![hidden.into_data().iter().collect()]);
                trunk.visit(&mut flat);
                flat.1
            });
            assert_eq!(graph.len(), 1 + 26);
            for (graph, tape) in graph.iter().zip(&tape) {
                let largest = graph.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                for (a, b) in graph.iter().zip(tape) {
                    // Two f32 computations of the same sums in another order.
                    assert!((a - b).abs() <= 1e-5 * largest, "{a} {b}");
                }
            }
        }
    }
}
