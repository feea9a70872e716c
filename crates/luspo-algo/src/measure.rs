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
    Metric::Mean { sum: values.without_autodiff().sum(), count: batch.mask.clone().float().sum() }
}

/// `actor/ppo_kl`: the mean of −log r, an estimate of KL(π_old, π).
pub(crate) fn ppo_kl(log_ratio: Tensor<2>, batch: &PolicyBatch) -> Named {
    let padding = batch.mask.clone().bool_not();
    ("actor/ppo_kl", mean(log_ratio.without_autodiff().mask_fill(padding, 0.0).neg(), batch))
}

/// How far the policy has moved: [`ppo_kl`], the extreme ratios, and the effective sample size (Σr)² / (n Σr²) as a
/// share of the n tokens (Kish), which is 1 where all ratios are equal.
pub(crate) fn ratios(log_ratio: Tensor<2>, batch: &PolicyBatch) -> [Named; 4] {
    let log_ratio = log_ratio.without_autodiff();
    let padding = batch.mask.clone().bool_not();
    let ratio = log_ratio.clone().exp();
    let bounded = log_ratio.clone().clamp_max(MAX_LOG_RATIO).exp().mask_fill(padding.clone(), 0.0);
    [
        ppo_kl(log_ratio, batch),
        ("actor/ratio_max", Metric::Max(ratio.clone().mask_fill(padding.clone(), f64::NEG_INFINITY).max())),
        ("actor/ratio_min", Metric::Min(ratio.mask_fill(padding, f64::INFINITY).min())),
        (
            "actor/effective_sample_size",
            Metric::EffectiveShare {
                sum: bounded.clone().sum(),
                sum_of_squares: bounded.square().sum(),
                count: batch.mask.clone().float().sum(),
            },
        ),
    ]
}
