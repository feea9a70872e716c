//! The recipes of luspo: supervised warm-up, reinforcement learning with verifiable rewards, evaluation.
//!
//! [`train`] reads like the algorithm: sample a group of answers to each prompt, score them, compare them within their
//! group, update. Nothing in it knows a task, an objective or a backend; those come from the [`Config`].
#![warn(missing_docs)]

mod batch;
pub mod config;
mod error;
mod evaluate;
mod learner;
mod metrics;
mod observer;
mod optimizer;
mod policy;
mod recipe;
mod run_folder;
mod sample;
mod schedule;
mod session;
mod sft;
mod step_log;
mod update;

pub use config::Config;
pub use error::TrainError;
pub use evaluate::{Evaluation, Lengths, SourceReport, evaluate, pass_at_k};
pub use metrics::Metrics;
pub use observer::Observer;
pub use optimizer::{AdamW, global_norm};
pub use policy::Policy;
pub use recipe::{Summary, sft, train};
pub use run_folder::RunFolder;
pub use sample::Sample;
pub use schedule::learning_rate;
pub use update::{UpdateGradients, gradients};
