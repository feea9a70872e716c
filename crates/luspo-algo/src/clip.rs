//! The clipped surrogate: the pessimistic one of a term with the ratio and the same term with the ratio clipped.

use burn::tensor::{Bool, Tensor};

use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::error::{AlgoError, in_range};
use crate::measure::{ratios, share};
use crate::metric::Metric;
use crate::policy_loss::{PolicyLossOutput, Terms};

/// Where ratios are clipped: to `[1 − low, 1 + high]`, and beyond that range on the side that a plain clip leaves open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipRange {
    /// Distance of the lower bound from 1, in [0, 1).
    pub low: f64,
    /// Distance of the upper bound from 1, in [0, ∞).
    pub high: f64,
    /// The dual clip c, in (1, ∞): the largest ratio that a negative advantage is multiplied by (arXiv 1912.09729).
    pub dual: Option<f64>,
    /// `delta` of TRL's two-sided GRPO, in (0, ∞): the term is −min(min(r, delta) A, clip(r) A), so that a negative
    /// advantage is multiplied by at most the larger of `delta` and 1 + high, a positive one by at most the smaller.
    pub cap: Option<f64>,
}

impl ClipRange {
    /// Clips to `[1 − low, 1 + high]` and nowhere else.
    pub fn new(low: f64, high: f64) -> Self {
        Self { low, high, dual: None, cap: None }
    }

    /// The range with a dual clip at `c`.
    pub fn with_dual(self, c: f64) -> Self {
        Self { dual: Some(c), ..self }
    }

    /// The range with ratios of at most `delta`, where that is given.
    pub fn with_cap(self, delta: Option<f64>) -> Self {
        Self { cap: delta, ..self }
    }

    /// Whether there is such a range.
    ///
    /// # Errors
    /// If a number is outside of its bounds.
    pub fn check(&self) -> Result<(), AlgoError> {
        in_range("clip_ratio_low", self.low, (0.0..1.0).contains(&self.low), "at least 0 and below 1")?;
        in_range("clip_ratio_high", self.high, self.high >= 0.0, "finite and at least 0")?;
        self.dual.map_or(Ok(()), |c| in_range("clip_ratio_c", c, c > 1.0, "finite and above 1"))?;
        self.cap.map_or(Ok(()), |delta| in_range("delta", delta, delta > 0.0, "finite and above 0"))
    }

    /// The largest ratio that a positive advantage is multiplied by.
    fn upper(&self) -> f64 {
        self.cap.map_or(1.0 + self.high, |delta| delta.min(1.0 + self.high))
    }

    /// The smallest ratio that a negative advantage is multiplied by.
    fn lower(&self) -> f64 {
        1.0 - self.low
    }

    /// The largest ratio that a negative advantage is multiplied by.
    fn upper_of_negative(&self) -> Option<f64> {
        let cap = self.cap.map(|delta| delta.max(1.0 + self.high));
        self.dual.into_iter().chain(cap).reduce(f64::min)
    }

    /// The ratios that `positive` and `negative` advantages are multiplied by; 1 for the others.
    ///
    /// A bounded ratio becomes its bound before the exponential is taken, therefore it has no gradient, and a ratio too
    /// large for the number format does no harm where the clip hides it.
    fn bound(&self, log_ratio: Tensor<2>, positive: Tensor<2, Bool>, negative: Tensor<2, Bool>) -> Bounded {
        let ratio_above = |bound: f64| log_ratio.clone().greater_scalar(bound.ln());
        let weightless = positive.clone().bool_or(negative.clone()).bool_not();
        let too_high = ratio_above(self.upper()).bool_and(positive);
        let too_low = log_ratio.clone().lower_scalar(self.lower().ln()).bool_and(negative.clone());
        let clipped = too_high.clone().bool_or(too_low.clone());
        let beyond = self.upper_of_negative().map(|bound| (ratio_above(bound).bool_and(negative), bound));

        let hidden =
            beyond.iter().fold(clipped.clone().bool_or(weightless), |hidden, (b, _)| hidden.bool_or(b.clone()));
        let ratio = log_ratio.mask_fill(hidden, 0.0).exp();
        let ratio = ratio.mask_fill(too_high, self.upper()).mask_fill(too_low, self.lower());
        let ratio = beyond.iter().fold(ratio, |ratio, (beyond, bound)| ratio.mask_fill(beyond.clone(), *bound));
        Bounded { ratio, clipped, beyond: beyond.map(|(beyond, _)| beyond) }
    }
}

/// Ratios within a [`ClipRange`].
struct Bounded {
    ratio: Tensor<2>,
    /// Where the clip of the surrogate holds.
    clipped: Tensor<2, Bool>,
    /// Where the bound of negative advantages from above holds, if there is one.
    beyond: Option<Tensor<2, Bool>>,
}

