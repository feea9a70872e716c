//! Which tokens a policy loss learns from, where that depends on the policy as it is now.
//!
//! A filtered token's term in the policy loss is multiplied by 0. It still counts in |y|, in ratios and in denominators,
//! and it keeps its KL term. [`GeoMean`](crate::GeoMean), where a row has one term, takes the geometric mean of its
//! weights: there a filtered token takes nearly all of its row's weight.

use burn::tensor::{Bool, Tensor};

use crate::batch::{BatchTotals, PolicyBatch};
use crate::error::AlgoError;
use crate::metric::Metric;

/// The filters of an objective; none by default. Both are TRL's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenFilters {
    /// Off-policy sequence mask (DeepSeek-V3.2, arXiv 2512.02556): drops the tokens with negative advantage of every row
    /// in which the mean over tokens of log π_rollout − log π is above this number of nats. π_rollout is the sampler
    /// ([`rollout_log_probs`](PolicyBatch::rollout_log_probs), or the old log-probs where there are none; a NaN in them
    /// is a token without evidence).
    pub off_policy_mask_threshold: Option<f64>,
    /// Keeps this share of tokens, those of the highest entropy (arXiv 2506.01939): entropy at or above the
    /// (1 − share)-quantile, linearly interpolated, of all response tokens of the update. In [0, 1]; 1 keeps all. The
    /// entropy term is restricted to the same tokens, and to their number where it divides.
    pub top_entropy_quantile: Option<f64>,
}

/// A batch whose token weights say what the filters left.
pub(crate) struct Filtered {
    pub batch: PolicyBatch,
    /// The tokens that the entropy term is about, and how many there are, if the entropy chose among them.
    pub high_entropy: Option<(Tensor<2, Bool>, BatchTotals)>,
    pub metrics: Vec<(&'static str, Metric)>,
}

impl TokenFilters {
    /// Whether the settings are possible.
    ///
    /// # Errors
    /// If the threshold is not finite, or the share not in [0, 1].
    pub fn check(&self) -> Result<(), AlgoError> {
        if let Some(value) = self.off_policy_mask_threshold.filter(|threshold| !threshold.is_finite()) {
            return Err(AlgoError::OutOfRange { key: "off_policy_mask_threshold", value, range: "finite" });
        }
        if let Some(value) = self.top_entropy_quantile.filter(|share| !(0.0..=1.0).contains(share)) {
            return Err(AlgoError::OutOfRange { key: "top_entropy_quantile", value, range: "from 0 to 1" });
        }
        Ok(())
    }

    /// Whether a choice is made among all tokens of an update, which then has to come in one batch.
    pub fn needs_whole_update(&self) -> bool {
        self.entropy_share().is_some()
    }

    /// Whether [`PolicyBatch::entropy`] is read.
    pub fn needs_entropy(&self) -> bool {
        self.entropy_share().is_some()
    }

    fn entropy_share(&self) -> Option<f64> {
        self.top_entropy_quantile.filter(|&share| share < 1.0)
    }

