//! The answers that a step learns from: sampled, scored, and, with dynamic sampling, replaced where they say nothing.

use std::collections::HashSet;

use luspo_core::{Prompt, Purpose, RandomKey, Score};
use luspo_data::PromptDataset;
use luspo_reward::Scored;

use crate::config::{FilterGroupsConfig, GroupMetric};
use crate::evaluate::judge;
use crate::meanwhile::Bench;
use crate::metrics::Metrics;
use crate::outside::Wanted;
use crate::session::Session;
use crate::step_log::StepLog;
use crate::{Observer, Sample, TrainError};

/// The groups of a step.
pub(crate) struct Collected {
    /// In the order of the groups.
    pub prompts: Vec<Prompt>,
    /// `rollout.n` answers to each prompt.
    pub samples: Vec<Sample>,
}

/// A prompt with its answers.
struct Group {
    prompt: Prompt,
    samples: Vec<Sample>,
}

impl Group {
    /// The scores that are known.
    fn scores(&self) -> impl Iterator<Item = &Score> {
        self.samples.iter().filter(|sample| sample.is_judged()).map(|sample| &sample.score)
    }

    fn is_mixed(&self, metric: GroupMetric) -> bool {
        let mut scores = self.scores();
        let Some(first) = scores.next() else { return false };
        scores.any(|score| match metric {
            GroupMetric::Acc => score.correct != first.correct,
            GroupMetric::Score => score.total != first.total,
        })
    }

    fn all(&self, correct: bool) -> bool {
        self.scores().next().is_some() && self.scores().all(|score| score.correct == correct)
    }
}

/// Samples and scores the answers of `step`.
///
/// Groups without variance are kept (their advantages are 0) unless `algorithm.filter_groups` replaces them by the
/// groups of further prompts. `with_greedy`, the reward of the greedy answer is attached too.
pub(crate) fn collect(
    run: &mut Session,
    data: &PromptDataset,
    (step, steps): (usize, usize),
    with_greedy: bool,
    log: &mut StepLog,
    observer: &mut dyn Observer,
) -> Result<Collected, TrainError> {
    let (size, seed) = (run.config.data.train_batch_size, run.config.run.seed);
    let filter = run.config.algorithm.filter_groups.clone();
    let most = if filter.enable { filter.max_num_gen_batches } else { 1 };
    let mut drawn = HashSet::new();
    let mut groups = Groups::new(filter);
    while groups.kept.len() < size && groups.batches < most && drawn.len() < data.len() {
        run.batches_drawn += 1;
        let mut prompts = data.batch(run.batches_drawn, size, seed)?;
        // Random numbers are keyed by step and prompt: a second group of the same prompt would be the first again.
        prompts.retain(|prompt| drawn.insert(prompt.id));
        groups.add(sample(run, prompts, (step, steps), with_greedy, log, observer)?);
    }
    if groups.filter.enable && groups.kept.len() < size {
        log::warn!(
            "step {step}: {} of {size} groups have variance after {} batches of prompts; others fill the step up",
            groups.kept.len(),
            groups.batches
        );
    }
    if run.config.rollout.max_staleness > 0 && step < steps {
        begin_ahead(run, data, step + 1)?;
    }
    let (groups, metrics) = groups.chosen(size);
    log.extend(metrics);
    let (prompts, samples): (Vec<_>, Vec<_>) = groups.into_iter().map(|group| (group.prompt, group.samples)).unzip();
    Ok(Collected { prompts, samples: samples.into_iter().flatten().collect() })
}

/// Has the servers begin with the first batch of prompts of a step to come.
fn begin_ahead(run: &mut Session, data: &PromptDataset, step: usize) -> Result<(), TrainError> {
    let (size, seed, n) = (run.config.data.train_batch_size, run.config.run.seed, run.config.rollout.n);
    let (sampling, key) = (run.sampling(), RandomKey::new(seed, Purpose::Rollout).at(step as u64));
    let prompts = data.batch(run.batches_drawn + 1, size, seed)?;
    match &mut run.outside {
        Some(outside) => outside.begin(&run.policy, &Wanted { step, prompts: &prompts, n, sampling: &sampling, key }),
        None => Ok(()),
    }
}

/// The groups of a step so far.
struct Groups {
    filter: FilterGroupsConfig,
    /// In the order in which they were sampled.
    kept: Vec<Group>,
    filtered: Vec<Group>,
    batches: usize,
}

impl Groups {
    fn new(filter: FilterGroupsConfig) -> Self {
        Self { filter, kept: Vec::new(), filtered: Vec::new(), batches: 0 }
    }

