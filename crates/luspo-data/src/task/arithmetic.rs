//! Running totals: a sum of one-digit numbers that can be answered at once or step by step.
//!
//! ```text
//! prompt   07+07+01+05+09+08+07+05+08+06=
//! terse    =63
//! medium   14,15,20,29,37=63
//! long     14,15,20,29,37,44,49,57,63=63
//! ```
//!
//! The answer writes running totals, then `=` and the sum. Numbers have two digits and a sign between them, so that
//! each operand and its total stand at a constant distance, which a small model learns within minutes. At each sign
//! the model chooses between going on and answering: answers to one prompt differ in length and in how hard they are.
//!
//! Short answers are hurried, as people's are: the worked answers in the terse and medium styles overlook the last number
//! when it is large ([`Styles::overlook_above`]), so that a policy that imitates them is right two times in three at
//! most, however long it trains. Long answers are always right. Golds always are.

use std::collections::HashSet;

use luspo_core::Message;
use rand::{Rng, RngExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::split::{MOST_ROWS, Split};
use crate::{DataError, PromptText, Row};

/// Numbers from 1 to 9 to be added: their sums, 10 to 90, have two digits.
const OPERANDS: usize = 10;

/// Sizes of the running-totals task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Arithmetic {
    /// Prompts to train on, all different.
    pub train_prompts: usize,
    /// Prompts to validate on, all different and in none of the other files.
    pub val_prompts: usize,
    /// Worked answers for the warm-up; their prompts may repeat.
    pub sft_examples: usize,
    /// Manners of the worked answers.
    pub styles: Styles,
}

impl Default for Arithmetic {
    fn default() -> Self {
        Self { train_prompts: 4096, val_prompts: 256, sft_examples: 32_000, styles: Styles::default() }
    }
}

/// How often each manner of answering appears among the worked answers, as weights that need not sum to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Styles {
    /// No running totals.
    pub terse: f64,
    /// The first `medium_totals` running totals.
    pub medium: f64,
    /// All running totals.
    pub long: f64,
    /// Running totals of a medium answer.
    pub medium_totals: usize,
    /// Terse and medium answers leave out the last number if it is above this; 9 for answers that are always right.
    pub overlook_above: u32,
}

impl Default for Styles {
    fn default() -> Self {
        Self { terse: 0.2, medium: 0.5, long: 0.3, medium_totals: 5, overlook_above: 6 }
    }
}

impl Arithmetic {
    pub(super) const NAME: &str = "arithmetic";

    /// The verifier's name for the task.
    pub const DATA_SOURCE: &str = "luspo/arithmetic";

    pub(super) fn validate(&self) -> Result<(), DataError> {
        let refuse = |key, problem: String| Err(DataError::TaskConfig { task: Self::NAME, key, problem });
        let styles = &self.styles;
        let sizes = [
            ("train_prompts", self.train_prompts),
            ("val_prompts", self.val_prompts),
            ("sft_examples", self.sft_examples),
        ];
        for (key, size) in sizes {
            if size == 0 || size > MOST_ROWS {
                return refuse(key, format!("is {size}; it must be 1 to {MOST_ROWS}"));
            }
        }
        let weights = [styles.terse, styles.medium, styles.long];
        if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) || weights.iter().sum::<f64>() <= 0.0 {
            return refuse("styles", format!("has weights {weights:?}; they must be 0 or more, and one above 0"));
        }
        if !(1..OPERANDS - 1).contains(&styles.medium_totals) {
            let (totals, most) = (styles.medium_totals, OPERANDS - 2);
            return refuse("styles.medium_totals", format!("is {totals}; between terse and long there is 1 to {most}"));
        }
        Ok(())
    }

    /// The rows of a file.
    pub(super) fn rows(&self, split: Split, seed: u64) -> Vec<Row> {
        match split {
            Split::Train => self.prompt_rows(split, self.train_prompts, seed),
            Split::Val => self.prompt_rows(split, self.val_prompts, seed),
            Split::Sft => self.sft_rows(seed),
        }
    }

    /// Different problems, without worked answers. There are so many more (9¹⁰) than [`MOST_ROWS`] that drawing until
    /// enough different ones are found ends soon.
    fn prompt_rows(&self, split: Split, count: usize, seed: u64) -> Vec<Row> {
        let mut rng = split.rng(seed);
        let mut seen = HashSet::new();
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            let problem = self.draw(split, &mut rng);
            if seen.insert(problem.clone()) {
                let extra_info = json!({ "index": rows.len(), "split": split.name() });
                rows.push(problem.row(extra_info));
            }
        }
        rows
    }

    fn sft_rows(&self, seed: u64) -> Vec<Row> {
        let split = Split::Sft;
        let mut rng = split.rng(seed);
        let row = |index: usize| {
            let problem = self.draw(split, &mut rng);
            let (style, totals) = self.draw_style(&mut rng);
            let hurried = style != "long" && problem.0[OPERANDS - 1] > self.styles.overlook_above;
            let answer = if hurried { problem.hurried_answer(totals) } else { problem.answer(totals) };
            problem.row(json!({ "index": index, "split": split.name(), "answer": answer, "style": style }))
        };
        (0..self.sft_examples).map(row).collect()
    }

    /// A problem that may be in the split's file.
    fn draw(&self, split: Split, rng: &mut impl Rng) -> Problem {
        loop {
            let problem = Problem((0..OPERANDS).map(|_| rng.random_range(1..=9)).collect());
            if split.has(&problem.prompt()) {
                return problem;
            }
        }
    }

    /// The name of a style, and how many running totals its answers write.
    fn draw_style(&self, rng: &mut impl Rng) -> (&'static str, usize) {
        let Styles { terse, medium, long, medium_totals, .. } = self.styles;
        let point = rng.random::<f64>() * (terse + medium + long);
        if point < terse {
            ("terse", 0)
        } else if point < terse + medium {
            ("medium", medium_totals)
        } else {
            ("long", OPERANDS - 1)
        }
    }
}

