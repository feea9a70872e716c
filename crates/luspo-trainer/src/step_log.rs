//! The metrics of one step, collected as it goes.

use std::time::{Duration, Instant};

use luspo_algo::diagnostics::GradientWeights;
use luspo_core::{FinishReason, Rollout};
use luspo_reward::Failures;
use luspo_rollout::{LogProbGap, Statistics};

use crate::learner::UpdateReport;
use crate::metrics::{Metrics, mean};
use crate::sample::Sample;
use crate::{Config, Evaluation};

/// Collects what happened in a step, under verl's names.
#[derive(Clone)]
pub(crate) struct StepLog {
    metrics: Metrics,
    updates: Vec<UpdateReport>,
    critic_updates: Vec<UpdateReport>,
    /// By objective.
    gradient_weights: Vec<(&'static str, GradientWeights)>,
    /// Response tokens that were sampled, those of answers that no update sees included.
    sampled_tokens: usize,
    /// What the sampler did.
    sampling: Statistics,
    /// Tokens of the prompts and answers that the updates are about.
    total_tokens: usize,
    started: Instant,
    lap: Instant,
    /// From the start to the end of the updates: the step without validation and saving.
    trained: Duration,
    /// Most memory that the device's allocator held at the end of a phase, in bytes, where it has its own.
    device_memory: Option<u64>,
}

impl StepLog {
    /// Starts the step's clock.
    pub fn start(step: usize) -> Self {
        let now = Instant::now();
        Self {
            metrics: Metrics::of_step(step),
            updates: Vec::new(),
            critic_updates: Vec::new(),
            gradient_weights: Vec::new(),
            sampled_tokens: 0,
            sampling: Statistics::default(),
            total_tokens: 0,
            started: now,
            lap: now,
            trained: Duration::ZERO,
            device_memory: None,
        }
    }

    /// Adds the time since the last lap to `timing_s/{name}`.
    pub fn lap(&mut self, name: &str) {
        if name == "update_actor" {
            self.trained = self.started.elapsed();
        }
        let name = format!("timing_s/{name}");
        let before = self.metrics.get(&name).unwrap_or(0.0);
        self.metrics.set(name, before + self.lap.elapsed().as_secs_f64());
        self.lap = Instant::now();
    }

    /// Keeps the most of what the device's allocator held at the ends of the step's phases, in bytes.
    pub fn device_memory(&mut self, held: Option<u64>) {
        self.device_memory = self.device_memory.max(held);
    }

    /// Counts what the sampler did in the time of its laps.
    pub fn sampled(&mut self, rollouts: &[Rollout]) {
        self.sampled_tokens += rollouts.iter().map(Rollout::response_len).sum::<usize>();
    }

    /// How many steps behind the policy answers from elsewhere are; of several batches the most.
    pub fn staleness(&mut self, steps: usize) {
        let before = self.metrics.get("rollout/staleness").unwrap_or(0.0);
        self.metrics.set("rollout/staleness", before.max(steps as f64));
    }

    /// Counts what went wrong with rewards of the user's own.
    pub fn reward_failures(&mut self, failures: &Failures) {
        for (name, count) in failures.metrics() {
            let before = self.metrics.get(&name).unwrap_or(0.0);
            self.metrics.set(name, before + count);
        }
    }

    /// Adds what the sampler says of it.
    pub fn engine(&mut self, statistics: Statistics) {
        self.sampling += statistics;
    }

    /// Adds what was measured elsewhere.
    pub fn extend(&mut self, metrics: Metrics) {
        self.metrics.extend(metrics);
    }

