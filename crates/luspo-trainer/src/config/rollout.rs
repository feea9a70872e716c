//! How answers are sampled.

use std::time::Duration;

use luspo_rollout::BatchLimits;
use luspo_rollout::openai::{Answers, ServerOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::algorithm::OldLogProbs;
use super::check::Problem;
use super::{AlgorithmConfig, Config};

/// Who samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The policy itself, in this process.
    #[default]
    Luspo,
    /// Servers that speak the OpenAI completions API.
    OpenAi,
}

/// `[rollout]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutConfig {
    /// Who samples the answers of training: `luspo`, the policy itself, or `openai`, servers (`[rollout.openai]`).
    /// Validation is the policy's own in either case.
    pub engine: EngineKind,
    /// Steps that the answers of `openai` may be behind the policy: 0, or 1 to sample the next step's answers
    /// while this step learns. Steps with `filter_groups` sample the first batch of prompts ahead.
    pub max_staleness: usize,
    /// Answers a prompt: the size of a group.
    pub n: usize,
    /// Sampling temperature; log-probs are of the distribution at this temperature.
    pub temperature: f64,
    /// Nucleus: sample from the smallest set of tokens of this probability; 1 turns it off.
    pub top_p: f64,
    /// Sample from the k most likely tokens; 0 turns it off.
    pub top_k: usize,
    /// Drop tokens less likely than this share of the most likely one; 0 turns it off.
    pub min_p: f64,
    /// Above 1, what stands in the prompt or was said before becomes less likely (vLLM's word, and CTRL's rule); 1 turns
    /// it off. Validation has it too. Log-probs are of the distribution without it.
    pub repetition_penalty: f64,
    /// Tokens that an answer has before it can end. Validation has it too.
    pub min_tokens: usize,
    /// Strings that end an answer, with the token that completes one. Validation has them too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Tokens that end an answer, beside the model's own. Validation has them too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_token_ids: Vec<u32>,
    /// Answers decoded at once; one that ends makes room for the next. Random numbers do not depend on it.
    pub max_batch_size: usize,
    /// Tokens that the key-value cache may have room for, prompts and answers. An answer starts when there is room for its
    /// longest length. Default: what `max_batch_size` answers may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens_in_cache: Option<usize>,
    /// Tokens of prompts that are read at once. A longer prompt is read in parts, between which the open answers go on.
    pub prefill_chunk: usize,
    /// Give the memory of the key-value cache back after sampling; false keeps one cache through the whole run.
    pub free_cache_engine: bool,
    /// The servers of `engine = "openai"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openai: Option<OpenAiConfig>,
}

impl RolloutConfig {
    /// How much is read and decoded at once.
    pub fn limits(&self) -> BatchLimits {
        let Self { max_batch_size, max_tokens_in_cache, prefill_chunk, .. } = *self;
        BatchLimits { max_batch_size, max_tokens_in_cache, prefill_chunk }
    }
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            engine: EngineKind::Luspo,
            max_staleness: 0,
            n: 8,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            min_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            max_batch_size: 256,
            max_tokens_in_cache: None,
            prefill_chunk: BatchLimits::PREFILL_CHUNK,
            free_cache_engine: true,
            openai: None,
        }
    }
}

/// `[rollout.openai]`: servers that sample the answers of training, such as vLLM, SGLang or `luspo serve`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OpenAiConfig {
    /// Their addresses, such as `http://127.0.0.1:8000/v1`.
    pub base_urls: Vec<String>,
    /// The model's name there. Default: the first that a server lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Environment variable with the bearer token, where the servers want one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Requests that each server has at a time; one is a group of answers.
    pub concurrency: usize,
    /// Seconds that a request may take, all its answers together.
    pub timeout: f64,
    /// How often a request is tried again at the same server, and how often in a row a server may fail.
    pub retries: u32,
    /// How new weights reach the servers: `update_weights_from_disk`, an endpoint that SGLang and `luspo serve` have (the
    /// run folder has to be there under the same path); or `none`, where they keep those that they have.
    pub weights: WeightUpdates,
    /// What they send: `tokens`, ids with log-probs; or `text` alone, which is tokenised anew, and whose log-probs are the
    /// policy's own.
    pub answers: AnswersKind,
}

/// How new weights reach the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightUpdates {
    /// `POST /update_weights_from_disk` with a folder.
    #[default]
    UpdateWeightsFromDisk,
    /// Not at all.
    None,
}

/// What the servers send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswersKind {
    /// Token ids and log-probs.
    #[default]
    Tokens,
    /// Text.
    Text,
}

impl Default for OpenAiConfig {
    fn default() -> Self {
        Self {
            base_urls: Vec::new(),
            model: None,
            api_key_env: None,
            concurrency: 16,
            timeout: 600.0,
            retries: 3,
            weights: WeightUpdates::UpdateWeightsFromDisk,
            answers: AnswersKind::Tokens,
        }
    }
}

impl OpenAiConfig {
    /// What the client is told, with the token where one is wanted.
    pub(crate) fn options(&self, token: Option<String>) -> ServerOptions {
        let answers = match self.answers {
            AnswersKind::Tokens => Answers::Tokens,
            AnswersKind::Text => Answers::Text,
        };
        ServerOptions {
            base_urls: self.base_urls.clone(),
            model: self.model.clone(),
            token,
            concurrency: self.concurrency,
            timeout: Duration::from_secs_f64(self.timeout),
            retries: self.retries,
            answers,
        }
    }
}

impl Config {
    /// Refuses settings of servers where there are none, and what such answers cannot be used for.
    pub(super) fn check_engine(&self) -> Problem {
        let RolloutConfig { engine, max_staleness, openai, .. } = &self.rollout;
        let openai = match (engine, openai) {
            (EngineKind::Luspo, None) if *max_staleness > 0 => {
                return Err(
                    "rollout.max_staleness needs rollout.engine = \"openai\": the policy cannot sample while it \
                            learns"
                        .into(),
                );
            }
            (EngineKind::Luspo, None) => return Ok(()),
            (EngineKind::Luspo, Some(_)) => {
                return Err("[rollout.openai] is there, but rollout.engine is \"luspo\"; keep one of them".into());
            }
            (EngineKind::OpenAi, None) => return Err("rollout.engine = \"openai\" needs [rollout.openai]".into()),
            (EngineKind::OpenAi, Some(openai)) => openai,
        };
        if *max_staleness > 1 {
            return Err(format!("rollout.max_staleness = {max_staleness}; answers are 0 or 1 steps ahead"));
        }
        if openai.base_urls.is_empty() {
            return Err("rollout.openai.base_urls is empty; name a server, such as http://127.0.0.1:8000/v1".into());
        }
        if openai.concurrency == 0 {
            return Err("rollout.openai.concurrency = 0; a server has at least one request at a time".into());
        }
        if !(openai.timeout > 0.0 && openai.timeout <= 1e6) {
            return Err(format!("rollout.openai.timeout = {}; it must be above 0 s and at most 1e6", openai.timeout));
        }
        let AlgorithmConfig { old_log_probs, rollout_correction, .. } = &self.algorithm;
        let wanted = rollout_correction.rollout_is.is_some() || rollout_correction.rollout_rs.is_some();
        if openai.answers == AnswersKind::Text && (wanted || *old_log_probs == OldLogProbs::Sampler) {
            return Err("rollout.openai.answers = \"text\" brings no log-probs of the sampler, which \
                        algorithm.rollout_correction and algorithm.old_log_probs = \"sampler\" want"
                .into());
        }
        Ok(())
    }
}