/// The terms −min(r A, clip(r, 1 − low, 1 + high) A) with log r = `log_ratio` (`[batch, seq]`) and the batch's
/// advantages; with a dual clip, not above −c A where A is negative.
///
/// The minimum is A times a ratio that is bounded from above where A > 0 and from below where A < 0.
///
/// # Panics
/// If the shape of `log_ratio` is not the batch's, or [`ClipRange::check`] fails.
pub fn surrogate(log_ratio: Tensor<2>, batch: &PolicyBatch, range: ClipRange) -> Terms {
    if let Err(error) = range.check() {
        panic!("{error}");
    }
    assert_eq!(log_ratio.dims(), batch.mask.dims(), "log_ratio and mask differ in shape");
    let advantages = &batch.advantages;
    let (positive, negative) = (advantages.clone().greater_scalar(0.0), advantages.clone().lower_scalar(0.0));
    let Bounded { ratio, clipped, beyond } = range.bound(log_ratio.clone(), positive, negative);
    let mut metrics = vec![("actor/pg_clipfrac", share(clipped, batch))];
    metrics.extend(beyond.map(|beyond| ("actor/pg_clipfrac_lower", share(beyond, batch))));
    metrics.extend(ratios(log_ratio, batch));
    Terms { terms: -(ratio * advantages.clone()), metrics }
}

/// The loss of the terms of [`surrogate`] times the batch's token weights, for one ratio a row: `log_ratio` is
/// `[batch, 1]`.
///
/// With s for the ratio, a row's terms add up to
///
/// ```text
/// Σ_t −w_t min(s A_t, clip(s) A_t) = −min(s, 1 + high) Σ_{A_t > 0} w_t A_t − max(s, 1 − low) Σ_{A_t < 0} w_t A_t
/// ```
///
/// so that a row is two terms, of its positive advantages and of its negative ones.
///
/// # Panics
/// If [`ClipRange::check`] fails.
pub(crate) fn sequence_surrogate(
    log_ratio: Tensor<2>,
    batch: &PolicyBatch,
    range: ClipRange,
    aggregation: Aggregation,
    totals: &BatchTotals,
) -> PolicyLossOutput {
    if let Err(error) = range.check() {
        panic!("{error}");
    }
    let advantages = &batch.advantages;
    let sum = |of_sign: Tensor<2>| match &batch.token_weights {
        Some(weights) => (of_sign * weights.clone()).sum_dim(1),
        None => of_sign.sum_dim(1),
    };
    let sums = Tensor::cat(vec![sum(advantages.clone().clamp_min(0.0)), sum(advantages.clone().clamp_max(0.0))], 1);
    let positive = advantages.clone().greater_scalar(0.0).float().sum_dim(1);
    let negative = advantages.clone().lower_scalar(0.0).float().sum_dim(1);
    let nothing = positive.zeros_like();

    let any = |positive: &Tensor<2>, negative: &Tensor<2>| {
        Tensor::cat(vec![positive.clone(), negative.clone()], 1).greater_scalar(0.0)
    };
    let both = Tensor::cat(vec![log_ratio.clone(), log_ratio.clone()], 1);
    let Bounded { ratio, clipped, beyond } = range.bound(both, any(&positive, &nothing), any(&nothing, &negative));
    let counts = Tensor::cat(vec![positive, negative], 1);
    let share = |chosen: Tensor<2, Bool>| {
        let sum = (chosen.float() * counts.clone()).sum();
        Metric::Mean { sum, count: batch.token_count() }
    };
    let mut metrics = vec![("actor/pg_clipfrac", share(clipped))];
    metrics.extend(beyond.map(|beyond| ("actor/pg_clipfrac_lower", share(beyond))));
    metrics.extend(ratios(log_ratio, batch));
    let loss = aggregation.of_sequences(-(ratio * sums).sum_dim(1), || batch.lengths(), totals);
    PolicyLossOutput { loss, metrics }
}

/// The ratio of `log_ratio` within `[lower, upper]`, without a gradient: an importance weight.
pub(crate) fn weight(log_ratio: Tensor<2>, lower: f64, upper: f64) -> Tensor<2> {
    let log_ratio = log_ratio.without_autodiff();
    let too_low = log_ratio.clone().lower_scalar(lower.ln());
    let too_high = log_ratio.clone().greater_scalar(upper.ln());
    log_ratio.exp().mask_fill(too_low, lower).mask_fill(too_high, upper)
}

