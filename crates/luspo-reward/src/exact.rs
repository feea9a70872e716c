use crate::{Specimen, Verdict, Verifier};

/// `exact`: the text is the gold answer, white space at either end of both aside. Score 1 or 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exact;

impl Verifier for Exact {
    fn name(&self) -> &str {
        "exact"
    }

    fn rule(&self) -> &str {
        "the whole text is the gold answer, white space at its ends aside"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let answer = text.trim();
        Verdict::one_or_zero(answer == ground_truth.trim(), Some(answer))
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        Some(Specimen::of(ground_truth, str::to_string))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_white_space_at_the_ends_is_forgiven() {
        assert!(Exact.verify(" 34\n", "34 ").correct);
        assert!(!Exact.verify("3 4", "34").correct);
        assert!(!Exact.verify("the answer is 34", "34").correct);
    }
}
