//! An expression that solves a problem of the countdown task.

use crate::fraction::Fraction;

/// Pairs that are put together in the search, at most: some ten milliseconds.
const MOST: usize = 50_000;

/// A number with the expression that makes it.
#[derive(Clone)]
struct Made {
    value: Fraction,
    expression: String,
}

/// An expression that uses each number of the gold answer `3 5 25 = 80` once and has its value; none where there is none,
/// or none was found soon.
pub(super) fn find(gold: &str) -> Option<String> {
    let (numbers, target) = gold.split_once('=')?;
    let target = Fraction::parse(target.trim())?;
    let number = |text: &str| Some(Made { value: Fraction::parse(text)?, expression: text.into() });
    let made = numbers.split_whitespace().map(number).collect::<Option<Vec<_>>>()?;
    search(&made, target, &mut MOST.clone())
}

/// Puts two of the numbers together in every way and goes on with the rest, up to seven deep.
fn search(made: &[Made], target: Fraction, left: &mut usize) -> Option<String> {
    if let [only] = made {
        return (only.value.equals(target)? && only.expression.len() < super::LONGEST).then(|| only.expression.clone());
    }
    for (i, a) in made.iter().enumerate() {
        for (j, b) in made.iter().enumerate().filter(|(j, _)| i != *j) {
            for operator in *b"+*-/" {
                // Sums and products are the same the other way round.
                if i > j && matches!(operator, b'+' | b'*') {
                    continue;
                }
                *left = left.checked_sub(1)?;
                let Some(value) = a.value.apply(operator, b.value) else { continue };
                let inner = made.len() > 2;
                let (open, close) = if inner { ("(", ")") } else { ("", "") };
                let expression = format!("{open}{}{}{}{close}", a.expression, char::from(operator), b.expression);
                let mut rest: Vec<Made> = made
                    .iter()
                    .enumerate()
                    .filter(|(k, _)| ![i, j].contains(k))
                    .map(|(_, other)| other.clone())
                    .collect();
                rest.push(Made { value, expression });
                if let Some(found) = search(&rest, target, left) {
                    return Some(found);
                }
            }
        }
    }
    None
}
