use std::io;
use std::path::{Path, PathBuf};

use crate::Point;

/// Why a run could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A configuration file says something impossible.
    #[error("{file}: {problem}")]
    Config {
        /// The configuration file.
        file: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A `KEY=VALUE` override cannot be applied.
    #[error("override `{word}`: {problem}")]
    Override {
        /// The override as given.
        word: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder cannot be written.
    #[error("{file}: cannot be written: {source}")]
    Write {
        /// The file or folder.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of rollouts is damaged, or not one of luspo's.
    #[error("{file}: not a readable file of rollouts: {problem}")]
    RolloutFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of an evaluation's answers is damaged, or not one of luspo's.
    #[error("{file}: not a readable file of answers: {problem}; remove it, and what it held is sampled again")]
    AnswerFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A folder is not that of the evaluation that is to be done in it.
    #[error("{dir}: {problem}")]
    Evaluation {
        /// The folder.
        dir: PathBuf,
        /// What it holds, and what to do.
        problem: String,
    },
    /// The run folder holds a run, or something else.
    #[error(
        "{dir}: the folder is not empty; continue its run with --resume, or give this run another with run.name=NAME or \
         run.dir=DIR"
    )]
    RunExists {
        /// The run folder.
        dir: PathBuf,
    },
    /// Another process works in the run folder.
    #[error("{dir}: another process is running this run; wait until it ends, or stop it")]
    RunInUse {
        /// The run folder.
        dir: PathBuf,
    },
    /// There is no run in the folder.
    #[error("{dir}: no run has begun here (there is no config.toml); give the folder of a run")]
    NoRun {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder of a run's checkpoints is gone or cannot be read.
    #[error("{dir}: the run's checkpoints cannot be read: {source}; put the folder back, or name the folder of a run")]
    NoCheckpoints {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of a checkpoint is missing or not what was written.
    #[error("checkpoint {dir} is damaged: {problem}")]
    CheckpointDamaged {
        /// The checkpoint's folder.
        dir: PathBuf,
        /// Which file, and what is wrong with it.
        problem: String,
    },
    /// The run was asked to stop, and did so after writing a checkpoint.
    #[error("interrupted after {after}; the run can be continued from {checkpoint}")]
    Interrupted {
        /// The last thing done.
        after: Point,
        /// The checkpoint of that moment.
        checkpoint: PathBuf,
        /// The run's resolved configuration.
        config: PathBuf,
    },
    /// A step cannot be replayed.
    #[error("step {step} of {dir} cannot be replayed: {problem}")]
    Replay {
        /// The step.
        step: usize,
        /// The run folder.
        dir: PathBuf,
        /// What is missing or damaged.
        problem: String,
    },
    /// A run takes more memory than there is.
    #[error("{0}")]
    Memory(Box<Shortage>),
    /// A run's checkpoints take more space than there is.
    #[error(
        "the checkpoints take {needed} in {dir}, up to {at_once} at once, but there are {available} free; lower \
         trainer.max_ckpt_to_keep, save less often, choose another run.dir, or free space"
    )]
    DiskSpace {
        /// The run folder.
        dir: PathBuf,
        /// What they take, in words.
        needed: String,
        /// What is free, in words.
        available: String,
        /// Checkpoints that are there at once.
        at_once: usize,
    },
    /// The configuration and the data or model that it names do not go together.
    #[error("{0}")]
    Mismatch(String),
    /// The updates of the policy, or of the critic, are not finite, again and again.
    #[error(
        "step {step}: {count} updates in a row had a non-finite loss or gradient and were skipped; the last batch is in \
         {file}. Lower {lr} or look at the batch"
    )]
    Diverged {
        /// The step at which the run stopped.
        step: usize,
        /// How many updates in a row were skipped.
        count: usize,
        /// The key of their learning rate.
        lr: &'static str,
        /// Where the last skipped batch was written.
        file: PathBuf,
    },
    /// The warm-up's loss or gradient is not finite.
    #[error("fine-tuning step {step}: loss {loss}, gradient norm {grad_norm}; lower sft.lr or look at the examples")]
    WarmUpDiverged {
        /// The step of the warm-up.
        step: usize,
        /// Its loss.
        loss: f64,
        /// Its gradient's global norm.
        grad_norm: f64,
    },
    /// Sampler and trainer disagree about the log-probs of the sampled tokens.
    #[error(
        "step {step}: the sampler's log-probs differ from the trainer's by {measure} {gap:.1e} (allowed {allowed:.0e}); the \
         gradients would be of another policy than the one that sampled. The rows are in {file}"
    )]
    LogProbGap {
        /// The step at which the run stopped.
        step: usize,
        /// Which difference over the response tokens: `up to`, the largest (f32), or `on average` (bf16).
        measure: &'static str,
        /// That difference, in nats.
        gap: f64,
        /// The largest one that a run goes on with.
        allowed: f64,
        /// Where the rows were written.
        file: PathBuf,
    },
    /// From the objectives.
    #[error(transparent)]
    Algo(#[from] luspo_algo::AlgoError),
    /// From the datasets and the tokenizer.
    #[error(transparent)]
    Data(#[from] luspo_data::DataError),
    /// From the model and its files.
    #[error(transparent)]
    Model(#[from] luspo_model::ModelError),
    /// From the verifiers.
    #[error(transparent)]
    Reward(#[from] luspo_reward::RewardError),
    /// From the sampler.
    #[error(transparent)]
    Rollout(#[from] luspo_rollout::RolloutError),
    /// From the servers that sample (`rollout.engine = "openai"`).
    #[error(transparent)]
    OpenAi(#[from] luspo_rollout::openai::OpenAiError),
}

impl TrainError {
    /// What became of writing `file`.
    pub(crate) fn write(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Write { file, source }
    }
}

/// The memory that a run takes and that there is not.
#[derive(Debug, thiserror::Error)]
#[error("{phase} takes {needed} of memory ({held}), but {place} has {available}; {advice}")]
pub struct Shortage {
    /// The phase that takes most.
    pub phase: &'static str,
    /// What it takes, in words.
    pub needed: String,
    /// The largest parts of that.
    pub held: String,
    /// `the device` or `this machine`.
    pub place: &'static str,
    /// What it has, in words.
    pub available: String,
    /// What would help, and by how much.
    pub advice: String,
}
