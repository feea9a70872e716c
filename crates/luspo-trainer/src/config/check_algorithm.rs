//! Whether the objective and the advantages can be what a configuration says.

use luspo_algo::Aggregation;
use luspo_algo::advantages::AdvantageEstimator;

use super::check::{Problem, count, within};
use super::{
    AlgorithmConfig, Config, ControlKind, CriticConfig, FilterGroupsConfig, KlControlConfig, OldLogProbs, ScaleRewards,
};
use crate::advantage::Advantages;
use crate::objective::{CUSTOM, entropy_controller, objective, scale_factor};

impl Config {
    /// Builds what can be built without data or weights, and refuses keys that nothing would read.
    pub(super) fn check_algorithm(&self) -> Problem {
        let algorithm = &self.algorithm;
        let estimator = Advantages::new(self).map_err(|e| e.to_string())?.estimator;
        if algorithm.loss_mode != CUSTOM {
            objective(self, None).map_err(|e| e.to_string())?;
        }
        entropy_controller(self).map_err(|e| e.to_string())?;
        let compares = match algorithm.filter_groups.enable {
            true => Some("filter_groups".to_string()),
            false => estimator.needs_groups().then(|| format!("adv_estimator `{}`", algorithm.adv_estimator)),
        };
        if let (1, Some(who)) = (self.rollout.n, compares) {
            return Err(format!("rollout.n = 1; {who} compares the answers to one prompt, so there must be several"));
        }
        count("algorithm.filter_groups.max_num_gen_batches", algorithm.filter_groups.max_num_gen_batches, 1 << 16)?;
        self.check_critic(&estimator)?;
        self.check_unread(&estimator)
    }

    fn check_critic(&self, estimator: &AdvantageEstimator) -> Problem {
        let critic = &self.critic;
        if estimator.needs_values() {
            within("critic.cliprange_value", critic.cliprange_value, 0.0, f64::MAX)?;
            let aggregation = Aggregation::from_name(&critic.value_agg_mode, scale_factor(self));
            aggregation.map_err(|error| format!("critic.value_agg_mode: {error}"))?;
            return self.optimizer_ranges("critic", &critic.optimizer());
        }
        let estimator = &self.algorithm.adv_estimator;
        if *critic != CriticConfig::default() {
            return Err(format!(
                "[critic] is of adv_estimator `gae`; `{estimator}` has no critic (remove the section)"
            ));
        }
        match self.trainer.critic_warmup {
            0 => Ok(()),
            _ => Err(format!(
                "trainer.critic_warmup is of adv_estimator `gae`; `{estimator}` has no critic (remove the key)"
            )),
        }
    }

