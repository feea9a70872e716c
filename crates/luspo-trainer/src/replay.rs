//! Runs a step again and compares it with what the run recorded of it.

use std::path::PathBuf;

use luspo_reward::CustomRewards;

use crate::checkpoint::Checkpoint;
use crate::config::EngineKind;
use crate::learner::Learner;
use crate::objective::CUSTOM;
use crate::recipe::run_step;
use crate::records::Journal;
use crate::session::Session;
use crate::start::Opened;
use crate::{Config, Observer, Point, RolloutRow, RunFolder, TrainError, read_rollouts, rollout_rows};

/// What came of a replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The step.
    pub step: usize,
    /// The checkpoint from which the run was repeated up to the step; none where it was repeated from its start.
    pub from: Option<PathBuf>,
    /// Answers that were compared; 0 where the run did not record them.
    pub rollouts: usize,
    /// Tokens of those answers.
    pub tokens: usize,
    /// Metrics that were compared, bit for bit.
    pub metrics: usize,
    /// SHA-256 of the policy after the step, or of its adapters where they are trained, as it came out now.
    pub policy_sha256: String,
    /// What differs and where, one sentence each; empty where the step is the same.
    pub differences: Vec<String>,
}

/// Runs step `step` of the run in `dir` again and compares answers, log-probs, scores, advantages, metrics and weights
/// with its journal, bit for bit. Nothing is written.
///
/// Rewards of the user's own are asked again: where they now say something else, that is a difference.
///
/// The step begins with the policy of the newest whole checkpoint before it; steps in between are run again too, and the
/// policy they arrive at is compared as well.
///
/// # Errors
/// A step that the run did not make, a journal that cannot be read, no checkpoint to begin with, and whatever a step can
/// fail with.
pub fn replay(dir: PathBuf, step: usize, observer: &mut dyn Observer) -> Result<Replay, TrainError> {
    let folder = RunFolder::look(dir.clone())?;
    let failed = |problem: String| TrainError::Replay { step, dir: dir.clone(), problem };
    let journal = Journal::read(&folder.journal(step)).map_err(failed)?;
    let recorded = match &journal.rollouts {
        Some(file) => Some(read_rollouts(&dir.join(file)).map_err(|e| failed(e.to_string()))?),
        None => None,
    };
    let config = Config::load(&folder.config(), &[])?;
    if config.algorithm.loss_mode == CUSTOM {
        return Err(failed("its loss was brought along by a program (loss_mode = \"custom\"), not by luspo".into()));
    }
    if config.rollout.engine == EngineKind::OpenAi {
        return Err(failed("its answers came from servers, which need not give the same again".into()));
    }
    let before = Point::Step(step.saturating_sub(1));
    if let Some((name, _)) = config.reward.components.iter().find(|(_, component)| component.custom) {
        return Err(failed(format!("its reward `{name}` was brought along by a program, not by luspo")));
    }
    let (checkpoint, _) = Checkpoint::newest(&folder.checkpoints(), before)?;
    let warm_up = config.sft.as_ref().is_some_and(|sft| sft.steps > 0);
    if warm_up && !matches!(&checkpoint, Some(c) if c.state.after >= Point::Step(0)) {
        return Err(failed("there is no whole checkpoint of the end of the warm-up to begin with".into()));
    }
    let from = checkpoint.as_ref().map(|c| c.dir().to_path_buf());
    let opened = Opened { folder, config, checkpoint, damaged: Vec::new() };
    let mut run = Session::load(opened, &CustomRewards::new(), observer)?;
    let mut learner = Learner::new(&run.config, None)?;
    let data = run.training_prompts()?;
    run.prepare(&mut learner)?;

    let mut differences = Vec::new();
    let mut policy = run.policy.sha256();
    for on_the_way in run.steps_done() + 1..step {
        let recorded = Journal::read(&run.folder.journal(on_the_way)).map_err(failed)?;
        let steps = recorded.total_training_steps;
        let done = run_step(&mut run, &mut learner, &data, on_the_way, steps, observer)?;
        let now = Journal::of(&run, &done, steps, policy);
        if now.policy_after != recorded.policy_after && differences.is_empty() {
            differences.push(format!(
                "on the way, step {on_the_way} already led to other weights ({}); replay that one first",
                hashes(&recorded.policy_after, &now.policy_after)
            ));
        }
        policy = now.policy_after;
    }
    let steps = journal.total_training_steps;
    let done = run_step(&mut run, &mut learner, &data, step, steps, observer)?;
    let rows = rollout_rows(&run.policy, &done.prompts, &done.samples, run.config.rollout.n)?;
    let now = Journal::of(&run, &done, steps, policy);

    compare_journals(&journal, &now, &mut differences);
    if let Some(recorded) = &recorded {
        compare_rollouts(recorded, &rows, &mut differences);
    }
    let rollouts = recorded.map_or(0, |_| rows.len());
    let tokens = rows.iter().take(rollouts).map(|row| row.response_ids.len()).sum();
    let metrics = now.metrics.len();
    Ok(Replay { step, from, rollouts, tokens, metrics, policy_sha256: now.policy_after, differences })
}

