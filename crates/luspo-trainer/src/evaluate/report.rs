//! What is said of judged answers to the prompts of one data source.

use std::collections::BTreeMap;

use luspo_core::FinishReason;
use serde::{Deserialize, Deserializer, Serialize};

use super::AnswerRow;
use super::bootstrap::{Interval, bootstrap};
use crate::metrics::mean;

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
    /// How far these would move with other prompts.
    #[serde(default)]
    pub intervals: Intervals,
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

/// Bootstrap intervals that hold 95 % of what other prompts of the same kind would give; NaN where there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Intervals {
    /// Of the share of right answers.
    pub mean: Interval,
    /// Of pass@k, by k.
    pub pass: Vec<(usize, Interval)>,
    /// Of the share of prompts whose most frequent answer is right.
    pub majority: Interval,
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
pub(super) fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn nan_if_null_in_pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(usize, f64)>, D::Error> {
    let pairs: Vec<(usize, Option<f64>)> = Vec::deserialize(deserializer)?;
    Ok(pairs.into_iter().map(|(k, value)| (k, value.unwrap_or(f64::NAN))).collect())
}

/// The n answers to one prompt.
pub(super) struct Group<'a> {
    pub rows: &'a [AnswerRow],
}

impl Group<'_> {
    /// The answers that could be judged.
    fn judged(&self) -> impl Iterator<Item = &AnswerRow> {
        self.rows.iter().filter(|row| row.correct.is_some())
    }

    fn correct(&self) -> usize {
        self.judged().filter(|row| row.is_right()).count()
    }

    /// pass@k, where enough answers were judged.
    fn pass_at(&self, k: usize) -> Option<f64> {
        let judged = self.judged().count();
        (judged >= k).then(|| pass_at_k(judged, self.correct(), k))
    }

    /// Whether the most frequent extracted answer is right; the one given first wins a tie. None where none was judged.
    fn majority_is_right(&self) -> Option<bool> {
        let mut votes: Vec<(&str, usize, bool)> = Vec::new();
        self.judged().next()?;
        for row in self.judged() {
            let Some(extracted) = &row.extracted else { continue };
            match votes.iter_mut().find(|(answer, ..)| answer == extracted) {
                Some(vote) => vote.1 += 1,
                None => votes.push((extracted, 1, row.is_right())),
            }
        }
        let mut best: Option<(&str, usize, bool)> = None;
        for vote in votes {
            if best.is_none_or(|b| vote.1 > b.1) {
                best = Some(vote);
            }
        }
        Some(best.is_some_and(|(_, _, right)| right))
    }
}

