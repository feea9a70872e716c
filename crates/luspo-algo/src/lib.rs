//! The mathematics of reinforcement learning with verifiable rewards: policy losses, aggregation, advantages, KL.
//!
//! This crate knows neither a model nor a training loop. An objective maps per-token log-probs to a loss; bring your
//! own model, compute the log-probs of the sampled tokens with it, and either use the loss within your own autodiff
//! graph ([`Objective::forward`], [`PolicyLoss::forward`]) or ask for ∂loss/∂log_probs ([`Objective::gradients`]) and
//! push that through the model.
//!
//! - [`Ppo`], [`Grpo`], [`Gspo`] and [`Luspo`] are the objectives, [`PolicyLoss`] the trait to write another;
//! - [`PolicyBatch`] is what they see, [`BatchTotals`] what they divide by, [`Aggregation`] how;
//! - [`Objective`] adds a [KL](KlTerm) and an entropy term;
//! - [`advantages`], [`ratio`] and [`clip`] are the parts.
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
pub mod ratio;

mod aggregate;
mod batch;
mod error;
mod kl;
mod loss;
mod metric;
mod objective;
mod policy_loss;

#[cfg(test)]
mod host;

pub use aggregate::Aggregation;
pub use batch::{BatchTotals, PolicyBatch};
pub use error::AlgoError;
pub use kl::{KlKind, KlTerm};
pub use loss::{Grpo, Gspo, LossOptions, Luspo, Ppo, policy_loss};
pub use metric::{Metric, MetricAccumulator};
pub use objective::{Objective, ObjectiveGradients};
pub use policy_loss::{PolicyLoss, PolicyLossOutput};
