//! Decimals that are the rounded form of another value.

use super::compare::{Decision, equal};
use super::exact::exact;
use super::expression::{Decimals, Expr, Number};
use super::numeric::Point;
use super::rational::Rational;

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
pub(super) fn rounded(a: &Expr, b: &Expr, values: &dyn Fn() -> (Rational, Rational)) -> Option<Decision> {
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
pub(super) fn rounded_to_value(a: &Expr, b: &Expr) -> Option<Decision> {
    let decimals = decimal(a).filter(|decimals| is_rounded(*decimals))?;
    if decimal(b).is_some() || b.has_names() {
        return None;
    }
    let value = |expr| Point { variable: &|_| 0.0, branch: false }.value(expr);
    let (x, y) = (value(a)?, value(b)?);
    let unit = 10_f64.powi(i32::try_from(decimals.last_place).ok()?);
    let difference = (x.number - y.number).norm();
    (difference < unit.max(1e-14 * y.number.norm())).then(|| equal("the same to the last digit written"))
}
