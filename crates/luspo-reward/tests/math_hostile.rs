//! No answer makes `math` panic, hang or take much memory; equality is reflexive and symmetric.

use std::time::{Duration, Instant};

use luspo_reward::{Extraction, Math, Verifier};
use proptest::prelude::*;

/// What the rules look for, pieces of formulas, and what is costly to compute.
const PIECES: [&str; 84] = [
    r"\boxed{",
    r"\boxed ",
    r"\fbox{",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    r"\{",
    r"\}",
    "|",
    "$",
    r"\(",
    r"\]",
    r"\frac",
    r"\frac{1}{",
    r"\frac12",
    r"\sqrt",
    r"\sqrt[3]{",
    r"\binom{500}{250}+",
    "^",
    "2^",
    "9^9^",
    "^{",
    "_",
    "x_",
    "'",
    "!",
    "9!",
    "500!+",
    "1/",
    "/",
    "-",
    "+",
    "*",
    "x=",
    "=",
    "<",
    r"\le ",
    ",",
    ";",
    "1,",
    "(1,",
    "1,234",
    "{,}",
    r"\pm",
    r"\pm 1,",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    "&",
    r"\\",
    r"\\boxed{",
    r"\text{",
    r"\text{ and }",
    r"\cup(1,2)",
    "f(",
    "x",
    "e",
    "i",
    r"\pi",
    ":1",
    "2e9",
    "9e99999999999999999999",
    "1e-4000",
    "7",
    "0.",
    r"0.\overline{3}",
    "(1/3)^{1290}+",
    r"\gcd(",
    r"\sin ",
    "sin",
    r"\log_",
    r"\sum_",
    r"\lim_{x",
    "%",
    r"^\circ",
    " cm",
    "Answer:",
    "####",
    "<answer>",
    "</think>",
    "é",
    "²",
];

fn every_rule() -> Math {
    Math { extraction: Extraction::ALL.to_vec() }
}

/// Texts of random characters, of the pieces, and of pieces of formulas that are more likely to be read.
fn answers() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::collection::vec(prop::sample::select(&PIECES[..]), 0..30).prop_map(|pieces| pieces.concat()),
        formula(),
    ]
}

