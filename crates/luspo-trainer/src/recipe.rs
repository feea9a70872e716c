//! The recipes: supervised fine-tuning alone, and reinforcement learning after it.

use std::path::PathBuf;
use std::sync::Arc;

use luspo_algo::PolicyLoss;
use luspo_core::Prompt;
use luspo_data::PromptDataset;
use luspo_reward::CustomRewards;

use crate::collect::{Collected, collect};
use crate::config::TrainerConfig;
use crate::learner::Learner;
use crate::objective::objective;
use crate::records::Records;
use crate::schedule::learning_rate;
use crate::session::Session;
use crate::start::Start;
use crate::step_log::StepLog;
use crate::{Config, Evaluation, Observer, Point, Sample, TrainError};

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

/// Supervised fine-tuning alone: the warm-up of [`train`], validated and saved as step 0.
///
/// # Errors
/// A configuration without `[sft]` steps, and whatever loading and fine-tuning refuse.
pub fn sft(start: impl Into<Start>, observer: &mut dyn Observer) -> Result<Summary, TrainError> {
    let mut run = Session::open(start.into(), &CustomRewards::new(), observer)?;
    if run.config.sft.as_ref().is_none_or(|sft| sft.steps == 0) {
        return Err(TrainError::Mismatch(
            "there is nothing to fine-tune on: the configuration has no [sft] steps".into(),
        ));
    }
    run.begin()?;
    let policy = run.warm_up(true, observer)?;
    Ok(run.summary(policy))
}

/// Reinforcement learning with verifiable rewards, after the warm-up if the configuration has one.
///
/// Each step samples a group of answers to each of its prompts, scores them, compares them within their group, and
/// makes one or more updates with what was learned.
///
/// # Errors
/// Whatever loading refuses; updates that stay non-finite; a sampler that disagrees with the trainer; files that cannot
/// be written; [`TrainError::Interrupted`] where the observer asks for it.
pub fn train(start: impl Into<Start>, observer: &mut dyn Observer) -> Result<Summary, TrainError> {
    train_with_custom(start, Custom::default(), observer)
}

/// As [`train`], with a policy loss of the caller's instead of a built-in one; the configuration says
/// `algorithm.loss_mode = "custom"`.
///
/// Two processes of a run have to bring the same loss: a checkpoint does not know it.
///
/// # Errors
/// As [`train`]; a configuration that names another loss, or options that only built-in losses read.
pub fn train_with(
    start: impl Into<Start>,
    loss: Arc<dyn PolicyLoss>,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    train_with_custom(start, Custom { loss: Some(loss), rewards: CustomRewards::new() }, observer)
}

/// What a program brings along to a run, where the configuration says `custom`.
#[derive(Clone, Default)]
pub struct Custom {
    /// The policy loss, of `algorithm.loss_mode = "custom"`.
    pub loss: Option<Arc<dyn PolicyLoss>>,
    /// The rewards of every `[reward.components.NAME]` with `custom = true`, by name.
    pub rewards: CustomRewards,
}

/// As [`train`], with a policy loss, rewards, or both, of the caller's.
///
/// Two processes of a run have to bring the same: a checkpoint does not know them.
///
/// # Errors
/// As [`train_with`]; a reward that the configuration does not name, or one that it names and that is missing.
pub fn train_with_custom(
    start: impl Into<Start>,
    custom: Custom,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let (start, Custom { loss, rewards }) = (start.into(), custom);
    if let Start::New(config) = &start {
        objective(config, loss.clone())?; // before anything is loaded
    }
    let mut run = Session::open(start, &rewards, observer)?;
    let mut learner = Learner::new(&run.config, loss)?;
    let data = run.training_prompts()?;
    run.begin()?;
    let mut saved = run.warm_up(run.config.trainer.val_before_train, observer)?;
    run.prepare(&mut learner)?;

    let TrainerConfig { total_training_steps: steps, test_freq, save_freq, .. } = run.config.trainer;
    let mut records = Records::open(&run, steps)?;
    for step in run.steps_done() + 1..=steps {
        let mut done = run_step(&mut run, &mut learner, &data, step, steps, observer)?;
        records.journal(&run, &done)?;
        if due(step, steps, test_freq) {
            observer.phase(step, steps, "validating");
            run.after = run.validate(step, observer)?;
            done.log.validation(run.after.as_ref());
        }
        let metrics = done.log.finish(done.lr);
        records.metrics(&run, &metrics)?;
        observer.step(step, steps, &metrics);

        // After everything else that the step leaves behind, so that a checkpoint's step is complete.
        let interrupted = step < steps && observer.interrupted();
        if interrupted || due(step, steps, save_freq) {
            observer.phase(step, steps, "saving");
            let after = Point::Step(step);
            let place = run.save(after, Some(learner.optimizer()), Some(&learner), observer)?;
            run.stop_if(interrupted, after, &place)?;
            saved = Some(place);
        }
    }
    let policy = match saved {
        Some(policy) => policy,
        // No step was asked for, and there was no warm-up.
        None => run.save(Point::Step(0), None, None, observer)?,
    };
    Ok(run.summary(Some(policy)))
}

