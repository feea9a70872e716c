//! The critic's loss, clipped as in PPO (arXiv 1707.06347, and arXiv 2005.12729 on the clipping).
//!
//! ```text
//! L = ½ agg( max( (V − R)², (clip(V, V_old − ε, V_old + ε) − R)² ) )
//! ```

use burn::tensor::{Bool, Tensor};

use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, zero_padding};
use crate::metric::Metric;
use crate::policy_loss::PolicyLossOutput;

/// The loss of a critic's `values` `[batch, seq]` against `returns`, and what there is to know about it.
///
/// `old_values` are those that the step began with; a value is pulled no further than `cliprange_value` (at least 0,
/// infinity for no clipping) away from them. What stands outside the mask has no effect. Summed over the micro-batches
/// of an update it is the update's loss, as for a [`PolicyLoss`](crate::PolicyLoss). Metrics are verl's
/// `critic/vf_loss`, `critic/vf_clipfrac` (share of tokens where the clipped term is the larger) and
/// `critic/vpred_mean`.
///
/// # Panics
/// If the shapes differ.
pub fn value_loss(
    values: Tensor<2>,
    old_values: Tensor<2>,
    returns: Tensor<2>,
    mask: &Tensor<2, Bool>,
    cliprange_value: f64,
    aggregation: Aggregation,
    totals: &BatchTotals,
) -> PolicyLossOutput {
    let values = zero_padding("values", values, mask);
    let old_values = zero_padding("old_values", old_values, mask);
    let returns = zero_padding("returns", returns, mask);

    let (lowest, highest) = (old_values.clone() - cliprange_value, old_values + cliprange_value);
    let clipped = values.clone().min_pair(highest).max_pair(lowest);
    let error = (values.clone() - returns.clone()).square();
    let clipped_error = (clipped - returns).square();

    // Zero in padding, where both errors are those of 0 against 0.
    let is_clipped = clipped_error.clone().greater(error.clone());
    let terms = error.max_pair(clipped_error) * 0.5;
    let loss = aggregation.apply(terms, mask, totals);

    let tokens = mask.clone().float().sum();
    let metrics = vec![
        ("critic/vf_loss", Metric::Sum(loss.clone())),
        ("critic/vf_clipfrac", Metric::Mean { sum: is_clipped.float().sum(), count: tokens.clone() }),
        ("critic/vpred_mean", Metric::Mean { sum: values.sum(), count: tokens }),
    ];
    PolicyLossOutput { loss, metrics }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, assert_close, devices, scalar, tensor, values};
    use crate::metric::MetricAccumulator;

    const CLIP: f64 = 0.2;

    /// Values stand in `log_probs`, old values in `old_log_probs`, returns in `ref_log_probs`.
    fn reference(host: &HostBatch) -> f64 {
        let term = |(row, t): (usize, usize)| {
            let (value, old, ret) = (host.log_probs[row][t], host.old_log_probs[row][t], host.ref_log_probs[row][t]);
            let clipped = value.clamp(old - CLIP, old + CLIP);
            0.5 * (value - ret).powi(2).max((clipped - ret).powi(2))
        };
        host.tokens().map(term).sum::<f64>() / host.totals().tokens as f64
    }

    fn run(host: &HostBatch, device: &burn::tensor::Device, totals: &BatchTotals) -> (PolicyLossOutput, Tensor<2>) {
        let leaf = tensor(&host.log_probs, device).autodiff().require_grad();
        let (old, returns) = (tensor(&host.old_log_probs, device), tensor(&host.ref_log_probs, device));
        let mask = host.mask(device);
        (value_loss(leaf.clone(), old, returns, &mask, CLIP, Aggregation::TokenMean, totals), leaf)
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        let host = HostBatch::random(5, 7);
        let expected = crate::host::numeric_gradient(&host, reference);
        for device in devices() {
            let (output, leaf) = run(&host, &device, &host.totals());
            let gradient = values(leaf.grad(&output.loss.backward()).unwrap());
            // A few dozen f32 operations on numbers of order 1; differences in f64 are far better.
            assert_close(&[scalar(output.loss.without_autodiff())], &[reference(&host)], 1e-5, 1e-6);
            assert_close(&gradient.concat(), &expected.concat(), 1e-5, 1e-6);
            assert!(expected.concat().iter().filter(|&&slope| slope == 0.0).count() > 5, "nothing was clipped");
        }
    }

    #[test]
    fn micro_batches_add_up() {
        let host = HostBatch::random(5, 7);
        for device in devices() {
            let whole = run(&host, &device, &host.totals()).0;
            let mut loss = 0.0;
            let mut metrics = MetricAccumulator::default();
            for rows in [&[4, 1][..], &[0], &[3, 2]] {
                let part = run(&host.select(rows), &device, &host.totals()).0;
                loss += scalar(part.loss.without_autodiff());
                metrics.add(part.metrics);
            }
            assert_close(&[loss], &[scalar(whole.loss.without_autodiff())], 1e-6, 1e-7);
            let mut of_whole = MetricAccumulator::default();
            of_whole.add(whole.metrics);
            let (of_whole, metrics) = (of_whole.finish(), metrics.finish());
            for ((name, whole), (_, parts)) in of_whole.iter().zip(&metrics) {
                assert!((whole - parts).abs() < 1e-6, "{name}: {parts} instead of {whole}");
            }
        }
    }

    #[test]
    fn without_a_token_it_is_zero() {
        let mut host = HostBatch::random(2, 3);
        host.mask.iter_mut().flatten().for_each(|inside| *inside = false);
        host.poison_padding();
        for device in devices() {
            let (output, leaf) = run(&host, &device, &host.totals());
            let gradient = values(leaf.grad(&output.loss.backward()).unwrap());
            assert_eq!(scalar(output.loss.without_autodiff()), 0.0);
            assert_eq!(gradient.concat(), [0.0; 6]);
        }
    }

    #[test]
    fn an_infinite_range_clips_nothing() {
        for device in devices() {
            let one = |value: f64| tensor(&[vec![value]], &device);
            let mask = one(1.0).greater_scalar(0.5);
            let totals = BatchTotals::of_lengths(&[1]);
            let loss =
                |clip| value_loss(one(3.0), one(0.0), one(2.0), &mask, clip, Aggregation::TokenMean, &totals).loss;
            assert_eq!(scalar(loss(f64::INFINITY)), 0.5);
            assert_eq!(scalar(loss(0.5)), 1.125, "½ (0.5 − 2)²");
        }
    }
}
