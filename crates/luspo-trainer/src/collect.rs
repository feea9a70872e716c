//! The answers that a step learns from: sampled, scored, and, with dynamic sampling, replaced where they say nothing.

use std::collections::HashSet;

use luspo_core::{Prompt, Purpose, RandomKey};
use luspo_data::PromptDataset;
use luspo_rollout::Sampling;

use crate::config::{FilterGroupsConfig, GroupMetric};
use crate::evaluate::judge;
use crate::metrics::Metrics;
use crate::session::Session;
use crate::step_log::StepLog;
use crate::{Observer, Sample, TrainError};

/// The groups of a step and how they were come by.
pub(crate) struct Collected<'a> {
    /// In the order of the groups.
    pub prompts: Vec<&'a Prompt>,
    /// `rollout.n` answers to each prompt.
    pub samples: Vec<Sample>,
}

/// A prompt with its answers.
struct Group<'a> {
    prompt: &'a Prompt,
    samples: Vec<Sample>,
}

impl Group<'_> {
    fn is_mixed(&self, metric: GroupMetric) -> bool {
        let first = &self.samples[0].score;
        self.samples.iter().any(|sample| match metric {
            GroupMetric::Acc => sample.score.correct != first.correct,
            GroupMetric::Score => sample.score.total != first.total,
        })
    }

    fn all(&self, correct: bool) -> bool {
        self.samples.iter().all(|sample| sample.score.correct == correct)
    }
}

/// Samples and scores the answers of `step`.
///
/// Groups without variance are kept (their advantages are 0) unless `algorithm.filter_groups` replaces them by the
/// groups of further prompts. `with_greedy`, the reward of the greedy answer is attached too.
pub(crate) fn collect<'a>(
    run: &mut Session,
    data: &'a PromptDataset,
    (step, steps): (usize, usize),
    with_greedy: bool,
    log: &mut StepLog,
    observer: &mut dyn Observer,
) -> Result<Collected<'a>, TrainError> {
    let (size, seed) = (run.config.data.train_batch_size, run.config.run.seed);
    let FilterGroupsConfig { enable, metric, max_num_gen_batches } = run.config.algorithm.filter_groups;
    let mut drawn = HashSet::new();
    let (mut kept, mut filtered) = (Vec::new(), Vec::new());
    let mut batches = 0;
    while kept.len() < size && batches < if enable { max_num_gen_batches } else { 1 } {
        batches += 1;
        run.batches_drawn += 1;
        let mut prompts = data.batch(run.batches_drawn, size, seed);
        // Random numbers are keyed by step and prompt: a second group of the same prompt would be the first again.
        prompts.retain(|prompt| drawn.insert(prompt.id));
        for group in sample(run, &prompts, (step, steps), with_greedy, log, observer)? {
            let list = if enable && !group.is_mixed(metric) { &mut filtered } else { &mut kept };
            list.push(group);
        }
    }

    let groups = (kept.len() + filtered.len()) as f64;
    let share = |correct: bool| kept.iter().chain(&filtered).filter(|group| group.all(correct)).count() as f64 / groups;
    let mut metrics = Metrics::default();
    metrics.set("train/groups_all_correct", share(true));
    metrics.set("train/groups_all_wrong", share(false));
    if enable {
        let missing = size.saturating_sub(kept.len());
        if missing > 0 {
            log::warn!(
                "step {step}: {} of {size} groups have variance after {batches} batches of prompts; {missing} without it \
                 fill the step up",
                kept.len()
            );
        }
        metrics.set("train/num_gen_batches", batches as f64);
        metrics.set("train/groups_filtered", filtered.len() as f64);
        metrics.set("train/groups_surplus", kept.len().saturating_sub(size) as f64);
        metrics.set("train/groups_filled", missing as f64);
        kept.extend(filtered);
        kept.truncate(size);
    }
    log.extend(metrics);
    let (prompts, samples): (Vec<_>, Vec<_>) = kept.into_iter().map(|group| (group.prompt, group.samples)).unzip();
    Ok(Collected { prompts, samples: samples.into_iter().flatten().collect() })
}

/// A group of scored answers to each prompt.
fn sample<'a>(
    run: &Session,
    prompts: &[&'a Prompt],
    (step, steps): (usize, usize),
    with_greedy: bool,
    log: &mut StepLog,
    observer: &mut dyn Observer,
) -> Result<Vec<Group<'a>>, TrainError> {
    let (n, batch) = (run.config.rollout.n, run.config.rollout.max_batch_size);
    let key = RandomKey::new(run.config.run.seed, Purpose::Rollout).at(step as u64);
    observer.phase(step, steps, "sampling");
    let rollouts = run.policy.generate(prompts, n, &run.sampling(), key, batch)?;
    // The baseline of ReMax: the reward of the greedy answer.
    let greedy = match with_greedy {
        true => {
            let greedy = Sampling { temperature: 0.0, ..run.policy.sampling(run.config.data.max_response_length) };
            Some(run.policy.generate(prompts, 1, &greedy, key, batch)?)
        }
        false => None,
    };
    log.lap("gen");

    observer.phase(step, steps, "scoring");
    let mut rollouts = rollouts.into_iter();
    let mut groups = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.iter().enumerate() {
        let baseline = match &greedy {
            Some(greedy) => Some(judge(&run.policy, prompt, &greedy[index], &run.rewards)?.total),
            None => None,
        };
        let mut samples = Vec::with_capacity(n);
        for rollout in rollouts.by_ref().take(n) {
            let score = judge(&run.policy, prompt, &rollout, &run.rewards)?;
            samples.push(Sample { baseline, ..Sample::new(rollout, score) });
        }
        groups.push(Group { prompt, samples });
    }
    log.lap("reward");
    Ok(groups)
}
