//! Answers that are made up to try a verifier with, before a model has written any.

/// Two texts that a verifier has to tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specimen {
    /// Gives the gold answer, in the form that the verifier reads.
    pub right: String,
    /// Gives another answer, in the same form.
    pub wrong: String,
}

impl Specimen {
    /// For a verifier that reads the gold answer in a text; `text` writes an answer as the verifier reads it.
    pub fn of(gold: &str, text: impl Fn(&str) -> String) -> Self {
        Self { right: text(gold), wrong: text(&another(gold)) }
    }
}

/// An answer that is not this one: of an option the next, of a number or a formula the one with another first digit, of
/// anything else a number.
fn another(gold: &str) -> String {
    let letter = gold.trim_start_matches(['(', '{', '$', ' ']).trim_start_matches(r"\text{").trim_start_matches('(');
    let mut characters = letter.chars();
    if let (Some(option @ 'A'..='J'), None | Some(')' | '.' | ':' | '}' | '$' | ' ')) =
        (characters.next(), characters.next())
    {
        let at = gold.len() - letter.len();
        let next = if option == 'J' { 'A' } else { char::from(option as u8 + 1) };
        return format!("{}{next}{}", &gold[..at], &gold[at + 1..]);
    }
    match gold.char_indices().find_map(|(at, character)| Some((at, character.to_digit(10)?))) {
        Some((at, digit)) => {
            let next = if digit == 9 { 8 } else { digit + 1 };
            format!("{}{next}{}", &gold[..at], &gold[at + 1..])
        }
        None => "271".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Extraction, Math, Verifier, verifier};

    #[test]
    fn another_answer_is_another() {
        for (gold, other) in [
            ("5", "6"),
            ("-3/4", "-4/4"),
            ("909", "809"),
            ("0.5", "1.5"),
            ("A", "B"),
            ("(C) 12", "(D) 12"),
            (r"\text{(E)}", r"\text{(F)}"),
            ("J", "A"),
            ("AB", "271"),
            (r"\infty", "271"),
            (r"\frac{\pi}{2}", r"\frac{\pi}{3}"),
            ("٣", "271"),
        ] {
            assert_eq!(another(gold), other, "{gold}");
        }
    }

    #[test]
    fn every_verifier_takes_its_own_gold_for_right_and_another_answer_for_wrong() {
        for (name, golds) in [
            ("exact", &["34", "yes"][..]),
            ("gsm8k", &["34", "-5"]),
            ("math", &["34", r"\frac{1}{2}", "(1, 2]", "(C) 12", r"\pi", "x^2+1", "east", r"so \boxed{7}"]),
            ("math_dapo", &["34", "-7", r"\sqrt{2}"]),
            ("math_reward", &["34", r"\frac12", r"\text{east}"]),
            ("arithmetic", &["34", "07", "90"]),
            ("countdown", &["3 5 25 = 80", "4 4 = 8", "3 3 8 8 = 24", "1 2 3 4 5 6 = 21"]),
            ("linear_equation", &["7", "-7/3"]),
            ("base_conversion", &["3f2", "ff", "101"]),
            ("sorting", &["3 17 17 88"]),
        ] {
            let judge = verifier(name).unwrap();
            for gold in golds {
                let specimen = judge.specimen(gold).unwrap();
                assert!(judge.verify(&specimen.right, gold).correct, "{name}: {gold}: {specimen:?}");
                assert!(!judge.verify(&specimen.wrong, gold).correct, "{name}: {gold}: {specimen:?}");
            }
        }
    }

    #[test]
    fn every_rule_of_extraction_finds_the_answer_written_for_it() {
        for rule in Extraction::ALL {
            let judge = Math { extraction: vec![rule] };
            let specimen = judge.specimen("34").unwrap();
            assert!(judge.verify(&specimen.right, "34").correct, "{rule:?}: {specimen:?}");
            assert_eq!(judge.verify(&specimen.wrong, "34").extracted.as_deref(), Some("44"), "{rule:?}: {specimen:?}");
        }
    }

    #[test]
    fn a_gold_that_its_verifier_cannot_read_is_found_out() {
        // verl's rule removes the commas of the answer, and not those of the gold.
        for (name, gold) in [("gsm8k", "1,234"), ("arithmetic", "123"), ("linear_equation", "2.5"), ("exact", "")] {
            let judge = verifier(name).unwrap();
            let right = judge.specimen(gold).map(|specimen| judge.verify(&specimen.right, gold).correct);
            assert_eq!(right, Some(name == "exact"), "{name}: {gold}");
        }
        assert_eq!(verifier("countdown").unwrap().specimen("3 5 = 100"), None, "there is no solution");
        assert_eq!(verifier("countdown").unwrap().specimen("80"), None);
    }
}
