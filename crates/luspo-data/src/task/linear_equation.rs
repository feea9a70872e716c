//! Linear equations in one unknown.
//!
//! | difficulty | equation | solution |
//! |---|---|---|
//! | 1 | `ax + b = c` | an integer from −20 to 20 |
//! | 2 | `ax + b = cx + d` | an integer from −20 to 20 |
//! | 3 | `ax + b = cx + d` | a fraction |
//! | 4 | `a(bx + c) = dx + e` | a fraction |
//! | 5 | `a(bx + c) + d = e(fx + g)` | a fraction |

use rand::{Rng, RngExt};

use super::procedural::{Problem, Task};

pub(super) const LINEAR_EQUATION: Task = Task { name: "linear_equation", draw };

/// `slope · x + constant`, and how it is written.
struct Side {
    slope: i64,
    constant: i64,
    text: String,
}

impl Side {
    fn plain(slope: i64, constant: i64) -> Self {
        let text = match slope {
            0 => constant.to_string(),
            slope => format!("{}{}", term(slope), signed(constant)),
        };
        Self { slope, constant, text }
    }

    fn bracket(factor: i64, slope: i64, constant: i64, added: i64) -> Self {
        let inner = Self::plain(slope, constant);
        let text = format!("{factor}({}){}", inner.text, signed(added));
        Self { slope: factor * slope, constant: factor * constant + added, text }
    }
}

fn draw(difficulty: u32, rng: &mut dyn Rng) -> Problem {
    loop {
        let (left, right) = sides(difficulty, rng);
        let (slope, constant) = (left.slope - right.slope, right.constant - left.constant);
        if slope == 0 {
            continue;
        }
        let solution = fraction(constant, slope);
        if (difficulty > 2) != solution.contains('/') {
            continue;
        }
        return Problem {
            question: format!(
                "Solve {} = {} for x.\nEnd with `Answer: ` and the number, an integer or a fraction such as 7/3.",
                left.text, right.text
            ),
            gold: solution.clone(),
            working: vec![format!("{} = {constant}", term(slope))],
            answer: solution,
        };
    }
}

fn sides(difficulty: u32, rng: &mut dyn Rng) -> (Side, Side) {
    let mut any = |most: i64| rng.random_range(-most..=most);
    let (a, b) = (nonzero(&mut any), any(20));
    match difficulty {
        1 | 2 => {
            let (c, x) = (if difficulty == 1 { 0 } else { nonzero(&mut any) }, any(20));
            (Side::plain(a, b), Side::plain(c, (a - c) * x + b))
        }
        3 => (Side::plain(a, b), Side::plain(nonzero(&mut any), any(20))),
        4 => (Side::bracket(a, nonzero(&mut any), b, 0), Side::plain(nonzero(&mut any), any(20))),
        _ => {
            let left = Side::bracket(a, nonzero(&mut any), b, any(20));
            (left, Side::bracket(nonzero(&mut any), nonzero(&mut any), any(20), 0))
        }
    }
}

/// A factor from −9 to 9 that is neither 0 nor, so that it is seen, 1 or −1.
fn nonzero(any: &mut impl FnMut(i64) -> i64) -> i64 {
    loop {
        let factor = any(9);
        if factor.abs() > 1 {
            return factor;
        }
    }
}

fn term(slope: i64) -> String {
    match slope {
        1 => "x".into(),
        -1 => "-x".into(),
        slope => format!("{slope}x"),
    }
}

/// ` + 3`, ` - 3`, or nothing for 0.
fn signed(constant: i64) -> String {
    match constant {
        0 => String::new(),
        c if c > 0 => format!(" + {c}"),
        c => format!(" - {}", -c),
    }
}

/// `numerator / denominator`, reduced, the sign in front.
fn fraction(numerator: i64, denominator: i64) -> String {
    let divisor = gcd(numerator.abs(), denominator.abs()) * denominator.signum();
    match (numerator / divisor, denominator / divisor) {
        (whole, 1) => whole.to_string(),
        (numerator, denominator) => format!("{numerator}/{denominator}"),
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_and_fractions_are_written_as_people_do() {
        assert_eq!(Side::plain(-3, 5).text, "-3x + 5");
        assert_eq!(Side::plain(1, 0).text, "x");
        let side = Side::bracket(2, -4, -1, 7);
        assert_eq!((side.text.as_str(), side.slope, side.constant), ("2(-4x - 1) + 7", -8, 5));
        assert_eq!([fraction(6, -4), fraction(-8, -4), fraction(0, 3)], ["-3/2", "2", "0"]);
    }
}
