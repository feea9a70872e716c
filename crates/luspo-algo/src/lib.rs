//! The mathematics of reinforcement learning with verifiable rewards: policy losses, aggregation, advantages, KL.
//!
//! This crate knows neither a model nor a training loop. An objective maps per-token log-probs to a loss; bring your
//! own model, compute the log-probs of the sampled tokens with it, and either use the loss within your own autodiff
//! graph ([`Objective::forward`], [`PolicyLoss::forward`]) or ask for ∂loss/∂log_probs ([`Objective::gradients`]) and
//! push that through the model.
//!
//! - [`Ppo`], [`Grpo`], [`Gspo`] and [`Luspo`] are the objectives, [`PolicyLoss`] the trait to write another;
//! - [`PolicyBatch`] is what they see, [`BatchTotals`] what they divide by, [`Aggregation`] how;
//! - [`Objective`] adds a [KL](KlTerm) and an entropy term, and [filters](TokenFilters) of tokens;
//! - [`diagnostics`] say where the gradient goes;
//! - [`advantages`] come from scores, with a KL penalty in the reward by [`kl_in_reward`]; [`KlController`] and
//!   [`EntropyController`] adapt coefficients;
//! - [`RolloutCorrection`] makes up for a sampler with other log-probs, [`value_loss`] trains a critic;
//! - [`ratio`] and [`clip`] are the parts.
//!
//! # A LUSPO loss from plain tensors
//!
//! Two answers to one prompt, the first right (three tokens), the second wrong (one token and padding):
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use luspo_algo::{BatchTotals, Luspo, PolicyBatch, PolicyLoss, advantages};
//!
//! let device = Device::flex();
//! let old_log_probs = Tensor::<2>::from_data([[-0.9, -1.2, -0.3], [-2.1, f32::NAN, f32::NAN]], &device);
//! let mask = Tensor::<2>::from_data([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], &device).greater_scalar(0.5);
//!
//! // Of your model, on a device with autodiff; here the policy has not moved yet.
//! let log_probs = old_log_probs.clone().autodiff().require_grad();
//!
//! let advantage = advantages::grpo(&[1.0, 0.0], &[0, 0], true); // ±0.707
//! let advantages = Tensor::<1>::from_data(advantage.as_slice(), &device).unsqueeze_dim::<2>(1).expand([2, 3]);
//!
//! let batch = PolicyBatch::new(log_probs.clone(), old_log_probs, advantages, mask);
//! let output = Luspo::new().forward(&batch, &BatchTotals::of_lengths(&[3, 1]));
//!
//! // Every token of an answer has the same weight, however long the answer: −Â / 2 answers.
//! let gradient = log_probs.grad(&output.loss.backward()).unwrap();
//! let expected = Tensor::from_data([[-0.3536, -0.3536, -0.3536], [0.3536, 0.0, 0.0]], &device);
//! assert!(gradient.all_close(expected, None, Some(1e-3)));
//! ```
#![warn(missing_docs)]

pub mod advantages;
pub mod clip;
pub mod diagnostics;
pub mod masked;
pub mod ratio;

mod aggregate;
mod batch;
mod controller;
mod error;
mod filters;
mod kl;
mod kl_in_reward;
mod loss;
mod measure;
mod metric;
mod objective;
mod policy_loss;
mod rollout_correction;
mod value_loss;

#[cfg(test)]
mod host;
#[cfg(test)]
mod processes;

pub use aggregate::Aggregation;
pub use batch::{BatchTotals, PolicyBatch};
pub use controller::{EntropyController, KlController};
pub use error::AlgoError;
pub use filters::TokenFilters;
pub use kl::{KlKind, KlTerm, RatioLevel};
pub use kl_in_reward::kl_in_reward;
pub use loss::{
    Cispo, ClipCov, Divergence, Dppo, Dro, GeoMean, Gpg, Grpo, Gspo, KlCov, LOSS_MODES, LossOptions, Luspo, Ppo,
    Reinforce, Sapo, Vespo, policy_loss,
};
pub use metric::{Metric, MetricAccumulator};
pub use objective::{Objective, ObjectiveGradients};
pub use policy_loss::{PolicyLoss, PolicyLossOutput, Terms};
pub use rollout_correction::{Correction, RolloutCorrection, RolloutCorrectionOptions};
pub use value_loss::value_loss;