    /// Adds the groups of one batch of prompts.
    fn add(&mut self, groups: Vec<Group>) {
        self.batches += 1;
        for group in groups {
            let says_something = !self.filter.enable || group.is_mixed(self.filter.metric);
            if says_something { &mut self.kept } else { &mut self.filtered }.push(group);
        }
    }

    /// `size` of the groups, those that were filtered last, and what became of all.
    fn chosen(self, size: usize) -> (Vec<Group>, Metrics) {
        let Self { filter, mut kept, filtered, batches } = self;
        let groups = (kept.len() + filtered.len()) as f64;
        let all = |correct: bool| kept.iter().chain(&filtered).filter(|group| group.all(correct)).count() as f64;
        let mut metrics = Metrics::default();
        metrics.set("train/groups_all_correct", all(true) / groups);
        metrics.set("train/groups_all_wrong", all(false) / groups);
        if filter.enable {
            metrics.set("train/num_gen_batches", batches as f64);
            metrics.set("train/groups_filtered", filtered.len() as f64);
            metrics.set("train/groups_surplus", kept.len().saturating_sub(size) as f64);
            metrics.set("train/groups_filled", size.saturating_sub(kept.len()) as f64);
            kept.extend(filtered);
            kept.truncate(size);
        }
        (kept, metrics)
    }
}

