//! No text can make a verifier or a format check panic, hang, or give a score that it does not have.

use std::time::{Duration, Instant};

use luspo_reward::{format_check, normalize_final_answer, verifier};
use proptest::prelude::*;

const VERIFIERS: [&str; 10] = [
    "exact",
    "gsm8k",
    "math",
    "math_dapo",
    "math_reward",
    "arithmetic",
    "countdown",
    "linear_equation",
    "base_conversion",
    "sorting",
];
const FORMATS: [&str; 4] = ["think_answer", "gsm8k", "answer_line", "boxed"];

/// Pieces that the rules look for, and characters of every width.
const PIECES: [&str; 32] = [
    "Answer:",
    "answer :\n",
    "\\boxed{",
    "{",
    "}",
    "$",
    "\\$",
    "=",
    ",",
    "12",
    "-",
    ".",
    "#### ",
    "####",
    "\\text{",
    "\\frac",
    "\\sqrt",
    "mbox",
    "a ",
    " ",
    "\n",
    "\r",
    "\u{1c}",
    "\u{a0}",
    "é",
    "²",
    "😀",
    "e\u{301}",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
];

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::collection::vec(prop::sample::select(&PIECES[..]), 0..200).prop_map(|pieces| pieces.concat()),
    ]
}

proptest! {
    #[test]
    fn any_text_gets_one_of_the_verifiers_two_scores(text in texts(), gold in texts()) {
        for name in VERIFIERS {
            let verdict = verifier(name).unwrap().verify(&text, &gold);
            let wrong = if name == "math_dapo" { -1.0 } else { 0.0 };
            prop_assert_eq!(verdict.score, if verdict.correct { 1.0 } else { wrong });
            prop_assert!(!verdict.correct || verdict.extracted.is_some());
        }
        for name in FORMATS {
            format_check(name).unwrap()(&text);
        }
    }

    #[test]
    fn what_stands_before_the_last_300_characters_has_no_effect(before in texts(), tail in texts(), gold in texts()) {
        let text = format!("{before}{}{tail}", "é".repeat(300));
        let alone = format!("{}{tail}", "é".repeat(300));
        for name in ["gsm8k", "math_dapo"] {
            let verifier = verifier(name).unwrap();
            prop_assert_eq!(verifier.verify(&text, &gold), verifier.verify(&alone, &gold));
        }
    }

    #[test]
    fn a_plain_number_is_its_own_right_answer(number in any::<i32>()) {
        let gold = number.to_string();
        for (name, text) in [
            ("exact", gold.clone()),
            ("gsm8k", format!("so\n#### {gold}")),
            ("math_dapo", format!("so\nAnswer: ${gold}$")),
            ("math_dapo", format!("so \\boxed{{{gold}}}")),
            ("math", format!("so \\boxed{{{gold}}}")),
            ("math", format!("so\nAnswer: {gold}")),
            ("math_reward", format!("so \\boxed{{{gold}}}")),
        ] {
            let verdict = verifier(name).unwrap().verify(&text, &gold);
            prop_assert!(verdict.correct);
            prop_assert_eq!(verdict.extracted.as_deref(), Some(gold.as_str()));
        }
    }
}

#[test]
fn a_megabyte_of_one_piece_takes_linear_time() {
    let megabyte = |piece: &str| piece.repeat(1_000_000 / piece.len());
    for piece in PIECES {
        let text = megabyte(piece);
        let start = Instant::now();
        for name in VERIFIERS {
            let verifier = verifier(name).unwrap();
            verifier.verify(&text, "34");
            verifier.verify("Answer: 34", &text); // the gold answer may be the long one
        }
        for name in FORMATS {
            format_check(name).unwrap()(&text);
        }
        normalize_final_answer(&format!("{text}}}\n{text}"));
        // Quadratic time over a megabyte is minutes; linear time is under a second even without optimisation.
        assert!(start.elapsed() < Duration::from_secs(20), "{piece:?} took {:?}", start.elapsed());
    }
}
