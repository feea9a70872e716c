//! How good a policy is on a set of prompts.

mod answers;
mod bootstrap;
mod folder;
mod report;

use luspo_core::{Prompt, RandomKey, Rollout};
use luspo_data::Tokenizer;
use luspo_reward::{Answer, RewardPipeline, Scored};
use luspo_rollout::{Engine, Sampling};
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;
use crate::{Policy, TrainError};

pub use answers::{AnswerRow, read_answers, write_answers};
pub use bootstrap::Interval;
pub use folder::{Asked, EvalFolder, file_sha256, model_sha256};
use report::Group;
pub use report::{Intervals, Lengths, SourceReport, pass_at_k};

/// The answers to a set of prompts, judged; one report a data source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    /// Answers a prompt.
    pub n: usize,
    /// Reports by data source, in the order in which sources first appear.
    pub sources: Vec<SourceReport>,
    /// What went wrong with rewards of the user's own, by metric: `reward/errors/{component}/{kind}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<(String, f64)>,
}

/// What an evaluation asks of a policy.
#[derive(Clone, Copy)]
pub struct Exam<'a> {
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// Who judges the answers.
    pub rewards: &'a RewardPipeline,
    /// Answers to each prompt.
    pub n: usize,
    /// How they are sampled.
    pub sampling: &'a Sampling,
    /// The key of their random numbers.
    pub key: RandomKey,
}

/// Judged answers, and what went wrong with rewards of the user's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// In the order of the prompts, the answers to each one behind the other.
    pub rows: Vec<AnswerRow>,
    /// By metric: `reward/errors/{component}/{kind}`.
    pub errors: Vec<(String, f64)>,
}

impl Exam<'_> {
    /// Samples the answers and judges them. `model` is the name that they go by.
    ///
    /// # Errors
    /// A prompt that does not fit the model, or logits that are not finite.
    pub fn answers(&self, policy: &Policy, engine: &mut Engine, model: &str) -> Result<Answers, TrainError> {
        let Self { prompts, rewards, n, sampling, key } = *self;
        let rollouts = policy.generate_with(engine, prompts, n, sampling, key)?;
        let pairs = || {
            let groups = prompts.iter().zip(rollouts.chunks(n));
            groups.flat_map(|(prompt, answers)| answers.iter().map(move |answer| (prompt, answer)))
        };
        let Scored { scores, failures } = judge(&policy.tokenizer, pairs(), rewards)?;
        let mut rows = Vec::with_capacity(rollouts.len());
        for ((prompt, rollout), score) in pairs().zip(scores) {
            rows.push(AnswerRow::of(model, policy, prompt, rollout, score)?);
        }
        Ok(Answers { rows, errors: failures.metrics().collect() })
    }

    /// The report of such answers, which are not kept.
    ///
    /// # Errors
    /// As [`answers`](Self::answers).
    pub fn evaluate(&self, policy: &Policy, engine: &mut Engine) -> Result<Evaluation, TrainError> {
        Ok(Evaluation::of(self.n, self.answers(policy, engine, "")?))
    }
}

/// Scores answers to prompts, in their order.
pub(crate) fn judge<'a>(
    tokenizer: &Tokenizer,
    answers: impl Iterator<Item = (&'a Prompt, &'a Rollout)>,
    rewards: &RewardPipeline,
) -> Result<Scored, TrainError> {
    let pairs: Vec<(&Prompt, &Rollout)> = answers.collect();
    let texts =
        pairs.iter().map(|(_, rollout)| tokenizer.decode(&rollout.response_ids)).collect::<Result<Vec<String>, _>>()?;
    let answers: Vec<Answer<'_>> = (pairs.iter().zip(&texts))
        .map(|((prompt, rollout), text)| Answer {
            prompt,
            text,
            tokens: rollout.response_len(),
            finish: rollout.finish,
        })
        .collect();
    Ok(rewards.score(&answers)?)
}

impl Evaluation {
    /// The report of answers, `n` to each prompt.
    pub fn of(n: usize, answers: Answers) -> Self {
        let mut sources: Vec<(&str, Vec<Group<'_>>)> = Vec::new();
        for rows in answers.rows.chunks(n) {
            let Some(AnswerRow { data_source, .. }) = rows.first() else { continue };
            match sources.iter_mut().find(|(source, _)| source == data_source) {
                Some((_, groups)) => groups.push(Group { rows }),
                None => sources.push((data_source, vec![Group { rows }])),
            }
        }
        let sources = sources.into_iter().map(|(source, groups)| SourceReport::of(source, n, &groups)).collect();
        Self { n, sources, errors: answers.errors }
    }

    /// The validation metrics in verl's names: `val-core/{source}/acc/mean@N` and the rest under `val-aux/{source}/`.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::default();
        let n = self.n;
        for (name, count) in &self.errors {
            metrics.set(format!("val-aux/{name}"), *count);
        }
        for report in &self.sources {
            let source = &report.source;
            let mut interval = |name: String, interval: Interval| {
                metrics.set(format!("val-aux/{source}/acc/{name}/ci95_low"), interval.low);
                metrics.set(format!("val-aux/{source}/acc/{name}/ci95_high"), interval.high);
            };
            interval(format!("mean@{n}"), report.intervals.mean);
            if n > 1 {
                report.intervals.pass.iter().for_each(|(k, range)| interval(format!("pass@{k}"), *range));
                interval(format!("maj@{n}"), report.intervals.majority);
            }
            metrics.set(format!("val-core/{source}/acc/mean@{n}"), report.mean);
            if n > 1 {
                for (k, value) in &report.pass {
                    metrics.set(format!("val-aux/{source}/acc/pass@{k}"), *value);
                }
                metrics.set(format!("val-aux/{source}/acc/maj@{n}"), report.majority);
            }
            metrics.set(format!("val-aux/{source}/score/mean@{n}"), report.score);
            metrics.set(format!("val-aux/{source}/response_length/mean"), report.length.mean);
            metrics.set(format!("val-aux/{source}/response_length/correct/mean"), report.length.correct);
            metrics.set(format!("val-aux/{source}/response_length/wrong/mean"), report.length.wrong);
            metrics.set(format!("val-aux/{source}/response/truncated_ratio"), report.truncated);
            if report.unjudged > 0.0 {
                metrics.set(format!("val-aux/{source}/unjudged_ratio"), report.unjudged);
            }
            for (style, share, accuracy) in &report.styles {
                metrics.set(format!("val-aux/{source}/style/{style}/share"), *share);
                metrics.set(format!("val-aux/{source}/style/{style}/acc"), *accuracy);
            }
        }
        metrics
    }
}
