//! Mathematics: is the answer in the text the gold answer, however both are written?
//!
//! Two steps, each in files of its own:
//!
//! 1. The answer is extracted by the rules that are switched on ([`Extraction`]); by default only where the text marks
//!    it: a box, an `Answer:` line, `####`, `<answer>`. A text without such a mark has no answer and gets nothing.
//! 2. Both answers are read as numbers, formulas and structures, and compared: exactly where both are rational numbers;
//!    otherwise by their values at fixed points; structures item by item. What is no formula is compared as words.
//!
//! The rules lean to the strict side: a right answer that is not recognised costs a little signal, a wrong one that is
//! credited teaches it.

mod boxes;
mod compare;
mod exact;
mod expression;
mod extract;
mod names;
mod numeric;
mod parse;
mod rational;
mod reduce;
mod relations;
mod rounding;
mod sample;
mod tokens;
mod unit;

use std::borrow::Cow;

pub use extract::Extraction;

use self::compare::{Decision, compare, words};
use self::expression::Expr;
use self::extract::{Missing, extract, gold_answer};
use self::parse::{parse, parse_separated};
use crate::{Explanation, Specimen, Verdict, Verifier};

/// Longer answers, in bytes, are compared as they are written.
const LONGEST_ANSWER: usize = 2000;

/// `math`: the answer in the text has the value of the gold answer: numbers, fractions, percentages, mixed numbers,
/// units, scientific notation, separators of thousands, tuples, intervals, sets, matrices, equations, roots, formulas,
/// options (A) to (E), words; LaTeX, plain text or Unicode. Score 1 or 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Math {
    /// The rules that find the answer; the first that finds one decides. By default [`Extraction::STRICT`].
    pub extraction: Vec<Extraction>,
}

impl Default for Math {
    fn default() -> Self {
        Self { extraction: Extraction::STRICT.to_vec() }
    }
}

impl Verifier for Math {
    fn name(&self) -> &str {
        "math"
    }

    fn rule(&self) -> &str {
        "the answer that the text marks as one has the value of the gold answer, however both are written"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        match extract(text, &self.extraction) {
            Ok((answer, _)) => {
                let decision = self.decide(text, &answer, ground_truth).2;
                Verdict::one_or_zero(decision.equal, Some(&answer))
            }
            Err(_) => Verdict::one_or_zero(false, None),
        }
    }

    fn explain(&self, text: &str, ground_truth: &str) -> Explanation {
        match extract(text, &self.extraction) {
            Ok((answer, rule)) => {
                let (read, gold, decision) = self.decide(text, &answer, ground_truth);
                let described = |expr: &Expr| format!("{}: {}", expr.kind(), expr.written(false));
                Explanation {
                    extraction: format!("`{}` is {}", shortened(&answer), rule.described()),
                    prediction: Some(described(&read)),
                    gold: Some(described(&gold)),
                    reason: decision.reason,
                }
            }
            Err(missing) => {
                let extraction = match missing {
                    Missing::BrokenBox => "the last \\boxed{ is empty or never closed, so there is no answer".into(),
                    Missing::UnfinishedThought => "the text ends inside <think>, so there is no answer".into(),
                    Missing::NothingFound => {
                        let rules: Vec<&str> = self.extraction.iter().map(|rule| rule.described()).collect();
                        format!("there is no answer: looked for {}", rules.join(", "))
                    }
                };
                Explanation { extraction, prediction: None, gold: None, reason: "nothing to compare".into() }
            }
        }
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        let rule = self.extraction.first()?;
        Some(Specimen::of(&gold_answer(ground_truth), |answer| rule.written(answer)))
    }
}

impl Math {
    /// How both sides are read, and whether they are the same.
    fn decide(&self, text: &str, answer: &str, gold_text: &str) -> (Expr, Expr, Decision) {
        let gold = gold_answer(gold_text);
        let (read, read_gold) = (read(answer), read(&gold));
        let decision = if gold.is_empty() {
            Decision { equal: false, reason: "the gold answer is empty".into() }
        } else if text == gold_text || words(answer) == words(&gold) {
            Decision { equal: true, reason: "both are written the same".into() }
        } else {
            same(answer, &read, &gold, &read_gold)
        };
        (read, read_gold, decision)
    }
}

fn read(answer: &str) -> Expr {
    if answer.len() > LONGEST_ANSWER { Expr::Text(answer.to_string()) } else { parse(&unescaped(answer)) }
}

