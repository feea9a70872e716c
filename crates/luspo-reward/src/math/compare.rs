//! Whether two answers are the same.

use super::exact::exact;
use super::expression::{Constant, Expr};
use super::parse::parse;
use super::reduce::{as_interval, both_signs, reduced};
use super::relations::{assigned, relations};
use super::rounding::{rounded, rounded_to_value};
use super::sample::{Sampled, same_values};

/// Longer lists in any order are compared sorted instead of by trying.
const LONGEST_MATCHING: usize = 40;

/// A decision and its reason in words.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) equal: bool,
    pub(super) reason: String,
}

pub(super) fn equal(reason: impl Into<String>) -> Decision {
    Decision { equal: true, reason: reason.into() }
}

pub(super) fn different(reason: impl Into<String>) -> Decision {
    Decision { equal: false, reason: reason.into() }
}

/// Compares two answers that have been read. It is symmetric.
pub(super) fn compare(a: &Expr, b: &Expr) -> Decision {
    if a.written(true) == b.written(true) {
        return equal("both read the same");
    }
    // Always the same way round: whoever asks gets the same answer.
    let (a, b) = if a.written(true) <= b.written(true) { (a, b) } else { (b, a) };
    structures(&reduced(a), &reduced(b))
}

pub(super) fn structures(a: &Expr, b: &Expr) -> Decision {
    if a.written(true) == b.written(true) {
        return equal("both read the same");
    }
    if let Some(decision) = one_way(a, b).or_else(|| one_way(b, a)) {
        return decision;
    }
    match (a, b) {
        (Expr::Tuple(open, close, items), Expr::Tuple(other_open, other_close, others)) => {
            // ⟨1, 2⟩ and (1, 2) are one vector, (1, 2) and [1, 2] two intervals.
            let bracket = |c: &char| match c {
                '<' => '(',
                '>' => ')',
                c => *c,
            };
            if (bracket(open), bracket(close)) != (bracket(other_open), bracket(other_close)) {
                return different("the brackets differ");
            }
            in_order(items, others)
        }
        (Expr::Set(items), Expr::Set(others) | Expr::List { items: others, .. })
        | (Expr::List { items, .. }, Expr::Set(others)) => in_any_order(items, others),
        (Expr::List { items, ordered }, Expr::List { items: others, ordered: others_ordered }) => {
            if *ordered && *others_ordered { in_order(items, others) } else { in_any_order(items, others) }
        }
        (Expr::Union(items), Expr::Union(others)) => in_any_order(items, others),
        (Expr::Matrix(rows), Expr::Matrix(others)) => {
            if rows.len() != others.len() || rows[0].len() != others[0].len() {
                return different("the matrices have different shapes");
            }
            let flat = |rows: &Vec<Vec<Expr>>| rows.iter().flatten().cloned().collect::<Vec<_>>();
            in_order(&flat(rows), &flat(others))
        }
        (Expr::Ratio(items), Expr::Ratio(others)) => ratios(items, others),
        (Expr::Relation(first, rest), Expr::Relation(other_first, other_rest)) => {
            relations(first, rest, other_first, other_rest)
        }
        (Expr::Opaque(name, items), Expr::Opaque(other, others))
            if name == other && !(a.is_scalar() && b.is_scalar()) =>
        {
            in_order(items, others)
        }
        (Expr::Text(a), Expr::Text(b)) => texts(a, b),
        _ if a.is_scalar() && b.is_scalar() => scalars(a, b),
        _ => different(format!("{} and {} are compared as texts, which differ", a.kind(), b.kind())),
    }
}

