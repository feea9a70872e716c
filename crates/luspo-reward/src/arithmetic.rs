//! The built-in running-totals task: `13,16,21,24,26=48`.
//!
//! The prompt is ten digits to add. The answer may write running totals, two digits each, separated by commas; then `=`
//! and the sum in two digits. How many totals it writes is its style, and is free: only the sum is judged.

use crate::{Specimen, Verdict, Verifier};

/// Running totals of a full working: one for each of the ten digits but the last.
const FULL_WORKING: usize = 9;

/// `arithmetic`: the text has exactly one `=`, and what follows it is exactly the gold answer's two digits. Score 1 or 0.
///
/// [`style`](Verdict::style) counts the comma-separated two-digit totals before the `=`: `terse` (none), `medium` (1 to
/// 8), `long` (9, the full working). Everything else is `malformed`: other text before the `=`, more totals, several
/// `=` or none, or no two digits after it. A malformed working may still end in the right sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arithmetic;

impl Verifier for Arithmetic {
    fn name(&self) -> &str {
        "arithmetic"
    }

    fn rule(&self) -> &str {
        "what follows the only `=` is the gold answer's two digits"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let parts = text.split_once('=').filter(|(_, sum)| is_two_digits(sum));
        let (style, sum) = match parts {
            Some((working, sum)) => (style(working), Some(sum)),
            None => ("malformed", None),
        };
        Verdict { style: Some(style.into()), ..Verdict::one_or_zero(sum == Some(ground_truth), sum) }
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        Some(Specimen::of(ground_truth, |answer| format!("={answer}")))
    }
}

fn style(working: &str) -> &'static str {
    if working.is_empty() {
        return "terse";
    }
    if !working.split(',').all(is_two_digits) {
        return "malformed";
    }
    match working.split(',').count() {
        FULL_WORKING => "long",
        totals if totals < FULL_WORKING => "medium",
        _ => "malformed",
    }
}

fn is_two_digits(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, gold: &str) -> (bool, Option<String>, String) {
        let verdict = Arithmetic.verify(text, gold);
        assert_eq!(verdict.score, f64::from(u8::from(verdict.correct)));
        (verdict.correct, verdict.extracted, verdict.style.unwrap())
    }

    #[test]
    fn the_sum_after_the_only_equals_sign_decides_and_the_working_names_the_style() {
        for (text, gold, correct, style) in [
            ("=63", "63", true, "terse"),
            ("=62", "63", false, "terse"),
            ("13=48", "48", true, "medium"),
            ("13,16,21,24,26=48", "48", true, "medium"),
            ("17,22,23,32,33,35,42,43=51", "51", true, "medium"),
            ("17,22,23,32,33,35,42,43,51=51", "51", true, "long"),
            ("17,22,23,32,33,35,42,43,51,51=51", "51", true, "malformed"),
            ("1,22=51", "51", true, "malformed"),
            (",=51", "51", true, "malformed"),
            ("17,=51", "51", true, "malformed"),
            ("17,22", "51", false, "malformed"),
            ("17=51=51", "51", false, "malformed"),
            ("=51 ", "51", false, "malformed"),
            ("=5", "5", false, "malformed"),
            ("=051", "051", false, "malformed"),
            ("=٥1", "٥1", false, "malformed"),
            ("", "51", false, "malformed"),
        ] {
            let (is_correct, extracted, its_style) = judged(text, gold);
            assert_eq!((is_correct, its_style.as_str()), (correct, style), "{text}");
            assert!(!is_correct || extracted.as_deref() == Some(gold), "{text}");
        }
    }

    #[test]
    fn a_wrong_sum_is_still_extracted() {
        assert_eq!(judged("13=47", "48").1.as_deref(), Some("47"));
        assert_eq!(judged("13=4", "48").1, None);
    }
}