fn formula() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (-999_i64..999).prop_map(|number| number.to_string()),
        prop::sample::select(&["x", "y", r"\pi", "e", "i", "0.5", "1,234", r"30^\circ", "n!", "x_1"][..])
            .prop_map(String::from),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (
                inner.clone(),
                inner.clone(),
                prop::sample::select(&["+", "-", r"\cdot ", "/", "=", "<", ", ", r"\pm "][..])
            )
                .prop_map(|(a, b, sign)| format!("{a}{sign}{b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!(r"\frac{{{a}}}{{{b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})^{{{b}}}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!(r"\{{{a}, {b}\}}")),
            inner.clone().prop_map(|a| format!(r"\sqrt{{{a}}}")),
            inner.prop_map(|a| format!(r"\sin({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn a_text_that_has_an_answer_is_its_own_gold_answer(text in answers()) {
        for math in [Math::default(), every_rule()] {
            let verdict = math.verify(&text, &text);
            prop_assert_eq!(verdict.correct, verdict.extracted.is_some());
        }
    }

    #[test]
    fn a_boxed_answer_is_the_answer(answer in formula()) {
        let text = format!(r"so \boxed{{{answer}}}");
        prop_assert!(Math::default().verify(&text, &answer).correct);
    }

    #[test]
    fn equality_is_symmetric(a in answers(), b in answers()) {
        let boxed = |text: &str| format!(r"\boxed{{{text}}}");
        let (a, b) = (boxed(&a), boxed(&b));
        let math = Math::default();
        let (there, back) = (math.verify(&a, &b), math.verify(&b, &a));
        // A side without an answer is never right, but may be a gold answer.
        if there.extracted.is_some() && back.extracted.is_some() {
            prop_assert_eq!(there.correct, back.correct);
        }
    }

    #[test]
    fn a_number_is_no_other_number(a in -100_000_i64..100_000, b in -100_000_i64..100_000) {
        let math = Math::default();
        let text = format!(r"\boxed{{{a}}}");
        prop_assert_eq!(math.verify(&text, &b.to_string()).correct, a == b);
        let thousandths = format!("{}{}.{:03}", if b < 0 { "-" } else { "" }, b.abs() / 1000, b.abs() % 1000);
        let fraction = format!(r"\boxed{{\frac{{{a}}}{{1000}}}}");
        prop_assert_eq!(math.verify(&fraction, &thousandths).correct, a == b);
    }

    #[test]
    fn an_explanation_is_given_for_every_text(text in answers(), gold in answers()) {
        let explained = every_rule().explain(&text, &gold);
        prop_assert!(!explained.extraction.is_empty() && !explained.reason.is_empty());
    }
}

/// A generous limit: quadratic time over a megabyte is minutes, linear time about a second.
fn within(limit: Duration, what: &str, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    assert!(start.elapsed() < limit, "{what} took {:?}", start.elapsed());
}

/// One piece over and over, wherever a text can stand.
fn judge_repeated(piece: &str, bytes: usize) {
    let math = every_rule();
    let text = piece.repeat(bytes / piece.len());
    within(Duration::from_secs(20), piece, || {
        math.verify(&text, "34");
        math.verify(&format!(r"\boxed{{{text}}}"), "34");
        math.verify(&format!("Answer: {text}"), &text);
        math.verify(r"\boxed{34}", &text);
    });
}

#[test]
fn a_megabyte_of_one_piece_takes_linear_time() {
    for piece in ["{", "}", r"\frac", "(", "^", r"\boxed{", "9!", "$", "1,"] {
        judge_repeated(piece, 1_000_000);
    }
}

#[test]
fn no_piece_takes_more_than_linear_time() {
    for piece in PIECES {
        judge_repeated(piece, 150_000);
    }
}

#[test]
fn the_costliest_answers_that_are_read_take_little_time() {
    let math = Math::default();
    for piece in PIECES {
        // The longest answer that is read as a formula.
        let answer = piece.repeat(1980 / piece.len());
        let closed = format!("{answer}1");
        within(Duration::from_secs(10), piece, || {
            for answer in [&answer, &closed] {
                math.verify(&format!(r"\boxed{{{answer}}}"), "x+1");
                math.verify(&format!("Answer: {answer}"), &format!("{answer}+1"));
                math.explain(&format!("Answer: {answer}"), "34");
            }
        });
    }
}

#[test]
fn huge_numbers_are_compared_as_they_are_written_and_at_once() {
    let math = Math::default();
    let digits = "7".repeat(10_000_000);
    within(Duration::from_secs(20), "10 MB of digits", || {
        assert!(math.verify(&format!(r"\boxed{{{digits}}}"), &digits).correct);
        assert!(!math.verify(&format!(r"\boxed{{{digits}}}"), &digits[1..]).correct);
    });
    for (huge, other) in [
        ("9^{9^{9^9}}", "9^{9^{9^8}}"),
        ("10^{999999999999}", "10^{999999999998}"),
        ("(10^{999})!", "(10^{998})!"),
        ("1e999999999", "1e999999998"),
        ("2024^{4046}", "2024^{4045}"),
        (r"\binom{10^{18}}{10^{17}}", r"\binom{10^{18}}{10^{16}}"),
    ] {
        within(Duration::from_secs(2), huge, || {
            assert!(math.verify(&format!(r"\boxed{{{huge}}}"), huge).correct, "{huge}");
            assert!(!math.verify(&format!(r"\boxed{{{huge}}}"), other).correct, "{huge}");
        });
    }
}

#[test]
fn deep_nesting_is_no_formula_and_no_harm() {
    let math = Math::default();
    for (open, close) in
        [("(", ")"), ("{", "}"), (r"\sqrt{", "}"), (r"\frac{1}{", "}"), ("[", "]"), ("|", "|"), ("2^{", "}")]
    {
        for depth in [10, 100, 900, 100_000] {
            let answer = format!("{}7{}", open.repeat(depth), close.repeat(depth));
            within(Duration::from_secs(10), open, || {
                assert!(math.verify(&format!(r"\boxed{{{answer}}}"), &answer).correct, "{open} {depth}");
                math.verify(&format!(r"\boxed{{{answer}}}"), "7");
            });
        }
    }
}
