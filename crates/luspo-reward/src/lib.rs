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
//! (arXiv 2602.05261, section 5.1 and eq. 11.) Whatever can be wrong in a configuration or a dataset's source is an error
//! when the pipeline is built, not when the first answer arrives.
//!
//! ```
//! use luspo_reward::{Answer, RewardConfig, RewardPipeline};
//!
//! let config = RewardConfig { format: Some("gsm8k".into()), overlong_buffer: 64, ..Default::default() };
//! let rewards = RewardPipeline::new(&config, 256, ["openai/gsm8k"])?;
//! let score = rewards.score(&Answer {
//!     text: "She has 16 - 7 = 9 eggs left.\n#### 9",
//!     ground_truth: "9",
//!     data_source: "openai/gsm8k",
//!     tokens: 224,
//! });
//! assert!(score.correct);
//! assert_eq!(score.components[0], ("accuracy".into(), 1.0));
//! assert_eq!(score.components[1], ("format".into(), 0.5));
//! assert_eq!(score.components[2], ("overlong".into(), -0.15)); // half of the buffer is used
//! # Ok::<(), luspo_reward::RewardError>(())
//! ```
#![warn(missing_docs)]

mod arithmetic;
mod base_conversion;
mod countdown;
mod error;
mod exact;
mod extract;
mod final_line;
mod format;
mod fraction;
mod gsm8k;
mod linear_equation;
mod math;
mod math_dapo;
mod math_reward;
mod normalize;
mod overlong;
mod pipeline;
mod sorting;
mod verifier;

pub use arithmetic::Arithmetic;
pub use base_conversion::BaseConversion;
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
pub use pipeline::{Answer, RewardConfig, RewardPipeline};
pub use sorting::Sorting;
pub use verifier::{Explanation, Verdict, Verifier, Verifiers, verifier, verifier_for};
