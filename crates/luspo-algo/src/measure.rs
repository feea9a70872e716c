//! What an objective says of its ratios; the names of the metrics are verl's.

use burn::tensor::{Bool, Tensor};

use crate::batch::PolicyBatch;
use crate::metric::Metric;

/// A metric with its name.
pub(crate) type Named = (&'static str, Metric);

/// Bound of |log r| in the effective sample size, so that r² is a number in f32. A sample size is the same for any
/// multiple of the ratios, and with ratios of e⁴⁰ beside others it is 1 over their number for all purposes.
const MAX_LOG_RATIO: f64 = 40.0;

/// The share of response tokens that `chosen` holds for.
pub(crate) fn share(chosen: Tensor<2, Bool>, batch: &PolicyBatch) -> Metric {
    mean(chosen.bool_and(batch.mask.clone()).float(), batch)
}

/// The mean of `values` (0 in padding) over response tokens.
pub(crate) fn mean(values: Tensor<2>, batch: &PolicyBatch) -> Metric {
    Metric::Mean { sum: values.without_autodiff().sum(), count: batch.token_count() }
}

/// `actor/ppo_kl`: the mean of −log r over response tokens, an estimate of KL(π_old, π). Ratios are `[batch, seq]`, or
/// `[batch, 1]` if a row's tokens share one.
pub(crate) fn ppo_kl(log_ratio: Tensor<2>, batch: &PolicyBatch) -> Named {
    let tokens = Tokens::of(&log_ratio, batch);
    let sum = tokens.sum(log_ratio.without_autodiff()).neg();
    ("actor/ppo_kl", Metric::Mean { sum, count: batch.token_count() })
}

/// How far the policy has moved: [`ppo_kl`], the extreme ratios, and the effective sample size (Σr)² / (n Σr²) as a
/// share of the n tokens (Kish), which is 1 where all ratios are equal.
pub(crate) fn ratios(log_ratio: Tensor<2>, batch: &PolicyBatch) -> [Named; 4] {
    let tokens = Tokens::of(&log_ratio, batch);
    let log_ratio = log_ratio.without_autodiff();
    let inside = |elsewhere: f64| log_ratio.clone().mask_fill(tokens.absent.clone(), elsewhere);
    let (max, min) = (inside(f64::NEG_INFINITY).max(), inside(f64::INFINITY).min());
    let nothing = max.clone().equal_scalar(f64::NEG_INFINITY);
    let bounded = log_ratio.clone().clamp_max(MAX_LOG_RATIO).exp();
    [
        ppo_kl(log_ratio, batch),
        ("actor/ratio_max", Metric::Max(max.exp().mask_fill(nothing, f64::NEG_INFINITY))),
        ("actor/ratio_min", Metric::Min(min.exp())),
        (
            "actor/effective_sample_size",
            Metric::EffectiveShare {
                sum: tokens.sum(bounded.clone()),
                sum_of_squares: tokens.sum(bounded.square()),
                count: batch.token_count(),
            },
        ),
    ]
}

/// Which response tokens a number stands for, in a `[batch, seq]` or `[batch, 1]` tensor.
struct Tokens {
    /// Numbers that stand for none.
    absent: Tensor<2, Bool>,
    /// How many a row's number stands for, if it stands for all of the row.
    counts: Option<Tensor<2>>,
}

impl Tokens {
    fn of(numbers: &Tensor<2>, batch: &PolicyBatch) -> Self {
        if numbers.dims() == batch.mask.dims() {
            Self { absent: batch.mask.clone().bool_not(), counts: None }
        } else {
            let counts = batch.counts.clone();
            Self { absent: counts.clone().equal_scalar(0.0), counts: Some(counts) }
        }
    }

    /// The sum of `numbers` over tokens.
    fn sum(&self, numbers: Tensor<2>) -> Tensor<1> {
        let numbers = numbers.mask_fill(self.absent.clone(), 0.0);
        match &self.counts {
            Some(counts) => (numbers * counts.clone()).sum(),
            None => numbers.sum(),
        }
    }
}
