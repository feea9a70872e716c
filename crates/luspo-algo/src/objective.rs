//! What is minimised: a policy loss, and beside it a KL and an entropy term.
//!
//! ```text
//! L(θ) = L_policy(θ) + kl_loss_coef · agg(KL) − entropy_coeff · agg(H)
//! ```
//!
//! Both terms use the policy loss's aggregation, unless the entropy term is given another; under LUSPO they are sums
//! over a sequence's tokens.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch, zero_padding};
use crate::error::AlgoError;
use crate::filters::{Filtered, TokenFilters};
use crate::kl::KlTerm;
use crate::metric::Metric;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput};

/// A policy loss with the terms beside it.
#[derive(Clone)]
pub struct Objective {
    /// The policy loss.
    pub policy: Arc<dyn PolicyLoss>,
    /// The KL term, if the policy is to stay near a reference.
    pub kl: Option<KlTerm>,
    /// Factor of the entropy bonus; 0 for none.
    pub entropy_coeff: f64,
    /// What a token weighs in the entropy bonus; `None` for what it weighs in the policy loss, as in verl. TRL's is
    /// always [`Aggregation::TokenMean`].
    pub entropy_aggregation: Option<Aggregation>,
    /// Which tokens the policy loss learns from.
    pub filters: TokenFilters,
}

impl Objective {
    /// The policy loss alone.
    pub fn new(policy: Arc<dyn PolicyLoss>) -> Self {
        Self { policy, kl: None, entropy_coeff: 0.0, entropy_aggregation: None, filters: TokenFilters::default() }
    }

    /// Whether the numbers beside the policy loss are possible.
    ///
    /// # Errors
    /// If the KL's coefficient is negative or not finite, the entropy's not finite, or a filter's setting impossible.
    pub fn check(&self) -> Result<(), AlgoError> {
        if let Some(KlTerm { coef, .. }) = self.kl.filter(|kl| !(kl.coef.is_finite() && kl.coef >= 0.0)) {
            return Err(AlgoError::OutOfRange { key: "kl_loss_coef", value: coef, range: "finite and at least 0" });
        }
        if !self.entropy_coeff.is_finite() {
            return Err(AlgoError::OutOfRange { key: "entropy_coeff", value: self.entropy_coeff, range: "finite" });
        }
        self.filters.check()
    }

    /// Whether some choice is made among all tokens of an update, which then has to come in one batch.
    pub fn needs_whole_update(&self) -> bool {
        self.policy.needs_whole_update() || self.filters.needs_whole_update()
    }

    /// Loss of these rows; summed over the micro-batches of an update it is the update's loss.
    ///
    /// `ref_log_probs` are the reference policy's, `[batch, seq]`, ignored outside the mask and read only if there is a
    /// KL term. Adds to the policy loss's metrics: `actor/pg_loss` (the policy loss), `actor/kl_loss` (the aggregated KL,
    /// before its coefficient), `actor/entropy` (mean over tokens, in nats; whenever the batch has it), the share of tokens
    /// that each filter dropped (`actor/off_policy_dropped`, `actor/low_entropy_dropped`), and `actor/empty_update` (1,
    /// where the update has not a single response token: its loss and gradient are 0).
    ///
    /// # Panics
    /// If there is a KL term and no `ref_log_probs`, or an entropy term or filter and no
    /// [`entropy`](PolicyBatch::entropy), or if shapes differ.
    pub fn forward(
        &self,
        batch: &PolicyBatch,
        ref_log_probs: Option<&Tensor<2>>,
        totals: &BatchTotals,
    ) -> PolicyLossOutput {
        let Filtered { batch: learned_from, high_entropy, metrics: filtered } = self.filters.apply(batch);
        let PolicyLossOutput { mut loss, mut metrics } = self.policy.forward(&learned_from, totals);
        let aggregation = self.policy.aggregation();
        metrics.push(("actor/pg_loss", Metric::Sum(loss.clone())));

        if let Some(term) = &self.kl {
            let reference = ref_log_probs.expect("a KL term needs the reference policy's log-probs").clone();
            let reference = zero_padding("ref_log_probs", reference, &batch.mask);
            let kl = aggregation.apply(term.penalty(batch, reference), &batch.mask, totals);
            metrics.push(("actor/kl_loss", Metric::Sum(kl.clone())));
            loss = loss + kl * term.coef;
        }

        if let Some(entropy) = &batch.entropy {
            let count = batch.mask.clone().float().sum();
            metrics.push(("actor/entropy", Metric::Mean { sum: entropy.clone().sum(), count }));
        }
        if self.entropy_coeff != 0.0 {
            let entropy = batch.entropy.clone().expect("an entropy term needs the batch's entropy");
            let (mask, totals) = high_entropy.unwrap_or_else(|| (batch.mask.clone(), *totals));
            let entropy = self.entropy_aggregation.unwrap_or(aggregation).apply(entropy, &mask, &totals);
            loss = loss - entropy * self.entropy_coeff;
        }

        metrics.extend(filtered);
        if totals.tokens == 0 {
            metrics.push(("actor/empty_update", Metric::Max(loss.clone().detach().ones_like())));
        }
        PolicyLossOutput { loss, metrics }
    }