/// The rules that treat their sides differently; `structures` asks for both ways round.
fn one_way(a: &Expr, b: &Expr) -> Option<Decision> {
    Some(match (a, b) {
        (Expr::Quantity(value, unit), Expr::Quantity(other, other_unit)) => {
            if unit == other_unit {
                structures(value, other)
            } else {
                different(format!("the units differ: {unit} and {other_unit}"))
            }
        }
        (Expr::Quantity(_, unit), Expr::Percent(_)) => different(format!("{unit} and a percentage")),
        // A unit, or the sign of a percentage, on one side only is no difference.
        (Expr::Quantity(value, unit), _) => {
            let as_written = structures(value, b);
            // 30° and π/6
            if !as_written.equal && unit == "degree" && value.is_scalar() && b.is_scalar() {
                return Some(scalars(&Expr::Degrees(value.clone()), b));
            }
            as_written
        }
        (Expr::Percent(value), Expr::Percent(other)) => structures(value, other),
        (Expr::Percent(_), Expr::Quantity(..)) => return None,
        (Expr::Percent(value), _) if b.is_scalar() => {
            let as_written = structures(value, b);
            if as_written.equal { as_written } else { scalars(a, b) }
        }
        (Expr::Relation(..), Expr::Relation(..)) => return None,
        (Expr::Relation(first, rest), _) => match assigned(first, rest) {
            Some((_, value)) => structures(value, b),
            None => match as_interval(a) {
                Some((_, interval)) if matches!(b, Expr::Tuple(..) | Expr::Union(_)) => structures(&interval, b),
                _ => different("a relation between formulas and a value"),
            },
        },
        // One solution, in braces or not; the same answer given twice.
        (Expr::Set(items), _) if items.len() == 1 && !is_collection(b) => structures(&items[0], b),
        // x = 1, y = 2 and (1, 2)
        (Expr::List { items, .. }, Expr::Tuple('(', ')', others)) => {
            let value = |item: &Expr| match item {
                Expr::Relation(first, rest) => assigned(first, rest).map(|(_, value)| value.clone()),
                _ => None,
            };
            match items.iter().map(value).collect::<Option<Vec<Expr>>>() {
                Some(values) => in_order(&values, others),
                None => different("a list and a tuple"),
            }
        }
        (Expr::List { items, .. }, _) if !is_collection(b) && !matches!(b, Expr::Relation(..)) => {
            if items.iter().all(|item| structures(&reduced(item), b).equal) {
                equal("every item of the list is the other answer")
            } else {
                different(format!("a list of {} and a single answer", items.len()))
            }
        }
        (Expr::Ratio(items), _) if items.len() == 2 && b.is_scalar() => {
            scalars(&Expr::Quotient(Box::new(items[0].clone()), Box::new(items[1].clone())), b)
        }
        // A vector as a column or row.
        (Expr::Matrix(rows), Expr::Tuple('(' | '<', ')' | '>', items)) if rows.len() == 1 || rows[0].len() == 1 => {
            in_order(&rows.iter().flatten().cloned().collect::<Vec<_>>(), items)
        }
        // A point with its name: A(1, 2).
        (Expr::Call(_, items), Expr::Tuple('(', ')', others)) if items.len() > 1 => in_order(items, others),
        (Expr::Text(text), _) => match inner_formula(text) {
            Some(formula) => structures(&reduced(&formula), b),
            None => texts(text, &b.written(false)),
        },
        _ => return None,
    })
}

fn is_collection(expr: &Expr) -> bool {
    matches!(expr, Expr::Set(_) | Expr::List { .. } | Expr::Tuple(..) | Expr::Union(_) | Expr::Matrix(_))
}

/// A text that is one letter in brackets or not, as a formula: `\text{(C)}`.
fn inner_formula(text: &str) -> Option<Expr> {
    let letter = text.trim_matches(['(', ')', '.', ' ']);
    (letter.len() == 1 && letter.as_bytes()[0].is_ascii_alphabetic()).then(|| parse(letter))
}

pub(super) fn in_order(items: &[Expr], others: &[Expr]) -> Decision {
    if items.len() != others.len() {
        return different(format!("{} items and {}", items.len(), others.len()));
    }
    for (at, (item, other)) in items.iter().zip(others).enumerate() {
        let decision = structures(&reduced(item), &reduced(other));
        if !decision.equal {
            return different(format!("item {} differs: {}", at + 1, decision.reason));
        }
    }
    equal(format!("all {} items are equal, in order", items.len()))
}

fn in_any_order(items: &[Expr], others: &[Expr]) -> Decision {
    let reduced_all = |items: &[Expr]| {
        let mut items: Vec<Expr> = items.iter().map(reduced).collect();
        items.sort_by_cached_key(|item| item.written(true));
        items.dedup();
        items
    };
    let (items, others) = (reduced_all(items), reduced_all(others));
    if items.len() != others.len() {
        return different(format!("{} different items and {}", items.len(), others.len()));
    }
    if items.len() > LONGEST_MATCHING {
        return in_order(&items, &others);
    }
    let mut free = vec![true; others.len()];
    for item in &items {
        let found = (0..others.len()).find(|&at| free[at] && structures(item, &others[at]).equal);
        match found {
            Some(at) => free[at] = false,
            None => return different(format!("{} has no counterpart", item.written(false))),
        }
    }
    equal(format!("all {} items are equal, in some order", items.len()))
}

