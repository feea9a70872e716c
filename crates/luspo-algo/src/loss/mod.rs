//! The objectives, one file each, and the names that a config knows them by.

mod grpo;
mod gspo;
mod luspo;
mod mode;
mod ppo;

pub use grpo::Grpo;
pub use gspo::Gspo;
pub use luspo::Luspo;
pub use mode::{LossOptions, policy_loss};
pub use ppo::Ppo;