    /// The loss of these rows and its gradient with respect to their log-probs and entropy.
    ///
    /// Takes everything on the plain (non-autodiff) device and returns everything there: log-probs and entropy become
    /// leaves of a graph that ends here. Push the two gradients through the model to train it.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn gradients(
        &self,
        mut batch: PolicyBatch,
        ref_log_probs: Option<&Tensor<2>>,
        totals: &BatchTotals,
    ) -> ObjectiveGradients {
        let leaf = |tensor: Tensor<2>| tensor.without_autodiff().autodiff().require_grad();
        let log_probs = leaf(batch.log_probs);
        let entropy = batch.entropy.map(leaf);
        batch.log_probs = log_probs.clone();
        batch.entropy = entropy.clone();

        let PolicyLossOutput { loss, metrics } = self.forward(&batch, ref_log_probs, totals);
        let mut gradients = loss.is_tracked().then(|| loss.backward());
        // No loss of whatever kind has a gradient in padding.
        let mut gradient_of =
            |leaf: &Tensor<2>| Some(zero_padding("gradient", leaf.grad_remove(gradients.as_mut()?)?, &batch.mask));

        ObjectiveGradients {
            log_probs: gradient_of(&log_probs).unwrap_or_else(|| log_probs.without_autodiff().zeros_like()),
            entropy: entropy.as_ref().and_then(gradient_of),
            loss: loss.without_autodiff(),
            metrics: metrics.into_iter().map(|(name, metric)| (name, metric.detached())).collect(),
        }
    }
}

