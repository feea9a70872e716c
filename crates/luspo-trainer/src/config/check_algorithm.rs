//! Whether the objective and the advantages can be what a configuration says.

use super::check::{Problem, count, within};
use super::{Config, CriticConfig, OldLogProbs, ScaleRewards};
use crate::advantage::Advantages;
use crate::learner::entropy_controller;
use crate::objective::{CUSTOM, objective};

impl Config {
    /// Builds what can be built without data or weights, and refuses keys that nothing would read.
    pub(super) fn check_algorithm(&self) -> Problem {
        let algorithm = &self.algorithm;
        let advantages = Advantages::new(self).map_err(|e| e.to_string())?;
        if algorithm.loss_mode != CUSTOM {
            objective(self, None).map_err(|e| e.to_string())?;
        }
        entropy_controller(self).map_err(|e| e.to_string())?;
        if self.rollout.n == 1 && advantages.needs_groups() {
            return Err(format!(
                "rollout.n = 1; adv_estimator `{}` compares the answers to one prompt, so there must be several",
                algorithm.adv_estimator
            ));
        }
        count("algorithm.filter_groups.max_num_gen_batches", algorithm.filter_groups.max_num_gen_batches, 1 << 16)?;
        self.check_critic(&advantages)?;
        self.check_unread(&advantages)
    }

    fn check_critic(&self, advantages: &Advantages) -> Problem {
        let critic = &self.critic;
        if advantages.needs_values() {
            within("critic.cliprange_value", critic.cliprange_value, 0.0, f64::MAX)?;
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

    fn check_unread(&self, advantages: &Advantages) -> Problem {
        let algorithm = &self.algorithm;
        let unread = |key: &str, reader: &str| {
            let estimator = &algorithm.adv_estimator;
            Err(format!(
                "algorithm.{key} is of adv_estimator {reader}; `{estimator}` does not read it (remove the key)"
            ))
        };
        if algorithm.lam != 1.0 && !advantages.needs_values() {
            return unread("lam", "`gae`");
        }
        if algorithm.gamma != 1.0 && !advantages.discounts() {
            return unread("gamma", "`gae` and `reinforce_plus_plus`");
        }
        if algorithm.scale_rewards != ScaleRewards::Group
            && !(algorithm.adv_estimator.starts_with("grpo") && algorithm.norm_adv_by_std_in_grpo)
        {
            return unread("scale_rewards", "`grpo` with norm_adv_by_std_in_grpo");
        }
        let correction = &algorithm.rollout_correction;
        let corrects = correction.rollout_is.is_some() || correction.rollout_rs.is_some();
        if corrects && algorithm.old_log_probs == OldLogProbs::Sampler {
            return Err("algorithm.rollout_correction compares the trainer's log-probs with the sampler's, but \
                        old_log_probs = \"sampler\" takes the sampler's for both"
                .into());
        }
        if algorithm.kl_loss_ratio.is_some() && !algorithm.use_kl_loss {
            return Err("algorithm.kl_loss_ratio is of the KL term; set use_kl_loss, or remove the key".into());
        }
        Ok(())
    }
}
