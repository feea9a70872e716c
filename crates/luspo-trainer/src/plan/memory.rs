//! What a run holds in each of its phases, predicted before anything is made.

use luspo_model::{ModelMemory, PassMemory, PassSizes, Qwen2Config, WeightDtype, frozen_dtype};
use serde::Serialize;

use super::Lengths;
use crate::Config;
use crate::config::{EngineKind, LoraConfig};
use crate::micro::{MicroBatches, MicroLimit};

/// What the program takes by itself, in bytes: its code, threads and buffers.
const PROGRAM: f64 = 75e6;

/// Bytes that an answer's token takes on its way from the sampler to the update: id, log-probs, advantage and the like.
const ROW_TOKEN: f64 = 40.0;

/// The memory that a run takes, phase by phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Whether the device has memory of its own. Where it has not, everything is in the host's.
    pub own_memory: bool,
    /// In the order of a step.
    pub phases: Vec<Phase>,
}

/// A phase of a run and what is held in it at its peak.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// Its name: one word or two.
    pub name: &'static str,
    /// Everything held.
    pub held: Vec<Held>,
}

/// One thing that is held, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Held {
    /// What it is.
    pub what: &'static str,
    /// In the device's memory.
    pub device: f64,
    /// In the host's.
    pub host: f64,
}

impl Phase {
    /// Bytes of the device's memory.
    pub fn device(&self) -> f64 {
        self.held.iter().map(|held| held.device).sum()
    }

    /// Bytes of the host's memory.
    pub fn host(&self) -> f64 {
        self.held.iter().map(|held| held.host).sum()
    }
}

impl Memory {
    /// The phase that takes most of the device's memory; `None` where it has none of its own.
    pub fn device_peak(&self) -> Option<&Phase> {
        let most = self.phases.iter().max_by(|a, b| a.device().total_cmp(&b.device()));
        most.filter(|_| self.own_memory)
    }

    /// The phase that takes most of the host's memory.
    pub fn host_peak(&self) -> Option<&Phase> {
        self.phases.iter().max_by(|a, b| a.host().total_cmp(&b.host()))
    }

    /// What a run of this configuration takes with models of these shapes and rows of at most these lengths.
    pub(crate) fn of(config: &Config, policy: &Qwen2Config, critic: &Qwen2Config, lengths: &Lengths) -> Self {
        let run = Run::new(config, policy, critic, lengths);
        let own_memory = config.run.backend.has_own_memory();
        let mut phases = vec![run.loading()];
        phases.extend(run.warm_up());
        phases.push(run.sampling());
        phases.extend(run.log_probs());
        phases.extend(run.critic_update());
        phases.extend([run.update(), run.optimizer(), run.saving()]);
        if !own_memory {
            for held in phases.iter_mut().flat_map(|phase| &mut phase.held) {
                (held.device, held.host) = (0.0, held.device + held.host);
            }
        }
        for phase in &mut phases {
            phase.held.retain(|held| held.device + held.host > 0.0);
        }
        Self { own_memory, phases }
    }
}

/// What the phases are made of.
struct Run<'a> {
    config: &'a Config,
    lengths: &'a Lengths,
    policy: ModelMemory<'a>,
    /// The value model, where there is one.
    critic: Option<ModelMemory<'a>>,
    /// Whether there are log-probs of a reference policy.
    kl: bool,
}

impl<'a> Run<'a> {
    fn new(config: &'a Config, policy: &'a Qwen2Config, critic: &'a Qwen2Config, lengths: &'a Lengths) -> Self {
        let algorithm = &config.algorithm;
        let model = |shape| ModelMemory::new(shape, config.dtype(), config.run.backend);
        let lora = config.model.lora.as_ref().map(LoraConfig::adapter);
        Self {
            config,
            lengths,
            policy: match &lora {
                Some(lora) => model(policy).with_lora(lora).with_base_in(base_dtype(config)),
                None => model(policy),
            },
            critic: (algorithm.adv_estimator == "gae").then(|| model(critic)),
            kl: algorithm.use_kl_loss || algorithm.use_kl_in_reward,
        }
    }

