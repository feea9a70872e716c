//! Exact values of formulas that are rational numbers.

use super::expression::{Expr, Function};
use super::rational::Rational;

/// The largest n whose factorial is computed.
const LARGEST_FACTORIAL: i64 = 500;

/// The exact value, where it is rational, has no variables and is not too large.
pub(super) fn exact(expr: &Expr) -> Option<Rational> {
    match expr {
        Expr::Number(number) => Some(number.value.clone()),
        Expr::Sum(items) => items.iter().try_fold(Rational::integer(0), |sum, item| sum.add(&exact(item)?)),
        Expr::Product(items) => {
            items.iter().try_fold(Rational::integer(1), |product, item| product.multiply(&exact(item)?))
        }
        Expr::Quotient(a, b) => exact(a)?.divide(&exact(b)?),
        Expr::Power(a, b) => exact(a)?.power(exact(b)?.as_integer()?),
        Expr::Negative(a) => Some(exact(a)?.negative()),
        Expr::Percent(a) => exact(a)?.divide(&Rational::integer(100)),
        Expr::Apply(function, items) => match (function, &items[..]) {
            (Function::Abs, [a]) => {
                let value = exact(a)?;
                Some(if value.is_negative() { value.negative() } else { value })
            }
            (Function::Factorial, [n]) => factorial(exact(n)?.as_integer()?),
            (Function::Binomial, [n, k]) => binomial(exact(n)?.as_integer()?, exact(k)?.as_integer()?),
            (Function::Modulo, [a, b]) => {
                let (a, b) = (exact(a)?.as_integer()?, exact(b)?.as_integer()?);
                Some(Rational::integer(a.checked_rem_euclid(b)?))
            }
            (Function::Gcd | Function::Lcm, items) if !items.is_empty() => {
                let mut value = exact(&items[0])?.as_integer()?.checked_abs()?;
                for item in &items[1..] {
                    let other = exact(item)?.as_integer()?.checked_abs()?;
                    let divisor = gcd(value, other);
                    value = match function {
                        Function::Gcd => divisor,
                        _ => value.checked_div(divisor)?.checked_mul(other)?,
                    };
                }
                Some(Rational::integer(value))
            }
            (Function::Determinant, [Expr::Matrix(rows)]) => determinant(rows),
            _ => None,
        },
        _ => None,
    }
}

fn gcd(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn factorial(n: i64) -> Option<Rational> {
    if !(0..=LARGEST_FACTORIAL).contains(&n) {
        return None;
    }
    (2..=n).try_fold(Rational::integer(1), |product, factor| product.multiply(&Rational::integer(factor)))
}

fn binomial(n: i64, k: i64) -> Option<Rational> {
    if n < 0 || k < 0 || k > n {
        return None;
    }
    let k = k.min(n - k);
    if k > LARGEST_FACTORIAL {
        return None;
    }
    (1..=k).try_fold(Rational::integer(1), |value, i| {
        value.multiply(&Rational::integer(n - k + i))?.divide(&Rational::integer(i))
    })
}

fn determinant(rows: &[Vec<Expr>]) -> Option<Rational> {
    let size = rows.len();
    if size > 6 || rows.iter().any(|row| row.len() != size) {
        return None;
    }
    let mut values = Vec::with_capacity(size);
    for row in rows {
        values.push(row.iter().map(exact).collect::<Option<Vec<_>>>()?);
    }
    let mut product = Rational::integer(1);
    for column in 0..size {
        let pivot = (column..size).find(|&row| !values[row][column].is_zero());
        let Some(pivot) = pivot else { return Some(Rational::integer(0)) };
        if pivot != column {
            values.swap(pivot, column);
            product = product.negative();
        }
        product = product.multiply(&values[column][column])?;
        let pivot = values[column].clone();
        for row in &mut values[column + 1..] {
            let factor = row[column].divide(&pivot[column])?.negative();
            for (cell, above) in row.iter_mut().zip(&pivot) {
                *cell = cell.add(&above.multiply(&factor)?)?;
            }
        }
    }
    Some(product)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    #[test]
    fn rational_formulas_have_exact_values() {
        for (formula, value) in [
            (r"\frac{1}{2} + \frac13", "5/6"),
            ("2^{10} - 1", "1023"),
            ("-2^2", "-4"),
            ("(-2)^{-2}", "1/4"),
            (r"1\frac{4}{5}", "9/5"),
            ("137 1/2", "275/2"),
            ("1.25e2", "125"),
            (r"0.1\overline{6}", "1/6"),
            ("10!/8!", "90"),
            (r"\binom{6}{2}", "15"),
            (r"\begin{vmatrix} 2 & 1 \\ 1 & 2 \end{vmatrix}", "3"),
            (r"17 \bmod 5", "2"),
            ("33.5%", "67/200"),
            (r"|3 - 5|", "2"),
            ("1/2/2", "1/4"),
        ] {
            assert_eq!(exact(&parse(formula)).map(|value| value.to_string()).as_deref(), Some(value), "{formula}");
        }
        for formula in ["x", r"\sqrt{4}", "1/0", "0^0", "501!", "9^{9^9}", r"\binom{1000000000}{500000000}"] {
            assert!(exact(&parse(formula)).is_none(), "{formula}");
        }
    }
}
