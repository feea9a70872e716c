//! The built-in linear equations: the number that solves one.

use crate::final_line::final_answer;
use crate::fraction::Fraction;
use crate::{Specimen, Verdict, Verifier};

/// `linear_equation`: the last line is `Answer: ` and an integer or a fraction of integers that is equal to the gold
/// answer, reduced or not; `x = ` may stand before it. Score 1 or 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinearEquation;

impl Verifier for LinearEquation {
    fn name(&self) -> &str {
        "linear_equation"
    }

    fn rule(&self) -> &str {
        "the number on the last line, after `Answer: `, is equal to the gold answer"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let answer = final_answer(text);
        let value = answer.and_then(|answer| Fraction::parse(without_variable(answer)));
        let equal = value.zip(Fraction::parse(ground_truth)).and_then(|(value, gold)| value.equals(gold));
        Verdict::one_or_zero(equal == Some(true), answer)
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        Some(Specimen::of(ground_truth, |answer| format!("Answer: {answer}")))
    }
}

fn without_variable(answer: &str) -> &str {
    answer.strip_prefix('x').and_then(|rest| rest.trim_start().strip_prefix('=')).unwrap_or(answer).trim_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solution_is_compared_as_a_number() {
        for (answer, gold, correct) in [
            ("7", "7", true),
            ("x = 7", "7", true),
            ("x=-14/6", "-7/3", true),
            ("7/-3", "-7/3", true),
            ("007", "7", true),
            ("-0", "0", true),
            ("7.0", "7", false),
            ("2.333", "7/3", false),
            ("+7", "7", false),
            ("--7", "-7", false),
            ("7/0", "7", false),
            ("7/1/1", "7", false),
            ("y = 7", "7", false),
            ("", "", false),
            ("170141183460469231731687303715884105728", "7", false),
            ("-170141183460469231731687303715884105728/-1", "7", false),
        ] {
            let verdict = LinearEquation.verify(&format!("Answer: {answer}"), gold);
            assert_eq!(verdict.correct, correct, "{answer}");
        }
    }
}
