//! MATH's reward: the last box, compared as strings in a normal form.
//!
//! As in verl 0.9.1, `verl/utils/reward_score/math_reward.py`, whose rules are those of Hendrycks et al.
//! (arXiv 2103.03874).
//!
//! 1. The answer is the content of the last `\boxed{…}`. Where `\boxed ` (with a space) occurs anywhere, it is what
//!    follows the last one, up to a `$`. An `\fbox`, a box that is never closed and anything else between `\boxed` and
//!    its brace give nothing.
//! 2. It and the gold answer are brought into a normal form ([`normal_form`]) and compared. Where one of them has none,
//!    both are compared as they are.
//!
//! The score is 1 or 0.

use crate::extract::until_closed;
use crate::{Specimen, Verdict, Verifier};

/// Python refuses to read longer integers.
const LONGEST_INTEGER: usize = 4300;

/// `math_reward`: the content of the last `\boxed{…}` is the gold answer, both in a normal form of strings. Score 1 or
/// 0. The rule of verl 0.9.1's `math_reward.compute_score`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MathReward;

impl Verifier for MathReward {
    fn name(&self) -> &str {
        "math_reward"
    }

    fn rule(&self) -> &str {
        "the content of the last \\boxed{…} is the gold answer, both in the normal form of MATH (strings, not values)"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let answer = boxed(text);
        Verdict::one_or_zero(answer.is_some_and(|answer| same(answer, ground_truth)), answer)
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        Some(Specimen::of(ground_truth, |answer| format!(r"\boxed{{{answer}}}")))
    }
}

/// The content of the box that counts.
fn boxed(text: &str) -> Option<&str> {
    if let Some((_, rest)) = text.rsplit_once(r"\boxed ") {
        return Some(rest.split_once('$').map_or(rest, |(answer, _)| answer));
    }
    let (_, rest) = text.rsplit_once(r"\boxed")?;
    until_closed(rest.strip_prefix('{')?)
}

fn same(answer: &str, gold: &str) -> bool {
    match (normal_form(answer), normal_form(gold)) {
        (Some(answer), Some(gold)) => answer == gold,
        _ => answer == gold,
    }
}

/// The normal form; `None` for a text that the reference fails on: two units, or a `\sqrt` or `\frac` with nothing after
/// it.
fn normal_form(text: &str) -> Option<String> {
    let mut text = text.to_string();
    for (from, to) in [
        ("\n", ""),
        (r"\!", ""),
        (r"\\", r"\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        (r"\left", ""),
        (r"\right", ""),
        (r"^{\circ}", ""),
        (r"^\circ", ""),
        (r"\$", ""),
    ] {
        text = text.replace(from, to);
    }
    // A unit, which stands on the right.
    if let Some((number, unit)) = text.split_once(r"\text{ ") {
        if unit.contains(r"\text{ ") {
            return None;
        }
        text = number.to_string();
    }
    for (from, to) in [(r"\\%", ""), (r"\%", ""), (" .", " 0."), ("{.", "{0.")] {
        text = text.replace(from, to);
    }
    if text.is_empty() {
        return Some(text);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    // `k = 5` is 5.
    let sides: Vec<&str> = text.splitn(3, '=').collect();
    if let [name, value] = sides[..]
        && name.chars().count() <= 2
    {
        text = value.to_string();
    }
    text = with_braces_after_sqrt(&text)?.replace(' ', "");
    text = with_braces_after_frac(&text)?;
    if text == "0.5" {
        text = r"\frac{1}{2}".into();
    }
    if let Some((above, below)) = text.split_once('/')
        && is_integer(above)
        && is_integer(below)
    {
        text = format!(r"\frac{{{above}}}{{{below}}}");
    }
    Some(text)
}

/// `\sqrt3` → `\sqrt{3}`.
fn with_braces_after_sqrt(text: &str) -> Option<String> {
    let mut parts = text.split(r"\sqrt");
    let mut out = parts.next()?.to_string();
    for part in parts {
        let first = part.chars().next()?;
        out.push_str(r"\sqrt");
        if first == '{' {
            out.push_str(part);
        } else {
            out.extend(['{', first, '}']);
            out.push_str(&part[first.len_utf8()..]);
        }
    }
    Some(out)
}

/// `\frac12` and `\frac1{72}` → `\frac{1}{2}` and `\frac{1}{72}`; a `\frac` with one character after it leaves the whole
/// text as it is.
fn with_braces_after_frac(text: &str) -> Option<String> {
    let mut parts = text.split(r"\frac");
    let mut out = parts.next()?.to_string();
    for part in parts {
        out.push_str(r"\frac");
        let mut characters = part.chars();
        let above = characters.next()?;
        if above == '{' {
            out.push_str(part);
            continue;
        }
        let Some(below) = characters.next() else { return Some(text.to_string()) };
        out.extend(['{', above, '}']);
        if below == '{' {
            out.push('{');
        } else {
            out.extend(['{', below, '}']);
        }
        out.push_str(characters.as_str());
    }
    Some(out)
}

/// An integer as Python prints it: no `+`, no zero in front, no `-0`.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let canonical = digits.len() == 1 || !digits.starts_with('0');
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && canonical && text != "-0" && digits.len() <= LONGEST_INTEGER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_is_none_gives_nothing() {
        for text in [r"\fbox{34}", r"\boxed{34", r"\boxed34", r"\boxed}{34}", "34", ""] {
            assert_eq!(boxed(text), None, "{text}");
        }
        assert_eq!(boxed(r"\boxed 3 \boxed{4}"), Some(r"3 \boxed{4}"));
    }

    #[test]
    fn where_the_normal_form_fails_the_strings_are_compared() {
        assert!(same(r"\sqrt", r"\sqrt") && !same(r"\sqrt", r"\sqrt "));
        assert!(same(r"\text{ a}\text{ b}", r"\text{ a}\text{ b}"));
        assert!(same(r"1/2", r"\frac12") && !same(r"01/2", r"\frac12") && !same(r"2/4", r"1/2"));
    }
}