fn compare_journals(recorded: &Journal, now: &Journal, differences: &mut Vec<String>) {
    if recorded.step != now.step {
        differences.push(format!("step: recorded {}, now {}", recorded.step, now.step));
    }
    if recorded.generator != now.generator {
        differences.push(format!("generator: recorded {:?}, now {:?}", recorded.generator, now.generator));
    }
    if recorded.prompt_ids != now.prompt_ids {
        differences.push(format!("prompts: recorded {:?}, now {:?}", recorded.prompt_ids, now.prompt_ids));
    }
    if recorded.policy_before != now.policy_before {
        differences.push(format!("weights before the step: {}", hashes(&recorded.policy_before, &now.policy_before)));
    }
    for (name, value) in &now.metrics {
        match recorded.metrics.get(name) {
            Some(recorded) if recorded == value => {}
            Some(recorded) => differences.push(format!("metric {name}: recorded {recorded}, now {value}")),
            None => differences.push(format!("metric {name}: not recorded, now {value}")),
        }
    }
    for (name, value) in recorded.metrics.iter().filter(|(name, _)| !now.metrics.contains_key(*name)) {
        differences.push(format!("metric {name}: recorded {value}, now absent"));
    }
    if recorded.policy_after != now.policy_after {
        differences.push(format!("weights after the step: {}", hashes(&recorded.policy_after, &now.policy_after)));
    }
}

fn hashes(recorded: &str, now: &str) -> String {
    format!("recorded SHA-256 {recorded}, now {now}")
}

/// Bit for bit: a NaN is itself, and 0 is not −0.
fn compare_rollouts(recorded: &[RolloutRow], now: &[RolloutRow], differences: &mut Vec<String>) {
    if recorded.len() != now.len() {
        differences.push(format!("answers: {} recorded, {} now", recorded.len(), now.len()));
    }
    for (row, (old, new)) in recorded.iter().zip(now).enumerate() {
        let place = format!("answer {row} (prompt {}, sample {})", new.prompt_id, new.sample);
        let mut say = |what: String| differences.push(format!("{place}: {what}"));
        if (old.prompt_id, old.sample) != (new.prompt_id, new.sample) {
            say(format!("recorded as prompt {}, sample {}", old.prompt_id, old.sample));
        }
        if let Some(what) = first_difference("prompt token", &old.prompt_ids, &new.prompt_ids, |id| *id) {
            say(what);
        }
        if let Some(what) = first_difference("response token", &old.response_ids, &new.response_ids, |id| *id) {
            say(what);
        }
        if let Some(what) = first_difference("log-prob", &old.log_probs, &new.log_probs, |x| x.to_bits()) {
            say(what);
        }
        for (what, old, new) in [("reward", old.reward, new.reward), ("advantage", old.advantage, new.advantage)] {
            if old.to_bits() != new.to_bits() {
                say(format!("{what} recorded {old}, now {new}"));
            }
        }
        let bits = |row: &RolloutRow| -> Vec<(String, u64)> {
            row.components.iter().map(|(name, value)| (name.clone(), value.to_bits())).collect()
        };
        if bits(old) != bits(new) {
            say(format!("components recorded {:?}, now {:?}", old.components, new.components));
        }
        if (old.finish, old.correct) != (new.finish, new.correct) {
            let (old, new) = ((old.finish, old.correct), (new.finish, new.correct));
            say(format!("finish and correctness recorded {old:?}, now {new:?}"));
        }
        let texts = |row: &RolloutRow| [row.data_source.clone(), row.prompt.clone(), row.response.clone()];
        if texts(old) != texts(new) {
            say("source, prompt or response have another text".into());
        }
    }
}

/// Where two lists first differ, in bits.
fn first_difference<T: std::fmt::Display, B: PartialEq>(
    what: &str,
    recorded: &[T],
    now: &[T],
    bits: impl Fn(&T) -> B,
) -> Option<String> {
    match recorded.iter().zip(now).position(|(old, new)| bits(old) != bits(new)) {
        Some(i) => Some(format!("{what} {i} recorded {}, now {}", recorded[i], now[i])),
        None if recorded.len() != now.len() => Some(format!("{} {what}s recorded, {} now", recorded.len(), now.len())),
        None => None,
    }
}
