//! Numbers to be written in another base.
//!
//! | difficulty | 1 | 2 | 3 | 4 | 5 |
//! |---|---|---|---|---|---|
//! | numbers below | 2¹² | 2¹⁶ | 2²⁰ | 2²⁴ | 2²⁸ |
//! | bases | 2, 8, 10, 16 | the same | 2 to 16 | the same | the same |

use rand::{Rng, RngExt};

use super::procedural::{Problem, Task};

pub(super) const BASE_CONVERSION: Task = Task { name: "base_conversion", draw };

fn draw(difficulty: u32, rng: &mut dyn Rng) -> Problem {
    let mut bases: Vec<u32> = if difficulty < 3 { vec![2, 8, 10, 16] } else { (2..=16).collect() };
    let from = bases.swap_remove(rng.random_range(0..bases.len()));
    let to = bases[rng.random_range(0..bases.len())];
    let number = rng.random_range(1..1u32 << (8 + 4 * difficulty));
    let digits = in_base(number, from);
    let question =
        format!("Write {digits} (base {from}) in base {to}.\nEnd with `Answer: ` and the digits, lower case.");
    let working = match from != 10 && to != 10 {
        true => vec![format!("{digits} in base 10 is {number}")],
        false => Vec::new(),
    };
    let answer = in_base(number, to);
    Problem { question, gold: answer.clone(), working, answer }
}

fn in_base(mut number: u32, base: u32) -> String {
    let mut digits = Vec::new();
    while number > 0 {
        digits.extend(char::from_digit(number % base, base));
        number /= base;
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_base() {
        assert_eq!(
            (in_base(1010, 16), in_base(1010, 2), in_base(1010, 10)),
            ("3f2".into(), "1111110010".into(), "1010".into())
        );
        for (number, base) in [(1, 2), (255, 16), (4095, 7), (1 << 27, 13)] {
            assert_eq!(u32::from_str_radix(&in_base(number, base), base), Ok(number));
        }
    }
}
