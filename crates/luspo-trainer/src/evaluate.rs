//! How good a policy is on a set of prompts.

use std::collections::BTreeMap;

use luspo_core::{FinishReason, Prompt, RandomKey, Rollout, Score};
use luspo_data::Tokenizer;
use luspo_reward::{Answer, RewardPipeline, Scored};
use luspo_rollout::{Engine, Sampling};

use serde::{Deserialize, Deserializer, Serialize};

use crate::metrics::{Metrics, mean};
use crate::{Policy, TrainError};

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

/// How a policy did on the prompts of one data source. Shares and accuracies lie in [0, 1], lengths are in tokens.
///
/// An answer that could not be judged, and is to be left out, counts in the lengths and in the truncated share alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceReport {
    /// The data source.
    pub source: String,
    /// How many prompts.
    pub prompts: usize,
    /// Share of right answers over all n answers to all prompts; NaN where none could be judged.
    #[serde(deserialize_with = "nan_if_null")]
    pub mean: f64,
    /// Unbiased pass@k for k = 1, 2, 4, … up to n: the chance that at least one of k answers is right, over the prompts
    /// with k judged answers or more.
    #[serde(deserialize_with = "nan_if_null_in_pairs")]
    pub pass: Vec<(usize, f64)>,
    /// Share of prompts whose most frequent extracted answer is right (ties: the one given first).
    #[serde(deserialize_with = "nan_if_null")]
    pub majority: f64,
    /// Mean total score; read back as NaN where it was not finite.
    #[serde(deserialize_with = "nan_if_null")]
    pub score: f64,
    /// Mean length of all answers, of the right ones and of the wrong ones; NaN where there are none.
    pub length: Lengths,
    /// Share of answers cut off at the maximum length.
    pub truncated: f64,
    /// Share of answers that could not be judged.
    #[serde(default)]
    pub unjudged: f64,
    /// For verifiers that tell manners of answering apart: (style, share of answers, accuracy).
    pub styles: Vec<(String, f64, f64)>,
}

/// Mean lengths of answers in tokens; NaN of none.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Lengths {
    /// Of all answers.
    #[serde(deserialize_with = "nan_if_null")]
    pub mean: f64,
    /// Of the right ones.
    #[serde(deserialize_with = "nan_if_null")]
    pub correct: f64,
    /// Of the wrong ones.
    #[serde(deserialize_with = "nan_if_null")]
    pub wrong: f64,
}

/// JSON has no NaN; it is written as null.
fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn nan_if_null_in_pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(usize, f64)>, D::Error> {
    let pairs: Vec<(usize, Option<f64>)> = Vec::deserialize(deserializer)?;
    Ok(pairs.into_iter().map(|(k, value)| (k, value.unwrap_or(f64::NAN))).collect())
}

/// Samples `n` answers to each prompt and judges them.
///
/// # Errors
/// A prompt that does not fit the model, or logits that are not finite.
pub fn evaluate(
    policy: &Policy,
    prompts: &[Prompt],
    rewards: &RewardPipeline,
    n: usize,
    sampling: &Sampling,
    key: RandomKey,
    engine: &mut Engine,
) -> Result<Evaluation, TrainError> {
    let rollouts = policy.generate_with(engine, prompts, n, sampling, key)?;
    let pairs =
        prompts.iter().zip(rollouts.chunks(n)).flat_map(|(prompt, answers)| answers.iter().map(move |a| (prompt, a)));
    let Scored { scores, failures } = judge(&policy.tokenizer, pairs, rewards)?;
    let mut answers =
        scores.into_iter().zip(&rollouts).map(|(score, rollout)| (score, rollout.response_len(), rollout.finish));
    let mut sources: Vec<(&str, Vec<Group>)> = Vec::new();
    for prompt in prompts {
        let group = Group { answers: answers.by_ref().take(n).collect() };
        match sources.iter_mut().find(|(source, _)| *source == prompt.data_source) {
            Some((_, groups)) => groups.push(group),
            None => sources.push((&prompt.data_source, vec![group])),
        }
    }
    let sources = sources.into_iter().map(|(source, groups)| SourceReport::of(source, n, &groups)).collect();
    Ok(Evaluation { n, sources, errors: failures.metrics().collect() })
}