/// What a step of reinforcement learning did.
pub(crate) struct StepDone {
    pub step: usize,
    pub lr: f64,
    /// The prompts, in the order of the groups.
    pub prompts: Vec<Prompt>,
    pub samples: Vec<Sample>,
    pub log: StepLog,
}

/// One step: rollouts, scores, advantages, updates.
pub(crate) fn run_step(
    run: &mut Session,
    learner: &mut Learner,
    data: &PromptDataset,
    step: usize,
    steps: usize,
    observer: &mut dyn Observer,
) -> Result<StepDone, TrainError> {
    let config = run.config.clone();
    let mut log = StepLog::start(step);
    let lr = policy_learning_rate(&config, step, steps);

    let greedy = learner.needs_baselines();
    let Collected { prompts, mut samples } = collect(run, data, (step, steps), greedy, &mut log, observer)?;

    observer.phase(step, steps, "updating");
    learner.remember_old_log_probs(&run.policy, &mut samples);
    log.lap("old_log_prob");
    learner.remember_reference_log_probs(&mut samples);
    log.lap("ref");
    learner.remember_values(&mut samples);
    log.lap("values");
    log.extend(learner.estimate_advantages(&mut samples)?);
    log.samples(&samples, &config);
    log.device_memory(run.release_memory());
    log.lap("adv");

    let rows = config.mini_batch_size() * config.rollout.n;
    if learner.critic().is_some() {
        let lr = learning_rate(&config.critic.optimizer(), step, steps);
        for rows in updates(&samples, rows, config.trainer.ppo_epochs) {
            if let Some(update) = learner.update_critic(rows, lr, step, &run.folder)? {
                log.critic_update(update, lr);
            }
        }
        log.device_memory(run.release_memory());
        log.lap("update_critic");
    }
    if step > config.trainer.critic_warmup {
        for rows in updates(&samples, rows, config.trainer.ppo_epochs) {
            let update = learner.update(&mut run.policy, rows, lr, step, &run.folder)?;
            log.update(rows, update);
        }
    }
    log.device_memory(run.release_memory());
    log.lap("update_actor");
    Ok(StepDone { step, lr, prompts, samples, log })
}

/// The learning rate of the policy: its schedule begins with its first update, after the critic's warm-up.
fn policy_learning_rate(config: &Config, step: usize, steps: usize) -> f64 {
    let warmup = config.trainer.critic_warmup;
    match step.saturating_sub(warmup) {
        0 => 0.0,
        step => learning_rate(&config.optimizer, step, steps.saturating_sub(warmup)),
    }
}

/// The rows of each update of a step: its mini-batches, as often as there are epochs.
fn updates(samples: &[Sample], rows: usize, epochs: usize) -> impl Iterator<Item = &[Sample]> {
    (0..epochs).flat_map(move |_| samples.chunks(rows))
}

/// Whether something of this frequency happens after `step`: every so many steps, and after the last.
fn due(step: usize, steps: usize, frequency: usize) -> bool {
    step == steps || (frequency > 0 && step.is_multiple_of(frequency))
}

#[cfg(test)]
mod tests {
    use super::{due, policy_learning_rate};
    use crate::Config;

    #[test]
    fn the_schedule_of_the_policy_waits_for_the_critic() {
        let mut config = Config::default();
        config.trainer.critic_warmup = 2;
        (config.optimizer.lr, config.optimizer.lr_warmup_steps) = (1.0, 2);
        let rates: Vec<f64> = (1..=5).map(|step| policy_learning_rate(&config, step, 5)).collect();
        assert_eq!(rates, [0.0, 0.0, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn a_frequency_of_zero_means_only_after_the_last_step() {
        let steps: Vec<usize> = (1..=5).filter(|s| due(*s, 5, 0)).collect();
        assert_eq!(steps, [5]);
        let steps: Vec<usize> = (1..=5).filter(|s| due(*s, 5, 2)).collect();
        assert_eq!(steps, [2, 4, 5]);
    }
}
