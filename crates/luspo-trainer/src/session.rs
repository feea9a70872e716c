//! What a recipe works with: everything that a configuration names, loaded and checked before the first step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use luspo_core::{Purpose, RandomKey};
use luspo_data::{PromptDataset, SftExample};
use luspo_model::release_memory;
use luspo_reward::{CustomRewards, RewardPipeline};
use luspo_rollout::{Engine, Sampling};

use crate::base;
use crate::checkpoint::{Checkpoint, State};
use crate::evaluate::Exam;
use crate::fingerprint::DataHashes;
use crate::hub_models::locate_models;
use crate::inputs::{check_batch, check_dtype, lengths, refuse_adapters, write_task};
use crate::material::{Material, warnings};
use crate::objective::resolved;
use crate::outside::Outside;
use crate::plan::{check_memory, disk_warning};
use crate::recipe::Summary;
use crate::sft::FineTuning;
use crate::start::{Opened, Start};
use crate::tensorboard::TensorBoard;
use crate::{AdamW, Config, Evaluation, Metrics, Observer, Point, Policy, RunFolder, TrainError};

/// A run about to start, or under way.
pub struct Session {
    pub(crate) config: Config,
    /// What the folder keeps: every default filled in, and a built-in task instead of the files it was written to.
    pub(crate) resolved: Config,
    pub(crate) folder: RunFolder,
    pub(crate) policy: Policy,
    /// What samples, with its cache.
    pub(crate) engine: Engine,
    /// What samples the answers of training in its place, if the configuration says so.
    pub(crate) outside: Option<Outside>,
    train: Option<PromptDataset>,
    validation: Option<PromptDataset>,
    sft: Vec<SftExample>,
    pub(crate) rewards: RewardPipeline,
    pub(crate) data: DataHashes,
    /// Where an earlier process left the run.
    pub(crate) checkpoint: Option<Checkpoint>,
    damaged: Vec<PathBuf>,
    /// Commits of the models that come from the hub, by their names there.
    pub(crate) commits: BTreeMap<String, String>,
    /// SHA-256 of the reference policy, where a KL term needs one.
    pub(crate) reference: Option<String>,
    /// Fingerprint of the frozen base, where adapters are trained and the run has begun.
    pub(crate) base: Option<String>,
    /// Batches of training prompts that were drawn; one a step, and more with dynamic sampling.
    pub(crate) batches_drawn: u64,
    /// Validation before the first step, and the newest.
    pub(crate) before: Option<Evaluation>,
    pub(crate) after: Option<Evaluation>,
}

impl Session {
    /// Loads and checks everything, cheapest first. Nothing stays behind on failure, nor before [`begin`](Self::begin).
    ///
    /// # Errors
    /// Whatever is missing, malformed or does not fit together, by name.
    pub fn open(start: Start, rewards: &CustomRewards, observer: &mut dyn Observer) -> Result<Self, TrainError> {
        Self::load(start.open()?, rewards, observer)
    }

