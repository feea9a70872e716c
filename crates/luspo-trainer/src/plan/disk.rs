//! The space that a run's checkpoints take, and what there is.

use std::fs;
use std::path::{Path, PathBuf};

use luspo_model::{ModelMemory, Qwen2Config};
use serde::Serialize;

use super::fit::size;
use super::sources;
use crate::config::LoraConfig;
use crate::{Config, RunFolder, TrainError};

/// The space that a run's checkpoints take, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disk {
    /// The run folder.
    pub dir: PathBuf,
    /// A checkpoint after a step: weights and moments, of the critic too where there is one.
    pub checkpoint: f64,
    /// Those that are there at once, at most: the kept ones and the one that is written.
    pub at_once: usize,
    /// The weights that are kept from the start: the policy after the warm-up, the base of adapters.
    pub start: f64,
}

impl Disk {
    /// Of a configuration whose models have these shapes.
    pub(super) fn of(config: &Config, policy: &Qwen2Config, critic: &Qwen2Config) -> Self {
        let model = |shape| ModelMemory::new(shape, config.dtype(), config.run.backend);
        let lora = config.model.lora.as_ref().map(LoraConfig::adapter);
        let whole = model(policy);
        let trained = match &lora {
            Some(lora) => model(policy).with_lora(lora),
            None => model(policy),
        };
        let moments = |model: &ModelMemory<'_>| model.trained_in_f32() * if model.has_masters() { 3.0 } else { 2.0 };
        let weights = if lora.is_some() { trained.trained_in_f32() } else { whole.parameters() };
        let critic = (config.algorithm.adv_estimator == "gae").then(|| model(critic));
        let of_critic = critic.map_or(0.0, |critic| critic.parameters() + moments(&critic));
        let warm_up = config.sft.as_ref().filter(|sft| sft.steps > 0);
        let base = if lora.is_some() && config.model.init.is_some() { whole.parameters() } else { 0.0 };
        let every = |steps: usize, frequency: usize| steps.checked_div(frequency).unwrap_or(0);
        let steps = config.trainer.total_training_steps;
        let saves = every(steps.saturating_sub(1), config.trainer.save_freq) + usize::from(steps > 0);
        let warm_up_saves = warm_up.map_or(0, |sft| every(sft.steps - 1, sft.checkpoint_freq));
        let kept = config.trainer.max_ckpt_to_keep.map_or(usize::MAX, |keep| keep.saturating_add(1));
        Self {
            dir: config.run_dir(),
            checkpoint: weights + moments(&trained) + of_critic,
            at_once: (saves + warm_up_saves).min(kept),
            start: base + if warm_up.is_some() || steps == 0 { weights } else { 0.0 },
        }
    }

    /// Everything, in bytes.
    pub fn total(&self) -> f64 {
        self.start + self.checkpoint * self.at_once as f64
    }

    /// The bytes that are free where the run folder is or will be, those of its checkpoints included; None where the
    /// system does not say.
    pub fn available(&self) -> Option<u64> {
        let there = self.dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
        let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        free(there).map(|free| free + bytes_in(&self.dir.join("checkpoints")))
    }

    /// Refuses a run whose checkpoints take more than there is.
    ///
    /// # Errors
    /// [`TrainError::DiskSpace`].
    pub fn check(&self, available: Option<u64>) -> Result<(), TrainError> {
        match available.filter(|available| self.total() > *available as f64) {
            None => Ok(()),
            Some(available) => Err(TrainError::DiskSpace {
                dir: self.dir.clone(),
                needed: size(self.total()),
                available: size(available as f64),
                at_once: self.at_once,
            }),
        }
    }
}

/// What a run says that may not have the space for its checkpoints. It starts all the same: others may make room before
/// it is needed, and what was saved stays whole.
pub(crate) fn disk_warning(
    config: &Config,
    policy: &Qwen2Config,
    folder: &RunFolder,
) -> Result<Option<String>, TrainError> {
    let critic = sources::critic(config)?.unwrap_or_else(|| policy.clone());
    let disk = Disk { dir: folder.path().into(), ..Disk::of(config, policy, &critic) };
    Ok(disk.check(disk.available()).err().map(|error| format!("warning: {error}")))
}

#[cfg(unix)]
fn free(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free(_dir: &Path) -> Option<u64> {
    None
}

/// Bytes of all files below a folder; 0 where it is not there.
fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_in(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SftConfig;

    fn disk(change: impl FnOnce(&mut Config)) -> Disk {
        let mut config = Config::default();
        config.trainer.total_training_steps = 10;
        change(&mut config);
        let shape = Qwen2Config::new(259, 16, 32, 1, 2, 1);
        Disk::of(&config, &shape, &shape)
    }

    #[test]
    fn checkpoints_are_counted_as_they_are_written_and_removed() {
        assert_eq!(disk(|_| ()).at_once, 1, "the last alone");
        assert_eq!(disk(|config| config.trainer.save_freq = 5).at_once, 2);
        assert_eq!(disk(|config| config.trainer.save_freq = 3).at_once, 4);
        let keeping = |config: &mut Config, keep| {
            (config.trainer.save_freq, config.trainer.max_ckpt_to_keep) = (3, Some(keep));
        };
        assert_eq!(disk(|config| keeping(config, 1)).at_once, 2, "the newest, and the one that is written");
        assert_eq!(disk(|config| keeping(config, 9)).at_once, 4);
        let warm_up = |config: &mut Config| {
            config.sft = Some(SftConfig { steps: 10, checkpoint_freq: 4, ..SftConfig::default() });
        };
        assert_eq!(disk(warm_up).at_once, 3);
        let plain = disk(|_| ());
        assert_eq!((plain.start, disk(warm_up).start), (0.0, plain.checkpoint / 3.0), "weights without moments");
        assert!(disk(|config| config.algorithm.adv_estimator = "gae".into()).checkpoint > 1.9 * plain.checkpoint);
    }

    #[test]
    fn what_is_too_much_is_refused_with_both_numbers() {
        let disk = Disk { dir: "runs/a".into(), checkpoint: 2e9, at_once: 3, start: 1e9 };
        assert!(disk.check(None).is_ok() && disk.check(Some(7_000_000_000)).is_ok());
        let error = disk.check(Some(6_999_999_999)).unwrap_err().to_string();
        for part in ["runs/a", "7.0 GB", "3 at once", "trainer.max_ckpt_to_keep"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn space_is_free_where_the_folder_will_be_and_where_checkpoints_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |dir: PathBuf| Disk { dir, checkpoint: 0.0, at_once: 1, start: 0.0 }.available().unwrap();
        assert!(at(dir.path().join("not/yet")) > 0);
        fs::create_dir_all(dir.path().join("checkpoints/step_000001")).unwrap();
        fs::write(dir.path().join("checkpoints/step_000001/weights"), [0; 100]).unwrap();
        assert_eq!(bytes_in(&dir.path().join("checkpoints")), 100);
    }
}
