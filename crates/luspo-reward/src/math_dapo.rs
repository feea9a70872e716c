//! DAPO's mathematics: the answer on the `Answer:` line.
//!
//! As in verl 0.9.1, `verl/utils/reward_score/math_dapo.py`:
//!
//! 1. Only the last 300 characters are read.
//! 2. The answer is the rest of the line after the last `Answer:` (any case, white space around the colon, line ends
//!    included, so it may stand on the next line). It and the gold answer are normalised
//!    ([`normalize_final_answer`]) and compared.
//! 3. Without one, it is what stands in the last `\boxed{…}` of the last 100 characters; compared with the gold answer
//!    as it is.
//!
//! The score is 1 for a right answer and −1 for a wrong one.

use std::sync::LazyLock;

use regex::Regex;

use crate::extract::{last_boxed, last_chars};
use crate::{Specimen, Verdict, Verifier, normalize_final_answer};

/// verl's mark for an answer that could not be found.
const INVALID: &str = "[INVALID]";

// U+001C to U+001F are white space in Python's expressions, and not in Rust's.
static ANSWER_LINE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)Answer[\s\x1C-\x1F]*:[\s\x1C-\x1F]*([^\n]+)").expect("a valid regex"));

/// `math_dapo`: the normalised answer after the last `Answer:` of the last 300 characters is the normalised gold answer;
/// without such a line, the content of the last `\boxed{…}` of the last 100 characters is the gold answer. Score 1 or
/// −1. The rule of verl 0.9.1's `math_dapo.compute_score`.
///
/// [`extracted`](Verdict::extracted) is verl's `pred`: the normalised answer, or `[INVALID]` where there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct MathDapo {
    /// Read the box only, and extract nothing where there is none (verl's `strict_box_verify`). Off by default.
    pub strict_box: bool,
}

impl MathDapo {
    /// Whether the answer is right, and what was taken for it.
    fn judge(&self, text: &str, gold: &str) -> (bool, Option<String>) {
        let tail = last_chars(text, 300);
        let boxed = || last_boxed(last_chars(tail, 100)).map(|answer| (answer == gold, Some(answer.to_string())));
        if self.strict_box {
            return boxed().unwrap_or((false, None));
        }
        let stated =
            ANSWER_LINE.captures_iter(tail).last().map_or(INVALID.into(), |line| normalize_final_answer(&line[1]));
        let by_line = (stated == normalize_final_answer(gold), Some(stated.clone()));
        if stated == INVALID { boxed().unwrap_or(by_line) } else { by_line }
    }
}

impl Verifier for MathDapo {
    fn name(&self) -> &str {
        "math_dapo"
    }

    fn rule(&self) -> &str {
        "the answer after the last `Answer:` in the last 300 characters (or else in the last box) is the gold answer, both \
         in the normal form of strings of DAPO"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let (correct, extracted) = self.judge(text, ground_truth);
        Verdict { score: if correct { 1.0 } else { -1.0 }, correct, extracted, style: None }
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        Some(Specimen::of(ground_truth, |answer| match self.strict_box {
            true => format!(r"\boxed{{{answer}}}"),
            false => format!("Answer: {answer}"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_counts_only_where_no_answer_line_is() {
        let judged = |text| MathDapo::default().verify(text, "34");
        assert!(judged(r"so \boxed{34}").correct);
        assert!(!judged("so \\boxed{34}\nAnswer: 35").correct);
        assert!(judged("so \\boxed{35}\nAnswer: 34").correct);
    }

    #[test]
    fn the_last_300_characters_are_characters_not_bytes() {
        let filled = |n| format!("Answer: 34\n{}", "é".repeat(n));
        assert!(MathDapo::default().verify(&filled(289), "34").correct);
        assert!(!MathDapo::default().verify(&filled(290), "34").correct);
    }
}
