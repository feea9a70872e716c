//! One form of what can be written in several.

use super::expression::{Constant, Expr, Relation};

/// An answer without what does not change it: a pair of signs written out, degrees as a unit, a union of
/// inequalities as intervals.
pub(super) fn reduced(expr: &Expr) -> Expr {
    match expr {
        Expr::Degrees(value) => Expr::Quantity(value.clone(), "degree".into()),
        Expr::Opaque(name, items) if name == "mathbb" && items[..] == [Expr::Name("R".into())] => all_reals(),
        Expr::Text(text) => match super::compare::words(text).as_str() {
            "all real numbers" | "all reals" | "ℝ" => all_reals(),
            word => number_word(word).map_or_else(|| expr.clone(), Expr::integer),
        },
        Expr::List { items, .. } if items.len() == 1 => reduced(&items[0]),
        Expr::List { items, ordered } => {
            // `x < 2 or x > 3`
            let intervals: Option<Vec<(String, Expr)>> = items.iter().map(as_interval).collect();
            if let Some(intervals) = intervals
                && intervals.iter().all(|(name, _)| *name == intervals[0].0)
            {
                return Expr::Union(intervals.into_iter().map(|(_, interval)| interval).collect());
            }
            Expr::List { items: items.clone(), ordered: *ordered }
        }
        Expr::Relation(first, rest) => match &rest[..] {
            // `x = ±2`
            [(Relation::Equal, value)] => Expr::Relation(first.clone(), vec![(Relation::Equal, reduced(value))]),
            _ => expr.clone(),
        },
        Expr::Sum(_) | Expr::Product(_) | Expr::Negative(_) | Expr::Quotient(..)
            if expr.any(&mut |part| matches!(part, Expr::Matrix(_))) =>
        {
            matrix(expr).map_or_else(|| expr.clone(), Expr::Matrix)
        }
        _ => match both_signs(expr) {
            Some(values) if values.len() > 1 => Expr::Set(values),
            _ => expr.clone(),
        },
    }
}

fn all_reals() -> Expr {
    let infinity = Expr::Constant(Constant::Infinity);
    Expr::Tuple('(', ')', vec![Expr::Negative(Box::new(infinity.clone())), infinity])
}

/// A small number that is written out.
fn number_word(word: &str) -> Option<i64> {
    const WORDS: [&str; 13] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    (0..).zip(WORDS).find(|(_, name)| *name == word).map(|(number, _)| number)
}

/// Larger matrices are not computed with.
const LARGEST_MATRIX: usize = 6;

/// The matrix that sums and products of matrices and numbers are.
fn matrix(expr: &Expr) -> Option<Vec<Vec<Expr>>> {
    let each = |rows: Vec<Vec<Expr>>, change: &dyn Fn(Expr) -> Expr| {
        rows.into_iter().map(|row| row.into_iter().map(change).collect()).collect::<Vec<Vec<Expr>>>()
    };
    let is_small = |rows: &Vec<Vec<Expr>>| rows.len() <= LARGEST_MATRIX && rows[0].len() <= LARGEST_MATRIX;
    match expr {
        Expr::Matrix(rows) => is_small(rows).then(|| rows.clone()),
        Expr::Negative(inner) => Some(each(matrix(inner)?, &|cell| Expr::Negative(Box::new(cell)))),
        Expr::Quotient(inner, divisor) if divisor.is_scalar() => {
            Some(each(matrix(inner)?, &|cell| Expr::Quotient(Box::new(cell), divisor.clone())))
        }
        Expr::Sum(items) => {
            let mut items = items.iter().map(matrix);
            let mut total = items.next()??;
            for item in items {
                let item = item?;
                if item.len() != total.len() || item[0].len() != total[0].len() {
                    return None;
                }
                for (row, other) in total.iter_mut().zip(item) {
                    for (cell, other) in row.iter_mut().zip(other) {
                        *cell = Expr::Sum(vec![cell.clone(), other]);
                    }
                }
            }
            Some(total)
        }
        Expr::Product(items) if items.len() <= 4 => {
            let scalars: Vec<Expr> = items.iter().filter(|item| item.is_scalar()).cloned().collect();
            let mut matrices = items.iter().filter(|item| !item.is_scalar()).map(matrix);
            let mut product = matrices.next()??;
            for right in matrices {
                let right = right?;
                if product[0].len() != right.len() {
                    return None;
                }
                let cell = |row: &Vec<Expr>, column: usize| {
                    let terms = row.iter().zip(&right).map(|(a, b)| Expr::Product(vec![a.clone(), b[column].clone()]));
                    Expr::Sum(terms.collect())
                };
                product =
                    product.iter().map(|row| (0..right[0].len()).map(|column| cell(row, column)).collect()).collect();
            }
            Some(each(product, &|cell| Expr::Product(std::iter::once(cell).chain(scalars.iter().cloned()).collect())))
        }
        _ => None,
    }
}

