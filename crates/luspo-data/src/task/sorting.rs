//! Numbers to be put in ascending order.
//!
//! | difficulty | 1 | 2 | 3 | 4 | 5 |
//! |---|---|---|---|---|---|
//! | numbers from 0 to 99 | 4 | 6 | 8 | 10 | 12 |

use rand::{Rng, RngExt};

use super::procedural::{Problem, Task};

pub(super) const SORTING: Task = Task { name: "sorting", draw };

fn draw(difficulty: u32, rng: &mut dyn Rng) -> Problem {
    let mut numbers: Vec<u32> = (0..2 + 2 * difficulty).map(|_| rng.random_range(0..100)).collect();
    let question = format!("Sort in ascending order: {}\nEnd with `Answer: ` and the numbers.", joined(&numbers));
    numbers.sort_unstable();
    let answer = joined(&numbers);
    Problem { question, gold: answer.clone(), working: Vec::new(), answer }
}

fn joined(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}
