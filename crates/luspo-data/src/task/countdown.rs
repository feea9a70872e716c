//! A number to be made from others.
//!
//! | difficulty | 1 | 2 | 3 | 4 | 5 |
//! |---|---|---|---|---|---|
//! | numbers | 3 | 4 | 5 | 6 | 7 |
//! | from 1 to | 20 | 30 | 40 | 50 | 60 |
//!
//! Every problem is made from a solution, all of whose steps are whole numbers above 0.

use rand::{Rng, RngExt};

use super::procedural::{Problem, Task};

pub(super) const COUNTDOWN: Task = Task { name: "countdown", draw };

/// The largest number on the way, and the largest to be made.
const LARGEST: u32 = 999;

/// A number with the expression that makes it.
struct Made {
    value: u32,
    expression: String,
}

fn draw(difficulty: u32, rng: &mut dyn Rng) -> Problem {
    let numbers: Vec<u32> = (0..difficulty + 2).map(|_| rng.random_range(1..=10 + 10 * difficulty)).collect();
    let mut made: Vec<Made> = numbers.iter().map(|&value| Made { value, expression: value.to_string() }).collect();
    let mut working = Vec::new();
    while made.len() > 1 {
        let left = made.swap_remove(rng.random_range(0..made.len()));
        let right = made.swap_remove(rng.random_range(0..made.len()));
        let (left, right) = if left.value < right.value { (right, left) } else { (left, right) };
        let (sign, value) = combine(left.value, right.value, rng);
        working.push(format!("{}{sign}{}={value}", left.value, right.value));
        let last = made.is_empty();
        let expression = format!("{}{sign}{}", left.expression, right.expression);
        made.push(Made { value, expression: if last { expression } else { format!("({expression})") } });
    }
    let Made { value: target, expression } = made.swap_remove(0);
    let mut sorted = numbers;
    sorted.sort_unstable();
    let numbers = sorted.iter().map(u32::to_string).collect::<Vec<_>>();
    Problem {
        question: format!(
            "Make {target} from {}: each number once, with + - * / and brackets.\nEnd with `Answer: ` and the expression.",
            numbers.join(", ")
        ),
        gold: format!("{} = {target}", numbers.join(" ")),
        working,
        answer: expression,
    }
}

/// A sign between two numbers, the larger one first, and what it makes: whole, above 0 and not too large.
fn combine(left: u32, right: u32, rng: &mut dyn Rng) -> (char, u32) {
    loop {
        let (sign, value) = match rng.random_range(0..4) {
            0 => ('+', left + right),
            1 => ('*', left * right),
            2 => ('-', left - right),
            _ if left.is_multiple_of(right) => ('/', left / right),
            _ => continue,
        };
        // One of the four always is: what is too large to be added can be taken away or, where it is the same, divided.
        if (1..=LARGEST).contains(&value) {
            return (sign, value);
        }
    }
}