/// Compares two answers, each given as it is written and as it is read.
fn same(answer: &str, read: &Expr, gold: &str, read_gold: &Expr) -> Decision {
    let decision = compare(read, read_gold);
    if decision.equal {
        return decision;
    }
    // `(C) 12`: an option with its text, next to the option's letter or the text alone.
    let by_option = match (option(answer), option(gold)) {
        (Some((letter, _)), Some((gold_letter, _))) => (letter == gold_letter).then_some("both are the same option"),
        (Some(side), None) => same_option(side, read_gold),
        (None, Some(side)) => same_option(side, read),
        (None, None) => None,
    };
    if let Some(reason) = by_option {
        return Decision { equal: true, reason: reason.into() };
    }
    // `100,200`, two numbers, next to `100, 200`.
    for (side, other) in [(answer, read_gold), (gold, read)] {
        if side.contains(',') && matches!(other, Expr::List { .. } | Expr::Set(_)) {
            let decision = compare(&parse_separated(&unescaped(side)), other);
            if decision.equal {
                return decision;
            }
        }
    }
    // `1,22`, a decimal comma.
    match (decimal_comma(answer), decimal_comma(gold)) {
        (Some(number), None) if compare(&parse(&number), read_gold).equal => {
            Decision { equal: true, reason: "equal with the comma as a decimal one".into() }
        }
        (None, Some(number)) if compare(&parse(&number), read).equal => {
            Decision { equal: true, reason: "equal with the comma as a decimal one".into() }
        }
        _ => decision,
    }
}

fn same_option((letter, content): (char, String), other: &Expr) -> Option<&'static str> {
    let is_letter = |expr: &Expr| match expr {
        Expr::Name(name) | Expr::Text(name) => name.trim_matches(['(', ')', '.', ' ']) == letter.to_string(),
        _ => false,
    };
    if is_letter(other) {
        Some("the same option")
    } else if compare(&read(&content), other).equal {
        Some("the option's text is the other answer")
    } else {
        None
    }
}

/// The letter and the content of `(B) 12`, `B. 12`, `\text{(B)} 12`.
fn option(answer: &str) -> Option<(char, String)> {
    let plain = answer
        .trim_start_matches(['$', ' '])
        .trim_start_matches(r"\textbf")
        .trim_start_matches(r"\text")
        .trim_start_matches(r"\mathrm")
        .trim_start_matches(['{', ' ']);
    let bracketed = plain.starts_with('(');
    let plain = plain.trim_start_matches('(');
    let letter = plain.chars().next().filter(|c| ('A'..='J').contains(c))?;
    let rest = &plain[1..];
    let rest = if bracketed { rest.strip_prefix(')')? } else { rest.strip_prefix([')', '.', ':'])? };
    let content =
        rest.trim_matches(|c: char| matches!(c, '}' | '~' | '\\' | '$' | '.' | ':' | ',' | '{') || c.is_whitespace());
    let content = if rest.contains('{') { rest.trim_matches(['$', ' ', '~', '}']) } else { content };
    (!content.is_empty()).then(|| (letter, content.to_string()))
}

/// `1,22` as `1.22`; a comma with three digits after it separates thousands.
fn decimal_comma(answer: &str) -> Option<String> {
    let plain = answer.trim_matches(['$', ' ']);
    let (whole, places) = plain.split_once(',')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is =
        digits(whole.strip_prefix('-').unwrap_or(whole)) && digits(places) && places.len() != 3 && places.len() > 1;
    is.then(|| format!("{whole}.{places}"))
}

/// A formula with single backslashes where they were doubled on its way here: before every command, or, where there
/// are no rows for them to end, before some.
fn unescaped(answer: &str) -> Cow<'_, str> {
    let bytes = answer.as_bytes();
    // Runs of backslashes that end at a letter: how many there are, and how many are single.
    let (mut commands, mut single) = (0, 0);
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| **byte == b'\\').count();
        if length > 0 && bytes.get(at + length).is_some_and(u8::is_ascii_alphabetic) {
            commands += 1;
            single += usize::from(length == 1);
        }
        at += length.max(1);
    }
    let all_doubled = single == 0;
    if commands == single || !all_doubled && answer.contains("begin") {
        return Cow::Borrowed(answer);
    }
    if all_doubled {
        return Cow::Owned(answer.replace(r"\\", r"\"));
    }
    let mut out = String::with_capacity(answer.len());
    let mut rest = answer;
    while let Some(at) = rest.find(r"\\") {
        out.push_str(&rest[..at]);
        rest = &rest[at + 2..];
        out.push_str(if rest.starts_with(|c: char| c.is_ascii_alphabetic()) { r"\" } else { r"\\" });
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn shortened(answer: &str) -> String {
    const LONGEST: usize = 200;
    match answer.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &answer[..end]),
        None => answer.to_string(),
    }
}
