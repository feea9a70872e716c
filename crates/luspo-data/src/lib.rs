//! Prompts for reinforcement learning with verifiable rewards: Parquet in verl's schema, tokenizers, chat templates and
//! built-in tasks.
//!
//! - [`read_rows`] and [`write_rows`] speak verl's schema: `data_source`, `prompt`, `ability`,
//!   `reward_model.ground_truth`, `extra_info`.
//! - [`Tokenizer`] reads the tokenizer of a Hugging Face folder, or learns a byte-level one, and renders conversations
//!   through the model's own chat template.
//! - [`PromptDataset`] is what a training run draws its batches from; the batch of a step is a function of (seed, step)
//!   alone, so that resuming a run needs no state. [`load_sft`] reads worked answers for a warm-up.
//! - [`task`] generates built-in tasks, which are then read like any other file.
//! - [`inspect`] says what is in a file before a run trusts it.
#![warn(missing_docs)]

mod byte_level;
mod chat_template;
mod dataset;
mod error;
mod growth;
mod inspect;
mod read;
mod row;
mod sft;
pub mod task;
mod tokenizer;
mod write;

pub use dataset::{LoadReport, PromptDataset, PromptOverlong};
pub use error::DataError;
pub use inspect::{Column, Example, Inspection, Lengths, inspect};
pub use read::read_rows;
pub use row::{PromptText, Row};
pub use sft::{SftExample, load_sft};
pub use tokenizer::Tokenizer;
pub use write::write_rows;
