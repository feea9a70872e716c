//! What a config says of an objective.

use super::mode::configured;
use crate::error::AlgoError;

/// What a config says of an objective; an absent key takes the objective's default.
///
/// The names are the config's keys, and those of the fields of the objectives that read them; there stands what each
/// means, and which values it may have. An option that the objective does not read is refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossOptions {
    /// Distance of the lower clip bound from 1 (of the log-ratio from 0 for `geo_mean`, a divergence for `dppo_*`).
    pub clip_ratio_low: Option<f64>,
    /// Distance of the upper clip bound from 1 (of the log-ratio from 0 for `geo_mean`, a divergence for `dppo_*`).
    pub clip_ratio_high: Option<f64>,
    /// The dual clip of `vanilla`; the bound of the importance weight of `dppo_*`.
    pub clip_ratio_c: Option<f64>,
    /// Bound on the log-ratio before it is exponentiated: from above for sequence-level ratios, on both sides for
    /// others; 0 for no bound.
    pub log_ratio_clamp: Option<f64>,
    /// What a token weighs, by [`Aggregation::from_name`](crate::Aggregation::from_name).
    pub loss_agg_mode: Option<String>,
    /// The constant of `seq-mean-token-sum-norm`, usually the maximum response length in tokens. It has no default; see
    /// [`or_loss_scale_factor`](Self::or_loss_scale_factor).
    pub loss_scale_factor: Option<f64>,
    /// Seed of the tokens that `clip_cov` chooses; the others choose none and do not read it.
    pub seed: u64,
    /// Largest ratio that is not clipped, for either sign of the advantage.
    pub delta: Option<f64>,
    /// Temperature of `sapo` for positive advantages.
    pub tau_pos: Option<f64>,
    /// Temperature of `sapo` for the others.
    pub tau_neg: Option<f64>,
    /// Largest importance weight of `cispo`, in place of its clip range.
    pub cispo_max_ratio: Option<f64>,
    /// Share of the tokens that `clip_cov` leaves out.
    pub clip_cov_ratio: Option<f64>,
    /// Covariance above which `clip_cov` may leave a token out.
    pub clip_cov_lb: Option<f64>,
    /// Covariance below which `clip_cov` may leave a token out.
    pub clip_cov_ub: Option<f64>,
    /// Share of the tokens that `kl_cov` penalises.
    pub kl_cov_ratio: Option<f64>,
    /// Factor of the penalty of `kl_cov`.
    pub ppo_kl_coef: Option<f64>,
    /// Factor of the quadratic penalty of `dro`, which has no default.
    pub dro_beta: Option<f64>,
    /// Exponent k of `vespo` where the advantage is not negative.
    pub vespo_k_pos: Option<f64>,
    /// Decay λ of `vespo` where the advantage is not negative.
    pub vespo_lambda_pos: Option<f64>,
    /// Exponent k of `vespo` where the advantage is negative.
    pub vespo_k_neg: Option<f64>,
    /// Decay λ of `vespo` where the advantage is negative.
    pub vespo_lambda_neg: Option<f64>,
}

impl LossOptions {
    /// The options of a `loss_mode` with every absent one that it reads filled in by its default. They build the same
    /// objective.
    ///
    /// # Errors
    /// As [`policy_loss`](crate::policy_loss).
    pub fn resolved(&self, loss_mode: &str) -> Result<Self, AlgoError> {
        Ok(configured(loss_mode, self)?.options)
    }

    /// The options with this `loss_scale_factor`, if the objective needs one and it is absent.
    pub fn or_loss_scale_factor(self, loss_mode: &str, loss_scale_factor: f64) -> Self {
        match configured(loss_mode, &self) {
            Err(AlgoError::MissingOption { key: "loss_scale_factor", .. }) => {
                Self { loss_scale_factor: Some(loss_scale_factor), ..self }
            }
            _ => self,
        }
    }

    /// The options with this `loss_agg_mode`, if it is absent.
    pub(super) fn or_loss_agg_mode(&self, name: &str) -> Self {
        Self { loss_agg_mode: self.loss_agg_mode.clone().or_else(|| Some(name.into())), ..self.clone() }
    }

    /// The number `key`, without which there is no such objective.
    pub(super) fn required(&self, key: &'static str, loss_mode: &str) -> Result<f64, AlgoError> {
        self.number(key).ok_or_else(|| AlgoError::MissingOption { key, loss_mode: loss_mode.into() })
    }

    /// The number `key`.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.numbers().into_iter().find_map(|(known, value)| if known == key { value } else { None })
    }

    /// Every option but the aggregation's, with its key.
    pub(super) fn numbers(&self) -> impl IntoIterator<Item = (&'static str, Option<f64>)> + use<> {
        self.clone().numbers_mut().map(|(key, value)| (key, *value))
    }

    /// Every option but the aggregation's, with its key.
    pub(super) fn numbers_mut(&mut self) -> [(&'static str, &mut Option<f64>); 18] {
        macro_rules! named {
            ($($key:ident),*) => {{
                let Self { loss_agg_mode: _, loss_scale_factor: _, seed: _, $($key),* } = self;
                [$((stringify!($key), $key)),*]
            }};
        }
        named!(
            clip_ratio_low,
            clip_ratio_high,
            clip_ratio_c,
            log_ratio_clamp,
            delta,
            tau_pos,
            tau_neg,
            cispo_max_ratio,
            clip_cov_ratio,
            clip_cov_lb,
            clip_cov_ub,
            kl_cov_ratio,
            ppo_kl_coef,
            dro_beta,
            vespo_k_pos,
            vespo_lambda_pos,
            vespo_k_neg,
            vespo_lambda_neg
        )
    }
}
