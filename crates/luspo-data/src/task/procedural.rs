//! What the procedural tasks have in common: sizes, a level of difficulty, and files whose prompts do not overlap.

use std::collections::HashSet;

use luspo_core::Message;
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::split::{MOST_ROWS, Split};
use crate::{DataError, PromptText, Row};

/// The levels of difficulty.
const LEVELS: std::ops::RangeInclusive<u32> = 1..=5;

/// How many draws in a row may give problems that are known before there are taken to be no others.
const PATIENCE: usize = 10_000;

/// Sizes and difficulty of a procedural task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Procedural {
    /// How hard the problems are, from 1 to 5.
    pub difficulty: u32,
    /// Prompts to train on, all different.
    pub train_prompts: usize,
    /// Prompts to validate on, all different and in none of the other files.
    pub val_prompts: usize,
    /// Worked answers for the warm-up, all right; their prompts may repeat.
    pub sft_examples: usize,
}

impl Default for Procedural {
    fn default() -> Self {
        Self { difficulty: 1, train_prompts: 4096, val_prompts: 256, sft_examples: 8192 }
    }
}

/// A problem with its answer.
pub(super) struct Problem {
    /// What is asked.
    pub(super) question: String,
    /// The gold answer, as the task's verifier reads it.
    pub(super) gold: String,
    /// The lines of a right answer before the last.
    pub(super) working: Vec<String>,
    /// What the last line of that answer says after `Answer: `.
    pub(super) answer: String,
}

/// A procedural task: its name, and how to draw one of its problems at a level of difficulty.
#[derive(Clone, Copy)]
pub(super) struct Task {
    pub(super) name: &'static str,
    pub(super) draw: fn(u32, &mut dyn Rng) -> Problem,
}

impl Procedural {
    pub(super) fn validate(&self, task: Task) -> Result<(), DataError> {
        let refuse = |key, problem| Err(DataError::TaskConfig { task: task.name, key, problem });
        if !LEVELS.contains(&self.difficulty) {
            let (first, last) = (LEVELS.start(), LEVELS.end());
            return refuse("difficulty", format!("is {}; it must be {first} to {last}", self.difficulty));
        }
        let sizes = [
            ("train_prompts", self.train_prompts),
            ("val_prompts", self.val_prompts),
            ("sft_examples", self.sft_examples),
        ];
        match sizes.into_iter().find(|(_, size)| *size == 0 || *size > MOST_ROWS) {
            Some((key, size)) => refuse(key, format!("is {size}; it must be 1 to {MOST_ROWS}")),
            None => Ok(()),
        }
    }

    /// The rows of a file. Only worked answers may be asked of the same prompt twice.
    pub(super) fn rows(&self, task: Task, split: Split, seed: u64) -> Result<Vec<Row>, DataError> {
        let (key, count) = match split {
            Split::Train => ("train_prompts", self.train_prompts),
            Split::Val => ("val_prompts", self.val_prompts),
            Split::Sft => ("sft_examples", self.sft_examples),
        };
        let mut rng = split.rng(seed);
        let mut seen = HashSet::new();
        let mut rows = Vec::with_capacity(count);
        let mut in_vain = 0;
        while rows.len() < count {
            let problem = (task.draw)(self.difficulty, &mut rng);
            let usable = split.has(&problem.question);
            if usable && (matches!(split, Split::Sft) || seen.insert(problem.question.clone())) {
                rows.push(self.row(task, split, rows.len(), problem));
                in_vain = 0;
                continue;
            }
            in_vain += 1;
            if in_vain == PATIENCE {
                let (found, difficulty) = (rows.len(), self.difficulty);
                let problem = format!("is {count}; of difficulty {difficulty} only {found} different ones were found");
                return Err(DataError::TaskConfig { task: task.name, key, problem });
            }
        }
        Ok(rows)
    }

    fn row(&self, task: Task, split: Split, index: usize, problem: Problem) -> Row {
        let Problem { question, gold, mut working, answer } = problem;
        let mut extra_info = json!({ "index": index, "split": split.name(), "difficulty": self.difficulty });
        if matches!(split, Split::Sft) {
            working.push(format!("Answer: {answer}"));
            extra_info["answer"] = working.join("\n").into();
        }
        Row {
            prompt: PromptText::Messages(vec![Message::new("user", question)]),
            data_source: format!("luspo/{}", task.name),
            ability: Some(task.name.into()),
            ground_truth: gold,
            extra_info,
        }
    }
}
