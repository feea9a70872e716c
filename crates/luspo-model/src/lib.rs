//! Qwen2.5 on Burn: one definition for every backend, Hugging Face weights in and out.
//!
//! - [`Backend`] turns a name into a [`Device`](burn::tensor::Device). It is the only place that names a backend.
//! - [`Qwen2ForCausalLM`] is the model. Its fields mirror the Hugging Face keys, so that reading and writing weights is
//!   a rename. The same object samples ([`prefill`](Qwen2ForCausalLM::prefill), [`decode`](Qwen2ForCausalLM::decode)),
//!   scores ([`response_stats`](Qwen2ForCausalLM::response_stats)) and is differentiated
//!   ([`response_gradients`](Qwen2ForCausalLM::response_gradients)).
//! - [`Qwen2ForTokenClassification`] is the value model: the same trunk with one number a token
//!   ([`response_values`](Qwen2ForTokenClassification::response_values),
//!   [`value_gradients`](Qwen2ForTokenClassification::value_gradients)).
//! - [`Pretrained`] reads and writes a Hugging Face folder; [`export()`] writes one again in another number type.
//!
//! ```
//! use burn::module::Module;
//! use luspo_core::{Purpose, RandomKey};
//! use luspo_model::{Backend, HeadOptions, Qwen2Config, Qwen2ForCausalLM, ResponseBatch};
//!
//! # fn main() -> Result<(), luspo_model::ModelError> {
//! let device = Backend::Flex.device()?.autodiff();
//! let config = Qwen2Config::new(260, 32, 64, 2, 4, 2);
//! let model = Qwen2ForCausalLM::init(&config, RandomKey::new(0, Purpose::Init), &device);
//!
//! // Sampling looks at the plain view of the parameters …
//! let sampler = model.valid();
//! let (hidden, mut cache) = sampler.prefill(&[&[1, 2, 3], &[4, 5]], 16);
//! let logits = sampler.logits(hidden);
//! assert_eq!(logits.dims(), [2, 260]);
//! let _next = sampler.decode(&[6, 7], &mut cache);
//!
//! // … and training differentiates any function of the responses' log-probs.
//! let batch = ResponseBatch::new(&[(&[1, 2, 3], &[6, 0]), (&[4, 5], &[7])]);
//! let options = HeadOptions { chunk: 512, ..HeadOptions::default() };
//! let gradients = model.response_gradients(&batch, &options, |stats| {
//!     (stats.log_probs.ones_like().neg(), None) // ∂(−Σ log p)/∂ log p
//! });
//! assert_eq!(gradients.len(), 26);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! Each brings a backend; [`Backend`] chooses among them at run time.
//!
//! | feature | backend |
//! |---|---|
//! | `flex` (default) | CPU; AVX-512 where the processor has it |
//! | `ndarray` | CPU; deprecated upstream, runs small deterministic test models |
//! | `wgpu` | GPU through WebGPU |
//! | `cuda` | NVIDIA GPU; needs the driver at run time |
#![warn(missing_docs)]

mod attention;
mod backend;
mod batch;
mod cache;
mod config;
mod dtype;
mod error;
mod export;
mod head;
mod host;
mod init;
mod memory;
mod modeling;
mod names;
mod norm;
mod policy;
mod pretrained;
mod rope;
mod save;
mod trunk;
mod value;
mod weights;

pub use attention::Qwen2Attention;
pub use backend::{Backend, BackendInfo};
pub use batch::ResponseBatch;
pub use cache::KvCache;
pub use config::Qwen2Config;
pub use dtype::WeightDtype;
pub use error::ModelError;
pub use export::export;
pub use head::{HeadOptions, TokenStats};
pub use memory::MemoryPlan;
pub use modeling::{Qwen2DecoderLayer, Qwen2ForCausalLM, Qwen2Mlp, Qwen2Model};
pub use norm::RmsNorm;
pub use pretrained::Pretrained;
pub use save::SaveOptions;
pub use value::Qwen2ForTokenClassification;
