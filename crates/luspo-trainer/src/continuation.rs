//! What a run takes over from a checkpoint, and what it leaves in one.

use std::path::PathBuf;

use burn::module::Module;
use luspo_core::{Purpose, RandomKey};
use luspo_model::{Pretrained, Qwen2ForCausalLM, Qwen2ForTokenClassification};

use crate::checkpoint::{Checkpoint, Models, State};
use crate::config::OptimizerConfig;
use crate::critic::Critic;
use crate::fingerprint::sha256;
use crate::learner::{Learner, LearnerState};
use crate::session::Session;
use crate::{AdamW, Observer, Point, TrainError};

impl Session {
    /// Gives the learner what it has beside the configuration: the reference policy, the critic, and in a resumed run
    /// their history.
    ///
    /// # Errors
    /// A checkpoint of step 0 that is missing or damaged, a critic that cannot be loaded, or a starting policy that
    /// changed since the run began.
    pub(crate) fn prepare(&mut self, learner: &mut Learner) -> Result<(), TrainError> {
        if learner.needs_reference() {
            let reference = self.starting_policy()?;
            let sha256 = sha256(&reference, reference.dtype());
            let expected = self.checkpoint.as_ref().and_then(|c| c.state.reference.as_ref());
            if expected.is_some_and(|expected| *expected != sha256) {
                return Err(TrainError::Mismatch(
                    "the starting policy, which the KL term is measured against, is not the one that this run began with; \
                     put its files back"
                        .into(),
                ));
            }
            learner.set_reference(reference);
            self.reference = Some(sha256);
        }
        if learner.needs_critic() {
            learner.set_critic(self.critic()?);
        }
        if let Some(checkpoint) = &self.checkpoint
            && self.steps_done() > 0
        {
            let optimizer = self.restored_optimizer(self.config.optimizer.clone())?;
            learner.restore(optimizer, &checkpoint.state.learner);
        }
        Ok(())
    }

    /// The optimizer of the policy as the checkpoint has it; without history where it has none.
    pub(crate) fn restored_optimizer(&self, config: OptimizerConfig) -> Result<AdamW, TrainError> {
        let Some((checkpoint, file)) = self.checkpoint.as_ref().and_then(|c| Some((c, c.optimizer()?))) else {
            return Ok(AdamW::new(config));
        };
        let model = &self.policy.model;
        AdamW::load(config, checkpoint.state.learner.optimizer_updates, &file, model.parameter_names(), model)
    }

    /// The critic as the checkpoint has it, or a new one.
    fn critic(&self) -> Result<Critic, TrainError> {
        let Some((checkpoint, dir)) = self.checkpoint.as_ref().and_then(|c| Some((c, c.critic()?))) else {
            return Critic::new(&self.config, &self.policy);
        };
        let device = self.config.run.backend.device()?;
        let key = RandomKey::new(self.config.run.seed, Purpose::Critic);
        let (model, _) = Qwen2ForTokenClassification::load_as(&dir, key, &device.autodiff(), self.config.dtype())?;
        let mut critic = Critic::with(&self.config, model)?;
        let LearnerState { critic_updates, critic_skipped_in_a_row, .. } = checkpoint.state.learner;
        critic.guard.skipped = critic_skipped_in_a_row;
        if let Some(file) = checkpoint.critic_optimizer() {
            let names = critic.model.parameter_names();
            let config = self.config.critic.optimizer().offloaded(self.config.optimizer.offload);
            critic.optimizer = AdamW::load(config, critic_updates, &file, names, &critic.model)?;
        }
        Ok(critic)
    }

    /// The policy from before the first step: that of the warm-up, or the one that the configuration names. Where adapters
    /// are trained it shares the weights of the base, and has an adapter only after a warm-up.
    fn starting_policy(&self) -> Result<Qwen2ForCausalLM, TrainError> {
        let (now, adapter) = (self.policy.model.valid(), &self.policy.adapter);
        let warm_up = self.config.sft.as_ref().is_some_and(|sft| sft.steps > 0);
        if adapter.is_some() && !warm_up {
            return Ok(now.without_lora());
        }
        if self.steps_done() == 0 {
            return Ok(now);
        }
        let (device, dtype) = (self.config.run.backend.device()?, self.config.dtype());
        if warm_up {
            let policy = Checkpoint::open(&self.folder.checkpoints().join(Point::Step(0).folder()))?.policy();
            return match adapter {
                Some(adapter) => Ok(adapter.load(&policy, &now)?),
                None => Ok(Pretrained::load_as(&policy, &device, dtype)?.model),
            };
        }
        Ok(match &self.config.model.path {
            Some(path) => Pretrained::load_as(path, &device, dtype)?.model,
            None => {
                let key = RandomKey::new(self.config.run.seed, Purpose::Init);
                Qwen2ForCausalLM::init(&self.policy.config, key, &device).cast(dtype)
            }
        })
    }

    /// Writes the checkpoint of a moment of the run, removes the ones that are not to be kept, and returns the
    /// policy's folder.
    ///
    /// # Errors
    /// A folder that cannot be written; the checkpoints before it are as they were then.
    pub fn save(
        &self,
        after: Point,
        optimizer: Option<&AdamW>,
        learner: Option<&Learner>,
        observer: &mut dyn Observer,
    ) -> Result<PathBuf, TrainError> {
        let optimizer_updates = optimizer.map_or(0, AdamW::updates);
        let warm_up = || LearnerState { optimizer_updates, ..LearnerState::default() };
        let state = State {
            after,
            seed: self.config.run.seed,
            batches_drawn: self.batches_drawn,
            learner: learner.map_or_else(warm_up, Learner::state),
            data: self.data.clone(),
            reference: self.reference.clone(),
            base: self.base.clone(),
            commits: self.commits.clone(),
            before: self.before.clone(),
            validation: self.after.clone(),
        };
        let models = Models { policy: &self.policy, optimizer, critic: learner.and_then(Learner::critic) };
        let place = Checkpoint::save(&self.folder.checkpoints(), &self.resolved, &models, &state)?;
        self.prune()?;
        let policy = place.join("policy");
        observer.saved(after, &policy);
        Ok(policy)
    }

    /// Removes the checkpoints that are not to be kept.
    pub(crate) fn prune(&self) -> Result<(), TrainError> {
        match self.config.trainer.max_ckpt_to_keep {
            Some(keep) => Checkpoint::prune(&self.folder.checkpoints(), keep),
            None => Ok(()),
        }
    }
}
