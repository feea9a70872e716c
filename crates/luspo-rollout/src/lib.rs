//! Sampling groups of answers from the policy that trains.
//!
//! [`generate`] runs the policy itself, through an [`Engine`]: the prompt of a group is read once and kept once for all of
//! its answers, answers are decoded together, and one that ends makes room for the next. There is no second engine with
//! other numerics: the log-probs recorded here are the trainer's, which [`LogProbGap`] measures.
//!
//! ```
//! use luspo_core::{Purpose, RandomKey};
//! use luspo_model::{Backend, Qwen2Config, Qwen2ForCausalLM};
//! use luspo_rollout::{Request, Sampling, generate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Qwen2Config::new(32, 16, 32, 2, 4, 2);
//! let model = Qwen2ForCausalLM::init(&config, RandomKey::new(0, Purpose::Init), &Backend::Flex.device()?);
//! let sampling = Sampling {
//!     temperature: 1.0,
//!     top_k: 0,
//!     top_p: 0.7,
//!     min_p: 0.0,
//!     repetition_penalty: 1.0,
//!     min_tokens: 0,
//!     max_response_length: 8,
//!     stop_token_ids: vec![0],
//!     stop: vec![],
//!     vocab_limit: 32,
//! };
//! let key = RandomKey::new(42, Purpose::Rollout).at(1); // the first step
//! let group = generate(&model, &[Request { prompt_id: 7, prompt_ids: &[3, 1, 4], samples: 4 }], &sampling, key, 64)?;
//! assert_eq!(group.len(), 4);
//! assert!(group.iter().all(|answer| answer.log_probs.len() == answer.response_len()));
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod engine;
mod error;
mod generate;
mod limits;
mod log_prob_gap;
pub mod openai;
mod sampler;
mod sampling;
#[cfg(feature = "serve")]
pub mod serve;
mod statistics;
mod text;

pub use engine::{Engine, Event, Job, JobId};
pub use error::RolloutError;
pub use generate::{Request, generate, generate_with};
pub use limits::BatchLimits;
pub use log_prob_gap::LogProbGap;
pub use sampling::{MIN_TEMPERATURE, Sampling};
pub use statistics::Statistics;
pub use text::{StopStrings, TextStream};
