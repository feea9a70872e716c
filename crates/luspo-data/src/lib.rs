//! Prompts for reinforcement learning with verifiable rewards: Parquet and JSON Lines in verl's schema, tokenizers, chat
//! templates and built-in tasks.
//!
//! - [`Rows`] and [`write_rows`] speak verl's schema: `data_source`, `prompt`, `ability`, `reward_model.ground_truth`,
//!   `extra_info`.
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
mod identity;
mod inspect;
mod lengths;
mod load;
mod order;
mod read;
mod row;
mod sft;
mod spool;
pub mod task;
mod tokenizer;
mod write;

pub use dataset::{LoadOptions, LoadReport, PromptDataset, PromptOverlong};
pub use error::DataError;
pub use inspect::{Column, Conflict, Example, Inspection, Overlap, inspect};
pub use lengths::{Bar, Lengths};
pub use read::{Rows, read_rows};
pub use row::{PromptText, Row};
pub use sft::{SftExample, load_sft};
pub use tokenizer::Tokenizer;
pub use write::write_rows;