/// A group of scored answers to each prompt.
fn sample(
    run: &mut Session,
    prompts: Vec<Prompt>,
    (step, steps): (usize, usize),
    with_greedy: bool,
    log: &mut StepLog,
    observer: &mut dyn Observer,
) -> Result<Vec<Group>, TrainError> {
    let n = run.config.rollout.n;
    let key = RandomKey::new(run.config.run.seed, Purpose::Rollout).at(step as u64);
    observer.phase(step, steps, "sampling");
    let sampling = run.sampling();
    let Session { policy, engine, outside, rewards, .. } = run;
    let bench = Bench { tokenizer: &policy.tokenizer, rewards, prompts: &prompts, n };
    let (rollouts, Scored { scores, mut failures }) = bench.judge_while(|show| {
        let rollouts = match outside {
            None => policy.generate_each(engine, &prompts, n, &sampling, key, show)?,
            Some(outside) => {
                let wanted = Wanted { step, prompts: &prompts, n, sampling: &sampling, key };
                let (rollouts, staleness) = outside.sample(policy, &wanted, show)?;
                log.staleness(staleness);
                rollouts
            }
        };
        log.sampled(&rollouts);
        log.engine(engine.take_statistics());
        log.lap("gen");
        observer.phase(step, steps, "scoring");
        Ok(rollouts)
    })?;
    log.lap("reward");
    // The baseline of ReMax: the reward of the greedy answer.
    let mut baselines = Vec::new();
    if with_greedy {
        observer.phase(step, steps, "sampling");
        let greedy = run.endings();
        let rollouts = run.policy.generate_with(&mut run.engine, &prompts, 1, &greedy, key)?;
        log.sampled(&rollouts);
        log.engine(run.engine.take_statistics());
        log.lap("gen");
        let scored = judge(&run.policy.tokenizer, prompts.iter().zip(&rollouts), &run.rewards)?;
        baselines = scored.scores;
        failures += scored.failures;
        log.lap("reward");
    }
    log.device_memory(run.sampled());
    log.reward_failures(&failures);
    let mut samples = rollouts.into_iter().zip(scores).map(|(rollout, score)| Sample::new(rollout, score));
    let mut groups = Vec::with_capacity(prompts.len());
    for (index, prompt) in prompts.into_iter().enumerate() {
        let baseline = baselines.get(index).map(|score| score.total);
        let samples = samples.by_ref().take(n).map(|sample| Sample { baseline, ..sample }).collect();
        groups.push(Group { prompt, samples });
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use luspo_core::{FinishReason, Rollout};

    use super::*;

    fn prompt() -> Prompt {
        Prompt {
            id: 0,
            messages: Vec::new(),
            token_ids: vec![1],
            data_source: String::new(),
            ground_truth: String::new(),
            extra_info: Default::default(),
        }
    }

    /// A group of answers with these totals; those above 0 are right.
    fn group(prompt: &Prompt, totals: &[f64]) -> Group {
        let answer = |(sample, total): (usize, &f64)| {
            let rollout = Rollout {
                prompt_id: prompt.id,
                sample: sample as u32,
                prompt_ids: prompt.token_ids.clone(),
                response_ids: vec![2],
                log_probs: vec![-1.0],
                finish: FinishReason::Stop,
            };
            let score =
                Score { total: *total, components: Vec::new(), correct: *total > 0.0, extracted: None, style: None };
            Sample::new(rollout, score)
        };
        Group { prompt: prompt.clone(), samples: totals.iter().enumerate().map(answer).collect() }
    }

    /// The groups chosen of these batches by the totals of their answers, and the metrics.
    fn choose(filter: FilterGroupsConfig, batches: &[&[&[f64]]], size: usize) -> (Vec<Vec<f64>>, Metrics) {
        let prompt = prompt();
        let mut groups = Groups::new(filter);
        for batch in batches {
            groups.add(batch.iter().map(|totals| group(&prompt, totals)).collect());
        }
        let (chosen, metrics) = groups.chosen(size);
        let totals = |group: &Group| group.samples.iter().map(|sample| sample.score.total).collect();
        (chosen.iter().map(totals).collect(), metrics)
    }

    const MIXED: &[f64] = &[1.0, 0.0];
    const RIGHT: &[f64] = &[1.0, 1.0];
    const WRONG: &[f64] = &[0.0, 0.0];
    /// Wrong both, of which one is too long.
    const SHAPED: &[f64] = &[0.0, -0.3];

    fn filter(metric: GroupMetric) -> FilterGroupsConfig {
        FilterGroupsConfig { enable: true, metric, ..FilterGroupsConfig::default() }
    }

    #[test]
    fn without_filter_every_group_is_kept_in_its_order_and_counted() {
        let (chosen, metrics) = choose(FilterGroupsConfig::default(), &[&[RIGHT, MIXED, WRONG, RIGHT]], 4);
        assert_eq!(chosen, [RIGHT, MIXED, WRONG, RIGHT]);
        assert_eq!(metrics.get("train/groups_all_correct"), Some(0.5));
        assert_eq!(metrics.get("train/groups_all_wrong"), Some(0.25));
        assert_eq!(metrics.get("train/num_gen_batches"), None);
    }

    #[test]
    fn groups_without_variance_are_replaced_and_what_is_too_much_is_dropped() {
        let batches: [&[&[f64]]; 2] = [&[RIGHT, MIXED, WRONG], &[MIXED, &[0.0, 1.0], MIXED]];
        let (chosen, metrics) = choose(filter(GroupMetric::Acc), &batches, 3);
        assert_eq!(chosen, [MIXED, MIXED, &[0.0, 1.0]]);
        for (name, count) in [("num_gen_batches", 2.0), ("groups_filtered", 2.0), ("groups_surplus", 1.0)] {
            assert_eq!(metrics.get(&format!("train/{name}")), Some(count), "{name}");
        }
        assert_eq!(metrics.get("train/groups_filled"), Some(0.0));
        assert_eq!(metrics.get("train/groups_all_correct"), Some(1.0 / 6.0), "of all that were sampled");
    }

    #[test]
    fn at_the_limit_the_filtered_groups_fill_the_step_up() {
        let batches: [&[&[f64]]; 2] = [&[RIGHT, WRONG, WRONG], &[WRONG, MIXED, RIGHT]];
        let (chosen, metrics) = choose(filter(GroupMetric::Acc), &batches, 3);
        assert_eq!(chosen, [MIXED, RIGHT, WRONG]);
        assert_eq!(metrics.get("train/groups_filled"), Some(2.0));
        assert_eq!(metrics.get("train/groups_filtered"), Some(5.0));
    }

    #[test]
    fn answers_that_could_not_be_judged_make_no_group_mixed() {
        let unknown: &[f64] = &[f64::NAN, f64::NAN];
        let (chosen, metrics) = choose(filter(GroupMetric::Score), &[&[&[1.0, f64::NAN], unknown, MIXED]], 1);
        assert_eq!(chosen, [MIXED]);
        assert_eq!(metrics.get("train/groups_filtered"), Some(2.0));
        assert_eq!(metrics.get("train/groups_all_correct"), Some(1.0 / 3.0));
        assert_eq!(metrics.get("train/groups_all_wrong"), Some(0.0));
    }

    #[test]
    fn shaping_makes_a_group_say_something_by_score_only() {
        let (by_accuracy, _) = choose(filter(GroupMetric::Acc), &[&[SHAPED, MIXED]], 1);
        let (by_score, _) = choose(filter(GroupMetric::Score), &[&[SHAPED, MIXED]], 1);
        assert_eq!((by_accuracy, by_score), (vec![MIXED.to_vec()], vec![SHAPED.to_vec()]));
    }
}