/// The two values of a formula with ±; the formula alone where it has none. `None` for what is no formula.
pub(super) fn both_signs(expr: &Expr) -> Option<Vec<Expr>> {
    if !expr.is_scalar() {
        return None;
    }
    if !expr.any(&mut |part| matches!(part, Expr::PlusMinus(..))) {
        return Some(vec![expr.clone()]);
    }
    Some(vec![with_sign(expr, false), with_sign(expr, true)])
}

/// The formula with every ± as + or, with `minus`, as −.
fn with_sign(expr: &Expr, minus: bool) -> Expr {
    let all = |items: &[Expr]| items.iter().map(|item| with_sign(item, minus)).collect::<Vec<_>>();
    let one = |item: &Expr| Box::new(with_sign(item, minus));
    match expr {
        Expr::PlusMinus(flipped, value) if *flipped == minus => with_sign(value, minus),
        Expr::PlusMinus(_, value) => Expr::Negative(one(value)),
        Expr::Sum(items) => Expr::Sum(all(items)),
        Expr::Product(items) => Expr::Product(all(items)),
        Expr::Quotient(a, b) => Expr::Quotient(one(a), one(b)),
        Expr::Power(a, b) => Expr::Power(one(a), one(b)),
        Expr::Negative(a) => Expr::Negative(one(a)),
        Expr::Percent(a) => Expr::Percent(one(a)),
        Expr::Degrees(a) => Expr::Degrees(one(a)),
        Expr::Apply(function, items) => Expr::Apply(*function, all(items)),
        Expr::Call(name, items) => Expr::Call(name.clone(), all(items)),
        Expr::Opaque(name, items) => Expr::Opaque(name.clone(), all(items)),
        other => other.clone(),
    }
}

/// An inequality of one variable between constants as its name and interval: `-2 ≤ x < 7` as `x` and `[-2, 7)`.
pub(super) fn as_interval(expr: &Expr) -> Option<(String, Expr)> {
    let Expr::Relation(first, rest) = expr else { return None };
    let infinity = || Expr::Constant(Constant::Infinity);
    let constant = |expr: &Expr| (expr.is_scalar() && !expr.has_names()).then(|| expr.clone());
    let name = |expr: &Expr| match expr {
        Expr::Name(name) => Some(name.clone()),
        Expr::Call(..) => Some(expr.written(true)),
        _ => None,
    };
    match &rest[..] {
        [(relation, second)] => {
            let (variable, relation, bound) = match name(first) {
                Some(variable) => (variable, *relation, constant(second)?),
                None => (name(second)?, relation.mirrored(), constant(first)?),
            };
            let interval = match relation {
                Relation::Less => Expr::Tuple('(', ')', vec![Expr::Negative(Box::new(infinity())), bound]),
                Relation::LessOrEqual => Expr::Tuple('(', ']', vec![Expr::Negative(Box::new(infinity())), bound]),
                Relation::Greater => Expr::Tuple('(', ')', vec![bound, infinity()]),
                Relation::GreaterOrEqual => Expr::Tuple('[', ')', vec![bound, infinity()]),
                _ => return None,
            };
            Some((variable, interval))
        }
        [(left, middle), (right, last)] => {
            let variable = name(middle)?;
            let (mut low, mut high) = ((constant(first)?, *left), (constant(last)?, *right));
            if matches!(left, Relation::Greater | Relation::GreaterOrEqual) {
                (low, high) = ((high.0, right.mirrored()), (low.0, left.mirrored()));
            }
            let bracket = |relation: Relation, open: char, closed: char| match relation {
                Relation::Less => Some(open),
                Relation::LessOrEqual => Some(closed),
                _ => None,
            };
            let interval = Expr::Tuple(bracket(low.1, '(', '[')?, bracket(high.1, ')', ']')?, vec![low.0, high.0]);
            Some((variable, interval))
        }
        _ => None,
    }
}