/// A times the ratio of `log_ratio`, unclipped; 0 where A is 0, whatever the ratio.
pub(crate) fn unclipped(log_ratio: Tensor<2>, advantages: &Tensor<2>) -> Tensor<2> {
    log_ratio.mask_fill(advantages.clone().equal_scalar(0.0), 0.0).exp() * advantages.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{assert_close, devices, tensor, values};

    /// Terms and their gradients for single-token rows with these log-ratios and advantages.
    fn terms(cases: &[(f64, f64)], range: ClipRange, device: &burn::tensor::Device) -> (Vec<f64>, Vec<f64>) {
        let column = |values: Vec<f64>| tensor(&values.into_iter().map(|v| vec![v]).collect::<Vec<_>>(), device);
        let zeros = column(vec![0.0; cases.len()]);
        let leaf = column(cases.iter().map(|case| case.0).collect()).autodiff().require_grad();
        let advantages = column(cases.iter().map(|case| case.1).collect());
        let batch = PolicyBatch::new(leaf.clone(), zeros.clone(), advantages, zeros.equal_scalar(0.0));
        let terms = surrogate(batch.log_probs.clone(), &batch, range).terms;
        let gradient = leaf.grad(&terms.clone().sum().backward()).unwrap();
        (values(terms.without_autodiff()).concat(), values(gradient).concat())
    }

    #[test]
    fn only_the_pessimistic_side_is_clipped() {
        let range = ClipRange::new(0.2, 0.3);
        let (up, down) = (1.5f64, 0.5f64);
        let cases = [(up.ln(), 2.0), (up.ln(), -2.0), (down.ln(), 2.0), (down.ln(), -2.0), (1.1f64.ln(), 2.0)];
        for device in devices() {
            let (terms, gradient) = terms(&cases, range, &device);
            // f32 rounding of an exponential and a product.
            assert_close(&terms, &[-2.6, 3.0, -1.0, 1.6, -2.2], 1e-6, 1e-6);
            assert_close(&gradient, &[0.0, 3.0, -1.0, 0.0, -2.2], 1e-6, 1e-6);
        }
    }

    #[test]
    fn the_dual_clip_bounds_negative_advantages_alone() {
        let range = ClipRange::new(0.2, 0.3).with_dual(3.0);
        let cases = [(4f64.ln(), -2.0), (4f64.ln(), 2.0), (2.9f64.ln(), -2.0)];
        for device in devices() {
            let (terms, gradient) = terms(&cases, range, &device);
            assert_close(&terms, &[6.0, -2.6, 5.8], 1e-6, 1e-6);
            assert_close(&gradient, &[0.0, 0.0, 5.8], 1e-6, 1e-6);
        }
    }

    #[test]
    fn a_cap_bounds_both_signs_but_never_moves_the_clip_of_negative_advantages() {
        let cases = [1.2f64, 1.35, 1.5].map(f64::ln).map(|log_ratio| [(log_ratio, 2.0), (log_ratio, -2.0)]).concat();
        for device in devices() {
            let (values, gradient) = terms(&cases, ClipRange::new(0.2, 0.3).with_cap(Some(1.4)), &device);
            assert_close(&values, &[-2.4, 2.4, -2.6, 2.7, -2.6, 2.8], 1e-6, 1e-6);
            assert_close(&gradient, &[-2.4, 2.4, 0.0, 2.7, 0.0, 0.0], 1e-6, 1e-6);
            // Below 1 + high: the cap holds for a positive advantage, the clip for a
            // negative one.
            let (values, gradient) = terms(&cases, ClipRange::new(0.2, 0.3).with_cap(Some(1.1)), &device);
            assert_close(&values, &[-2.2, 2.4, -2.2, 2.6, -2.2, 2.6], 1e-6, 1e-6);
            assert_close(&gradient, &[0.0, 2.4, 0.0, 0.0, 0.0, 0.0], 1e-6, 1e-6);
        }
    }

    #[test]
    fn a_ratio_that_overflows_is_harmless_where_it_is_hidden() {
        let range = ClipRange::new(0.2, 0.3).with_dual(3.0);
        // e¹⁰⁰⁰ with either sign and with no advantage, and e⁻¹⁰⁰⁰, on which a positive advantage has no hold.
        let cases = [(1000.0, 2.0), (1000.0, -2.0), (1000.0, 0.0), (-1000.0, 2.0), (f64::INFINITY, 2.0)];
        for device in devices() {
            let (terms, gradient) = terms(&cases, range, &device);
            assert_close(&terms, &[-2.6, 6.0, 0.0, 0.0, -2.6], 1e-6, 1e-6);
            assert_close(&gradient, &[0.0; 5], 0.0, 0.0);
        }
    }

    #[test]
    fn impossible_ranges_are_refused() {
        assert!(ClipRange::new(0.0, 0.0).check().is_ok());
        for range in [
            ClipRange::new(1.0, 0.2),
            ClipRange::new(-0.1, 0.2),
            ClipRange::new(f64::NAN, 0.2),
            ClipRange::new(0.2, -0.1),
            ClipRange::new(0.2, f64::INFINITY),
            ClipRange::new(0.2, 0.2).with_dual(1.0),
            ClipRange::new(0.2, 0.2).with_cap(Some(0.0)),
        ] {
            assert!(range.check().is_err(), "{range:?}");
        }
    }
}