/// The loss of some rows and its gradients; everything on the plain device.
#[derive(Debug)]
pub struct ObjectiveGradients {
    /// The rows' share of the update's loss, `[1]`.
    pub loss: Tensor<1>,
    /// ∂loss/∂log_probs, `[batch, seq]`, 0 in padding.
    pub log_probs: Tensor<2>,
    /// ∂loss/∂entropy, `[batch, seq]`, 0 in padding; `None` if the loss does not depend on the entropy.
    pub entropy: Option<Tensor<2>>,
    /// Named measurements, see [`Objective::forward`].
    pub metrics: Vec<(&'static str, Metric)>,
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::host::{HostBatch, assert_close, devices, numeric_gradient, scalar, tensor, values};
    use crate::kl::KlKind;
    use crate::loss::{Grpo, Gspo, Luspo, Ppo};
    use crate::metric::MetricAccumulator;

    fn full(policy: Arc<dyn PolicyLoss>) -> Objective {
        Objective { kl: Some(KlTerm::new(KlKind::K3, 0.3)), entropy_coeff: 0.05, ..Objective::new(policy) }
    }

    fn all() -> [Objective; 4] {
        [
            full(Arc::new(Ppo::new())),
            full(Arc::new(Grpo::new())),
            full(Arc::new(Gspo::new())),
            full(Arc::new(Luspo::new())),
        ]
    }

    /// Loss, gradient per row, entropy gradient per row, and metrics of an update, run in these groups of rows.
    type Update = (f64, Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<(&'static str, f64)>);

    fn update(objective: &Objective, host: &HostBatch, micro_batches: &[Vec<usize>], device: &Device) -> Update {
        let totals = host.totals();
        let (mut loss, mut metrics) = (0.0, MetricAccumulator::default());
        let (mut gradient, mut of_entropy) = (vec![Vec::new(); host.rows()], vec![Vec::new(); host.rows()]);
        for rows in micro_batches {
            let part = host.select(rows);
            let reference = tensor(&part.ref_log_probs, device);
            let got = objective.gradients(part.batch(device), Some(&reference), &totals);
            loss += scalar(got.loss);
            metrics.add(got.metrics);
            let (of_log_probs, entropy) = (values(got.log_probs), values(got.entropy.unwrap()));
            for (i, &row) in rows.iter().enumerate() {
                gradient[row].clone_from(&of_log_probs[i]);
                of_entropy[row].clone_from(&entropy[i]);
            }
        }
        (loss, gradient, of_entropy, metrics.finish())
    }

    #[track_caller]
    fn assert_same(got: &Update, expected: &Update) {
        // The same numbers, summed in another order.
        assert_close(&[got.0], &[expected.0], 1e-5, 1e-6);
        assert_close(&got.1.concat(), &expected.1.concat(), 1e-5, 1e-7);
        assert_close(&got.2.concat(), &expected.2.concat(), 1e-5, 1e-7);
        assert_eq!(got.3.len(), expected.3.len());
        for ((name, got), (known, expected)) in got.3.iter().zip(&expected.3) {
            assert_eq!(name, known);
            assert_close(&[*got], &[*expected], 1e-5, 1e-6);
        }
    }

    fn host() -> HostBatch {
        HostBatch::random(8, 6).with_random_token_weights()
    }

    #[test]
    fn an_update_does_not_depend_on_its_micro_batches() {
        for device in devices() {
            for objective in all() {
                let whole = update(&objective, &host(), &[(0..8).collect()], &device);
                let halves = update(&objective, &host(), &[(0..4).collect(), (4..8).collect()], &device);
                let quarters: Vec<Vec<usize>> = (0..4).map(|i| vec![2 * i, 2 * i + 1]).collect();
                let rows: Vec<Vec<usize>> = (0..8).map(|i| vec![i]).collect();
                assert_same(&halves, &whole);
                assert_same(&update(&objective, &host(), &quarters, &device), &whole);
                // The last of them is an empty row alone.
                assert_same(&update(&objective, &host(), &rows, &device), &whole);
            }
        }
    }

    #[test]
    fn an_update_does_not_depend_on_the_order_of_its_rows() {
        for device in devices() {
            for objective in all() {
                let whole = update(&objective, &host(), &[(0..8).collect()], &device);
                let shuffled = update(&objective, &host(), &[vec![5, 2, 7, 0, 3, 6, 1, 4]], &device);
                assert_same(&shuffled, &whole);
            }
        }
    }

    #[test]
    fn an_update_does_not_depend_on_its_padding() {
        for device in devices() {
            for objective in all() {
                let rows = [(0..8).collect::<Vec<usize>>()];
                let plain = update(&objective, &host(), &rows, &device);
                let mut padded = update(&objective, &host().padded_by(5), &rows, &device);
                for gradient in padded.1.iter_mut().chain(&mut padded.2) {
                    assert_eq!(gradient.split_off(6), [0.0; 5], "padding has a gradient");
                }
                assert_same(&padded, &plain);
            }
        }
    }

    #[test]
    fn empty_rows_leave_no_trace() {
        for device in devices() {
            for objective in all() {
                let mut with_empty = host();
                with_empty.mask[2].fill(false);
                with_empty.poison_padding();
                let without = with_empty.select(&[0, 1, 3, 4, 5, 6]);
                let got = update(&objective, &with_empty, &[(0..8).collect()], &device);
                let expected = update(&objective, &without, &[(0..6).collect()], &device);
                assert_eq!([&got.1[2], &got.1[7]], [&vec![0.0; 6]; 2]);
                let kept = |gradient: &[Vec<f64>]| [0, 1, 3, 4, 5, 6].map(|row| gradient[row].clone()).to_vec();
                assert_same(&(got.0, kept(&got.1), kept(&got.2), got.3), &expected);
            }
        }
    }

    #[test]
    fn an_update_without_any_response_token_has_loss_and_gradient_zero() {
        let mut host = host();
        for row in &mut host.mask {
            row.fill(false);
        }
        host.poison_padding();
        for device in devices() {
            for objective in all() {
                let (loss, gradient, of_entropy, metrics) = update(&objective, &host, &[(0..8).collect()], &device);
                assert_eq!(loss, 0.0);
                assert_eq!((gradient.concat(), of_entropy.concat()), (vec![0.0; 48], vec![0.0; 48]));
                let nothing = [("actor/pg_loss", 0.0), ("actor/kl_loss", 0.0), ("actor/empty_update", 1.0)];
                assert_eq!(metrics, nothing);
            }
        }
    }

    #[test]
    fn kl_and_entropy_terms_do_not_change_a_sequence_weight() {
        // Under LUSPO all three terms are sums over the tokens of a sequence. Multiplying the KL, or the sum of all, by
        // |y| again (weight |y|²) or dividing it by the width of the batch would miss this reference.
        fn reference(host: &HostBatch) -> f64 {
            let tokens = host.tokens().map(|(row, t)| {
                let (ratio, advantage) = (host.sequence_log_ratio(row).exp(), host.advantages[row][t]);
                let policy = -(ratio * advantage).min(ratio.clamp(1.0 - 2e-3, 1.0 + 2.5e-3) * advantage);
                let weight = host.token_weights.as_ref().map_or(1.0, |weights| weights[row][t]);
                let d = host.log_probs[row][t] - host.ref_log_probs[row][t];
                policy * weight + 0.3 * ((-d).exp() + d - 1.0) - 0.05 * host.entropy[row][t]
            });
            tokens.sum::<f64>() / host.totals().sequences as f64
        }
        for host in [HostBatch::random(6, 7), HostBatch::random(6, 7).with_random_token_weights()] {
            let expected = numeric_gradient(&host, reference);
            for device in devices() {
                let objective = full(Arc::new(Luspo::new()));
                let got = update(&objective, &host, &[(0..6).collect()], &device);
                // A few dozen f32 operations on numbers up to about 10.
                assert_close(&[got.0], &[reference(&host)], 1e-5, 1e-6);
                assert_close(&got.1.concat(), &expected.concat(), 1e-5, 2e-6);
            }
        }
    }

    #[test]
    fn the_entropy_term_has_an_aggregation_of_its_own_where_it_is_given_one() {
        let (host, luspo) = (HostBatch::random(4, 5), Objective::new(Arc::new(Luspo::new())));
        let totals = host.totals();
        for (entropy_aggregation, weight) in
            [(None, 1.0 / totals.sequences as f64), (Some(Aggregation::TokenMean), 1.0 / totals.tokens as f64)]
        {
            let objective = Objective { entropy_coeff: 0.7, entropy_aggregation, ..luspo.clone() };
            for device in devices() {
                let gradient = values(objective.gradients(host.batch(&device), None, &totals).entropy.unwrap());
                for (row, t) in host.tokens() {
                    assert_close(&[gradient[row][t]], &[-0.7 * weight], 1e-6, 0.0);
                }
            }
        }
    }

    #[test]
    fn a_choice_among_tokens_needs_the_whole_update() {
        let plain = Objective::new(Arc::new(Luspo::new()));
        assert!(!plain.needs_whole_update());
        for (share, needed) in [(0.2, true), (1.0, false)] {
            let filters = TokenFilters { top_entropy_quantile: Some(share), ..TokenFilters::default() };
            assert_eq!(Objective { filters, ..plain.clone() }.needs_whole_update(), needed);
        }
    }

    #[test]
    fn impossible_numbers_are_refused_by_name() {
        let plain = Objective::new(Arc::new(Luspo::new()));
        assert_eq!(full(Arc::new(Luspo::new())).check(), Ok(()));
        for coef in [-0.1, f64::NAN, f64::INFINITY] {
            let kl = Some(KlTerm::new(KlKind::K1, coef));
            let error = Objective { kl, ..plain.clone() }.check().unwrap_err().to_string();
            assert!(error.contains("kl_loss_coef"), "{error}");
        }
        let error = Objective { entropy_coeff: f64::NAN, ..plain.clone() }.check().unwrap_err().to_string();
        assert!(error.contains("entropy_coeff"), "{error}");
        let filters = TokenFilters { top_entropy_quantile: Some(2.0), ..TokenFilters::default() };
        assert!(Objective { filters, ..plain }.check().is_err());
    }

    #[test]
    fn without_an_entropy_term_the_entropy_is_only_measured() {
        let host = host();
        for device in devices() {
            let got = Objective::new(Arc::new(Luspo::new())).gradients(host.batch(&device), None, &host.totals());
            assert!(got.entropy.is_none());
            assert!(got.metrics.iter().any(|(name, _)| *name == "actor/entropy"));
            assert!(!got.loss.is_autodiff() && !got.log_probs.is_autodiff());
        }
    }
}
