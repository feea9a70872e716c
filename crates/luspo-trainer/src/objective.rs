//! What a configuration says of the objective.

use std::sync::Arc;

use luspo_algo::{
    Aggregation, EntropyController, Grpo, Gspo, KlKind, KlTerm, LossOptions, Luspo, Objective, PolicyLoss, RatioLevel,
    TokenFilters, policy_loss,
};

use crate::config::{self, EntropyControlConfig, PolicyLossConfig};
use crate::{Config, TrainError};

/// The `loss_mode` of an objective that is not built in.
pub(crate) const CUSTOM: &str = "custom";

fn loss_options(config: &Config) -> LossOptions {
    let algorithm = &config.algorithm;
    let own = &algorithm.policy_loss;
    LossOptions {
        clip_ratio_low: algorithm.clip_ratio_low,
        clip_ratio_high: algorithm.clip_ratio_high,
        clip_ratio_c: algorithm.clip_ratio_c,
        log_ratio_clamp: algorithm.log_ratio_clamp,
        loss_agg_mode: algorithm.loss_agg_mode.clone(),
        loss_scale_factor: algorithm.loss_scale_factor,
        seed: config.run.seed,
        delta: own.delta,
        tau_pos: own.tau_pos,
        tau_neg: own.tau_neg,
        cispo_max_ratio: own.cispo_max_ratio,
        clip_cov_ratio: own.clip_cov_ratio,
        clip_cov_lb: own.clip_cov_lb,
        clip_cov_ub: own.clip_cov_ub,
        kl_cov_ratio: own.kl_cov_ratio,
        ppo_kl_coef: own.ppo_kl_coef,
        dro_beta: own.dro_beta,
        vespo_k_pos: own.vespo_k_pos,
        vespo_lambda_pos: own.vespo_lambda_pos,
        vespo_k_neg: own.vespo_k_neg,
        vespo_lambda_neg: own.vespo_lambda_neg,
    }
    .or_loss_scale_factor(&algorithm.loss_mode, scale_factor(config))
}

/// The constant that `seq-mean-token-sum-norm` divides by.
pub(crate) fn scale_factor(config: &Config) -> f64 {
    config.algorithm.loss_scale_factor.unwrap_or(config.data.max_response_length as f64)
}

/// The configuration with the defaults that depend on other keys filled in: what a run folder keeps.
///
/// # Errors
/// An unknown objective.
pub(crate) fn resolved(config: &Config) -> Result<Config, TrainError> {
    let mut resolved = config.clone();
    resolved.model.dtype = Some(config.dtype());
    resolved.trainer.ppo_mini_batch_size = Some(config.mini_batch_size());
    if config.trainer.max_tokens_per_micro_batch.is_none() {
        resolved.trainer.ppo_micro_batch_size = Some(config.micro_batch_size());
    }
    if config.algorithm.loss_mode == CUSTOM {
        return Ok(resolved);
    }
    let options = loss_options(config).resolved(&config.algorithm.loss_mode)?;
    let algorithm = &mut resolved.algorithm;
    algorithm.clip_ratio_low = options.clip_ratio_low;
    algorithm.clip_ratio_high = options.clip_ratio_high;
    algorithm.clip_ratio_c = options.clip_ratio_c;
    algorithm.log_ratio_clamp = options.log_ratio_clamp;
    algorithm.loss_agg_mode = options.loss_agg_mode;
    algorithm.loss_scale_factor = options.loss_scale_factor.or(config.algorithm.loss_scale_factor);
    algorithm.policy_loss = PolicyLossConfig {
        delta: options.delta,
        tau_pos: options.tau_pos,
        tau_neg: options.tau_neg,
        cispo_max_ratio: options.cispo_max_ratio,
        clip_cov_ratio: options.clip_cov_ratio,
        clip_cov_lb: options.clip_cov_lb,
        clip_cov_ub: options.clip_cov_ub,
        kl_cov_ratio: options.kl_cov_ratio,
        ppo_kl_coef: options.ppo_kl_coef,
        dro_beta: options.dro_beta,
        vespo_k_pos: options.vespo_k_pos,
        vespo_lambda_pos: options.vespo_lambda_pos,
        vespo_k_neg: options.vespo_k_neg,
        vespo_lambda_neg: options.vespo_lambda_neg,
    };
    Ok(resolved)
}

/// The objective of a configuration; with `loss_mode = "custom"` around the policy loss that the caller brings.
///
/// # Errors
/// An unknown name, an impossible number, a custom loss that is missing or was not asked for.
pub(crate) fn objective(config: &Config, custom: Option<Arc<dyn PolicyLoss>>) -> Result<Objective, TrainError> {
    let algorithm = &config.algorithm;
    let policy = match (algorithm.loss_mode.as_str(), custom) {
        (CUSTOM, Some(custom)) => {
            no_options(config)?;
            custom
        }
        (CUSTOM, None) => {
            return Err(TrainError::Mismatch(
                "algorithm.loss_mode = \"custom\" is for programs that bring their own loss (luspo::trainer::train_with); \
                 name a built-in one"
                    .into(),
            ));
        }
        (name, Some(_)) => {
            return Err(TrainError::Mismatch(format!(
                "a policy loss was brought along, but algorithm.loss_mode = \"{name}\"; set it to \"custom\""
            )));
        }
        (name, None) => policy_loss(name, &loss_options(config))?,
    };
    let kind: KlKind = algorithm.kl_loss_type.parse()?;
    let times_ratio = algorithm.kl_loss_ratio.map(|level| match level {
        config::RatioLevel::Token => RatioLevel::Token,
        config::RatioLevel::Sequence => RatioLevel::Sequence,
    });
    let entropy_aggregation = match &algorithm.entropy_agg_mode {
        Some(name) => Some(Aggregation::from_name(name, scale_factor(config))?),
        None => None,
    };
    let objective = Objective {
        policy,
        kl: algorithm.use_kl_loss.then_some(KlTerm { kind, coef: algorithm.kl_loss_coef, times_ratio }),
        entropy_coeff: algorithm.entropy_coeff,
        entropy_aggregation,
        filters: TokenFilters {
            off_policy_mask_threshold: algorithm.off_policy_mask_threshold,
            top_entropy_quantile: algorithm.top_entropy_quantile,
        },
    };
    objective.check()?;
    Ok(objective)
}

/// What moves the weight of the entropy bonus, where something does.
pub(crate) fn entropy_controller(config: &Config) -> Result<Option<EntropyController>, TrainError> {
    let Some(control) = &config.algorithm.entropy_ctrl else { return Ok(None) };
    let EntropyControlConfig { target, delta, min, max } = *control;
    Ok(Some(EntropyController::adaptive(config.algorithm.entropy_coeff, delta, min, max, target)?))
}

/// A loss that a program brings along has its settings in itself.
fn no_options(config: &Config) -> Result<(), TrainError> {
    if loss_options(config) == (LossOptions { seed: config.run.seed, ..LossOptions::default() }) {
        return Ok(());
    }
    Err(TrainError::Mismatch(
        "algorithm.loss_mode = \"custom\" reads no clip range, aggregation or [algorithm.policy_loss]; remove them"
            .into(),
    ))
}

/// The objectives whose gradient weights are set beside the run's own, with their defaults.
pub(crate) fn compared() -> Vec<(&'static str, Objective)> {
    let losses: [(_, Arc<dyn PolicyLoss>); 3] =
        [("grpo", Arc::new(Grpo::new())), ("gspo", Arc::new(Gspo::new())), ("luspo", Arc::new(Luspo::new()))];
    losses.into_iter().map(|(name, loss)| (name, Objective::new(loss))).collect()
}
