//! Advantages, controllers, rollout correction, the value loss and the small operations are those of verl 0.9.1 and TRL
//! 1.16.0, reached through the public functions.

#[path = "../support/files.rs"]
mod files;

mod account;
mod advantages;
mod filters;
mod ops;
mod rollout_correction;
