//! Clip-Cov: PPO without some of the tokens that lower the entropy most.
//!
//! ```text
//! L(θ) = agg[ −min(rₜ Âₜ, clip(rₜ, 1−ε_low, 1+ε_high) Âₜ) ]   without the tokens chosen
//! ```
//!
//! arXiv 2505.22617. Of the tokens that are not clipped and whose covariance is within (`lb`, `ub`), as many as
//! `clip_cov_ratio` of all tokens, at least one, are chosen at random. Their terms are 0. The choice is a function of the
//! seed and of a row's own numbers.

use burn::config::Config;

use super::covariance::{self, Token};
use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip::{self, ClipRange};
use crate::error::{AlgoError, in_range};
use crate::measure::share;
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
use crate::ratio;

/// Token-level clipped objective that leaves out some tokens of high covariance between log-prob and advantage.
///
/// ```text
/// L(θ) = agg[ −min(rₜ Âₜ, clip(rₜ, 1−ε_low, 1+ε_high) Âₜ) ]   without the tokens chosen
/// covₜ = ( Âₜ − mean Â ) ( log π(yₜ) − mean log π )
/// ```
#[derive(Config, Debug)]
pub struct ClipCov {
    /// Distance of the lower clip bound from 1, in [0, 1).
    #[config(default = 0.2)]
    pub clip_ratio_low: f64,
    /// Distance of the upper clip bound from 1, at least 0.
    #[config(default = 0.2)]
    pub clip_ratio_high: f64,
    /// Share of all tokens that is left out, in (0, 1]; one token at least.
    #[config(default = 2e-4)]
    pub clip_cov_ratio: f64,
    /// Covariance above which a token may be left out.
    #[config(default = 1.0)]
    pub clip_cov_lb: f64,
    /// Covariance below which a token may be left out, above the other.
    #[config(default = 5.0)]
    pub clip_cov_ub: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::TokenMean")]
    pub loss_agg_mode: Aggregation,
    /// Seed of the choice.
    #[config(default = 0)]
    pub seed: u64,
}

impl ClipCov {
    fn range(&self) -> ClipRange {
        ClipRange::new(self.clip_ratio_low, self.clip_ratio_high)
    }

    /// Whether a token may be left out.
    fn is_candidate(&self, token: &Token) -> bool {
        let ratio = token.log_ratio.exp();
        let clipped = (token.advantage > 0.0 && ratio > 1.0 + self.clip_ratio_high)
            || (token.advantage < 0.0 && ratio < 1.0 - self.clip_ratio_low);
        !clipped && token.covariance > self.clip_cov_lb && token.covariance < self.clip_cov_ub
    }
}

impl Settings for ClipCov {
    fn check(&self) -> Result<(), AlgoError> {
        self.range().check()?;
        let (ratio, lb, ub) = (self.clip_cov_ratio, self.clip_cov_lb, self.clip_cov_ub);
        in_range("clip_cov_ratio", ratio, ratio > 0.0 && ratio <= 1.0, "above 0 and at most 1")?;
        in_range("clip_cov_lb", lb, true, "a finite number")?;
        in_range("clip_cov_ub", ub, ub > lb, "finite and above clip_cov_lb")
    }
}

impl PolicyLoss for ClipCov {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn needs_whole_update(&self) -> bool {
        true
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let tokens = covariance::tokens(batch);
        let count = tokens.len();
        let candidates = tokens.into_iter().filter(|token| self.is_candidate(token)).collect();
        let left_out = covariance::first(candidates, self.clip_cov_ratio, count, |token| token.draw(self.seed), batch);

        let Terms { terms, mut metrics } = clip::surrogate(ratio::token(batch), batch, self.range());
        // As in verl, the share of the tokens left out takes the place of the share of those clipped.
        metrics.retain(|(name, _)| *name != "actor/pg_clipfrac");
        metrics.push(("actor/pg_clipfrac", share(left_out.clone(), batch)));
        Terms { terms: terms.mask_fill(left_out, 0.0), metrics }.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, check_against, covariance, devices, gradients, values};

    fn loss() -> ClipCov {
        ClipCov::new().with_clip_cov_lb(0.1).with_clip_cov_ub(1.0)
    }

    fn is_clipped(host: &HostBatch, row: usize, t: usize) -> bool {
        let (ratio, advantage) = (host.log_ratio(row, t).exp(), host.advantages[row][t]);
        (advantage > 0.0 && ratio > 1.2) || (advantage < 0.0 && ratio < 0.8)
    }

    fn candidates(host: &HostBatch) -> Vec<(usize, usize)> {
        let open = host.tokens().filter(|&(row, t)| !is_clipped(host, row, t));
        open.filter(|&(row, t)| (0.1..1.0).contains(&covariance(host, row, t))).collect()
    }

    /// The tokens that are left out, as those whose gradient is 0 though they are not clipped.
    fn left_out(loss: &ClipCov, host: &HostBatch) -> Vec<(usize, usize)> {
        let [flex, ndarray] = devices().map(|device| {
            let gradient = values(gradients(loss, host, &device).log_probs);
            let open = host.tokens().filter(|&(row, t)| !is_clipped(host, row, t));
            open.filter(|&(row, t)| gradient[row][t] == 0.0).collect::<Vec<_>>()
        });
        assert_eq!(flex, ndarray);
        flex
    }

    #[test]
    fn with_room_for_all_candidates_they_are_all_left_out() {
        fn reference(host: &HostBatch) -> f64 {
            let chosen = candidates(host);
            let tokens = host.tokens().filter(|token| !chosen.contains(token)).map(|(row, t)| {
                let (ratio, advantage) = (host.log_ratio(row, t).exp(), host.advantages[row][t]);
                -(ratio * advantage).min(ratio.clamp(0.8, 1.2) * advantage)
            });
            tokens.sum::<f64>() / host.totals().tokens as f64
        }
        let host = HostBatch::random(6, 7);
        assert!(candidates(&host).len() > 2);
        check_against(&loss().with_clip_cov_ratio(1.0), &host, reference);
    }

    #[test]
    fn as_many_tokens_are_left_out_as_the_share_says() {
        let host = HostBatch::random(12, 9);
        let tokens = host.totals().tokens;
        for (share, expected) in [(1e-6, 1), (0.05, (0.05 * tokens as f64) as usize)] {
            let chosen = left_out(&loss().with_clip_cov_ratio(share), &host);
            assert_eq!(chosen.len(), expected);
            assert!(chosen.iter().all(|token| candidates(&host).contains(token)));
        }
    }

    #[test]
    fn the_choice_depends_on_the_seed_but_on_neither_order_nor_padding() {
        let host = HostBatch::random(12, 9);
        let loss = loss().with_clip_cov_ratio(0.05);
        let chosen = left_out(&loss, &host);
        assert_eq!(left_out(&loss, &host.padded_by(3)), chosen);

        let order = [7, 3, 11, 0, 5, 1, 9, 2, 10, 4, 8, 6];
        let mut moved: Vec<_> = left_out(&loss, &host.select(&order)).iter().map(|&(row, t)| (order[row], t)).collect();
        moved.sort_unstable();
        assert_eq!(moved, chosen);

        assert!((1..5).any(|seed| left_out(&loss.clone().with_seed(seed), &host) != chosen));
    }
}
