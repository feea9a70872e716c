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
//! - With [`Qwen2ForCausalLM::with_lora`] low-rank adapters are trained in place of the parameters; [`Adapter`] reads and
//!   writes them in PEFT's format, [`export_merged`] puts them into the weights.
//!
//! ```
//! use burn::module::Module;
//! use burn::optim::GradientsParams;
//! use luspo_core::{Purpose, RandomKey};
//! use luspo_model::{Backend, KvCache, PassOptions, Qwen2Config, Qwen2ForCausalLM, ResponseBatch};
//!
//! # fn main() -> Result<(), luspo_model::ModelError> {
//! let device = Backend::Flex.device()?.autodiff();
//! let config = Qwen2Config::new(260, 32, 64, 2, 4, 2);
//! let model = Qwen2ForCausalLM::init(&config, RandomKey::new(0, Purpose::Init), &device);
//!
//! // Sampling looks at the plain view of the parameters …
//! let sampler = model.valid();
//! let mut cache = KvCache::new(&sampler, 16)?;
//! let prompt = cache.begin(3).expect("there is room for 16 tokens");
//! let hidden = sampler.prefill(&[(prompt, &[1, 2, 3])], &mut cache);
//! assert_eq!(sampler.logits(hidden).dims(), [1, 260]);
//! let answers = [6, 7].map(|token| (cache.fork(prompt, 4).expect("and for 8 more"), token));
//! let _next = sampler.decode(&answers, &mut cache);
//!
//! // … and training differentiates any function of the responses' log-probs.
//! let batch = ResponseBatch::new(&[(&[1, 2, 3], &[6, 0]), (&[4, 5], &[7])]);
//! let mut gradients = GradientsParams::new();
//! model.response_gradients(&batch, &PassOptions::default(), &mut gradients, |stats| {
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
//!
//! `hub`, which is off by default, is none: with it [`hub::locate`] fetches models by their name at the Hugging Face hub.
#![warn(missing_docs)]

mod adapter;
mod attention;
mod backend;
mod batch;
mod cache;
mod config;
mod dtype;
mod error;
mod export;
mod fingerprint;
mod frozen;
mod head;
mod host;
pub mod hub;
mod init;
mod linear;
mod lora;
mod memory;
mod modeling;
mod names;
mod norm;
mod options;
mod policy;
mod pretrained;
mod rope;
mod save;
mod tape;
mod value;
mod weights;

pub use adapter::Adapter;
pub use attention::Qwen2Attention;
pub use backend::{Backend, BackendInfo, is_host, lasting, release_memory};
pub use batch::ResponseBatch;
pub use cache::{KvCache, Sequence};
pub use config::Qwen2Config;
pub use dtype::WeightDtype;
pub use error::ModelError;
pub use export::{export, export_merged};
pub use fingerprint::fingerprint;
pub use frozen::frozen_dtype;
pub use head::TokenStats;
pub use host::row_weights;
pub use linear::Linear;
pub use lora::{Lora, LoraConfig};
pub use memory::{ModelMemory, PassMemory, PassSizes, check_free_memory, free_memory};
pub use modeling::{Qwen2DecoderLayer, Qwen2ForCausalLM, Qwen2Mlp, Qwen2Model};
pub use norm::RmsNorm;
pub use options::{MemoryOptions, PassOptions};
pub use pretrained::Pretrained;
pub use save::SaveOptions;
pub use value::Qwen2ForTokenClassification;
