//! The built-in sorting task: numbers in order.

use crate::final_line::final_answer;
use crate::{Specimen, Verdict, Verifier};

/// `sorting`: the last line is `Answer: ` and the gold answer's numbers in its order, with spaces, commas or both
/// between them. Score 1 or 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sorting;

impl Verifier for Sorting {
    fn name(&self) -> &str {
        "sorting"
    }

    fn rule(&self) -> &str {
        "the numbers on the last line, after `Answer: `, are the gold answer's, in its order"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let answer = final_answer(text);
        let correct = answer.is_some_and(|answer| numbers(answer).eq(numbers(ground_truth)));
        Verdict::one_or_zero(correct, answer)
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        Some(Specimen::of(ground_truth, |answer| format!("Answer: {answer}")))
    }
}

fn numbers(list: &str) -> impl Iterator<Item = &str> {
    list.split([' ', ',']).filter(|number| !number.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_and_their_order_decide() {
        for (answer, correct) in [
            ("3 17 17 88", true),
            ("3, 17,17 ,88", true),
            ("3 17 88", false),
            ("17 3 17 88", false),
            ("3 17 17 88 99", false),
            ("[3 17 17 88]", false),
            ("3171788", false),
        ] {
            assert_eq!(Sorting.verify(&format!("Answer: {answer}"), "3 17 17 88").correct, correct, "{answer}");
        }
    }
}
