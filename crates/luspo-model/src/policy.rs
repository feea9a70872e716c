//! The model as a policy: log-probs of responses, and the gradient of any function of them.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::batch::ResponseBatch;
use crate::head::{Head, HeadGradients, HeadOptions, PackedStats, TokenStats};
use crate::host::{self, Tape};
use crate::modeling::Qwen2ForCausalLM;

impl Qwen2ForCausalLM {
    /// Log-probs (and entropy, if asked for) of every response token. Keeps no graph, on either view of the model.
    pub fn response_stats(&self, batch: &ResponseBatch, options: &HeadOptions) -> TokenStats {
        let model = self.plain();
        let hidden = model.packed_hidden(batch);
        let (stats, _) = Head::new(&model, options).stats(&hidden, batch.targets());
        spread(batch, stats)
    }

    /// The gradient with respect to all parameters of a loss that is a function of the responses' statistics.
    ///
    /// `objective` is called once with the statistics of the whole batch, and returns ∂loss/∂log_probs and
    /// ∂loss/∂entropy, `[batch, seq]` each; whatever stands in their padding is ignored. The loss itself is the caller's
    /// business.
    ///
    /// The trunk runs once, under autodiff or, on the CPU, with a backward pass by hand. The head runs over packed
    /// response positions, `options.chunk` tokens at a time: once for the statistics, and, but for the last chunk, again
    /// for its part of the backward pass. A tied embedding's gradient is the sum of its parts as embedding and as head.
    ///
    /// # Panics
    /// If the parameters are not on an autodiff device, or `objective` returns a gradient of the entropy that was not
    /// asked for.
    pub fn response_gradients(
        &self,
        batch: &ResponseBatch,
        options: &HeadOptions,
        objective: impl FnOnce(&TokenStats) -> (Tensor<2>, Option<Tensor<2>>),
    ) -> GradientsParams {
        assert!(self.device().is_autodiff(), "gradients need a model on an autodiff device (device.autodiff())");
        let plain = self.valid();
        let head = Head::new(&plain, options);
        let targets = batch.targets();

        let trunk = Trunk::record(self, &plain, batch);
        let packed = trunk.hidden();
        let (stats, last) = head.stats(&packed, targets);
        let (d_log_probs, d_entropy) = objective(&spread(batch, stats));
        assert!(
            options.entropy || d_entropy.is_none(),
            "an entropy gradient without entropy: set HeadOptions::entropy"
        );
        let upstream = PackedStats {
            log_probs: batch.pack_tokens(d_log_probs.inner()),
            entropy: d_entropy.map(|gradient| batch.pack_tokens(gradient.inner())),
        };
        let HeadGradients { hidden: d_hidden, vocabulary } = head.backward(&packed, targets, &upstream, last);
        drop(packed);

        let mut all = trunk.backward(self, &plain, d_hidden);
        let (id, _) = plain.vocabulary();
        let vocabulary = match all.remove::<2>(id) {
            Some(as_embedding) => as_embedding + vocabulary,
            None => vocabulary,
        };
        all.register(id, vocabulary);
        all
    }

    /// The states that predict response tokens, `[tokens, hidden]`, with a graph on the autodiff view.
    fn packed_hidden(&self, batch: &ResponseBatch) -> Tensor<2> {
        if host::serves(&self.model.embed_tokens.weight.val()) {
            return host::forward(&self.model, batch);
        }
        let device = self.device().without_autodiff();
        self.model.forward(batch.ids(&device), Some(batch.positions(&device)), |_, _| {})
    }

    /// Adds the gradients of `new` to those of `into`, parameter by parameter.
    pub fn accumulate(&self, into: &mut GradientsParams, new: GradientsParams) {
        self.visit(&mut Accumulate { into, new });
    }
}

/// A forward pass of the trunk that can be gone back.
enum Trunk {
    /// By Burn's autodiff: the states with their graph.
    Graph(Tensor<2>),
    /// By hand: the plain states and what they came from.
    Tape(Tensor<2>, Box<Tape>),
}

impl Trunk {
    /// `model` has autodiff, `plain` is its view without.
    fn record(model: &Qwen2ForCausalLM, plain: &Qwen2ForCausalLM, batch: &ResponseBatch) -> Self {
        if host::serves(&plain.model.embed_tokens.weight.val()) {
            let (hidden, tape) = Tape::record(&plain.model, batch);
            return Self::Tape(hidden, Box::new(tape));
        }
        Self::Graph(model.packed_hidden(batch))
    }

    /// The plain states that predict response tokens, `[tokens, hidden]`.
    fn hidden(&self) -> Tensor<2> {
        match self {
            Self::Graph(hidden) => hidden.clone().inner(),
            Self::Tape(hidden, _) => hidden.clone(),
        }
    }

    /// The gradients of the trunk's parameters, given that of the states.
    fn backward(self, model: &Qwen2ForCausalLM, plain: &Qwen2ForCausalLM, d_hidden: Tensor<2>) -> GradientsParams {
        match self {
            // ∂/∂θ Σ hidden · g is what g pulls back through the blocks.
            Self::Graph(hidden) => GradientsParams::from_grads((hidden * d_hidden).sum().backward(), model),
            Self::Tape(_, tape) => tape.backward(&plain.model, d_hidden),
        }
    }
}

fn spread(batch: &ResponseBatch, stats: PackedStats) -> TokenStats {
    TokenStats {
        log_probs: batch.spread_tokens(stats.log_probs),
        entropy: stats.entropy.map(|entropy| batch.spread_tokens(entropy)),
    }
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