    /// # Panics
    /// If entropies are needed and the batch has none.
    pub(crate) fn apply(&self, batch: &PolicyBatch) -> Filtered {
        let mut filtered = Filtered { batch: batch.clone(), high_entropy: None, metrics: Vec::new() };
        if let Some(threshold) = self.off_policy_mask_threshold {
            filtered.drop("actor/off_policy_dropped", off_policy(batch, threshold));
        }
        if let Some(share) = self.entropy_share() {
            let entropy = batch.entropy.clone().expect("top_entropy_quantile needs the batch's entropy").detach();
            let (kept, totals) = highest(entropy, &batch.mask, share);
            filtered.drop("actor/low_entropy_dropped", kept.clone().bool_not().bool_and(batch.mask.clone()));
            filtered.high_entropy = Some((kept, totals));
        }
        filtered
    }
}

impl Filtered {
    /// Takes the weight of the `dropped` tokens, none of them in padding, and measures their share.
    fn drop(&mut self, name: &'static str, dropped: Tensor<2, Bool>) {
        let inside = || self.batch.mask.clone().float();
        let share = Metric::Mean { sum: dropped.clone().float().sum(), count: inside().sum() };
        let weights = self.batch.token_weights.take().unwrap_or_else(inside).mask_fill(dropped, 0.0);
        self.batch.token_weights = Some(weights);
        self.metrics.push((name, share));
    }
}

fn off_policy(batch: &PolicyBatch, threshold: f64) -> Tensor<2, Bool> {
    let sampler = batch.rollout_log_probs.as_ref().unwrap_or(&batch.old_log_probs);
    let gap = sampler.clone() - batch.log_probs.clone().detach();
    let gap = gap.clone().mask_fill(gap.is_nan(), 0.0);
    let strayed = (gap.sum_dim(1) / batch.lengths()).greater_scalar(threshold).expand(batch.mask.dims());
    strayed.bool_and(batch.advantages.clone().lower_scalar(0.0))
}

/// The tokens at or above the (1 − `share`)-quantile, and how many there are. Waits for the device.
fn highest(entropy: Tensor<2>, mask: &Tensor<2, Bool>, share: f64) -> (Tensor<2, Bool>, BatchTotals) {
    let [_, seq] = mask.dims();
    let inside: Vec<bool> = mask.clone().into_data().iter::<bool>().collect();
    let entropies: Vec<f32> = entropy.clone().into_data().iter::<f32>().collect();
    let of_tokens = entropies.iter().zip(&inside).filter_map(|(&entropy, &inside)| inside.then_some(entropy)).collect();
    let threshold = quantile(of_tokens, 1.0 - share);

    let kept =
        |row: (&[f32], &[bool])| row.0.iter().zip(row.1).filter(|(h, inside)| **inside && **h >= threshold).count();
    let lengths: Vec<usize> = entropies.chunks(seq).zip(inside.chunks(seq)).map(kept).collect();
    (entropy.greater_equal_scalar(threshold).bool_and(mask.clone()), BatchTotals::of_lengths(&lengths))
}

/// The `q`-quantile with linear interpolation between its neighbours; ∞ of nothing.
fn quantile(mut values: Vec<f32>, q: f64) -> f32 {
    if values.is_empty() {
        return f32::INFINITY;
    }
    values.sort_unstable_by(f32::total_cmp);
    let position = q * (values.len() - 1) as f64;
    let (below, above) = (values[position.floor() as usize], values[position.ceil() as usize]);
    let weight = position.fract() as f32;
    // From the nearer of the two, so that a position that is a whole number but for rounding gives the value itself.
    if weight < 0.5 { below + (above - below) * weight } else { above - (above - below) * (1.0 - weight) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::{HostBatch, assert_close, devices, tensor, values};
    use crate::kl::{KlKind, KlTerm};
    use crate::loss::Grpo;
    use crate::metric::MetricAccumulator;
    use crate::objective::Objective;
    use crate::policy_loss::PolicyLoss;

    fn weights(filters: TokenFilters, host: &HostBatch, device: &burn::tensor::Device) -> Vec<Vec<f64>> {
        values(filters.apply(&host.batch(device)).batch.token_weights.unwrap())
    }

    #[test]
    fn quantiles_are_interpolated_between_neighbours() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(vec![4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(vec![4.0, 1.0, 3.0, 2.0], 1.0), 4.0);
        assert_eq!(quantile(vec![7.0], 0.3), 7.0);
        assert_eq!(quantile(vec![0.0, 4.0], 0.75), 3.0);
        // 1 − 0.9 is a little below 0.1 in binary, and 0.3 + (1.4 − 0.3) is not 1.4 in f32.
        let mut eleven = vec![2.0; 11];
        (eleven[0], eleven[1]) = (0.3, 1.4);
        assert_eq!(quantile(eleven, 1.0 - 0.9), 1.4);
    }

    #[test]
    fn the_tokens_of_highest_entropy_are_kept() {
        let mut host = HostBatch::random(2, 4);
        host.mask = vec![vec![true, false, true, true], vec![true, true, false, false]];
        host.entropy = vec![vec![0.5, 0.0, 2.0, 1.0], vec![3.0, 0.1, 0.0, 0.0]];
        host.poison_padding();
        for device in devices() {
            for (share, kept) in [
                (0.0, [[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]),
                (0.5, [[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]),
                (0.75, [[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]),
            ] {
                let filters = TokenFilters { top_entropy_quantile: Some(share), ..TokenFilters::default() };
                assert_eq!(weights(filters, &host, &device), kept);
                let (_, totals) = filters.apply(&host.batch(&device)).high_entropy.unwrap();
                assert_eq!(totals.tokens, kept.concat().iter().filter(|&&weight| weight > 0.0).count());
            }
        }
    }

    #[test]
    fn a_wrong_answer_that_the_policy_has_left_is_dropped() {
        // The sampler's log-probs are above the policy's by 0.3, 0.3, 0.1 and 0.3 on average.
        let mut host = HostBatch::random(4, 2);
        host.mask = vec![vec![true, true]; 4];
        host.log_probs = vec![vec![-1.0, -1.0]; 4];
        host.old_log_probs = vec![vec![-0.4, -1.0], vec![-0.7, -0.7], vec![-0.9, -0.9], vec![-0.1, -1.3]];
        host.advantages = vec![vec![-1.0, -1.0], vec![1.0, 1.0], vec![-1.0, -1.0], vec![0.0, -2.0]];
        host.token_weights = Some(vec![vec![3.0, 5.0]; 4]);
        let filters = TokenFilters { off_policy_mask_threshold: Some(0.2), ..TokenFilters::default() };
        let expected = [[0.0, 0.0], [3.0, 5.0], [3.0, 5.0], [3.0, 0.0]];
        for device in devices() {
            assert_eq!(weights(filters, &host, &device), expected);
            // A sampler of its own takes the place of the old log-probs; what it did not report is no evidence.
            let rollout = tensor(&[vec![-0.7, f64::NAN], vec![0.0; 2], vec![-0.7, -0.7], vec![-1.0; 2]], &device);
            let filtered = filters.apply(&host.batch(&device).with_rollout_log_probs(rollout));
            let got = values(filtered.batch.token_weights.unwrap());
            assert_eq!(got, [[3.0, 5.0], [3.0, 5.0], [0.0, 0.0], [3.0, 5.0]]);
            let mut metrics = MetricAccumulator::default();
            metrics.add(filtered.metrics);
            let [(name, share)] = metrics.finish()[..] else { panic!("one metric") };
            assert_eq!(name, "actor/off_policy_dropped");
            assert_close(&[share], &[0.25], 0.0, 0.0);
        }
    }

    #[test]
    fn both_filters_multiply() {
        let host = HostBatch::random(6, 5);
        let entropy = TokenFilters { top_entropy_quantile: Some(0.6), ..TokenFilters::default() };
        let off_policy = TokenFilters { off_policy_mask_threshold: Some(-0.1), ..TokenFilters::default() };
        let both = TokenFilters { off_policy_mask_threshold: Some(-0.1), top_entropy_quantile: Some(0.6) };
        for device in devices() {
            let [one, other, both] = [entropy, off_policy, both].map(|f| weights(f, &host, &device).concat());
            let product: Vec<f64> = one.iter().zip(&other).map(|(a, b)| a * b).collect();
            assert_eq!(both, product);
            assert!(product != one && product != other, "neither filter is idle");
        }
    }

    #[test]
    fn a_filtered_token_keeps_its_kl_term_and_loses_the_others() {
        let host = HostBatch::random(5, 6);
        let policy: Arc<dyn PolicyLoss> = Arc::new(Grpo::new());
        let kl = Some(KlTerm::new(KlKind::K2, 0.4));
        let filters = TokenFilters { top_entropy_quantile: Some(0.5), ..TokenFilters::default() };
        let filtered = Objective { kl, entropy_coeff: 0.7, filters, ..Objective::new(policy.clone()) };
        // The same with the filter's choice as token weights.
        let weighted = Objective { filters: TokenFilters::default(), ..filtered.clone() };
        for device in devices() {
            let reference = tensor(&host.ref_log_probs, &device);
            let kept = weights(filters, &host, &device);
            let by_weights = host.batch(&device).with_token_weights(tensor(&kept, &device));
            let expected = weighted.gradients(by_weights, Some(&reference), &host.totals());
            let got = filtered.gradients(host.batch(&device), Some(&reference), &host.totals());
            assert_eq!(values(got.log_probs), values(expected.log_probs));

            // The entropy term is about the kept tokens: under seq-mean-token-mean, those of their rows.
            let rows = kept.iter().filter(|row| row.iter().sum::<f64>() > 0.0).count() as f64;
            let of_token =
                |row: &Vec<f64>| row.iter().map(|w| -0.7 * w / (row.iter().sum::<f64>().max(1.0) * rows)).collect();
            let expected: Vec<Vec<f64>> = kept.iter().map(of_token).collect();
            assert_close(&values(got.entropy.unwrap()).concat(), &expected.concat(), 1e-6, 0.0);
            assert!(got.metrics.iter().any(|(name, _)| *name == "actor/low_entropy_dropped"));
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert_eq!(TokenFilters::default().check(), Ok(()));
        for share in [-0.1, 1.1, f64::NAN] {
            let filters = TokenFilters { top_entropy_quantile: Some(share), ..TokenFilters::default() };
            assert!(filters.check().unwrap_err().to_string().contains("top_entropy_quantile"));
        }
        let filters = TokenFilters { off_policy_mask_threshold: Some(f64::INFINITY), ..TokenFilters::default() };
        assert!(filters.check().unwrap_err().to_string().contains("off_policy_mask_threshold"));
    }
}
