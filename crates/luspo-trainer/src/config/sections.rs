//! The sections of a [`Config`](super::Config) but for those of learning, each key with its unit and default.

use std::path::PathBuf;

use luspo_data::{PromptOverlong, task::TaskConfig};
use luspo_model::{Backend, WeightDtype};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LoraConfig;

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Name of the run; also the last part of its folder when `dir` is absent.
    pub name: String,
    /// The run folder itself; `runs/{name}` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Seed of everything random.
    pub seed: u64,
    /// `flex` (`cpu`), `ndarray`, `wgpu`, `cuda` or `cuda:N`.
    #[schemars(with = "String")]
    pub backend: Backend,
    /// CPU threads of the command; 0 for one per core. Results on CPU repeat bit for bit at the same number of threads.
    /// A program that calls the library sizes rayon's global pool itself.
    pub threads: usize,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self { name: "luspo".into(), dir: None, seed: 0, backend: Backend::Flex, threads: 0 }
    }
}

/// `[model]`: the policy to start from, either `path` or `[model.init]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// A Hugging Face folder with config, weights and tokenizer; or, in a build with the feature `hub`, a model's name at the
    /// Hugging Face hub, `owner/name` or `owner/name@revision`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Number type of the parameters: `f32` or `bf16`, which takes half the memory; norms, softmax, log-probs, gradients
    /// and the optimizer's masters are f32 in both. Default: the backend's, `bf16` on `cuda`, `f32` on the others. The
    /// reference policy and the critic have it too. Under `[model.lora]` it is what is computed with: on the CPU, the base
    /// in f32 is held in its files' own type.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub dtype: Option<WeightDtype>,
    /// Tokens whose logits exist at once when log-probs are computed. Default: 1024, or as many as take 64 MB if those are
    /// more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_prob_chunk: Option<usize>,
    /// Tokens of a row whose attention scores exist at once when log-probs are computed or trained on. Long rows take less
    /// time with a smaller number too, as scores that no token looks at are left out.
    pub attention_chunk: usize,
    /// Whether only the blocks' inputs are kept for the backward pass, in which each block is then computed again: far
    /// less memory, about a third more time. Default: true from 1 billion parameters on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_checkpointing: Option<bool>,
    /// A Qwen2.5 shape to start from random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<InitConfig>,
    /// Adapters that are trained in place of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            path: None,
            dtype: None,
            log_prob_chunk: None,
            attention_chunk: 512,
            activation_checkpointing: None,
            init: None,
            lora: None,
        }
    }
}

/// `[model.init]`: the shape of a policy with random weights, in the words of Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InitConfig {
    /// Folder with `tokenizer.json`; when absent, a byte-level tokenizer is trained on the run's own texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Rows of the embedding. Default: what the tokenizer has; 259 (bytes and three special tokens, no merges) for a
    /// tokenizer that is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Longest sequence, prompt and response together, in tokens.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
}

impl Default for InitConfig {
    fn default() -> Self {
        Self {
            tokenizer: None,
            vocab_size: None,
            hidden_size: 256,
            intermediate_size: 704,
            num_hidden_layers: 4,
            num_attention_heads: 8,
            num_key_value_heads: 2,
            max_position_embeddings: 2048,
            rope_theta: 1e6,
            tie_word_embeddings: true,
        }
    }
}

/// `[data]`: prompts, either files or `[data.task]`, and the lengths they are cut to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Files with training prompts in verl's schema: JSON Lines (`.jsonl`), else Parquet.
    pub train_files: Vec<PathBuf>,
    /// Files with validation prompts; rows with the same prompt and gold count once.
    pub val_files: Vec<PathBuf>,
    /// Prompts a step.
    pub train_batch_size: usize,
    /// Longest prompt in tokens.
    pub max_prompt_length: usize,
    /// Longest response in tokens; sampling stops there.
    pub max_response_length: usize,
    /// What to do with longer prompts.
    pub prompt_overlong: PromptOverlong,
    /// Leave rows out that cannot be used, such as those without a gold answer; otherwise they are an error.
    pub filter_invalid: bool,
    /// A built-in task, written as Parquet into the run folder and then read like any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskConfig>,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            train_files: Vec::new(),
            val_files: Vec::new(),
            train_batch_size: 128,
            max_prompt_length: 1024,
            max_response_length: 1024,
            prompt_overlong: PromptOverlong::Filter,
            filter_invalid: false,
            task: None,
        }
    }
}

/// `[trainer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainerConfig {
    /// Prompts an update; default: all of a step's, so that a step has one update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo_mini_batch_size: Option<usize>,
    /// Rows in memory at once; does not change the update. Default: all rows of an update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo_micro_batch_size: Option<usize>,
    /// Tokens in memory at once, prompts and answers together, in place of a number of rows: a micro-batch has as many
    /// rows as fit. Rows are packed without padding, so that short ones cost what their tokens cost. Does not change the
    /// update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens_per_micro_batch: Option<usize>,
    /// Whether the answers to one prompt in a micro-batch share one reading of it. Does not change the update.
    pub share_prompts: bool,
    /// Times that a step's rows are gone through.
    pub ppo_epochs: usize,
    /// First steps in which the critic is trained alone; of `gae`. The schedule of `optimizer.lr` begins after them.
    pub critic_warmup: usize,
    /// Steps.
    pub total_training_steps: usize,
    /// Validate every so many steps, and after the last; 0: only after the last.
    pub test_freq: usize,
    /// Save a checkpoint every so many steps, and after the last; 0: only after the last.
    pub save_freq: usize,
    /// Keep this many of the newest checkpoints, and that of step 0; absent: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ckpt_to_keep: Option<usize>,
    /// Validate before the first step.
    pub val_before_train: bool,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            ppo_mini_batch_size: None,
            ppo_micro_batch_size: None,
            max_tokens_per_micro_batch: None,
            share_prompts: true,
            ppo_epochs: 1,
            critic_warmup: 0,
            total_training_steps: 100,
            test_freq: 10,
            save_freq: 0,
            max_ckpt_to_keep: None,
            val_before_train: true,
        }
    }
}

/// `[eval]`: how validation answers are sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Answers a prompt.
    pub val_n: usize,
    /// Temperature; 0 is greedy.
    pub val_temperature: f64,
    /// Nucleus.
    pub val_top_p: f64,
    /// Sample from the k most likely tokens; 0 turns it off.
    pub val_top_k: usize,
    /// Drop tokens less likely than this share of the most likely one; 0 turns it off.
    pub val_min_p: f64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { val_n: 1, val_temperature: 1.0, val_top_p: 0.7, val_top_k: 0, val_min_p: 0.0 }
    }
}

/// `[logging]`: what a run tells of itself. None of it changes the training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingConfig {
    /// What the command prints while a run goes on: a line a step, and progress in a terminal. False leaves results,
    /// warnings and errors. A program that calls the library has its own observer.
    pub console: bool,
    /// `metrics.jsonl` and `sft_metrics.jsonl`: one JSON object a step.
    pub jsonl: bool,
    /// Event files for TensorBoard: the same numbers in single precision.
    pub tensorboard: bool,
    /// `rollouts/step_NNNNNN.parquet`: every answer of a step, with its score and log-probs. Without them a replay
    /// compares fewer things.
    pub rollouts: bool,
    /// Which answers weigh how much in the gradient: by length and by outcome, for the run's objective and for GRPO, GSPO
    /// and LUSPO on the same answers (`grad_weight/*`).
    pub gradient_weight: bool,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { console: true, jsonl: true, tensorboard: true, rollouts: true, gradient_weight: true }
    }
}