    /// Refuses what was set and would have no effect. A coefficient of 0 says what its switch says, as verl's recipes do.
    fn check_unread(&self, estimator: &AdvantageEstimator) -> Problem {
        let algorithm = &self.algorithm;
        let default = AlgorithmConfig::default();
        let of_estimators = [
            ("lam", algorithm.lam != default.lam && !estimator.needs_values(), "`gae`"),
            ("gamma", algorithm.gamma != default.gamma && !estimator.reads_gamma(), "`gae` and `reinforce_plus_plus`"),
            (
                "norm_adv_by_std_in_grpo",
                algorithm.norm_adv_by_std_in_grpo != default.norm_adv_by_std_in_grpo
                    && !estimator.reads_norm_adv_by_std(),
                "`grpo`, `grpo_passk`, `gdpo` and `normalize_then_sum`",
            ),
            (
                "scale_rewards",
                algorithm.scale_rewards != ScaleRewards::Group && !estimator.reads_scale_rewards(),
                "`grpo` with norm_adv_by_std_in_grpo",
            ),
        ];
        if let Some((key, _, readers)) = of_estimators.into_iter().find(|(_, unread, _)| *unread) {
            let estimator = &algorithm.adv_estimator;
            return Err(format!(
                "algorithm.{key} is of adv_estimator {readers}; `{estimator}` does not read it (remove the key)"
            ));
        }
        if algorithm.use_kl_in_reward && estimator.needs_components() {
            return Err(format!(
                "algorithm.use_kl_in_reward has no effect on adv_estimator `{}`, which compares the components of the \
                 score (use_kl_loss does)",
                algorithm.adv_estimator
            ));
        }

        let off = |switch: bool, key: &'static str, changed: bool, needs: &'static str| {
            (!switch && changed).then_some((key, needs))
        };
        let set = |value: f64, default: f64| value != default && value != 0.0;
        let (kl, groups) = (&algorithm.kl_ctrl, &algorithm.filter_groups);
        let aims = KlControlConfig { kind: kl.kind, kl_coef: kl.kl_coef, ..KlControlConfig::default() } != *kl;
        let moves = kl.kind == ControlKind::Adaptive;
        let choice = FilterGroupsConfig { enable: groups.enable, ..FilterGroupsConfig::default() } != *groups;
        let bonus = algorithm.entropy_coeff != 0.0 || algorithm.entropy_ctrl.is_some();
        let (in_loss, in_reward) = (algorithm.use_kl_loss, algorithm.use_kl_in_reward);
        let unread = [
            off(in_loss, "kl_loss_coef", set(algorithm.kl_loss_coef, default.kl_loss_coef), "use_kl_loss"),
            off(in_loss, "kl_loss_type", algorithm.kl_loss_type != default.kl_loss_type, "use_kl_loss"),
            off(in_loss, "kl_loss_ratio", algorithm.kl_loss_ratio.is_some(), "use_kl_loss"),
            off(in_reward, "kl_penalty", algorithm.kl_penalty != default.kl_penalty, "use_kl_in_reward"),
            off(in_reward, "kl_ctrl", moves || set(kl.kl_coef, default.kl_ctrl.kl_coef), "use_kl_in_reward"),
            off(moves, "kl_ctrl.target_kl or horizon", aims, "kl_ctrl.type = \"adaptive\""),
            off(bonus, "entropy_agg_mode", algorithm.entropy_agg_mode.is_some(), "entropy_coeff"),
            off(groups.enable, "filter_groups", choice, "filter_groups.enable"),
        ];
        if let Some((key, needs)) = unread.into_iter().flatten().next() {
            return Err(format!(
                "algorithm.{key} is set, but has no effect without {needs}; set that too, or remove it"
            ));
        }

        let correction = &algorithm.rollout_correction;
        let corrects = correction.rollout_is.is_some() || correction.rollout_rs.is_some();
        if corrects && algorithm.old_log_probs == OldLogProbs::Sampler {
            return Err("algorithm.rollout_correction compares the trainer's log-probs with the sampler's, but \
                        old_log_probs = \"sampler\" takes the sampler's for both"
                .into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GroupMetric, InitConfig};

    #[test]
    fn what_would_have_no_effect_is_refused_by_key() {
        type Change = fn(&mut AlgorithmConfig);
        let cases: [(&str, Change); 15] = [
            ("kl_loss_coef", |c| c.kl_loss_coef = 0.1),
            ("kl_loss_type", |c| c.kl_loss_type = "k1".into()),
            ("kl_penalty", |c| c.kl_penalty = "k3".into()),
            ("kl_ctrl", |c| c.kl_ctrl.kl_coef = 0.1),
            ("kl_ctrl", |c| c.kl_ctrl.kind = ControlKind::Adaptive),
            ("kl_ctrl", |c| c.kl_ctrl.target_kl = 1.0),
            ("entropy_agg_mode", |c| c.entropy_agg_mode = Some("token-mean".into())),
            ("filter_groups", |c| c.filter_groups.metric = GroupMetric::Score),
            ("filter_groups", |c| c.filter_groups.max_num_gen_batches = 3),
            ("rollout_is_threshold", |c| c.rollout_correction.rollout_is_threshold = Some("3".into())),
            ("rollout_is_batch_normalize", |c| c.rollout_correction.rollout_is_batch_normalize = true),
            ("rollout_rs_threshold", |c| c.rollout_correction.rollout_rs_threshold = Some("3".into())),
            ("scale_rewards", |c| {
                (c.adv_estimator, c.scale_rewards) = ("grpo_passk".into(), ScaleRewards::Batch);
            }),
            ("norm_adv_by_std_in_grpo", |c| {
                (c.adv_estimator, c.norm_adv_by_std_in_grpo) = ("rloo".into(), false);
            }),
            ("use_kl_in_reward", |c| (c.adv_estimator, c.use_kl_in_reward) = ("gdpo".into(), true)),
        ];
        for (key, change) in cases {
            let mut config = config();
            change(&mut config.algorithm);
            let error = config.check_algorithm().unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn a_coefficient_of_zero_agrees_with_its_switch() {
        let mut config = config();
        (config.algorithm.kl_loss_coef, config.algorithm.kl_ctrl.kl_coef) = (0.0, 0.0);
        assert_eq!(config.check_algorithm(), Ok(()));
    }

    #[test]
    fn a_group_of_one_cannot_be_filtered() {
        let mut config = config();
        config.rollout.n = 1;
        config.algorithm.adv_estimator = "reinforce_plus_plus".into();
        assert_eq!(config.check_algorithm(), Ok(()));
        config.algorithm.filter_groups.enable = true;
        assert!(config.check_algorithm().unwrap_err().contains("filter_groups"));
    }

    #[test]
    fn an_aggregation_of_the_critic_that_does_not_exist_is_refused_before_anything_loads() {
        let mut config = config();
        config.algorithm.adv_estimator = "gae".into();
        config.critic.value_agg_mode = "token".into();
        assert!(config.check_algorithm().unwrap_err().contains("critic.value_agg_mode"));
    }

    fn config() -> Config {
        let mut config = Config::default();
        config.model.init = Some(InitConfig::default());
        config
    }
}