    pub(crate) fn load(
        opened: Opened,
        rewards: &CustomRewards,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let Opened { folder, mut config, checkpoint, damaged } = opened;
        let device = config.run.backend.device()?;
        check_dtype(&config, &device)?;
        config.reward.check_programs()?;
        let mut resolved = resolved(&config)?;
        let known = checkpoint.as_ref().map(|c| c.state.commits.clone()).unwrap_or_default();
        let commits = locate_models(&mut config, &known, observer)?;
        refuse_adapters(&config)?;
        write_task(&mut config, &folder, observer)?;

        let Material { tokenizer, shape, train, validation, sft, rewards, golds, leaked } =
            Material::read(&mut config, rewards, observer)?;
        resolved.settle(&shape);
        check_memory(&config, &shape, &lengths(&config, train.as_ref(), validation.as_ref(), &sft))?;
        warnings(&golds, leaked)
            .chain(disk_warning(&config, &shape, &folder)?)
            .for_each(|warning| observer.note(&warning));
        let data = DataHashes::of(train.as_ref(), validation.as_ref(), &sft)?;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check_data(&data)?;
        }
        let engine = Engine::new(config.rollout.limits())?;
        let outside = Outside::open(&config, &folder)?;
        let adapter = base::adapter(&resolved, &commits);
        let policy = base::policy(&config, &folder, checkpoint.as_ref(), shape, tokenizer, adapter, &device)?;
        observer.note(&format!(
            "policy: {:.1} M parameters in {} on {}",
            policy.config.num_params() as f64 / 1e6,
            config.dtype(),
            config.run.backend
        ));
        if policy.adapter.is_some() {
            let trained: usize = policy.model.adapters().map(Module::num_params).sum();
            let (trained, held) = (trained as f64 / 1e6, policy.model.held_dtype());
            observer.note(&format!(
                "adapters: {trained:.2} M parameters, which alone are trained; the base stays in {held}"
            ));
        }
        observer.note(&format!(
            "data: {} training prompts, {} validation prompts, {} worked examples",
            train.as_ref().map_or(0, PromptDataset::len),
            validation.as_ref().map_or(0, PromptDataset::distinct_len),
            sft.len()
        ));
        if let Some(checkpoint) = &checkpoint {
            observer.note(&format!("going on after {}, from {}", checkpoint.state.after, checkpoint.dir().display()));
        } else if RunFolder::has_begun(folder.path()) {
            observer.note("this run has no checkpoint yet; it starts from its beginning again");
        }
        let (before, after) =
            checkpoint.as_ref().map(|c| (c.state.before.clone(), c.state.validation.clone())).unwrap_or_default();
        let batches_drawn = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.state.batches_drawn);
        Ok(Self {
            config,
            resolved,
            folder,
            policy,
            engine,
            outside,
            train,
            validation,
            sft,
            rewards,
            data,
            checkpoint,
            damaged,
            commits,
            reference: None,
            base: None,
            batches_drawn,
            before,
            after,
        })
    }

    /// Begins the run folder: everything was checked, and from here on what is written stays. In a resumed run, whatever
    /// the earlier process wrote after its checkpoint goes, to be written again.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn begin(&mut self) -> Result<(), TrainError> {
        for dir in self.damaged.drain(..) {
            let place = Checkpoint::set_aside(&dir)?;
            log::warn!("{} was moved to {}", dir.display(), place.display());
        }
        let (sft, step) = match self.checkpoint.as_ref().map(|c| c.state.after) {
            Some(Point::Step(step)) => (Some(usize::MAX), Some(step)),
            Some(Point::Sft(step)) => (Some(step), None),
            None => (None, None),
        };
        self.folder.cut("sft_metrics.jsonl", sft)?;
        self.folder.cut("metrics.jsonl", step)?;
        self.folder.clean(step.unwrap_or(0))?;
        self.folder.begin(&self.resolved)?;
        self.base = match &self.checkpoint {
            Some(checkpoint) => checkpoint.state.base.clone(),
            None => base::begin(&self.config, &self.folder, &self.policy)?,
        };
        // The earlier process may have been killed between saving and this, or kept more.
        self.prune()
    }

    /// How many steps of reinforcement learning are done.
    pub fn steps_done(&self) -> usize {
        match self.checkpoint.as_ref().map(|c| c.state.after) {
            Some(Point::Step(step)) => step,
            _ => 0,
        }
    }

    /// The supervised warm-up, if the configuration has one and it is not done yet; the policy after it is validated
    /// if `validate` says so, and saved as step 0.
    ///
    /// # Errors
    /// A loss that is not finite, a file that cannot be written, or [`TrainError::Interrupted`].
    pub fn warm_up(&mut self, validate: bool, observer: &mut dyn Observer) -> Result<Option<PathBuf>, TrainError> {
        let (first, optimizer) = match &self.checkpoint {
            Some(Checkpoint { state: State { after: Point::Step(_), .. }, .. }) => return Ok(self.saved()),
            Some(Checkpoint { state: State { after: Point::Sft(step), .. }, .. }) => (*step, true),
            None => (0, false),
        };
        let Some(config) = self.config.sft.clone().filter(|sft| sft.steps > 0) else {
            if validate {
                self.before = self.validate_alone(0, observer)?;
            }
            return Ok(None);
        };
        let adamw = config.optimizer().offloaded(self.config.optimizer.offload);
        let optimizer = match optimizer {
            true => self.restored_optimizer(adamw)?,
            false => AdamW::new(adamw),
        };
        let memory = self.config.memory_options();
        let examples = std::mem::take(&mut self.sft);
        let mut tuning = FineTuning::new(&examples, &config, self.config.run.seed, memory, first, optimizer);
        // A run of its own in TensorBoard, because its steps are not those of reinforcement learning.
        let mut tensorboard = match self.config.logging.tensorboard {
            true => Some(TensorBoard::create(&self.folder.path().join("sft"), first as u64 + 1)?),
            false => None,
        };
        while tuning.steps() < config.steps {
            let metrics = tuning.step(&mut self.policy)?;
            let step = tuning.steps();
            if self.config.logging.jsonl {
                self.folder.append("sft_metrics.jsonl", &metrics)?;
            }
            if let Some(tensorboard) = &mut tensorboard {
                tensorboard.write(&metrics)?;
            }
            observer.sft_step(step, config.steps, &metrics);
            if step < config.steps {
                let due = config.checkpoint_freq > 0 && step.is_multiple_of(config.checkpoint_freq);
                let interrupted = observer.interrupted();
                if due || interrupted {
                    let place = self.save(Point::Sft(step), Some(tuning.optimizer()), None, observer)?;
                    self.stop_if(interrupted, Point::Sft(step), &place)?;
                }
            }
        }
        drop(tuning);
        self.release_memory();
        if validate {
            observer.phase(0, config.steps, "validating");
            self.before = self.validate_alone(0, observer)?;
        }
        observer.phase(0, config.steps, "saving");
        let place = self.save(Point::Step(0), None, None, observer)?;
        self.stop_if(observer.interrupted(), Point::Step(0), &place)?;
        Ok(Some(place))
    }

    /// Ends the run where it was asked to stop, now that its checkpoint is written.
    pub(crate) fn stop_if(&self, interrupted: bool, after: Point, checkpoint: &Path) -> Result<(), TrainError> {
        match interrupted {
            true => {
                let (checkpoint, config) = (checkpoint.into(), self.folder.config());
                Err(TrainError::Interrupted { after, checkpoint, config })
            }
            false => Ok(()),
        }
    }

    /// What the run leaves behind, with its final policy.
    pub(crate) fn summary(self, policy: Option<PathBuf>) -> Summary {
        let dir = self.folder.path().to_path_buf();
        Summary { policy: policy.unwrap_or_else(|| dir.clone()), dir, before: self.before, after: self.after }
    }

    /// The policy of the checkpoint that the run goes on from.
    fn saved(&self) -> Option<PathBuf> {
        self.checkpoint.as_ref().map(Checkpoint::policy)
    }

    /// The training prompts, handed over.
    ///
    /// # Errors
    /// None, or fewer than a batch.
    pub fn training_prompts(&mut self) -> Result<PromptDataset, TrainError> {
        match self.train.take() {
            None => Err(TrainError::Mismatch("data.train_files is empty; name Parquet files or a [data.task]".into())),
            Some(prompts) => check_batch(&self.config, &prompts).map(|()| prompts),
        }
    }

    /// How answers are sampled for training.
    pub fn sampling(&self) -> Sampling {
        let rollout = &self.config.rollout;
        Sampling {
            temperature: rollout.temperature,
            top_k: rollout.top_k,
            top_p: rollout.top_p,
            min_p: rollout.min_p,
            ..self.endings()
        }
    }

    /// When an answer ends and what it may repeat, the same for training and validation; greedy.
    pub(crate) fn endings(&self) -> Sampling {
        let rollout = &self.config.rollout;
        let mut sampling = self.policy.sampling(self.config.data.max_response_length);
        sampling.stop_token_ids.extend(&rollout.stop_token_ids);
        sampling.stop.clone_from(&rollout.stop);
        sampling.min_tokens = rollout.min_tokens;
        sampling.repetition_penalty = rollout.repetition_penalty;
        sampling
    }

    /// What follows on sampling: the cache's memory is given back, unless the run keeps it. Returns what
    /// [`release_memory`] does.
    pub(crate) fn sampled(&mut self) -> Option<u64> {
        if self.config.rollout.free_cache_engine {
            self.engine.release();
        }
        self.release_memory()
    }

    /// Gives back the memory that the device keeps for later: [`release_memory`].
    pub(crate) fn release_memory(&self) -> Option<u64> {
        release_memory(&self.policy.model.device())
    }

    /// Judges the policy on the validation prompts; nothing without validation files.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn validate(&mut self, step: usize, observer: &mut dyn Observer) -> Result<Option<Evaluation>, TrainError> {
        let Some(prompts) = &self.validation else { return Ok(None) };
        let eval = &self.config.eval;
        let (temperature, top_k) = (eval.val_temperature, eval.val_top_k);
        let sampling = Sampling { temperature, top_k, top_p: eval.val_top_p, min_p: eval.val_min_p, ..self.endings() };
        let exam = Exam {
            prompts: &prompts.distinct()?,
            rewards: &self.rewards,
            n: eval.val_n,
            sampling: &sampling,
            key: RandomKey::new(self.config.run.seed, Purpose::Validation).at(step as u64),
        };
        let evaluation = exam.evaluate(&self.policy, &mut self.engine)?;
        self.engine.take_statistics(); // a step's are of its own answers
        self.sampled();
        observer.validation(step, &evaluation);
        Ok(Some(evaluation))
    }

    /// Validates and records the result as its own line of `metrics.jsonl`.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), or a file that cannot be written.
    pub fn validate_alone(
        &mut self,
        step: usize,
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluation>, TrainError> {
        let evaluation = self.validate(step, observer)?;
        if let Some(evaluation) = &evaluation {
            let mut metrics = Metrics::of_step(step);
            metrics.extend(evaluation.metrics());
            if self.config.logging.jsonl {
                self.folder.append("metrics.jsonl", &metrics)?;
            }
        }
        Ok(evaluation)
    }
}
