//! Built-in tasks: problems that need no download, written as Parquet in verl's schema and then read like any other.

mod arithmetic;
mod base_conversion;
mod countdown;
mod linear_equation;
mod procedural;
mod sorting;
mod split;

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DataError, Row, write_rows};

pub use arithmetic::{Arithmetic, Styles};
pub use procedural::Procedural;

use base_conversion::BASE_CONVERSION;
use countdown::COUNTDOWN;
use linear_equation::LINEAR_EQUATION;
use procedural::Task;
use sorting::SORTING;
use split::Split;

/// A built-in task and its sizes, `[data.task]` of a config: `name` chooses the task, the other keys are the task's.
///
/// ```
/// use luspo_data::task::TaskConfig;
///
/// let task: TaskConfig = serde_json::from_str(r#"{ "name": "countdown", "difficulty": 2, "val_prompts": 64 }"#)?;
/// assert_eq!((task.name(), task.val_prompts()), ("countdown", 64));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum TaskConfig {
    /// Running totals of one-digit numbers.
    Arithmetic(Arithmetic),
    /// Make a number from others, with each of them once.
    Countdown(Procedural),
    /// Solve a linear equation.
    LinearEquation(Procedural),
    /// Write a number in another base.
    BaseConversion(Procedural),
    /// Put numbers in order.
    Sorting(Procedural),
}

/// A task's own configuration, and for the procedural ones what they are.
enum Kind<'a> {
    Arithmetic(&'a Arithmetic),
    Procedural(Task, &'a Procedural),
}

impl TaskConfig {
    /// The names of all tasks.
    pub const NAMES: [&str; 5] =
        [Arithmetic::NAME, COUNTDOWN.name, LINEAR_EQUATION.name, BASE_CONVERSION.name, SORTING.name];

    /// The task of that name with its default sizes.
    ///
    /// # Errors
    /// Where there is none; the message lists those there are.
    pub fn named(name: &str) -> Result<Self, DataError> {
        let all = [
            Self::Arithmetic(Arithmetic::default()),
            Self::Countdown(Procedural::default()),
            Self::LinearEquation(Procedural::default()),
            Self::BaseConversion(Procedural::default()),
            Self::Sorting(Procedural::default()),
        ];
        let unknown = || DataError::UnknownTask { name: name.into(), known: Self::NAMES.join(", ") };
        all.into_iter().find(|task| task.name() == name).ok_or_else(unknown)
    }

    /// The task at another level of difficulty.
    ///
    /// # Errors
    /// Where it has none.
    pub fn with_difficulty(mut self, difficulty: u32) -> Result<Self, DataError> {
        match &mut self {
            Self::Arithmetic(_) => {
                let problem = format!("is {difficulty}, but this task has one level only");
                return Err(DataError::TaskConfig { task: Arithmetic::NAME, key: "difficulty", problem });
            }
            Self::Countdown(task) | Self::LinearEquation(task) | Self::BaseConversion(task) | Self::Sorting(task) => {
                task.difficulty = difficulty
            }
        }
        Ok(self)
    }

    /// The task's name.
    pub fn name(&self) -> &'static str {
        match self.kind() {
            Kind::Arithmetic(_) => Arithmetic::NAME,
            Kind::Procedural(task, _) => task.name,
        }
    }

    /// How many validation prompts it has.
    pub fn val_prompts(&self) -> usize {
        match self.kind() {
            Kind::Arithmetic(config) => config.val_prompts,
            Kind::Procedural(_, config) => config.val_prompts,
        }
    }

    /// Whether the task can be generated as configured.
    ///
    /// # Errors
    /// Names the key that cannot be used.
    pub fn validate(&self) -> Result<(), DataError> {
        match self.kind() {
            Kind::Arithmetic(config) => config.validate(),
            Kind::Procedural(task, config) => config.validate(task),
        }
    }

    fn rows(&self, split: Split, seed: u64) -> Result<Vec<Row>, DataError> {
        match self.kind() {
            Kind::Arithmetic(config) => Ok(config.rows(split, seed)),
            Kind::Procedural(task, config) => config.rows(task, split, seed),
        }
    }

    fn kind(&self) -> Kind<'_> {
        match self {
            Self::Arithmetic(config) => Kind::Arithmetic(config),
            Self::Countdown(config) => Kind::Procedural(COUNTDOWN, config),
            Self::LinearEquation(config) => Kind::Procedural(LINEAR_EQUATION, config),
            Self::BaseConversion(config) => Kind::Procedural(BASE_CONVERSION, config),
            Self::Sorting(config) => Kind::Procedural(SORTING, config),
        }
    }
}

/// The files of a generated task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFiles {
    /// Training prompts.
    pub train: PathBuf,
    /// Validation prompts; none of them is in the other two files.
    pub val: PathBuf,
    /// Prompts with worked answers in `extra_info.answer`.
    pub sft: PathBuf,
}

/// Where [`generate`] puts a task's files.
pub fn files(dir: &Path) -> TaskFiles {
    let file = |name: &str| dir.join(name);
    TaskFiles { train: file("train.parquet"), val: file("val.parquet"), sft: file("sft.parquet") }
}

/// Writes a task's `train.parquet`, `val.parquet` and `sft.parquet` into `dir`. Equal arguments give equal bytes.
///
/// # Errors
/// Where the task cannot be generated as configured, or the files cannot be written.
pub fn generate(config: &TaskConfig, dir: &Path, seed: u64) -> Result<TaskFiles, DataError> {
    config.validate()?;
    let [train, val, sft] = [Split::Train, Split::Val, Split::Sft].map(|split| config.rows(split, seed));
    let (train, val, sft) = (train?, val?, sft?);
    fs::create_dir_all(dir).map_err(|source| DataError::Io { path: dir.into(), source })?;
    let files = files(dir);
    write_rows(&files.train, &train)?;
    write_rows(&files.val, &val)?;
    write_rows(&files.sft, &sft)?;
    Ok(files)
}
