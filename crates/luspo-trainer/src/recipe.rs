//! The recipes: supervised fine-tuning alone, and reinforcement learning after it.

use std::path::PathBuf;

use luspo_core::{Purpose, RandomKey};

use crate::learner::Learner;
use crate::sample::score_and_compare;
use crate::schedule::learning_rate;
use crate::session::Session;
use crate::step_log::StepLog;
use crate::{Config, Evaluation, Observer, TrainError};

/// What a recipe leaves behind.
#[derive(Debug)]
pub struct Summary {
    /// The run folder.
    pub dir: PathBuf,
    /// The final policy, a Hugging Face folder.
    pub policy: PathBuf,
    /// Validation before the first step of reinforcement learning, if there was one.
    pub before: Option<Evaluation>,
    /// Validation of the final policy, if there are validation prompts.
    pub after: Option<Evaluation>,
}

/// Supervised fine-tuning alone: the warm-up of [`train`], saved and validated as step 0.
///
/// # Errors
/// A configuration without `[sft]` steps, and whatever loading and fine-tuning refuse.
pub fn sft(config: Config, observer: &mut dyn Observer) -> Result<Summary, TrainError> {
    if config.sft.as_ref().is_none_or(|sft| sft.steps == 0) {
        return Err(TrainError::Mismatch(
            "there is nothing to fine-tune on: the configuration has no [sft] steps".into(),
        ));
    }
    let mut run = Session::open(config, observer)?;
    run.begin()?;
    let policy = run.warm_up(observer)?.ok_or_else(|| TrainError::Mismatch("[sft] has no steps".into()))?;
    let after = run.validate_alone(0, observer)?;
    Ok(Summary { dir: run.folder.path().into(), policy, before: None, after })
}

/// Reinforcement learning with verifiable rewards, after the warm-up if the configuration has one.
///
/// Each step samples a group of answers to each of its prompts, scores them, compares them within their group, and
/// makes one or more updates with what was learned.
///
/// # Errors
/// Whatever loading refuses; updates that stay non-finite; a sampler that disagrees with the trainer; files that cannot
/// be written.
pub fn train(config: Config, observer: &mut dyn Observer) -> Result<Summary, TrainError> {
    let mut learner = Learner::new(&config)?;
    let mut run = Session::open(config, observer)?;
    let data = run.training_prompts()?;
    let config = run.config.clone();
    run.begin()?;
    let mut saved = run.warm_up(observer)?;
    let before = if config.trainer.val_before_train { run.validate_alone(0, observer)? } else { None };
    learner.freeze_reference(&run.policy);

    let mut after = before.clone();
    let steps = config.trainer.total_training_steps;
    for step in 1..=steps {
        let mut log = StepLog::start(step);
        let lr = learning_rate(&config.optimizer, step, steps);

        let prompts = data.batch(step as u64, config.data.train_batch_size, config.run.seed);
        let key = RandomKey::new(config.run.seed, Purpose::Rollout).at(step as u64);
        let rollouts =
            run.policy.generate(&prompts, config.rollout.n, &run.sampling(), key, config.rollout.max_batch_size)?;
        log.lap("gen");
        let mut samples = score_and_compare(&run.policy, &prompts, rollouts, &run.rewards, &config)?;
        log.samples(&samples, &config);
        log.lap("reward");
        learner.remember_old_log_probs(&run.policy, &mut samples);
        log.lap("old_log_prob");
        learner.remember_reference_log_probs(&mut samples);
        log.lap("ref");

        for _epoch in 0..config.trainer.ppo_epochs {
            for rows in samples.chunks(config.mini_batch_size() * config.rollout.n) {
                let update = learner.update(&mut run.policy, rows, lr, step, &run.folder)?;
                log.update(update);
            }
        }
        log.lap("update_actor");

        if due(step, steps, config.trainer.test_freq) {
            after = run.validate(step, observer)?;
            log.validation(after.as_ref());
            log.lap("testing");
        }
        if due(step, steps, config.trainer.save_freq) {
            saved = Some(run.save(step, observer)?);
            log.lap("save_checkpoint");
        }
        let metrics = log.finish(lr);
        run.folder.append("metrics.jsonl", &metrics)?;
        observer.step(step, steps, &metrics);
    }
    let policy = match saved {
        Some(policy) => policy,
        None => run.save(steps, observer)?,
    };
    Ok(Summary { dir: run.folder.path().into(), policy, before, after })
}

/// Whether something of this frequency happens after `step`: every so many steps, and after the last.
fn due(step: usize, steps: usize, frequency: usize) -> bool {
    step == steps || (frequency > 0 && step.is_multiple_of(frequency))
}

#[cfg(test)]
mod tests {
    use super::due;

    #[test]
    fn a_frequency_of_zero_means_only_after_the_last_step() {
        let steps: Vec<usize> = (1..=5).filter(|s| due(*s, 5, 0)).collect();
        assert_eq!(steps, [5]);
        let steps: Vec<usize> = (1..=5).filter(|s| due(*s, 5, 2)).collect();
        assert_eq!(steps, [2, 4, 5]);
    }
}
