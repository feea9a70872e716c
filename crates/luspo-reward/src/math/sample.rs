//! Two formulas are compared by their values at fixed points.
//!
//! Every variable gets a number from a hash of its name and of the point's index, so the points are the same for both
//! sides, for every run and every machine. Points at which a formula has no value, or depends on the choice of a
//! branch, say nothing.

use super::expression::Expr;
use super::numeric::{Point, Value};

/// Points with real coordinates, the first ones positive, and after them points with small whole coordinates for what
/// has values at those alone.
const POINTS: u64 = 16;
const POSITIVE: u64 = 6;
const FIRST_WHOLE: u64 = 12;
/// What remains must be at least so many.
const ENOUGH: usize = 3;
/// Relative difference of values that are the same but for rounding.
const TOLERANCE: f64 = 1e-9;

/// What sampling says.
pub(super) enum Sampled {
    /// Equal at so many points; at one where there are no variables.
    Equal(usize),
    Different(String),
    /// There are not enough points at which both have a value.
    Unknown,
}

/// Whether two formulas have the same values.
pub(super) fn same_values(a: &Expr, b: &Expr) -> Sampled {
    if !a.has_names() && !b.has_names() {
        let value = |expr| Point { variable: &|_| 0.0, branch: false }.value(expr);
        return match (value(a), value(b)) {
            (Some(a), Some(b)) if close(a, b) => Sampled::Equal(1),
            (Some(a), Some(b)) => Sampled::Different(format!("{} is not {}", shown(a), shown(b))),
            _ => Sampled::Unknown,
        };
    }
    let mut points = 0;
    for index in 0..POINTS {
        let Some((a, b)) = at(index, a, b) else { continue };
        if !close(a, b) {
            return Sampled::Different(format!("at one choice of the variables {} is not {}", shown(a), shown(b)));
        }
        points += 1;
    }
    if points >= ENOUGH { Sampled::Equal(points) } else { Sampled::Unknown }
}

/// Whether two formulas with variables are multiples of each other, by a positive number if it has to be one: then
/// `a = 0` and `b = 0` are the same equation, and `a < 0` and `b < 0` the same inequality.
pub(super) fn proportional(a: &Expr, b: &Expr, positive: bool) -> bool {
    let mut factor: Option<Value> = None;
    let mut points = 0;
    for index in 0..POINTS {
        let Some((a, b)) = at(index, a, b) else { continue };
        let is_zero = |value: Value| value.number.norm() <= 8.0 * value.error;
        match (is_zero(a), is_zero(b)) {
            (true, true) => continue,
            (false, false) => {}
            _ => return false,
        }
        let error = (a.error / a.number.norm() + b.error / b.number.norm()) * (a.number / b.number).norm();
        let ratio = Value { number: a.number / b.number, error };
        if positive && (ratio.number.re <= 0.0 || ratio.number.im.abs() > TOLERANCE * ratio.number.norm()) {
            return false;
        }
        if factor.is_some_and(|factor| !close(factor, ratio)) {
            return false;
        }
        factor = Some(ratio);
        points += 1;
    }
    points >= ENOUGH
}

/// Both values at a point, where they have one that depends on no branch.
fn at(index: u64, a: &Expr, b: &Expr) -> Option<(Value, Value)> {
    let variable = |name: &str| coordinate(name, index);
    let mut point = Point { variable: &variable, branch: false };
    let values = (point.value(a)?, point.value(b)?);
    (!point.branch).then_some(values)
}

fn close(a: Value, b: Value) -> bool {
    let difference = (a.number - b.number).norm();
    let size = a.number.norm().max(b.number.norm());
    let error = a.error + b.error;
    // Where rounding has eaten the digits, nothing can be said.
    let meaningful = error <= TOLERANCE * size.max(1.0);
    meaningful && difference <= (TOLERANCE * size).max(4.0 * error)
}

fn shown(value: Value) -> String {
    let number = value.number;
    if number.im.abs() <= value.error.max(1e-12 * number.norm()) {
        format!("{:.6}", number.re)
    } else {
        format!("{:.6}{:+.6}i", number.re, number.im)
    }
}

/// The value of a variable at a point.
fn coordinate(name: &str, index: u64) -> f64 {
    let hash = mixed(name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ index, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }));
    if index >= FIRST_WHOLE {
        return (1 + hash % 9) as f64;
    }
    let unit = (hash >> 12) as f64 / (1_u64 << 52) as f64;
    // Small and larger values in turn: some formulas have values only near 0, others only beyond 1.
    let size = if index.is_multiple_of(2) { 0.05 + 0.5 * unit } else { 1.1 + 2.0 * unit };
    if index < POSITIVE || hash & 1 == 0 { size } else { -size }
}

/// The finalizer of splitmix64: every bit of the result depends on every bit of the argument.
fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn equal(a: &str, b: &str) -> bool {
        matches!(same_values(&parse(a), &parse(b)), Sampled::Equal(_))
    }

    #[test]
    fn identities_hold_and_near_misses_do_not() {
        for (a, b) in [
            ("(x+1)^2", "x^2+2x+1"),
            (r"\sec^2(y)", r"\tan^2(y)+1"),
            (r"\frac{1}{3x^{2/3}}", r"\frac{1}{3\sqrt[3]{x}^2}"),
            (r"\sqrt{4ab}", r"2\sqrt{a}\sqrt{b}"),
            (r"\sin 2x", r"2\sin x\cos x"),
            (r"\log_2 8", "3"),
            (r"2\sqrt{2}", r"\sqrt{8}"),
            (r"e^{i\pi}", "-1"),
            (r"\sin 30^\circ", r"\frac12"),
            (r"\frac{n!}{(n-2)!}", "n(n-1)"),
            (r"\sqrt[3]{-8}", "-2"),
            (r"\arctan 1", r"\frac{\pi}{4}"),
        ] {
            assert!(equal(a, b), "{a} = {b}");
        }
        for (a, b) in [
            (r"\sqrt{x^2}", "x"),
            ("|x|", "x"),
            ("(x+1)^2", "x^2+2x+2"),
            ("x", "y"),
            (r"\pi", r"\frac{355}{113}"),
            (r"10^{-12}\pi", r"2\cdot 10^{-12}\pi"),
            (r"\lfloor x \rfloor", "x"),
            ("x^{1/2}", "x^{1/3}"),
            (r"\frac{x}{x}", "2"),
        ] {
            assert!(!equal(a, b), "{a} ≠ {b}");
        }
    }
}
