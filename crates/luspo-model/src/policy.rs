//! The model as a policy: log-probs of responses, and the gradient of any function of them.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use crate::batch::ResponseBatch;
use crate::head::{Head, HeadGradients, HeadOptions, PackedGradients, PackedStats, TokenStats};
use crate::modeling::Qwen2ForCausalLM;
use crate::trunk::{self, Pass};

impl Qwen2ForCausalLM {
    /// Log-probs (and the other statistics that were asked for) of every response token. Keeps no graph, on either view
    /// of the model.
    pub fn response_stats(&self, batch: &ResponseBatch, options: &HeadOptions) -> TokenStats {
        let model = self.plain();
        let hidden = model.model.packed_hidden(batch);
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

        let pass = Pass::record(&self.model, &plain.model, batch);
        let packed = pass.hidden();
        let (stats, last) = head.stats(&packed, targets);
        let (d_log_probs, d_entropy) = objective(&spread(batch, stats));
        assert!(
            options.entropy || d_entropy.is_none(),
            "an entropy gradient without entropy: set HeadOptions::entropy"
        );
        let upstream = PackedGradients {
            log_probs: batch.pack_tokens(d_log_probs.inner()),
            entropy: d_entropy.map(|gradient| batch.pack_tokens(gradient.inner())),
        };
        let HeadGradients { hidden: d_hidden, vocabulary } = head.backward(&packed, targets, &upstream, last);
        drop(packed);

        let mut all = pass.backward(&self.model, &plain.model, d_hidden);
        let (id, _) = plain.vocabulary();
        let vocabulary = match all.remove::<2>(id) {
            Some(as_embedding) => as_embedding + vocabulary,
            None => vocabulary,
        };
        all.register(id, vocabulary);
        all
    }

    /// Adds the gradients of `new` to those of `into`, parameter by parameter.
    pub fn accumulate(&self, into: &mut GradientsParams, new: GradientsParams) {
        trunk::accumulate(self, into, new);
    }
}

fn spread(batch: &ResponseBatch, stats: PackedStats) -> TokenStats {
    let spread = |packed| batch.spread_tokens(packed);
    TokenStats {
        log_probs: spread(stats.log_probs),
        entropy: stats.entropy.map(spread),
        sum_pi_squared: stats.sum_pi_squared.map(spread),
    }
}