    /// Scores, lengths and advantages of the step's answers.
    pub fn samples(&mut self, samples: &[Sample], config: &Config) {
        let metrics = &mut self.metrics;
        let of = |value: &dyn Fn(&Sample) -> f64| -> Vec<f64> { samples.iter().map(value).collect() };
        let judged: Vec<&Sample> = samples.iter().filter(|sample| sample.is_judged()).collect();
        let of_judged = |value: &dyn Fn(&Sample) -> f64| -> Vec<f64> { judged.iter().map(|s| value(s)).collect() };
        metrics.set_summary("critic/score", &of_judged(&|s| s.score.total));
        // Over tokens, as verl has it: a long answer counts as often as it has tokens.
        let tokens = |of: &dyn Fn(&Sample, usize) -> f64| -> Vec<f64> {
            let seen = samples.iter().flat_map(|s| (0..s.mask.len()).filter(|t| s.mask[*t]).map(move |t| (s, t)));
            seen.map(|(sample, t)| of(sample, t)).collect()
        };
        metrics.set_summary("critic/advantages", &tokens(&|s, t| s.advantages[t]));
        let returns = tokens(&|s, t| s.returns[t]);
        metrics.set_summary("critic/returns", &returns);
        if samples.iter().all(|s| !s.values.is_empty()) && returns.len() > 1 {
            let values = tokens(&|s, t| f64::from(s.values[t]));
            metrics.set_summary("critic/values", &values);
            let errors: Vec<f64> = returns.iter().zip(&values).map(|(r, v)| r - v).collect();
            metrics.set("critic/vf_explained_var", 1.0 - variance(&errors) / (variance(&returns) + 1e-5));
        }
        metrics.set("reward/acc/mean", mean(&of_judged(&|s| f64::from(u8::from(s.score.correct)))));
        for (index, (name, _)) in samples[0].score.components.iter().enumerate() {
            metrics.set(format!("reward/{name}/mean"), mean(&of_judged(&|s| s.score.components[index].1)));
        }
        if judged.len() < samples.len() {
            metrics.set("reward/masked", (samples.len() - judged.len()) as f64);
        }

        metrics.set_summary("response_length", &of(&|s| s.rollout.response_len() as f64));
        let longest = config.data.max_response_length;
        let at_limit = of(&|s| f64::from(u8::from(s.rollout.response_len() == longest)));
        metrics.set("response_length/clip_ratio", mean(&at_limit));
        for (name, correct) in [("correct", true), ("wrong", false)] {
            let lengths: Vec<f64> =
                judged.iter().filter(|s| s.score.correct == correct).map(|s| s.rollout.response_len() as f64).collect();
            if !lengths.is_empty() {
                metrics.set(format!("response_length/{name}/mean"), mean(&lengths));
            }
        }
        metrics.set(
            "response/truncated_ratio",
            mean(&of(&|s| f64::from(u8::from(s.rollout.finish == FinishReason::Length)))),
        );
        metrics.set_summary("prompt_length", &of(&|s| s.rollout.prompt_ids.len() as f64));

        let groups: Vec<&[Sample]> = samples.chunks(config.rollout.n).collect();
        let share =
            |keep: &dyn Fn(&[Sample]) -> bool| groups.iter().filter(|g| keep(g)).count() as f64 / groups.len() as f64;
        let has_no_variance = |group: &[Sample]| {
            let mut scores = group.iter().filter(|sample| sample.is_judged()).map(|sample| sample.score.total);
            let first = scores.next();
            scores.all(|score| Some(score) == first)
        };
        metrics.set("train/groups_zero_variance", share(&has_no_variance));

        let tokens = samples.iter().map(|s| s.rollout.response_len() + s.rollout.prompt_ids.len());
        self.total_tokens = tokens.sum();
    }

    /// What an update of the critic at this learning rate did.
    pub fn critic_update(&mut self, report: UpdateReport, lr: f64) {
        self.metrics.set("critic/lr", lr);
        self.critic_updates.push(report);
    }

    /// What an update on these rows did.
    pub fn update(&mut self, rows: &[Sample], report: UpdateReport) {
        let lengths: Vec<usize> = rows.iter().map(|s| s.mask.iter().filter(|seen| **seen).count()).collect();
        let correct: Vec<bool> = rows.iter().map(|s| s.score.correct).collect();
        for (name, weights) in &report.weights {
            let index = self.gradient_weights.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                self.gradient_weights.push((name, GradientWeights::default()));
                self.gradient_weights.len() - 1
            });
            self.gradient_weights[index].1.add(&lengths, &correct, weights);
        }
        if let Some(LogProbGap { max, mean }) = report.gap {
            self.metrics.set("rollout/log_prob_gap/max", max);
            self.metrics.set("rollout/log_prob_gap/mean", mean);
        }
        self.updates.push(report);
    }

    /// Validation after this step.
    pub fn validation(&mut self, evaluation: Option<&Evaluation>) {
        self.lap("testing");
        if let Some(evaluation) = evaluation {
            self.metrics.extend(evaluation.metrics());
        }
    }

    /// The step's metrics. Those of the objective are averaged over the updates that were made, extremes excepted.
    pub fn finish(mut self, lr: f64) -> Metrics {
        let (updates, critic_updates) = (std::mem::take(&mut self.updates), std::mem::take(&mut self.critic_updates));
        self.updates("actor", &updates);
        if !critic_updates.is_empty() {
            self.updates("critic", &critic_updates);
        }
        for (objective, weights) in &self.gradient_weights {
            for (name, share) in weights.shares() {
                self.metrics.set(format!("grad_weight/{objective}/{name}"), share);
            }
        }
        self.metrics.set("actor/lr", lr);

        let seconds = self.trained.as_secs_f64();
        self.metrics.set("timing_s/step", self.started.elapsed().as_secs_f64());
        self.metrics.set("perf/total_num_tokens", self.total_tokens as f64);
        self.metrics.set("perf/time_per_step", seconds);
        self.metrics.set("perf/throughput", self.total_tokens as f64 / seconds);
        if let Some(bytes) = self.device_memory {
            self.metrics.set("perf/max_memory_reserved_gb", bytes as f64 / 1e9);
        }
        if let Some(generation) = self.metrics.get("timing_s/gen") {
            self.metrics.set("perf/rollout_throughput", self.sampled_tokens as f64 / generation);
            let Statistics { prefill, decode, choice, .. } = self.sampling;
            for (phase, time) in [("prefill", prefill), ("decode", decode), ("choice", choice)] {
                self.metrics.set(format!("timing_s/gen_{phase}"), time.as_secs_f64());
                self.metrics.set(format!("perf/gen_{phase}_share"), time.as_secs_f64() / generation);
            }
        }
        let of_sampling = [
            ("perf/prefill_throughput", self.sampling.prefill_tokens_per_second()),
            ("perf/decode_throughput", self.sampling.decode_tokens_per_second()),
            ("rollout/batch_occupancy", self.sampling.batch_occupancy()),
            ("rollout/cache_use", self.sampling.cache_use()),
        ];
        for (name, value) in of_sampling {
            if let Some(value) = value {
                self.metrics.set(name, value);
            }
        }
        self.metrics
    }

    fn updates(&mut self, model: &str, updates: &[UpdateReport]) {
        let made: Vec<&UpdateReport> = updates.iter().filter(|u| !u.skipped).collect();
        let mut names: Vec<&'static str> = made.iter().flat_map(|u| &u.metrics).map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let values: Vec<f64> =
                made.iter().flat_map(|u| &u.metrics).filter(|(n, _)| *n == name).map(|(_, value)| *value).collect();
            self.metrics.set(name, over_updates(name, &values));
        }
        if !made.is_empty() {
            let norms: Vec<f64> = made.iter().map(|u| u.grad_norm).collect();
            self.metrics.set(format!("{model}/grad_norm"), mean(&norms));
        }
        self.metrics.set(format!("{model}/updates"), made.len() as f64);
        self.metrics.set(format!("{model}/skipped_updates"), (updates.len() - made.len()) as f64);
    }
}

