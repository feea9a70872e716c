//! The objectives, one file each, and the names that a config knows them by.

mod cispo;
mod clip_cov;
mod covariance;
mod dppo;
mod dro;
mod geo_mean;
mod gpg;
mod grpo;
mod gspo;
mod kl_cov;
mod luspo;
mod mode;
mod options;
mod ppo;
mod reinforce;
mod sapo;
mod sequence;
mod settings;
mod vespo;

pub use cispo::Cispo;
pub use clip_cov::ClipCov;
pub use dppo::{Divergence, Dppo};
pub use dro::Dro;
pub use geo_mean::GeoMean;
pub use gpg::Gpg;
pub use grpo::Grpo;
pub use gspo::Gspo;
pub use kl_cov::KlCov;
pub use luspo::Luspo;
pub use mode::{LOSS_MODES, policy_loss};
pub use options::LossOptions;
pub use ppo::Ppo;
pub use reinforce::Reinforce;
pub use sapo::Sapo;
pub use vespo::Vespo;
