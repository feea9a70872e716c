//! Whether a machine has the memory that a run takes, and what would help where it has not.

use luspo_model::{Backend, Qwen2Config, WeightDtype, free_memory};
use serde::Serialize;

use super::{Held, Lengths, Memory, Phase};
use crate::{Config, Shortage, TrainError};

/// The memory of a machine, in bytes; `None` where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The device's, where it has its own.
    pub device: Option<u64>,
    /// The host's, as far as it is free.
    pub host: Option<u64>,
}

impl Machine {
    /// This one, with a device of this kind.
    pub fn here(backend: Backend) -> Self {
        Self { device: backend.device_memory(), host: free_memory() }
    }
}

/// A setting that takes less memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Saving {
    /// `KEY=VALUE`, as it stands on the command line.
    pub setting: String,
    /// Bytes by which the peak in the device's memory falls; below 0 where it rises.
    pub device: f64,
    /// The same of the host's memory.
    pub host: f64,
}

/// A change to a configuration, where it makes a difference, as it stands on the command line.
type Change = fn(&mut Config) -> Option<String>;

/// Settings that trade time for memory, and those that change what is trained.
const CHANGES: [Change; 12] = [
    |config| {
        config.model.dtype = Some(WeightDtype::Bf16);
        Some("model.dtype=bf16".into())
    },
    |config| {
        config.model.activation_checkpointing = Some(true);
        Some("model.activation_checkpointing=true".into())
    },
    |config| {
        config.optimizer.offload = true;
        Some("optimizer.offload=true".into())
    },
    |config| {
        let kept = !std::mem::replace(&mut config.rollout.free_cache_engine, true);
        kept.then(|| "rollout.free_cache_engine=true".into())
    },
    |config| halved("rollout.max_batch_size", &mut config.rollout.max_batch_size),
    |config| halved("rollout.prefill_chunk", &mut config.rollout.prefill_chunk),
    |config| {
        let chunk = config.memory_options().log_prob_chunk;
        halved("model.log_prob_chunk", config.model.log_prob_chunk.insert(chunk))
    },
    |config| halved("model.attention_chunk", &mut config.model.attention_chunk),
    |config| match &mut config.trainer.max_tokens_per_micro_batch {
        Some(tokens) => {
            *tokens = config.data.max_prompt_length + config.data.max_response_length;
            Some(format!("trainer.max_tokens_per_micro_batch={tokens}"))
        }
        None => {
            config.trainer.ppo_micro_batch_size = Some(1);
            Some("trainer.ppo_micro_batch_size=1".into())
        }
    },
    |config| {
        config.sft.as_mut()?.micro_batch_size = Some(1);
        Some("sft.micro_batch_size=1".into())
    },
    |config| halved("data.max_response_length", &mut config.data.max_response_length),
    |config| halved("data.max_prompt_length", &mut config.data.max_prompt_length),
];

fn halved(key: &str, value: &mut usize) -> Option<String> {
    *value = (*value / 2).max(1);
    Some(format!("{key}={value}"))
}

/// What would take less than `memory`, the setting that saves most first.
pub(super) fn savings(
    config: &Config,
    [policy, critic]: [&Qwen2Config; 2],
    lengths: &Lengths,
    memory: &Memory,
) -> Vec<Saving> {
    let (device, host) = peaks(memory);
    let saving = |change: &Change| {
        let mut changed = config.clone();
        let setting = change(&mut changed)?;
        let (changed_device, changed_host) = peaks(&Memory::of(&changed, policy, critic, &lengths.within(&changed)));
        let saving = Saving { setting, device: device - changed_device, host: host - changed_host };
        // One in a hundred is less than the prediction is exact to.
        let helps = saving.device > 0.01 * device || (!memory.own_memory && saving.host > 0.01 * host);
        helps.then_some(saving)
    };
    let mut savings: Vec<Saving> = CHANGES.iter().filter_map(saving).collect();
    savings.sort_by(|a, b| (b.device + b.host).total_cmp(&(a.device + a.host)));
    savings
}

fn peaks(memory: &Memory) -> (f64, f64) {
    (memory.device_peak().map_or(0.0, Phase::device), memory.host_peak().map_or(0.0, Phase::host))
}

impl Memory {
    /// Refuses what `machine` does not hold.
    ///
    /// # Errors
    /// [`TrainError::Memory`], which names the phase, what is held in it, and what would help.
    pub(crate) fn check(&self, machine: &Machine, savings: &[Saving]) -> Result<(), TrainError> {
        let device = self.device_peak().map(|phase| (phase, phase.device(), machine.device, "the device"));
        let host = self.host_peak().map(|phase| (phase, phase.host(), machine.host, "this machine"));
        for (phase, needed, available, place) in device.into_iter().chain(host) {
            let Some(available) = available.filter(|available| needed > *available as f64) else { continue };
            let on_device = place == "the device";
            let saved = |saving: &Saving| if on_device { saving.device } else { saving.host };
            return Err(TrainError::Memory(Box::new(Shortage {
                phase: phase.name,
                needed: size(needed),
                held: phase.largest(on_device),
                available: size(available as f64),
                place,
                advice: advice(savings.iter().map(|saving| (saving.setting.as_str(), saved(saving)))),
            })));
        }
        Ok(())
    }
}

impl Phase {
    /// The three largest things that are held, in words.
    fn largest(&self, on_device: bool) -> String {
        let bytes = |held: &Held| if on_device { held.device } else { held.host };
        let mut held: Vec<&Held> = self.held.iter().collect();
        held.sort_by(|a, b| bytes(b).total_cmp(&bytes(a)));
        held.iter().take(3).map(|held| format!("{} {}", held.what, size(bytes(held)))).collect::<Vec<_>>().join(", ")
    }
}

fn advice<'a>(savings: impl Iterator<Item = (&'a str, f64)>) -> String {
    let helpful: Vec<String> = savings
        .filter(|(_, saved)| *saved > 0.0)
        .take(3)
        .map(|(setting, saved)| format!("{setting} saves {}", size(saved)))
        .collect();
    match helpful.is_empty() {
        true => "choose a smaller model, or free memory".into(),
        false => helpful.join(", "),
    }
}

/// Bytes in words: `93 kB`, `512 MB`, `15.2 GB`.
pub fn size(bytes: f64) -> String {
    if bytes < 1e6 {
        format!("{:.0} kB", bytes / 1e3)
    } else if bytes < 1e9 {
        format!("{:.0} MB", bytes / 1e6)
    } else {
        format!("{:.1} GB", bytes / 1e9)
    }
}