    fn loading(&self) -> Phase {
        // Random weights are drawn in f32 and rounded then.
        let drawn = self.config.model.init.is_some() && self.policy.has_masters();
        let tensor = if drawn { self.policy.drawn() } else { self.policy.largest_in_f32() };
        let mut held = vec![on_device(PARAMETERS, self.policy.parameters()), in_host("the program", PROGRAM)];
        held.push(if drawn { on_device(BUFFERS, tensor) } else { in_host(BUFFERS, tensor) });
        Phase { name: "loading", held }
    }

    fn warm_up(&self) -> Option<Phase> {
        let sft = self.config.sft.as_ref().filter(|sft| sft.steps > 0)?;
        let rows = sft.micro_batch_size.unwrap_or(sft.batch_size) as f64;
        let (response, options) = (self.lengths.example as f64, self.config.memory_options());
        let sizes = PassSizes { rows, sharing: 1.0, prompt: 0.0, response, options };
        let mut held = vec![on_device(PARAMETERS, self.policy.parameters()), self.state(&self.policy)];
        held.push(in_host("the program", PROGRAM));
        held.push(on_device(GRADIENTS, self.policy.trained_in_f32()));
        held.extend(pass(self.policy.backward(&sizes)));
        Some(Phase { name: "warm-up", held })
    }

    fn sampling(&self) -> Phase {
        let (rollout, prompt) = (&self.config.rollout, self.lengths.prompt);
        let [training, validation] = self.sampled();
        let rows = rollout.max_batch_size.min((training.0 * training.1).max(validation.0 * validation.1));
        let prompts = rows.min(training.0.max(validation.0));
        let chunk = rollout.prefill_chunk.min(prompts.saturating_mul(prompt));
        let mut held = self.held_without_cache();
        held.push(on_device(CACHE, self.policy.cache(self.cached() as f64)));
        let (chunk, rows, row) = (chunk as f64, rows as f64, self.row() as f64);
        held.push(on_device(BLOCK, self.policy.sampling([chunk, prompt as f64], [rows, row])));
        Phase { name: "sampling", held }
    }

    /// Prompts and answers to each that the policy samples itself, of a step and of a validation.
    fn sampled(&self) -> [(usize, usize); 2] {
        let (step, val_n) = (&self.config.data, self.config.eval.val_n);
        let n = match self.config.rollout.engine {
            EngineKind::Luspo => self.config.rollout.n,
            // Servers sample; but for the greedy baselines.
            EngineKind::OpenAi => usize::from(self.config.algorithm.adv_estimator == "remax"),
        };
        [(step.train_batch_size, n), (self.lengths.validation / val_n, val_n)]
    }

    /// Tokens that the cache has room for.
    fn cached(&self) -> usize {
        let (limits, Lengths { prompt, response, .. }) = (self.config.rollout.limits(), *self.lengths);
        let tokens = self.sampled().map(|(prompts, n)| limits.tokens_for(prompts, n, prompt, response));
        tokens[0].max(tokens[1])
    }

    /// Old log-probs, those of the reference, and values.
    fn log_probs(&self) -> Option<Phase> {
        let several_updates = self.config.updates_per_step() > 1;
        if !(several_updates || self.kl || self.critic.is_some()) {
            return None;
        }
        let mut held = self.held_throughout();
        held.extend(pass(self.policy.forward(&self.micro_batch())));
        Some(Phase { name: "log-probs", held })
    }

    fn critic_update(&self) -> Option<Phase> {
        let critic = self.critic.as_ref()?;
        let mut held = self.held_throughout();
        held.push(on_device(GRADIENTS, critic.trained_in_f32()));
        // Its head makes one number of a token.
        held.extend(pass(PassMemory { logits: 0.0, ..critic.backward(&self.micro_batch()) }));
        Some(Phase { name: "critic", held })
    }

    fn update(&self) -> Phase {
        let mut held = self.held_throughout();
        held.push(on_device(GRADIENTS, self.policy.trained_in_f32()));
        held.extend(pass(self.policy.backward(&self.micro_batch())));
        Phase { name: "update", held }
    }

    /// Parameter by parameter: tensor operations make a new tensor each; an update in host memory reads a gradient and
    /// makes the new parameter.
    fn optimizer(&self) -> Phase {
        let mut held = self.held_throughout();
        held.push(on_device(GRADIENTS, self.policy.trained_in_f32()));
        let largest = self.policy.largest_in_f32().min(self.policy.trained_in_f32());
        match (self.config.run.backend.has_own_memory(), self.config.optimizer.offload) {
            (false, _) => {}
            (true, false) => held.push(on_device(BUFFERS, 8.0 * largest)),
            (true, true) => held.extend([on_device(BUFFERS, largest), in_host(BUFFERS, 2.0 * largest)]),
        }
        Phase { name: "optimizer", held }
    }

