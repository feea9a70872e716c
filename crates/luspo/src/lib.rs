//! Reinforcement learning with verifiable rewards (RLVR) for language models, in Rust, on [Burn](https://burn.dev).
//!
//! Prompts come from Parquet, a Qwen2.5 policy samples groups of answers, verifiers score them, a policy loss (PPO,
//! GRPO, GSPO or LUSPO) updates the model, and the result is a Hugging Face folder. The command `luspo` (crate
//! `luspo-cli`) does all of it from one TOML file; this crate is the same as a library.
//!
//! # A loss for your own loop
//!
//! The objectives need nothing but tensors of `[batch, seq]` over response tokens:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use luspo::prelude::*;
//!
//! let device = Device::flex();
//! let log_probs = Tensor::<2>::from_data([[-0.2, -1.1, -0.4], [-0.7, 0.0, 0.0]], &device);
//! let old = Tensor::<2>::from_data([[-0.2, -1.1, -0.4], [-0.7, 0.0, 0.0]], &device);
//! // A group of two answers of lengths 3 and 1; the first is right.
//! let advantages = luspo::algo::advantages::grpo(&[1.0, 0.0], &[0, 0], true);
//! let mask = Tensor::<2>::from_data([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], &device).equal_elem(1.0);
//! let rows = Tensor::<2>::from_data([[advantages[0] as f32], [advantages[1] as f32]], &device).expand([2, 3]);
//!
//! let objective = Objective::new(std::sync::Arc::new(Luspo::new()));
//! let totals = BatchTotals::of_lengths(&[3, 1]);
//! let result = objective.gradients(PolicyBatch::new(log_probs, old, rows, mask), None, &totals);
//!
//! // On policy, every token of an answer has the same gradient, in the short answer and in the long one.
//! let gradient: Vec<f32> = result.log_probs.into_data().iter::<f32>().collect();
//! assert!((gradient[0] + gradient[3]).abs() < 1e-6);
//! assert_eq!(gradient[4], 0.0); // padding
//! ```
//!
//! # A whole run
//!
//! ```no_run
//! use luspo::prelude::*;
//!
//! let config = Config::load("configs/arithmetic.toml".as_ref(), &["loss_mode=gspo".into()])?;
//! let summary = luspo::trainer::train(config, &mut ())?;
//! println!("the policy is in {}", summary.policy.display());
//! # Ok::<(), luspo::trainer::TrainError>(())
//! ```
//!
//! # Features
//!
//! Backends are cargo features, additive, and chosen at run time by [`Backend`].
//!
//! | feature | backend |
//! |---|---|
//! | `flex` (default) | CPU; AVX-512 where the processor has it |
//! | `ndarray` | CPU; deprecated upstream, runs small deterministic test models |
//! | `wgpu` | GPU through WebGPU |
//! | `cuda` | NVIDIA GPU; needs the driver at run time |
//!
//! `hub` is off by default too: with it, models are fetched by their name at the Hugging Face hub
//! ([`model::hub`]).
//!
//! # Crates
//!
//! | module | crate | what lives there |
//! |---|---|---|
//! | [`algo`] | `luspo-algo` | objectives, aggregation, advantages, KL |
//! | [`model`] | `luspo-model` | Qwen2.5 on Burn, Hugging Face weights, log-probs and their backward |
//! | [`data`] | `luspo-data` | Parquet prompts, tokenizer, chat template, built-in tasks |
//! | [`reward`] | `luspo-reward` | verifiers and reward shaping |
//! | [`rollout`] | `luspo-rollout` | sampling with a KV cache |
//! | [`trainer`] | `luspo-trainer` | recipes, optimizer, evaluation, metrics |
//! | [`core`] | `luspo-core` | prompts, rollouts, scores, the random generator |
#![warn(missing_docs)]

pub use luspo_algo as algo;
pub use luspo_core as core;
pub use luspo_data as data;
pub use luspo_model as model;
pub use luspo_reward as reward;
pub use luspo_rollout as rollout;
pub use luspo_trainer as trainer;

pub use luspo_model::Backend;

/// What most programs with luspo need.
pub mod prelude {
    pub use luspo_algo::{
        Aggregation, BatchTotals, Grpo, Gspo, KlTerm, Luspo, Objective, PolicyBatch, PolicyLoss, PolicyLossOutput, Ppo,
    };
    pub use luspo_core::{Message, Prompt, RandomKey, Rollout, Score};
    pub use luspo_data::{PromptDataset, Tokenizer};
    pub use luspo_model::{Backend, Pretrained, Qwen2Config, Qwen2ForCausalLM};
    pub use luspo_reward::{RewardPipeline, Verifier};
    pub use luspo_rollout::Sampling;
    pub use luspo_trainer::{Config, Observer, Policy, Summary, TrainError};
}
