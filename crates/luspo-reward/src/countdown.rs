//! The built-in countdown task: an expression that makes a number from others.

mod solution;

use crate::final_line::final_answer;
use crate::fraction::Fraction;
use crate::{Specimen, Verdict, Verifier};

/// The longest expression, in bytes: seven numbers with operators and brackets have less than half of it.
const LONGEST: usize = 256;

/// `countdown`: the last line is `Answer: ` and an expression that uses each of the gold answer's numbers exactly once,
/// with `+ - * /` and brackets, and has exactly the value after its `=`. Score 1 or 0.
///
/// The gold answer is `3 5 25 = 80`. Division is exact: `7/2*2` is 7.
#[derive(Clone, Copy, Debug, Default)]
pub struct Countdown;

impl Verifier for Countdown {
    fn name(&self) -> &str {
        "countdown"
    }

    fn rule(&self) -> &str {
        "the expression on the last line, after `Answer: `, uses each number once and has the target's value"
    }

    fn verify(&self, text: &str, ground_truth: &str) -> Verdict {
        let answer = final_answer(text);
        let correct = answer.is_some_and(|answer| solves(answer, ground_truth).unwrap_or(false));
        Verdict::one_or_zero(correct, answer)
    }

    fn specimen(&self, ground_truth: &str) -> Option<Specimen> {
        let solution = solution::find(ground_truth)?;
        // A number more than there are.
        Some(Specimen { right: format!("Answer: {solution}"), wrong: format!("Answer: {solution}+1") })
    }
}

/// `None` where the expression or the gold answer is none.
fn solves(expression: &str, gold: &str) -> Option<bool> {
    let (numbers, target) = gold.split_once('=')?;
    let mut wanted = numbers.split_whitespace().map(|n| n.parse().ok()).collect::<Option<Vec<u32>>>()?;
    if expression.len() > LONGEST {
        return None;
    }
    let mut parser = Parser { rest: expression.as_bytes(), used: Vec::new() };
    let value = parser.sum()?;
    if parser.next().is_some() {
        return None;
    }
    wanted.sort_unstable();
    parser.used.sort_unstable();
    Some(parser.used == wanted && value.equals(Fraction::parse(target.trim())?)?)
}

/// Reads `sum = product {(+|-) product}`, `product = factor {(*|/) factor}`, `factor = number | ( sum )`. It recurses
/// once a bracket, of which [`LONGEST`] allows few.
struct Parser<'a> {
    rest: &'a [u8],
    used: Vec<u32>,
}

impl Parser<'_> {
    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn sum(&mut self) -> Option<Fraction> {
        self.chain(b"+-", Self::product)
    }

    fn product(&mut self) -> Option<Fraction> {
        self.chain(b"*/", Self::factor)
    }

    fn chain(&mut self, operators: &[u8], operand: fn(&mut Self) -> Option<Fraction>) -> Option<Fraction> {
        let mut value = operand(self)?;
        while let Some(operator) = self.next().filter(|byte| operators.contains(byte)) {
            self.rest = &self.rest[1..];
            value = value.apply(operator, operand(self)?)?;
        }
        Some(value)
    }

    fn factor(&mut self) -> Option<Fraction> {
        if self.next()? == b'(' {
            self.rest = &self.rest[1..];
            let value = self.sum()?;
            self.rest = (self.next()? == b')').then(|| &self.rest[1..])?;
            return Some(value);
        }
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at(digits);
        let number: u32 = std::str::from_utf8(number).ok()?.parse().ok()?;
        self.rest = rest;
        self.used.push(number);
        Fraction::new(number.into(), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_right(expression: &str, gold: &str) -> bool {
        Countdown.verify(&format!("so\nAnswer: {expression}"), gold).correct
    }

    #[test]
    fn each_number_is_used_once_and_the_value_is_exact() {
        for expression in ["3*25+5", "5 + (25*3)", "(5)+3*25", "((3*25)+5)"] {
            assert!(is_right(expression, "3 5 25 = 80"), "{expression}");
        }
        for expression in [
            "80",
            "3*25",
            "3*25+5+0",
            "3*25+5-3+3",
            "25*3+5=80",
            "3*25+5)",
            "(3*25+5",
            "3*25++5",
            "-5+3*25",
            "3 25 5",
            "325-5",
            "3*25+x",
            "",
            "()",
        ] {
            assert!(!is_right(expression, "3 5 25 = 80"), "{expression}");
        }
    }

    #[test]
    fn division_is_exact_and_by_zero_is_no_answer() {
        assert!(is_right("7/2*4", "2 4 7 = 14"));
        assert!(!is_right("7/(4-4)", "4 4 7 = 7"));
        assert!(is_right("8/(3-8/3)", "3 3 8 8 = 24"));
    }

    #[test]
    fn a_number_given_twice_is_used_twice() {
        assert!(is_right("4+4", "4 4 = 8") && !is_right("4+4", "4 8 = 8"));
    }

    #[test]
    fn numbers_that_do_not_fit_are_no_answer() {
        let number = "4294967295";
        let product = [number; 8].join("*");
        assert!(!is_right(&product, &format!("{} = 1", [number; 8].join(" "))));
        assert!(!is_right("99999999999", "99999999999 = 99999999999"));
    }
}
