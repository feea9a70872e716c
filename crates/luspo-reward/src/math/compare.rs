//! Whether two answers are the same.

use super::exact::exact;
use super::expression::{Constant, Decimals, Expr, Function, Number, Relation};
use super::parse::parse;
use super::rational::Rational;
use super::reduce::{as_interval, both_signs, reduced};
use super::sample::{Sampled, proportional, same_values};

/// Longer lists in any order are compared sorted instead of by trying.
const LONGEST_MATCHING: usize = 40;

/// A decision and its reason in words.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) equal: bool,
    pub(super) reason: String,
}

fn equal(reason: impl Into<String>) -> Decision {
    Decision { equal: true, reason: reason.into() }
}

fn different(reason: impl Into<String>) -> Decision {
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

fn structures(a: &Expr, b: &Expr) -> Decision {
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
        (Expr::Opaque(name, items), Expr::Opaque(other, others)) if name == other && !(a.is_scalar() && b.is_scalar()) => {
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
        (Expr::List { items, .. }, _) if !is_collection(b) && !items.is_empty() => {
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

fn in_order(items: &[Expr], others: &[Expr]) -> Decision {
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

/// Name and value of `x = 5`, `f(x) = …`, `\text{area} = 5 ≈ 5.0`, `2 + 3 = 5`.
fn assigned<'a>(first: &'a Expr, rest: &'a [(Relation, Expr)]) -> Option<(&'a Expr, &'a Expr)> {
    let equals = rest.iter().take_while(|(relation, _)| *relation == Relation::Equal).count();
    if rest[equals..].iter().any(|(relation, _)| *relation != Relation::Approximately) {
        // `x ∈ [0, 1]`
        return match rest {
            [(Relation::Element, value)] if is_name(first) => Some((first, value)),
            _ => None,
        };
    }
    // What comes after ≈ is a rounded form of what comes before.
    let value = if equals > 0 { &rest[equals - 1].1 } else { first };
    if equals == 0 {
        return if is_name(first) { Some((first, &rest[0].1)) } else { Some((value, value)) };
    }
    let computed = first.is_scalar() && value.is_scalar() && !first.has_names() && !value.has_names();
    if is_name(first) || computed && scalars(first, value).equal {
        return Some((first, value));
    }
    if equals == 1 && is_name(value) && !first.has_names() {
        return Some((value, first));
    }
    // lim … = 1, a chain from a formula that nobody can evaluate.
    let known_unknown = match first {
        Expr::Opaque(..) => true,
        Expr::Apply(function, _) => !matches!(function, Function::Sqrt | Function::Root),
        _ => false,
    } && !is_name(value)
        && !value.has_names();
    known_unknown.then_some((first, value))
}

/// Whether this is what a value is given to: a variable, a function's value, words, a tuple of names, a segment `AB`.
fn is_name(expr: &Expr) -> bool {
    match expr {
        Expr::Name(_) | Expr::Text(_) => true,
        Expr::Constant(Constant::E | Constant::I) => true,
        Expr::Call(_, items) => items.iter().all(|item| !matches!(item, Expr::Sum(_))) || items.len() > 1,
        Expr::Opaque(_, items) => items.iter().all(|item| is_name(item) || matches!(item, Expr::Product(_))),
        Expr::Tuple('(', ')', items) | Expr::Ratio(items) => items.iter().all(is_name),
        Expr::Quotient(a, b) => is_name(a) && is_name(b),
        Expr::Product(items) => items.iter().all(|item| match item {
            Expr::Name(name) => name.chars().next().is_some_and(char::is_uppercase),
            Expr::Opaque(_, items) => items.is_empty(),
            _ => false,
        }),
        _ => false,
    }
}

fn relations(first: &Expr, rest: &[(Relation, Expr)], other_first: &Expr, other_rest: &[(Relation, Expr)]) -> Decision {
    let whole = |first: &Expr, rest: &[(Relation, Expr)]| Expr::Relation(Box::new(first.clone()), rest.to_vec());
    if let (Some((name, value)), Some((other_name, other))) = (assigned(first, rest), assigned(other_first, other_rest))
        && same_name(name, other_name)
    {
        if let (Expr::Call(_, arguments), Expr::Call(_, others)) = (name, other_name)
            && arguments != others
            && (value.has_names() || other.has_names())
        {
            return different("functions of different variables");
        }
        return structures(&reduced(value), &reduced(other));
    }
    let interval = as_interval(&whole(first, rest));
    let other_interval = as_interval(&whole(other_first, other_rest));
    if let (Some((name, interval)), Some((other_name, other))) = (&interval, &other_interval) {
        return if name == other_name { structures(interval, other) } else { different("the variables differ") };
    }
    // `x ∈ [-2, 7]` and `-2 ≤ x ≤ 7`
    for (interval, assigned) in
        [(&interval, assigned(other_first, other_rest)), (&other_interval, assigned(first, rest))]
    {
        if let (Some((name, interval)), Some((Expr::Name(other_name), value))) = (interval, assigned)
            && matches!(value, Expr::Tuple(..) | Expr::Union(_))
        {
            return if name == other_name { structures(interval, value) } else { different("the variables differ") };
        }
    }
    let ([(relation, second)], [(other_relation, other_second)]) = (rest, other_rest) else {
        return chains(first, rest, other_first, other_rest);
    };
    // Both as `difference ~ 0`, with the smaller side first.
    let difference = |relation: Relation, left: &Expr, right: &Expr| {
        let (relation, left, right) = match relation {
            Relation::Greater | Relation::GreaterOrEqual => (relation.mirrored(), right, left),
            _ => (relation, left, right),
        };
        (relation, Expr::Sum(vec![left.clone(), Expr::Negative(Box::new(right.clone()))]))
    };
    let (relation, side) = difference(*relation, first, second);
    let (other_relation, other_side) = difference(*other_relation, other_first, other_second);
    if relation != other_relation {
        return different("the relations differ");
    }
    let positive = matches!(relation, Relation::Less | Relation::LessOrEqual);
    if side.has_names() && side.is_scalar() && other_side.is_scalar() && proportional(&side, &other_side, positive) {
        return equal("one relation is a multiple of the other");
    }
    let sides = in_order(&[first.clone(), second.clone()], &[other_first.clone(), other_second.clone()]);
    if sides.equal && !matches!(relation, Relation::Less | Relation::LessOrEqual) {
        return equal("both sides are equal");
    }
    different("the relations are no multiples of each other")
}

fn chains(first: &Expr, rest: &[(Relation, Expr)], other_first: &Expr, other_rest: &[(Relation, Expr)]) -> Decision {
    let signs = |rest: &[(Relation, Expr)]| rest.iter().map(|(relation, _)| *relation).collect::<Vec<_>>();
    if signs(rest) != signs(other_rest) {
        return different("the relations differ");
    }
    let members = |first: &Expr, rest: &[(Relation, Expr)]| {
        std::iter::once(first.clone()).chain(rest.iter().map(|(_, member)| member.clone())).collect::<Vec<_>>()
    };
    in_order(&members(first, rest), &members(other_first, other_rest))
}

/// Whether values of these names may be compared.
fn same_name(a: &Expr, b: &Expr) -> bool {
    let name = |expr: &Expr| expr.written(true).to_lowercase();
    let is_function = |expr: &Expr| matches!(expr, Expr::Call(..));
    match (a, b) {
        // "area = 5" says no more than 5, nor does "2 + 3 = 5".
        (Expr::Text(words), _) | (_, Expr::Text(words)) if is_prose(words) => true,
        (Expr::Text(a), Expr::Text(b)) => words(a) == words(b),
        _ if !a.has_names() || !b.has_names() => true,
        // y = … and f(x) = …, and f(n) = … and f(x) = …
        (Expr::Name(y), other) | (other, Expr::Name(y)) if is_function(other) => y == "y",
        (Expr::Call(f, _), Expr::Call(g, _)) => f.to_lowercase() == g.to_lowercase(),
        _ => name(a) == name(b),
    }
}

fn is_prose(text: &str) -> bool {
    text.chars().all(|c| c.is_alphabetic() || c.is_whitespace() || "\\{}$.,'-".contains(c))
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
            if matches!(name, "text" | "textbf" | "textit" | "textrm" | "mbox" | "mathrm" | "mathbf" | "left" | "right") {
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
fn scalars(a: &Expr, b: &Expr) -> Decision {
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
        Sampled::Unknown => different(format!("{} and {} are written differently and cannot be evaluated", shown(a), shown(b))),
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

/// A number with a point, with its sign.
fn decimal(expr: &Expr) -> Option<Decimals> {
    match expr {
        Expr::Number(Number { decimals, .. }) => *decimals,
        Expr::Negative(inner) => decimal(inner),
        // 2.5 · 10^3
        Expr::Product(items) => match &items[..] {
            [number @ Expr::Number(_), Expr::Power(ten, exponent)] if **ten == Expr::integer(10) => {
                let Decimals { significant, last_place } = decimal(number)?;
                let shift = exact(exponent)?.as_integer()?;
                Some(Decimals { significant, last_place: last_place.checked_add(shift)? })
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether a number has so many digits that it is the rounded form of another one, not a number of its own: six decimal
/// places (0.333333, but not 3.14159), or ten digits.
fn is_rounded(decimals: Decimals) -> bool {
    decimals.significant >= 6 && decimals.last_place <= -6 || decimals.significant >= 10
}

/// So many are the machine's noise around a shorter number.
const NOISY_DIGITS: usize = 15;

/// Two exact numbers that are not the same: one may be the rounded form of the other.
fn rounded(a: &Expr, b: &Expr, values: &dyn Fn() -> (Rational, Rational)) -> Option<Decision> {
    let (a, b) = match (decimal(a), decimal(b)) {
        (None, None) => return None,
        pair => pair,
    };
    let (x, y) = values();
    let difference = x.add(&y.negative())?;
    let difference = if difference.is_negative() { difference.negative() } else { difference };
    let last_place = match (a, b) {
        (Some(one), None) | (None, Some(one)) if is_rounded(one) => one.last_place,
        (Some(one), Some(other)) if one.significant.max(other.significant) >= NOISY_DIGITS => {
            one.last_place.min(other.last_place) + 2
        }
        _ => return None,
    };
    // Rounded or cut: less than one unit of the last digit.
    let unit = Rational::power_of_ten(last_place)?;
    let is = difference.add(&unit.negative())?.is_negative();
    is.then(|| equal(format!("the same to the last digit written: {x} and {y}")))
}

/// A decimal and a value that is known in floating point.
fn rounded_to_value(a: &Expr, b: &Expr) -> Option<Decision> {
    let decimals = decimal(a).filter(|decimals| is_rounded(*decimals))?;
    if decimal(b).is_some() || b.has_names() {
        return None;
    }
    let value = |expr| super::numeric::Point { variable: &|_| 0.0, branch: false }.value(expr);
    let (x, y) = (value(a)?, value(b)?);
    let unit = 10_f64.powi(i32::try_from(decimals.last_place).ok()?);
    let difference = (x.number - y.number).norm();
    (difference < unit.max(1e-14 * y.number.norm())).then(|| equal("the same to the last digit written"))
}
