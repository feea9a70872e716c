//! The recipes of luspo: supervised warm-up, reinforcement learning with verifiable rewards, evaluation.
//!
//! [`train`] reads like the algorithm: sample a group of answers to each prompt, score them, compare them within their
//! group, update. Nothing in it knows a task, an objective or a backend; those come from the [`Config`].
#![warn(missing_docs)]

mod advantage;
mod base;
mod batch;
mod checkpoint;
mod collect;
pub mod config;
mod continuation;
mod critic;
mod error;
mod evaluate;
mod fingerprint;
mod golds;
mod guard;
mod hub_models;
mod inputs;
mod learner;
mod material;
mod meanwhile;
mod metrics;
mod micro;
mod objective;
mod observer;
mod optimizer;
mod outside;
mod plan;
mod policy;
mod recipe;
mod records;
mod replay;
mod rollout_file;
mod run_folder;
mod sample;
mod schedule;
mod session;
mod sft;
mod start;
mod step_log;
mod tensorboard;
mod update;

pub use checkpoint::{Checkpoint, Point, State};
pub use config::Config;
pub use error::{Shortage, TrainError};
pub use evaluate::{
    AnswerRow, Answers, Asked, EvalFolder, Evaluation, Exam, Interval, Intervals, Lengths, SourceReport, file_sha256,
    model_sha256, pass_at_k, read_answers, write_answers,
};
pub use fingerprint::DataHashes;
pub use golds::{GoldCheck, GoldExample};
pub use learner::LearnerState;
pub use metrics::Metrics;
pub use micro::{MicroBatches, MicroLimit};
pub use observer::Observer;
pub use optimizer::{AdamW, global_norm};
pub use plan::{Batches, DataPlan, Disk, Held, Machine, Memory, ModelPlan, Phase, Plan, Prompts, Saving, size};
pub use policy::Policy;
pub use recipe::{Custom, Summary, sft, train, train_with, train_with_custom};
pub use replay::{Replay, replay};
pub use rollout_file::{RolloutRow, read_rollouts, rollout_rows, write_rollouts};
pub use run_folder::RunFolder;
pub use sample::Sample;
pub use schedule::learning_rate;
pub use start::{RESUMABLE, Start};
pub use update::{UpdateGradients, gradients};
