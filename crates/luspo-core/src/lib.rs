//! The nouns that every luspo crate speaks.
//!
//! - [`Prompt`], [`Rollout`] and [`Score`] are what flows through one step of reinforcement learning with verifiable
//!   rewards: prompts go in, a policy samples a group of answers to each, verifiers score them.
//! - [`RandomKey`] is the run's counter-based random generator: every random number is a function of what it is for,
//!   never of batch sizes, order or resumption.
//! - [`Collective`] is what code that counts over a batch calls, so that a batch may be spread over processes.
//! - [`contain`] turns the panics of other people's code into errors.
//! - [`durable`] writes files that are either whole or not there; [`open_file`] and [`read_file`] refuse what never ends.
#![warn(missing_docs)]

mod collective;
mod contain;
pub mod durable;
mod open;
mod prompt;
mod random;
mod rollout;

pub use collective::{Collective, Local};
pub use contain::{contain, is_contained};
pub use open::{open_file, read_file, read_text};
pub use prompt::{Message, Prompt};
pub use random::{Purpose, RandomKey};
pub use rollout::{FinishReason, Rollout, Score};