/// The n answers to one prompt.
struct Group {
    answers: Vec<(Score, usize, FinishReason)>,
}

impl Group {
    /// The answers that could be judged.
    fn judged(&self) -> impl Iterator<Item = &Score> {
        self.answers.iter().map(|(score, ..)| score).filter(|score| score.is_known())
    }

    fn correct(&self) -> usize {
        self.judged().filter(|score| score.correct).count()
    }

    /// pass@k, where enough answers were judged.
    fn pass_at(&self, k: usize) -> Option<f64> {
        let judged = self.judged().count();
        (judged >= k).then(|| pass_at_k(judged, self.correct(), k))
    }

    /// Whether the most frequent extracted answer is right; the one given first wins a tie.
    fn majority_is_right(&self) -> bool {
        let mut votes: Vec<(&str, usize, bool)> = Vec::new();
        for score in self.judged() {
            let Some(extracted) = &score.extracted else { continue };
            match votes.iter_mut().find(|(answer, ..)| answer == extracted) {
                Some(vote) => vote.1 += 1,
                None => votes.push((extracted, 1, score.correct)),
            }
        }
        let mut best: Option<(&str, usize, bool)> = None;
        for vote in votes {
            if best.is_none_or(|b| vote.1 > b.1) {
                best = Some(vote);
            }
        }
        best.is_some_and(|(_, _, right)| right)
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

impl SourceReport {
    fn of(source: &str, n: usize, groups: &[Group]) -> Self {
        let answers: Vec<&(Score, usize, FinishReason)> = groups.iter().flat_map(|g| &g.answers).collect();
        let share = |count: usize| count as f64 / answers.len() as f64;
        let judged: Vec<&Score> = groups.iter().flat_map(Group::judged).collect();
        let share_of_judged = |count: usize| count as f64 / judged.len() as f64;
        let judged_groups = groups.iter().filter(|group| group.judged().next().is_some());
        let powers = std::iter::successors(Some(1), |k| Some(k * 2)).take_while(|k| *k < n).chain([n]);
        let pass = powers
            .map(|k| (k, mean(&groups.iter().filter_map(|group| group.pass_at(k)).collect::<Vec<_>>())))
            .collect();
        let lengths = |keep: &dyn Fn(&Score) -> bool| {
            mean(&answers.iter().filter(|a| keep(&a.0)).map(|a| a.1 as f64).collect::<Vec<_>>())
        };
        let mut styles: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for score in &judged {
            if let Some(style) = &score.style {
                let entry = styles.entry(style).or_default();
                entry.0 += 1;
                entry.1 += usize::from(score.correct);
            }
        }
        Self {
            source: source.to_string(),
            prompts: groups.len(),
            mean: share_of_judged(groups.iter().map(Group::correct).sum()),
            pass,
            majority: groups.iter().filter(|g| g.majority_is_right()).count() as f64 / judged_groups.count() as f64,
            score: mean(&judged.iter().map(|score| score.total).collect::<Vec<_>>()),
            length: Lengths {
                mean: lengths(&|_| true),
                correct: lengths(&|s| s.is_known() && s.correct),
                wrong: lengths(&|s| s.is_known() && !s.correct),
            },
            truncated: share(answers.iter().filter(|a| a.2 == FinishReason::Length).count()),
            unjudged: share(answers.len() - judged.len()),
            styles: styles
                .into_iter()
                .map(|(style, (count, right))| (style.to_string(), share_of_judged(count), right as f64 / count as f64))
                .collect(),
        }
    }
}

impl Evaluation {
    /// The validation metrics in verl's names: `val-core/{source}/acc/mean@N` and the rest under `val-aux/{source}/`.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::default();
        let n = self.n;
        for (name, count) in &self.errors {
            metrics.set(format!("val-aux/{name}"), *count);
        }
        for report in &self.sources {
            let source = &report.source;
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

/// The chance that at least one of `k` answers, drawn without replacement from `n` of which `correct` are right, is
/// right: 1 − C(n−c, k)/C(n, k), unbiased (Chen et al., arXiv 2107.03374).
pub fn pass_at_k(n: usize, correct: usize, k: usize) -> f64 {
    if n - correct < k {
        return 1.0;
    }
    1.0 - (n - correct + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_at_k_equals_enumeration() {
        for n in 1..=6usize {
            for correct in 0..=n {
                for k in 1..=n {
                    // Answers 0..correct are right; count the subsets of size k that contain one of them.
                    let subsets = (0u32..1 << n).filter(|s| s.count_ones() as usize == k);
                    let (hits, all) = subsets
                        .fold((0, 0), |(hits, all), s| (hits + usize::from(s & ((1 << correct) - 1) != 0), all + 1));
                    let expected = hits as f64 / all as f64;
                    assert!((pass_at_k(n, correct, k) - expected).abs() < 1e-12, "n={n} c={correct} k={k}");
                }
            }
        }
    }

    fn answer(extracted: Option<&str>, correct: bool) -> (Score, usize, FinishReason) {
        let score = Score {
            total: f64::from(u8::from(correct)),
            components: vec![],
            correct,
            extracted: extracted.map(str::to_string),
            style: None,
        };
        (score, 10 + usize::from(correct), FinishReason::Stop)
    }

    #[test]
    fn the_majority_counts_extracted_answers_and_ties_go_to_the_first() {
        let group =
            |answers: &[(Option<&str>, bool)]| Group { answers: answers.iter().map(|a| answer(a.0, a.1)).collect() };
        assert!(group(&[(Some("4"), true), (Some("5"), false)]).majority_is_right());
        assert!(!group(&[(Some("5"), false), (Some("4"), true)]).majority_is_right());
        assert!(group(&[(Some("5"), false), (Some("4"), true), (Some("4"), true)]).majority_is_right());
        assert!(!group(&[(None, false), (None, false)]).majority_is_right());
    }

    #[test]
    fn an_answer_that_could_not_be_judged_is_neither_right_nor_wrong() {
        let mut unjudged = answer(None, false);
        unjudged.0.total = f64::NAN;
        let whole = Group { answers: vec![answer(Some("4"), true), answer(Some("5"), false)] };
        let part = Group { answers: vec![unjudged.clone(), answer(Some("4"), true)] };
        let none = Group { answers: vec![unjudged.clone(), unjudged.clone()] };
        let report = SourceReport::of("s", 2, &[whole, part, none]);
        assert_eq!((report.mean, report.majority, report.score), (2.0 / 3.0, 1.0, 2.0 / 3.0));
        assert_eq!(report.pass, vec![(1, 0.75), (2, 1.0)]);
        assert_eq!((report.unjudged, report.length.correct, report.length.wrong), (0.5, 11.0, 10.0));

        let nothing = Group { answers: vec![unjudged] };
        let report = SourceReport::of("s", 1, &[nothing]);
        assert!(report.mean.is_nan() && report.majority.is_nan() && report.pass[0].1.is_nan());
        // What a checkpoint keeps of it can be read again.
        let read: SourceReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{report:?}"));
    }

    #[test]
    fn a_report_tells_lengths_of_right_and_wrong_answers_apart() {
        let groups = [Group { answers: vec![answer(Some("4"), true), answer(Some("5"), false)] }];
        let report = SourceReport::of("s", 2, &groups);
        assert_eq!((report.mean, report.length.correct, report.length.wrong), (0.5, 11.0, 10.0));
        assert_eq!(report.pass, vec![(1, 0.5), (2, 1.0)]);
    }
}