    fn saving(&self) -> Phase {
        let mut held = self.held_throughout();
        held.push(in_host(BUFFERS, 2.0 * self.policy.largest_in_f32()));
        Phase { name: "saving", held }
    }

    /// What is there in every phase of a step.
    fn held_throughout(&self) -> Vec<Held> {
        let mut held = self.held_without_cache();
        if !self.config.rollout.free_cache_engine {
            held.push(on_device(CACHE, self.policy.cache(self.cached() as f64)));
        }
        held
    }

    fn held_without_cache(&self) -> Vec<Held> {
        let mut held = vec![on_device(PARAMETERS, self.policy.parameters())];
        // With an adapter, the base without it is the reference.
        if self.kl && self.config.model.lora.is_none() {
            held.push(on_device("reference policy", self.policy.parameters()));
        }
        held.extend(self.critic.iter().map(|critic| on_device("critic", critic.parameters())));
        let states = std::iter::once(&self.policy).chain(&self.critic).map(|model| self.state(model));
        held.extend(states.reduce(|a, b| Held { device: a.device + b.device, host: a.host + b.host, ..a }));
        let rows = self.config.data.train_batch_size * self.config.rollout.n;
        held.push(in_host("a step's rows", ROW_TOKEN * rows as f64 * self.row() as f64));
        held.push(in_host("the program", PROGRAM));
        held
    }

    /// AdamW's two moments, and the masters of parameters that are not f32.
    fn state(&self, model: &ModelMemory<'_>) -> Held {
        let bytes = model.trained_in_f32() * if model.has_masters() { 3.0 } else { 2.0 };
        match self.config.optimizer.offload {
            true => in_host(STATE, bytes),
            false => on_device(STATE, bytes),
        }
    }

    /// Tokens of the longest row.
    fn row(&self) -> usize {
        self.lengths.prompt + self.lengths.response
    }

    fn micro_batch(&self) -> PassSizes {
        let (prompt, response) = (self.lengths.prompt as f64, self.lengths.response as f64);
        let MicroBatches { limit, share_prompts } = MicroBatches::of(self.config);
        let n = if share_prompts { self.config.rollout.n as f64 } else { 1.0 };
        let rows = (self.config.mini_batch_size() * self.config.rollout.n) as f64;
        let (rows, sharing) = match limit {
            MicroLimit::Rows(limit) => (rows.min(limit as f64), n.min(limit as f64)),
            MicroLimit::Tokens(tokens) => {
                let sharing = n.min((tokens as f64 - prompt) / response).max(1.0);
                (rows.min(tokens as f64 / (response + prompt / sharing)), sharing)
            }
        };
        PassSizes { rows, sharing, prompt, response, options: self.config.memory_options() }
    }
}

/// What the base of adapters is held in. Weights that are not there yet are taken to be of the run's own type.
fn base_dtype(config: &Config) -> WeightDtype {
    let (path, dtype) = (config.model.path.as_deref(), config.dtype());
    path.and_then(|path| frozen_dtype(path, dtype, config.run.backend).ok()).unwrap_or(dtype)
}

const PARAMETERS: &str = "parameters";
const CACHE: &str = "key-value cache";
const GRADIENTS: &str = "gradients";
const STATE: &str = "moments and masters";
const BLOCK: &str = "one block at work";
const BUFFERS: &str = "buffers";

fn on_device(what: &'static str, bytes: f64) -> Held {
    Held { what, device: bytes, host: 0.0 }
}

fn in_host(what: &'static str, bytes: f64) -> Held {
    Held { what, device: 0.0, host: bytes }
}

fn pass(memory: PassMemory) -> Vec<Held> {
    let PassMemory { kept, block, scores, logits, gradient } = memory;
    let mut held = vec![on_device("kept of all blocks", kept)];
    // Head and blocks take turns.
    match logits + gradient > block + scores {
        true => held.extend([on_device("logits of a chunk", logits), on_device(BUFFERS, gradient)]),
        false => held.extend([on_device(BLOCK, block), on_device("attention scores", scores)]),
    }
    held
}
