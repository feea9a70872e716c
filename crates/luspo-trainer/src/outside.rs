//! Answers from servers: new weights for them, and answers ahead of their step.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use luspo_core::{Prompt, RandomKey, Rollout};
use luspo_rollout::openai::{OpenAiError, Servers};
use luspo_rollout::{Request, Sampling};

use crate::config::{EngineKind, WeightUpdates};
use crate::{Config, Policy, RunFolder, TrainError};

/// The servers of a run.
pub(crate) struct Outside {
    servers: Arc<Servers>,
    updates: WeightUpdates,
    /// Where they find new weights.
    folder: PathBuf,
    /// After which step their weights are the policy's; none where nobody gave them any.
    weights: Option<usize>,
    ahead: Option<Ahead>,
}

/// The answers of a step to come.
struct Ahead {
    step: usize,
    prompts: Vec<u64>,
    weights: Option<usize>,
    answers: JoinHandle<Result<Vec<Rollout>, OpenAiError>>,
}

/// The groups that are wanted of a step.
pub(crate) struct Wanted<'a> {
    pub step: usize,
    pub prompts: &'a [Prompt],
    pub n: usize,
    pub sampling: &'a Sampling,
    pub key: RandomKey,
}

impl Wanted<'_> {
    fn ids(&self) -> Vec<u64> {
        self.prompts.iter().map(|prompt| prompt.id).collect()
    }
}

impl Outside {
    /// The servers that the configuration names, if it names any.
    ///
    /// # Errors
    /// A token that is missing from the environment, or a server that does not answer.
    pub fn open(config: &Config, folder: &RunFolder) -> Result<Option<Self>, TrainError> {
        let (EngineKind::OpenAi, Some(openai)) = (config.rollout.engine, &config.rollout.openai) else {
            return Ok(None);
        };
        let token = openai.api_key_env.as_ref().map(|name| {
            std::env::var(name).map_err(|_| {
                TrainError::Mismatch(format!(
                    "rollout.openai.api_key_env names {name}, which is not in the environment"
                ))
            })
        });
        let servers = Servers::connect(openai.options(token.transpose()?))?;
        let folder = folder.path().join("rollout_weights");
        let folder = std::path::absolute(&folder).map_err(|source| TrainError::Read { file: folder, source })?;
        Ok(Some(Self { servers: servers.into(), updates: openai.weights, folder, weights: None, ahead: None }))
    }

    /// The answers of a step, and how many steps behind the policy they are: those that were sampled ahead, if they
    /// were. Each is shown as it comes, with its position.
    ///
    /// # Errors
    /// Servers that give none.
    pub fn sample(
        &mut self,
        policy: &Policy,
        wanted: &Wanted<'_>,
        show: &(dyn Fn(usize, &Rollout) + Sync),
    ) -> Result<(Vec<Rollout>, usize), TrainError> {
        let behind = |weights: Option<usize>| wanted.step - 1 - weights.unwrap_or(0);
        if let Some(Ahead { step, prompts, weights, answers }) = self.ahead.take() {
            let answers = answers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if step == wanted.step && prompts == wanted.ids() {
                let answers = answers?;
                answers.iter().enumerate().for_each(|(index, answer)| show(index, answer));
                return Ok((answers, behind(weights)));
            }
        }
        self.refresh(policy, wanted.step - 1)?;
        let requests = policy.requests(wanted.prompts, wanted.n, wanted.sampling)?;
        let answers =
            self.servers.generate(&requests, wanted.sampling, wanted.key, &policy.tokenizer, |start, answers| {
                answers.iter().zip(start..).for_each(|(answer, index)| show(index, answer));
            })?;
        Ok((answers, behind(self.weights)))
    }

    /// Begins with the answers of a step while the one before it still learns.
    ///
    /// # Errors
    /// New weights that do not reach the servers, or a prompt that is too long.
    pub fn begin(&mut self, policy: &Policy, wanted: &Wanted<'_>) -> Result<(), TrainError> {
        self.refresh(policy, wanted.step - 2)?;
        policy.requests(wanted.prompts, wanted.n, wanted.sampling)?; // checked here, where an error ends the step
        let (servers, tokenizer) = (self.servers.clone(), policy.tokenizer.clone());
        let (sampling, key, samples) = (wanted.sampling.clone(), wanted.key, wanted.n as u32);
        let prompts: Vec<(u64, Vec<u32>)> = wanted.prompts.iter().map(|p| (p.id, p.token_ids.clone())).collect();
        let answers = std::thread::spawn(move || {
            let requests: Vec<Request<'_>> =
                prompts.iter().map(|(id, ids)| Request { prompt_id: *id, prompt_ids: ids, samples }).collect();
            servers.generate(&requests, &sampling, key, &tokenizer, |_, _| {})
        });
        self.ahead = Some(Ahead { step: wanted.step, prompts: wanted.ids(), weights: self.weights, answers });
        Ok(())
    }

    /// Gives the servers the weights that the policy has after this step, if they have others.
    fn refresh(&mut self, policy: &Policy, step: usize) -> Result<(), TrainError> {
        if self.updates == WeightUpdates::None || self.weights == Some(step) {
            return Ok(());
        }
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder).map_err(TrainError::write(&self.folder))?;
        }
        policy.save_merged(&self.folder)?;
        self.servers.update_weights(&self.folder)?;
        self.weights = Some(step);
        Ok(())
    }
}
