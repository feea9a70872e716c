use std::fmt;

use serde::{Deserialize, Serialize};

/// A moment of a run at which it can be continued, in the order in which a run comes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// After this step of the supervised warm-up, which goes on.
    Sft(usize),
    /// After this step of reinforcement learning; 0 is after the warm-up.
    Step(usize),
}

impl Point {
    /// The checkpoint's folder: `step_000010`, or `sft_000500` within the warm-up.
    pub fn folder(self) -> String {
        match self {
            Self::Sft(step) => format!("sft_{step:06}"),
            Self::Step(step) => format!("step_{step:06}"),
        }
    }

    /// The point whose checkpoint has this folder, if it is one.
    pub fn of_folder(name: &str) -> Option<Self> {
        let (stage, digits) = name.split_once('_')?;
        let step = digits.parse().ok()?;
        let point = match stage {
            "sft" => Self::Sft(step),
            "step" => Self::Step(step),
            _ => return None,
        };
        (point.folder() == name).then_some(point)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sft(step) => write!(f, "step {step} of the warm-up"),
            Self::Step(step) => write!(f, "step {step}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_its_point_and_others_name_none() {
        for point in [Point::Sft(0), Point::Sft(12), Point::Step(0), Point::Step(1_234_567)] {
            assert_eq!(Point::of_folder(&point.folder()), Some(point));
        }
        for name in [".step_000001.partial", "damaged_step_000001", "step_1", "step_+00001", "step_", "policy"] {
            assert_eq!(Point::of_folder(name), None, "{name}");
        }
        assert!(Point::Sft(500) < Point::Step(0) && Point::Step(9) < Point::Step(10));
    }
}
