//! How a run begins: anew, or where an earlier process left it.

use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::{Config, Point, RunFolder, TrainError};

/// What a recipe starts from.
#[derive(Clone, Debug)]
pub enum Start {
    /// A new run.
    New(Box<Config>),
    /// The run in a folder, from its newest whole checkpoint; from the beginning where it has none yet.
    Resume {
        /// The run folder.
        dir: PathBuf,
        /// `KEY=VALUE` changes to its configuration: [`RESUMABLE`] keys, or ones that say what it already says.
        overrides: Vec<String>,
    },
}

impl From<Config> for Start {
    fn from(config: Config) -> Self {
        Self::New(Box::new(config))
    }
}

/// The keys that a resumed run may change: none of them changes what a step computes; `*` stands for any name.
///
/// (Where a reward of one's own or a server is asked, how many answers at once and how long it may take, may say whether it
/// answers, and not what.)
///
/// (With a learning rate that depends on the length of the run, `total_training_steps` changes the steps to come.)
pub const RESUMABLE: [&str; 15] = [
    "trainer.total_training_steps",
    "trainer.test_freq",
    "trainer.save_freq",
    "trainer.max_ckpt_to_keep",
    "sft.checkpoint_freq",
    "optimizer.offload",
    "reward.components.*.url",
    "reward.components.*.concurrency",
    "reward.components.*.timeout",
    "rollout.openai.base_urls",
    "rollout.openai.api_key_env",
    "rollout.openai.concurrency",
    "rollout.openai.timeout",
    "rollout.openai.retries",
    "logging.*",
];

/// What a recipe works in and with.
pub(crate) struct Opened {
    pub folder: RunFolder,
    pub config: Config,
    pub checkpoint: Option<Checkpoint>,
    /// Checkpoints after that one which cannot be used.
    pub damaged: Vec<PathBuf>,
}

impl Start {
    /// Takes the run folder; for a resumed run, finds its configuration and its newest whole checkpoint.
    pub(crate) fn open(self) -> Result<Opened, TrainError> {
        let (dir, overrides) = match self {
            Self::New(config) => {
                let folder = RunFolder::create(config.run_dir())?;
                return Ok(Opened { folder, config: *config, checkpoint: None, damaged: Vec::new() });
            }
            Self::Resume { dir, overrides } => (dir, overrides),
        };
        let folder = RunFolder::reopen(dir)?;
        let config = resumed_config(&folder, &overrides)?;
        let newest = Point::Step(usize::MAX);
        let (checkpoint, damaged) = Checkpoint::newest(&folder.checkpoints(), newest)?;
        if let Some(checkpoint) = &checkpoint {
            check_config(checkpoint, &folder, &config)?;
        }
        let steps = config.trainer.total_training_steps;
        if let Some(Point::Step(step)) = checkpoint.as_ref().map(|c| c.state.after)
            && step > steps
        {
            return Err(TrainError::Mismatch(format!(
                "{}: the run is at step {step} already, after trainer.total_training_steps = {steps}",
                folder.path().display()
            )));
        }
        Ok(Opened { folder, config, checkpoint, damaged })
    }
}

/// The folder's own configuration with the changes that a resumed run may make.
fn resumed_config(folder: &RunFolder, overrides: &[String]) -> Result<Config, TrainError> {
    let own = Config::load(&folder.config(), &[])?;
    let mut config = Config::load(&folder.config(), overrides)?;
    // These two say where the folder is, which may have been moved.
    (config.run.name, config.run.dir) = (own.run.name.clone(), own.run.dir.clone());
    let changed = fixed_differences(&own, &config);
    if !changed.is_empty() {
        return Err(TrainError::Mismatch(format!(
            "a resumed run keeps its own {}; leave the override out, or start a new run with another run.name (a resumed \
             run may change {})",
            changed.join(", "),
            RESUMABLE.join(", ")
        )));
    }
    Ok(config)
}

/// A configuration that was edited or damaged since the checkpoint would make another run of it.
fn check_config(checkpoint: &Checkpoint, folder: &RunFolder, config: &Config) -> Result<(), TrainError> {
    let file = checkpoint.config();
    let mut then = Config::load(&file, &[])?;
    (then.run.name, then.run.dir) = (config.run.name.clone(), config.run.dir.clone());
    match fixed_differences(&then, config).as_slice() {
        [] => Ok(()),
        changed => Err(TrainError::Mismatch(format!(
            "{}: {} changed since the run's last checkpoint; put back what {} says, or start a new run with another \
             run.name",
            folder.config().display(),
            changed.join(", "),
            file.display()
        ))),
    }
}

/// The keys in which two configurations differ and which a resumed run may not change.
fn fixed_differences(one: &Config, other: &Config) -> Vec<String> {
    let resumable = |key: &String| {
        RESUMABLE.iter().any(|allowed| match allowed.split_once('*') {
            Some((before, after)) => {
                key.strip_prefix(before).is_some_and(|rest| rest.len() > after.len() && rest.ends_with(after))
            }
            None => key == allowed,
        })
    };
    one.differences(other).into_iter().filter(|key| !resumable(key)).collect()
}