/// The unbiased variance of at least two numbers.
fn variance(values: &[f64]) -> f64 {
    let centre = mean(values);
    values.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

fn over_updates(name: &str, values: &[f64]) -> f64 {
    match name.rsplit(['/', '_']).next() {
        Some("max") => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Some("min") => values.iter().copied().fold(f64::INFINITY, f64::min),
        _ => mean(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(clipfrac: f64, ratio: f64, skipped: bool) -> UpdateReport {
        let metrics = if skipped { vec![] } else { vec![("actor/pg_clipfrac", clipfrac), ("actor/ratio_max", ratio)] };
        UpdateReport { metrics, grad_norm: 1.0, skipped, gap: None, weights: Vec::new() }
    }

    #[test]
    fn a_skipped_update_is_counted_and_left_out_of_the_means() {
        let mut log = StepLog::start(1);
        log.update(&[], report(0.0, 1.5, false));
        log.update(&[], report(0.0, 9.0, true));
        log.update(&[], report(0.5, 1.1, false));
        let metrics = log.finish(1e-3);
        assert_eq!(metrics.get("actor/pg_clipfrac"), Some(0.25));
        assert_eq!(metrics.get("actor/ratio_max"), Some(1.5));
        assert_eq!(metrics.get("actor/skipped_updates"), Some(1.0));
    }

    /// Two answers, right and wrong, to which the critic gave the value 0.5.
    fn samples() -> Vec<Sample> {
        let answer = |correct: bool| {
            let rollout = Rollout {
                prompt_id: 0,
                sample: 0,
                prompt_ids: vec![1, 2],
                response_ids: vec![3, 4],
                log_probs: vec![-1.0; 2],
                finish: FinishReason::Stop,
            };
            let total = f64::from(u8::from(correct));
            let score = luspo_core::Score { total, components: Vec::new(), correct, extracted: None, style: None };
            Sample { values: vec![0.5; 2], returns: vec![total; 2], ..Sample::new(rollout, score) }
        };
        vec![answer(true), answer(false)]
    }

    #[test]
    fn the_critic_is_measured_over_the_tokens_that_the_update_sees() {
        let mut log = StepLog::start(1);
        log.samples(&samples(), &Config::default());
        // Errors and returns differ by a constant, and so have one variance, 1/3; verl's 1e-5 stands beside one of them.
        let explained = log.finish(0.0).get("critic/vf_explained_var").unwrap();
        assert!((explained - (1.0 - 1.0 / (1.0 + 3e-5))).abs() < 1e-12, "{explained}");
    }

    #[test]
    fn a_step_without_any_token_to_learn_from_has_no_metric_that_is_no_number() {
        let mut samples = samples();
        samples.iter_mut().for_each(|sample| sample.mask.fill(false));
        let mut log = StepLog::start(1);
        log.samples(&samples, &Config::default());
        log.update(&samples, UpdateReport { weights: vec![("objective", vec![0.0; 2])], ..report(0.0, 1.0, false) });
        let metrics = log.finish(0.0);
        let broken = metrics.iter().find(|(name, value)| !name.starts_with("perf/") && !value.is_finite());
        assert_eq!(broken, None);
        assert_eq!(metrics.get("critic/score/mean"), Some(0.5));
        assert_eq!(metrics.get("critic/advantages/mean"), None);
    }
}
