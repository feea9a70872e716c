//! Rewards that can be checked: verifiers that say whether an answer is right, and the shaping around them.
//!
//! A [`Verifier`] compares an answer's text with the gold answer and returns a [`Verdict`]. Each has one file that
//! states its rule: [`Exact`], [`Gsm8k`], [`Math`],
//! [`MathDapo`], [`MathReward`], [`Arithmetic`] and the other built-in tasks. A [`RewardPipeline`] picks the verifier by the
//! prompt's data source and adds the components of the reward:
//!
//! ```text
//! R = accuracy_weight · verdict.score  +  format_weight · {0, 1}  +  min(0, ((L_max − L_buf) − |y|) / L_buf · penalty)
//!          `accuracy`                         `format`                               `overlong`
//! ```
//!
//! (arXiv 2602.05261, section 5.1 and eq. 11.) Where they are asked for, there are a penalty on the distance from a
//! length, `length`, and components of the user's own: a [`Reward`] in Rust, a program that speaks JSON lines, or an
//! address, each with a timeout and a policy for what it fails on ([`ComponentConfig`]). Whatever can be wrong in a
//! configuration or a dataset's source is an error when the pipeline is built, not when the first answer arrives.
//!
//! ```
//! use luspo_core::{FinishReason, Prompt};
//! use luspo_reward::{Answer, RewardConfig, RewardPipeline};
//!
//! let config = RewardConfig { format: Some("gsm8k".into()), overlong_buffer: 64, ..Default::default() };
//! let rewards = RewardPipeline::new(&config, 256, ["openai/gsm8k"])?;
//! let prompt = Prompt {
//!     id: 0,
//!     messages: vec![],
//!     token_ids: vec![],
//!     data_source: "openai/gsm8k".into(),
//!     ground_truth: "9".into(),
//!     extra_info: Default::default(),
//! };
//! let text = "She has 16 - 7 = 9 eggs left.\n#### 9";
//! let answer = Answer { prompt: &prompt, text, tokens: 224, finish: FinishReason::Stop };
//! let score = &rewards.score(&[answer])?.scores[0];
//! assert!(score.correct);
//! assert_eq!(score.components[0], ("accuracy".into(), 1.0));
//! assert_eq!(score.components[1], ("format".into(), 0.5));
//! assert_eq!(score.components[2], ("overlong".into(), -0.15)); // half of the buffer is used
//! # Ok::<(), luspo_reward::RewardError>(())
//! ```
#![warn(missing_docs)]

mod arithmetic;
mod base_conversion;
mod config;
mod countdown;
mod error;
mod exact;
mod extract;
mod final_line;
mod format;
mod fraction;
mod gsm8k;
mod length;
mod linear_equation;
mod math;
mod math_dapo;
mod math_reward;
mod normalize;
mod overlong;
mod own;
mod pipeline;
mod reward;
mod sorting;
mod specimen;
mod verifier;

pub use arithmetic::Arithmetic;
pub use base_conversion::BaseConversion;
pub use config::{ComponentConfig, OnFailure, RewardConfig};
pub use countdown::Countdown;
pub use error::RewardError;
pub use exact::Exact;
pub use format::{FormatCheck, format_check};
pub use gsm8k::Gsm8k;
pub use linear_equation::LinearEquation;
pub use math::{Extraction, Math};
pub use math_dapo::MathDapo;
pub use math_reward::MathReward;
pub use normalize::normalize_final_answer;
pub use own::{FailureKind, Failures};
pub use pipeline::{CustomRewards, RewardPipeline, Scored, Trial};
pub use reward::{Answer, Reward};
pub use sorting::Sorting;
pub use specimen::Specimen;
pub use verifier::{Explanation, Verdict, Verifier, Verifiers, verifier, verifier_for};
