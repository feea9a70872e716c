//! Built-in tasks: problems that need no download, written as Parquet in verl's schema and then read like any other.

mod arithmetic;

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DataError, write_rows};

pub use arithmetic::{Arithmetic, Styles};

/// A built-in task and its sizes, `[data.task]` of a config: `name` chooses the task, the other keys are the task's.
///
/// ```
/// use luspo_data::task::TaskConfig;
///
/// let TaskConfig::Arithmetic(task) = serde_json::from_str(r#"{ "name": "arithmetic", "val_prompts": 64 }"#)?;
/// assert_eq!((task.train_prompts, task.val_prompts), (4096, 64));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum TaskConfig {
    /// Running totals of one-digit numbers.
    Arithmetic(Arithmetic),
}

impl TaskConfig {
    /// The names of all tasks.
    pub const NAMES: [&str; 1] = [Arithmetic::NAME];

    /// The task of that name with its default sizes.
    ///
    /// # Errors
    /// Where there is none; the message lists those there are.
    pub fn named(name: &str) -> Result<Self, DataError> {
        match name {
            Arithmetic::NAME => Ok(Self::Arithmetic(Arithmetic::default())),
            _ => Err(DataError::UnknownTask { name: name.into(), known: Self::NAMES.join(", ") }),
        }
    }

    /// The task's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Arithmetic(_) => Arithmetic::NAME,
        }
    }

    /// How many validation prompts it has.
    pub fn val_prompts(&self) -> usize {
        match self {
            Self::Arithmetic(task) => task.val_prompts,
        }
    }

    /// Whether the task can be generated as configured.
    ///
    /// # Errors
    /// Names the key that cannot be used.
    pub fn validate(&self) -> Result<(), DataError> {
        match self {
            Self::Arithmetic(task) => task.validate(),
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
    fs::create_dir_all(dir).map_err(|source| DataError::Io { path: dir.into(), source })?;
    let files = files(dir);
    match config {
        TaskConfig::Arithmetic(task) => {
            write_rows(&files.train, &task.train_rows(seed))?;
            write_rows(&files.val, &task.val_rows(seed))?;
            write_rows(&files.sft, &task.sft_rows(seed))?;
        }
    }
    Ok(files)
}
