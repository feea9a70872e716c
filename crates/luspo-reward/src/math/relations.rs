//! Equations and inequalities: what they give a value to, and when two are the same.

use super::compare::{Decision, different, equal, in_order, scalars, structures, words};
use super::expression::{Constant, Expr, Function, Relation};
use super::reduce::{as_interval, reduced};
use super::sample::proportional;

/// Name and value of `x = 5`, `f(x) = …`, `\text{area} = 5 ≈ 5.0`, `2 + 3 = 5`.
pub(super) fn assigned<'a>(first: &'a Expr, rest: &'a [(Relation, Expr)]) -> Option<(&'a Expr, &'a Expr)> {
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

pub(super) fn relations(
    first: &Expr,
    rest: &[(Relation, Expr)],
    other_first: &Expr,
    other_rest: &[(Relation, Expr)],
) -> Decision {
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