impl SourceReport {
    pub(super) fn of(source: &str, n: usize, groups: &[Group<'_>]) -> Self {
        let answers: Vec<&AnswerRow> = groups.iter().flat_map(|group| group.rows).collect();
        let share = |count: usize| count as f64 / answers.len() as f64;
        let judged: Vec<&AnswerRow> = groups.iter().flat_map(Group::judged).collect();
        let share_of_judged = |count: usize| count as f64 / judged.len() as f64;
        let majorities: Vec<f64> =
            groups.iter().filter_map(Group::majority_is_right).map(|right| f64::from(u8::from(right))).collect();
        let powers: Vec<usize> =
            std::iter::successors(Some(1), |k| Some(k * 2)).take_while(|k| *k < n).chain([n]).collect();
        let pass = powers
            .iter()
            .map(|&k| (k, mean(&groups.iter().filter_map(|group| group.pass_at(k)).collect::<Vec<_>>())))
            .collect();
        let lengths = |keep: &dyn Fn(&AnswerRow) -> bool| {
            let kept = answers.iter().filter(|row| keep(row));
            mean(&kept.map(|row| row.response_length as f64).collect::<Vec<_>>())
        };
        let mut styles: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for row in &judged {
            if let Some(style) = &row.style {
                let entry = styles.entry(style).or_default();
                entry.0 += 1;
                entry.1 += usize::from(row.is_right());
            }
        }
        Self {
            source: source.to_string(),
            prompts: groups.len(),
            mean: share_of_judged(groups.iter().map(Group::correct).sum()),
            pass,
            majority: majorities.iter().sum::<f64>() / majorities.len() as f64,
            intervals: Intervals::of(&powers, groups),
            score: mean(&judged.iter().filter_map(|row| row.score).collect::<Vec<_>>()),
            length: Lengths {
                mean: lengths(&|_| true),
                correct: lengths(&|row| row.correct == Some(true)),
                wrong: lengths(&|row| row.correct == Some(false)),
            },
            truncated: share(answers.iter().filter(|row| row.finish == FinishReason::Length).count()),
            unjudged: share(answers.len() - judged.len()),
            styles: styles
                .into_iter()
                .map(|(style, (count, right))| (style.to_string(), share_of_judged(count), right as f64 / count as f64))
                .collect(),
        }
    }
}

impl Intervals {
    /// All of them from the same resamples of the prompts.
    fn of(powers: &[usize], groups: &[Group<'_>]) -> Self {
        let shares: Vec<Vec<Option<(f64, f64)>>> = groups.iter().map(|group| parts(powers, group)).collect();
        let mut intervals = bootstrap(&shares, powers.len() + 2).into_iter();
        let mut next = || intervals.next().unwrap_or_default();
        Self { mean: next(), majority: next(), pass: powers.iter().map(|k| (*k, next())).collect() }
    }
}

/// What a prompt adds to the numerator and the denominator of the share of right answers, of the majority and of each
/// pass@k.
fn parts(powers: &[usize], group: &Group<'_>) -> Vec<Option<(f64, f64)>> {
    let one = |value: f64| (value, 1.0);
    let judged = group.judged().count();
    let mean = (judged > 0).then(|| (group.correct() as f64, judged as f64));
    let majority = group.majority_is_right().map(|right| one(f64::from(u8::from(right))));
    [mean, majority].into_iter().chain(powers.iter().map(|k| group.pass_at(*k).map(one))).collect()
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
    use super::super::answers::tests::blank;
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

    fn answer(extracted: Option<&str>, correct: bool) -> AnswerRow {
        AnswerRow {
            score: Some(f64::from(u8::from(correct))),
            correct: Some(correct),
            extracted: extracted.map(str::to_string),
            response_length: 10 + u64::from(correct),
            ..blank()
        }
    }

    fn report(n: usize, groups: &[Vec<AnswerRow>]) -> SourceReport {
        SourceReport::of("s", n, &groups.iter().map(|rows| Group { rows }).collect::<Vec<_>>())
    }

    #[test]
    fn the_majority_counts_extracted_answers_and_ties_go_to_the_first() {
        let majority = |answers: &[(Option<&str>, bool)]| {
            let rows: Vec<AnswerRow> = answers.iter().map(|a| answer(a.0, a.1)).collect();
            Group { rows: &rows }.majority_is_right()
        };
        assert_eq!(majority(&[(Some("4"), true), (Some("5"), false)]), Some(true));
        assert_eq!(majority(&[(Some("5"), false), (Some("4"), true)]), Some(false));
        assert_eq!(majority(&[(Some("5"), false), (Some("4"), true), (Some("4"), true)]), Some(true));
        assert_eq!(majority(&[(None, false), (None, false)]), Some(false));
    }

    #[test]
    fn an_answer_that_could_not_be_judged_is_neither_right_nor_wrong() {
        let mut unjudged = answer(None, false);
        (unjudged.score, unjudged.correct) = (None, None);
        let whole = vec![answer(Some("4"), true), answer(Some("5"), false)];
        let part = vec![unjudged.clone(), answer(Some("4"), true)];
        let none = vec![unjudged.clone(), unjudged.clone()];
        let all = report(2, &[whole, part, none]);
        assert_eq!((all.mean, all.majority, all.score), (2.0 / 3.0, 1.0, 2.0 / 3.0));
        assert_eq!(all.pass, vec![(1, 0.75), (2, 1.0)]);
        assert_eq!((all.unjudged, all.length.correct, all.length.wrong), (0.5, 11.0, 10.0));
        assert_eq!((all.intervals.mean.low, all.intervals.mean.high), (0.5, 1.0), "of what could be judged");

        let report = report(1, &[vec![unjudged]]);
        assert!(report.intervals.mean.low.is_nan());
        assert!(report.mean.is_nan() && report.majority.is_nan() && report.pass[0].1.is_nan());
        // What a checkpoint keeps of it can be read again.
        let read: SourceReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{report:?}"));
    }

    #[test]
    fn a_report_tells_lengths_of_right_and_wrong_answers_apart() {
        let report = report(2, &[vec![answer(Some("4"), true), answer(Some("5"), false)]]);
        assert_eq!((report.mean, report.length.correct, report.length.wrong), (0.5, 11.0, 10.0));
        assert_eq!(report.pass, vec![(1, 0.5), (2, 1.0)]);
    }
}