/// The numbers to be added.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Problem(Vec<u32>);

impl Problem {
    fn prompt(&self) -> String {
        two_digits(self.0.iter().copied(), "+") + "="
    }

    fn sum(&self) -> u32 {
        self.0.iter().sum()
    }

    /// The first `totals` running totals, then the sum.
    fn answer(&self, totals: usize) -> String {
        self.write(totals, self.sum())
    }

    /// The same without the last number in the sum.
    fn hurried_answer(&self, totals: usize) -> String {
        self.write(totals, self.sum() - self.0[self.0.len() - 1])
    }

    fn write(&self, totals: usize, sum: u32) -> String {
        let running = self.0.iter().scan(0, |total, operand| {
            *total += operand;
            Some(*total)
        });
        format!("{}={sum:02}", two_digits(running.skip(1).take(totals), ","))
    }

    fn row(&self, extra_info: serde_json::Value) -> Row {
        Row {
            prompt: PromptText::Messages(vec![Message::new("user", self.prompt())]),
            data_source: Arithmetic::DATA_SOURCE.into(),
            ability: Some("arithmetic".into()),
            ground_truth: format!("{:02}", self.sum()),
            extra_info,
        }
    }
}

fn two_digits(numbers: impl Iterator<Item = u32>, sign: &str) -> String {
    numbers.map(|number| format!("{number:02}")).collect::<Vec<_>>().join(sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_differ_in_how_many_running_totals_they_write() {
        let problem = Problem(vec![8, 9, 5, 1, 9, 1, 2, 7, 1, 8]);
        assert_eq!(problem.prompt(), "08+09+05+01+09+01+02+07+01+08=");
        assert_eq!(problem.answer(0), "=51");
        assert_eq!(problem.answer(5), "17,22,23,32,33=51");
        assert_eq!(problem.answer(9), "17,22,23,32,33,35,42,43,51=51");
        assert_eq!(problem.hurried_answer(5), "17,22,23,32,33=43");
    }

    #[test]
    fn styles_appear_as_often_as_weighted() {
        let task = Arithmetic { sft_examples: 10_000, ..Default::default() };
        let rows = task.sft_rows(3);
        let share = |style: &str| rows.iter().filter(|row| row.extra_info["style"] == style).count() as f64 / 1e4;
        // Three standard errors of a share of 10,000 are below 0.015.
        assert!((share("terse") - 0.2).abs() < 0.015);
        assert!((share("medium") - 0.5).abs() < 0.015);
        assert!((share("long") - 0.3).abs() < 0.015);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_by_name() {
        let refused = |change: fn(&mut Arithmetic)| {
            let mut task = Arithmetic::default();
            change(&mut task);
            task.validate().expect_err("refused").to_string()
        };
        assert!(refused(|task| task.val_prompts = 0).contains("`val_prompts` is 0"));
        assert!(refused(|task| task.sft_examples = 0).contains("`sft_examples`"));
        assert!(refused(|task| task.styles.long = f64::NAN).contains("`styles`"));
        assert!(refused(|task| task.styles.medium_totals = 9).contains("`styles.medium_totals` is 9"));
    }
}
