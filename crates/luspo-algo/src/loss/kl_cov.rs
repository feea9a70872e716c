//! KL-Cov: a policy gradient with a penalty on the tokens that lower the entropy most.
//!
//! ```text
//! L(θ) = agg[ −rₜ Âₜ + β |δₜ| · 1(t is chosen) ],   δₜ = log rₜ = log π(yₜ) − log π_old(yₜ)
//! ```
//!
//! arXiv 2505.22617. Chosen are the tokens of the highest covariance, as many as `kl_cov_ratio` of all, at least one.

use burn::config::Config;

use super::covariance;
use super::settings::Settings;
use crate::aggregate::Aggregation;
use crate::batch::{BatchTotals, PolicyBatch};
use crate::clip;
use crate::error::{AlgoError, in_range};
use crate::measure::{mean, ratios};
use crate::policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
use crate::ratio;

/// Token-level objective without a clip that holds the tokens of the highest covariance where they are.
///
/// ```text
/// L(θ) = agg[ −rₜ Âₜ + β |δₜ| · 1(t is chosen) ],   covₜ = ( Âₜ − mean Â ) ( log π(yₜ) − mean log π )
/// ```
#[derive(Config, Debug)]
pub struct KlCov {
    /// Share of all tokens that is penalised, in (0, 1]; one token at least.
    #[config(default = 2e-4)]
    pub kl_cov_ratio: f64,
    /// β, at least 0. verl's default in a configuration.
    #[config(default = 0.1)]
    pub ppo_kl_coef: f64,
    /// What a token weighs.
    #[config(default = "Aggregation::TokenMean")]
    pub loss_agg_mode: Aggregation,
}

impl Settings for KlCov {
    fn check(&self) -> Result<(), AlgoError> {
        let share = self.kl_cov_ratio;
        in_range("kl_cov_ratio", share, share > 0.0 && share <= 1.0, "above 0 and at most 1")?;
        in_range("ppo_kl_coef", self.ppo_kl_coef, self.ppo_kl_coef >= 0.0, "finite and at least 0")
    }
}

impl PolicyLoss for KlCov {
    fn aggregation(&self) -> Aggregation {
        self.loss_agg_mode
    }

    fn needs_whole_update(&self) -> bool {
        true
    }

    fn forward(&self, batch: &PolicyBatch, totals: &BatchTotals) -> PolicyLossOutput {
        let log_ratio = ratio::token(batch);
        let tokens = covariance::tokens(batch);
        let count = tokens.len();
        let chosen = covariance::first(tokens, self.kl_cov_ratio, count, |token| -token.covariance, batch);

        // verl's ppo_kl of this loss is the mean of |δ|.
        let [_, max, min, sample_size] = ratios(log_ratio.clone(), batch);
        let metrics = vec![("actor/ppo_kl", mean(log_ratio.clone().abs(), batch)), max, min, sample_size];
        let penalty = log_ratio.clone().abs().mask_fill(chosen.bool_not(), 0.0) * self.ppo_kl_coef;
        let terms = penalty - clip::unclipped(log_ratio, &batch.advantages);
        Terms { terms, metrics }.aggregate(self.aggregation(), batch, totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostBatch, check_against, covariance};

    /// The equation, in scalars, with a fifth of the tokens chosen and β = 0.5.
    fn reference(host: &HostBatch) -> f64 {
        let mut covariances: Vec<f64> = host.tokens().map(|(row, t)| covariance(host, row, t)).collect();
        covariances.sort_by(|a, b| b.total_cmp(a));
        let least = covariances[host.totals().tokens / 5 - 1];
        let tokens = host.tokens().map(|(row, t)| {
            let delta = host.log_ratio(row, t);
            let penalty = if covariance(host, row, t) >= least { 0.5 * delta.abs() } else { 0.0 };
            -delta.exp() * host.advantages[row][t] + penalty
        });
        tokens.sum::<f64>() / host.totals().tokens as f64
    }

    #[test]
    fn value_and_gradient_are_those_of_the_equation() {
        let loss = KlCov::new().with_kl_cov_ratio(0.2).with_ppo_kl_coef(0.5);
        check_against(&loss, &HostBatch::random(6, 7), reference);
    }

    #[test]
    fn one_token_is_penalised_at_least() {
        fn reference(host: &HostBatch) -> f64 {
            let of = |&(row, t): &(usize, usize)| covariance(host, row, t);
            let highest = host.tokens().max_by(|a, b| of(a).total_cmp(&of(b)));
            let tokens = host.tokens().map(|(row, t)| {
                let delta = host.log_ratio(row, t);
                let penalty = if highest == Some((row, t)) { 0.5 * delta.abs() } else { 0.0 };
                -delta.exp() * host.advantages[row][t] + penalty
            });
            tokens.sum::<f64>() / host.totals().tokens as f64
        }
        check_against(&KlCov::new().with_ppo_kl_coef(0.5), &HostBatch::random(6, 7), reference);
    }
}