fn ratios(items: &[Expr], others: &[Expr]) -> Decision {
    let plain = in_order(items, others);
    let is_time = |items: &[Expr]| items.iter().any(|item| exact(item).is_some_and(|value| value.is_zero()));
    if plain.equal || items.len() != others.len() || is_time(items) || is_time(others) {
        return plain;
    }
    let by_first = |items: &[Expr], at: usize| Expr::Quotient(Box::new(items[at].clone()), Box::new(items[0].clone()));
    for at in 1..items.len() {
        let decision = scalars(&by_first(items, at), &by_first(others, at));
        if !decision.equal {
            return different(format!("the ratios differ: {}", decision.reason));
        }
    }
    equal("the ratios are equal")
}

fn texts(a: &str, b: &str) -> Decision {
    if words(a) == words(b) { equal("the same words") } else { different(format!("`{a}` is not `{b}`")) }
}

/// The letters and digits of a text, in lower case where there are several, and the signs between them.
pub(super) fn words(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '\\' {
            let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let name = &rest[..length];
            if matches!(name, "text" | "textbf" | "textit" | "textrm" | "mbox" | "mathrm" | "mathbf" | "left" | "right")
            {
                rest = &rest[length..];
            } else if length > 0 {
                out.push('\\');
            } else {
                // `\,`, `\ `, and also `\\`
                rest = rest.chars().next().map_or(rest, |c| &rest[c.len_utf8()..]);
                out.push(' ');
            }
            continue;
        }
        if c == '$' || c == '"' {
            continue;
        }
        out.push(if c.is_whitespace() || c == '~' { ' ' } else { c });
    }
    let is_formula = out.contains(['\\', '^', '_']);
    let mut kept: String = out.split_whitespace().collect::<Vec<_>>().join(" ");
    if !is_formula {
        kept.retain(|c| !matches!(c, '{' | '}'));
        let is_prose = !kept.contains(|c: char| c.is_ascii_digit() || "+-*/=<>|".contains(c));
        if is_prose && kept.chars().filter(|c| c.is_alphabetic()).count() > 1 {
            kept = kept.to_lowercase();
        }
    }
    kept.trim_matches(|c: char| matches!(c, '.' | ',' | ';' | '!' | '?') || c.is_whitespace()).to_string()
}

/// Compares numbers and formulas.
pub(super) fn scalars(a: &Expr, b: &Expr) -> Decision {
    if let (Some(all), Some(others)) = (both_signs(a), both_signs(b))
        && (all.len() > 1 || others.len() > 1)
    {
        return in_any_order(&all, &others);
    }
    let shown = |expr: &Expr| expr.written(false);
    if let (Some(x), Some(y)) = (exact(a), exact(b)) {
        if x == y {
            return equal(format!("the exact value of both is {x}"));
        }
        return rounded(a, b, &|| (x.clone(), y.clone()))
            .unwrap_or_else(|| different(format!("the exact values {x} and {y} differ")));
    }
    if let Some(decision) = infinite(a, b) {
        return decision;
    }
    match same_values(a, b) {
        Sampled::Equal(1) => equal("the values agree to nine digits"),
        Sampled::Equal(points) => equal(format!("the values agree at {points} points")),
        Sampled::Different(where_) => match rounded_to_value(a, b).or_else(|| rounded_to_value(b, a)) {
            Some(decision) => decision,
            None => different(format!("the values differ: {where_}")),
        },
        Sampled::Unknown => {
            different(format!("{} and {} are written differently and cannot be evaluated", shown(a), shown(b)))
        }
    }
}

/// ∞ is equal to itself alone.
fn infinite(a: &Expr, b: &Expr) -> Option<Decision> {
    let sign = |expr: &Expr| match expr {
        Expr::Constant(Constant::Infinity) => Some(true),
        Expr::Negative(inner) if **inner == Expr::Constant(Constant::Infinity) => Some(false),
        Expr::Sum(items) if items.len() == 1 && items[0] == Expr::Constant(Constant::Infinity) => Some(true),
        _ => None,
    };
    match (sign(a), sign(b)) {
        (None, None) => None,
        (a, b) if a == b => Some(equal("both are the same infinity")),
        _ => Some(different("one is infinite, or both with different signs")),
    }
}
