//! GSM8K: the number after `####`.
//!
//! As in verl 0.9.1, `verl/utils/reward_score/gsm8k.py`. Only the last 300 characters are read.
//!
//! - Strict: the last `#### ` directly followed by a number, its commas removed.
//! - Flexible: the last number anywhere that is not a lone `.`, as it is written.
//!
//! A number is an optional `-` and one or more digits, points and commas, so `34.` at the end of a sentence is not `34`.
//! The score is 1 if the extracted string is the gold answer, character by character, and 0 otherwise.

use std::sync::LazyLock;

use regex::Regex;

use crate::extract::last_chars;
use crate::{Specimen, Verdict, Verifier};

static AFTER_HASHES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"#### (-?[0-9.,]+)").expect("a valid regex"));
static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"-?[0-9.,]+").expect("a valid regex"));

/// `gsm8k`: the number after the last `#### ` in the last 300 characters, without commas, is the gold answer. Score 1
/// or 0. The rule of verl 0.9.1's `gsm8k.compute_score`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gsm8k {
    /// Take the last number anywhere, commas kept, instead (verl's `method="flexible"`). Off by default: the strict
    /// rule also teaches the format.
    pub flexible: bool,
}

impl Gsm8k {
    fn extract(&self, text: &str) -> Option<String> {
        let tail = last_chars(text, 300);
        if self.flexible {
            let numbers: Vec<&str> = NUMBER.find_iter(tail).map(|number| number.as_str()).collect();
            // Where every number is a lone point, verl is left with the first of them.
            numbers.iter().rfind(|number| **number != ".").or(numbers.first()).map(ToString::to_string)
        } else {
            AFTER_HASHES.captures_iter(tail).last().map(|found| found[1].replace(',', ""))
        }
    }
}

impl Verifier for Gsm8k {
    fn name(&self) -> &str {
        "gsm8k"
    }

    fn rule(&self) -> &str {
        "the number after the last `#### ` in the last 300 characters, without commas, is the gold answer's text"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let answer = self.extract(text);
        Verdict::one_or_zero(answer.as_deref() == Some(ground_truth), answer.as_deref())
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        Some(Specimen::of(ground_truth, |answer| format!("#### {answer}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_stand_at_the_very_beginning_of_the_last_300_characters() {
        let filled = |n| format!("#### 34{}", "é".repeat(n));
        assert!(Gsm8k::default().verify(&filled(293), "34").correct);
        assert_eq!(Gsm8k::default().verify(&filled(294), "34").extracted, None);
    }

    #[test]
    fn a_lone_point_is_taken_only_when_there_is_nothing_else() {
        let flexible = Gsm8k { flexible: true };
        assert_eq!(flexible.verify("It is 34 .", "34").extracted.as_deref(), Some("34"));
        assert_eq!(flexible.verify("No . number .", "34").extracted.as_deref(), Some("."));
    }
}
