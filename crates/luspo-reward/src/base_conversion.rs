//! The built-in base conversion: a number in the digits of another base.

use crate::final_line::final_answer;
use crate::{Specimen, Verdict, Verifier};

/// `base_conversion`: the last line is `Answer: ` and the gold answer's digits, in either case; zeros in front do not
/// count. Score 1 or 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct BaseConversion;

impl Verifier for BaseConversion {
    fn name(&self) -> &str {
        "base_conversion"
    }

    fn rule(&self) -> &str {
        "the digits on the last line, after `Answer: `, are the gold answer's"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let answer = final_answer(text);
        let correct = answer.is_some_and(|answer| significant(answer).eq_ignore_ascii_case(significant(ground_truth)));
        Verdict::one_or_zero(correct, answer)
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        Some(Specimen::of(ground_truth, |answer| format!("Answer: {answer}")))
    }
}

/// The digits from the first that is not 0; of 0 itself, the last.
fn significant(digits: &str) -> &str {
    match digits.trim_start_matches('0') {
        "" => &digits[digits.len().saturating_sub(1)..],
        significant => significant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_compared_without_case_and_zeros_in_front() {
        for (answer, gold, correct) in [
            ("3f2", "3f2", true),
            ("03F2", "3f2", true),
            ("0x3f2", "3f2", false),
            ("3f 2", "3f2", false),
            ("3f20", "3f2", false),
            ("000", "0", true),
            ("0", "10", false),
            ("", "0", false),
        ] {
            assert_eq!(BaseConversion.verify(&format!("Answer: {answer}"), gold).correct, correct, "{answer}");
        }
    }
}
