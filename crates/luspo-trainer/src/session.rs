//! What a recipe works with: everything that a configuration names, loaded and checked before the first step.

use std::collections::HashSet;
use std::path::PathBuf;

use luspo_core::{Purpose, RandomKey};
use luspo_data::{PromptDataset, SftExample, Tokenizer, load_sft, read_rows, task};
use luspo_model::Qwen2Config;
use luspo_reward::RewardPipeline;
use luspo_rollout::Sampling;

use crate::config::InitConfig;
use crate::evaluate::evaluate;
use crate::learner::resolved;
use crate::{Config, Evaluation, Metrics, Observer, Policy, RunFolder, TrainError, sft};

/// A run about to start, or under way.
pub struct Session {
    pub(crate) config: Config,
    /// What the folder keeps: every default filled in, and a built-in task instead of the files it was written to.
    resolved: Config,
    pub(crate) folder: RunFolder,
    pub(crate) policy: Policy,
    train: Option<PromptDataset>,
    validation: Option<PromptDataset>,
    sft: Vec<SftExample>,
    pub(crate) rewards: RewardPipeline,
}

impl Session {
    /// Loads and checks everything, cheapest first. Nothing stays behind on failure, nor before [`begin`](Self::begin).
    ///
    /// # Errors
    /// Whatever is missing, malformed or does not fit together, by name.
    pub fn open(mut config: Config, observer: &mut dyn Observer) -> Result<Self, TrainError> {
        let device = config.run.backend.device()?;
        let folder = RunFolder::create(config.run_dir())?;
        let resolved = resolved(&config)?;
        write_task(&mut config, &folder, observer)?;

        let tokenizer = tokenizer(&config, observer)?;
        let shape = model_shape(&config, &tokenizer)?;
        check_lengths(&config, &shape)?;
        let data = &config.data;
        let load = |files: &[PathBuf]| -> Result<Option<PromptDataset>, TrainError> {
            if files.is_empty() {
                return Ok(None);
            }
            Ok(Some(PromptDataset::load(files, &tokenizer, data.max_prompt_length, data.prompt_overlong)?))
        };
        let (train, validation) = (load(&data.train_files)?, load(&data.val_files)?);
        let sources = [&train, &validation].into_iter().flatten().flat_map(|d| d.prompts()).map(|p| &p.data_source);
        let rewards = RewardPipeline::new(&config.reward, data.max_response_length, sources)?;
        let sft = match &config.sft {
            Some(sft) if sft.steps > 0 => {
                let longest = data.max_prompt_length + data.max_response_length;
                load_sft(&sft.files, &tokenizer, &sft.answer_key, longest)?
            }
            _ => Vec::new(),
        };
        warn_of_leaks(train.as_ref(), &sft, validation.as_ref(), observer);
        let policy = match &config.model.path {
            Some(path) => Policy::load_with(path, tokenizer, &device)?,
            None => Policy::init(shape, tokenizer, RandomKey::new(config.run.seed, Purpose::Init), &device)?,
        };
        observer.note(&format!(
            "policy: {:.1} M parameters on {}",
            policy.config.num_params() as f64 / 1e6,
            config.run.backend
        ));
        observer.note(&format!(
            "data: {} training prompts, {} validation prompts, {} worked examples",
            train.as_ref().map_or(0, PromptDataset::len),
            validation.as_ref().map_or(0, |v| v.distinct().len()),
            sft.len()
        ));
        Ok(Self { config, resolved, folder, policy, train, validation, sft, rewards })
    }

    /// Begins the run folder: everything was checked, and from here on what is written stays.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn begin(&mut self) -> Result<(), TrainError> {
        self.folder.begin(&self.resolved)
    }

    /// The supervised warm-up, if the configuration has one; the policy after it is saved as step 0, and
    /// its folder returned.
    ///
    /// # Errors
    /// A loss that is not finite, or a file that cannot be written.
    pub fn warm_up(&mut self, observer: &mut dyn Observer) -> Result<Option<PathBuf>, TrainError> {
        let Some(config) = self.config.sft.clone().filter(|sft| sft.steps > 0) else { return Ok(None) };
        let chunk = self.config.model.log_prob_chunk;
        let folder = &self.folder;
        sft::fine_tune(&mut self.policy, &self.sft, &config, self.config.run.seed, chunk, |step, metrics| {
            observer.sft_step(step, config.steps, metrics);
            folder.append("sft_metrics.jsonl", metrics)
        })?;
        self.save(0, observer).map(Some)
    }

    /// The training prompts, handed over.
    ///
    /// # Errors
    /// None, or fewer than a batch.
    pub fn training_prompts(&mut self) -> Result<PromptDataset, TrainError> {
        let batch = self.config.data.train_batch_size;
        match self.train.take() {
            None => Err(TrainError::Mismatch("data.train_files is empty; name Parquet files or a [data.task]".into())),
            Some(prompts) if prompts.len() < batch => Err(TrainError::Mismatch(format!(
                "data.train_batch_size = {batch}, but there are only {} training prompts",
                prompts.len()
            ))),
            Some(prompts) => Ok(prompts),
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
            ..self.policy.sampling(self.config.data.max_response_length)
        }
    }

    /// Judges the policy on the validation prompts; nothing without validation files.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn validate(&self, step: usize, observer: &mut dyn Observer) -> Result<Option<Evaluation>, TrainError> {
        let Some(prompts) = &self.validation else { return Ok(None) };
        let mut sampling = self.policy.sampling(self.config.data.max_response_length);
        sampling.temperature = self.config.eval.val_temperature;
        sampling.top_p = self.config.eval.val_top_p;
        let evaluation = evaluate(
            &self.policy,
            &prompts.distinct(),
            &self.rewards,
            self.config.eval.val_n,
            &sampling,
            RandomKey::new(self.config.run.seed, Purpose::Validation).at(step as u64),
            self.config.rollout.max_batch_size,
        )?;
        observer.validation(step, &evaluation);
        Ok(Some(evaluation))
    }

    /// Validates and records the result as its own line of `metrics.jsonl`.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), or a file that cannot be written.
    pub fn validate_alone(&self, step: usize, observer: &mut dyn Observer) -> Result<Option<Evaluation>, TrainError> {
        let evaluation = self.validate(step, observer)?;
        if let Some(evaluation) = &evaluation {
            let mut metrics = Metrics::of_step(step);
            metrics.extend(evaluation.metrics());
            self.folder.append("metrics.jsonl", &metrics)?;
        }
        Ok(evaluation)
    }

    /// Saves the policy as the checkpoint of `step`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, step: usize, observer: &mut dyn Observer) -> Result<PathBuf, TrainError> {
        let place = self.folder.save_policy(step, &self.policy)?;
        observer.saved(step, &place);
        Ok(place)
    }
}

/// Writes the built-in task into the run folder, from where it is read like any other data.
fn write_task(config: &mut Config, folder: &RunFolder, observer: &mut dyn Observer) -> Result<(), TrainError> {
    let Some(task) = &config.data.task else { return Ok(()) };
    let dir = folder.path().join("data");
    let files = task::generate(task, &dir, config.run.seed)?;
    observer.note(&format!("wrote the task `{}` to {}", task.name(), dir.display()));
    config.data.train_files = vec![files.train];
    config.data.val_files = vec![files.val];
    if let Some(sft) = &mut config.sft
        && sft.files.is_empty()
    {
        sft.files = vec![files.sft];
    }
    Ok(())
}

fn tokenizer(config: &Config, observer: &mut dyn Observer) -> Result<Tokenizer, TrainError> {
    let folder = match (&config.model.path, &config.model.init) {
        (Some(path), _) => Some(path),
        (None, Some(init)) => init.tokenizer.as_ref(),
        (None, None) => None,
    };
    if let Some(folder) = folder {
        return Ok(Tokenizer::from_folder(folder)?);
    }
    let files: Vec<PathBuf> =
        config.sft.iter().flat_map(|sft| &sft.files).chain(&config.data.train_files).cloned().collect();
    let answer_key = config.sft.as_ref().map(|sft| sft.answer_key.as_str());
    let mut texts: Vec<String> = Vec::new();
    for row in read_rows(&files)? {
        texts.extend(row.prompt.messages().into_iter().map(|message| message.content));
        if let Some(answer) = answer_key.and_then(|key| row.extra_info.get(key)).and_then(|answer| answer.as_str()) {
            texts.push(answer.to_string());
        }
    }
    let vocab_size = config.model.init.as_ref().and_then(|init| init.vocab_size).unwrap_or(BYTE_VOCABULARY);
    let tokenizer = Tokenizer::train_byte_level(texts.iter().map(String::as_str), vocab_size)?;
    observer.note(&format!(
        "trained a byte-level tokenizer with {} ids on {} texts",
        tokenizer.vocab_size(),
        texts.len()
    ));
    Ok(tokenizer)
}

/// 256 bytes and three special tokens: a byte-level tokenizer without merges.
const BYTE_VOCABULARY: usize = 259;

/// The shape of the policy, from the folder's `config.json` or from `[model.init]`.
fn model_shape(config: &Config, tokenizer: &Tokenizer) -> Result<Qwen2Config, TrainError> {
    match (&config.model.path, &config.model.init) {
        (Some(path), _) => Ok(Qwen2Config::from_folder(path)?),
        (None, Some(init)) => shape(init, tokenizer),
        (None, None) => Err(TrainError::Mismatch("[model] needs `path` or [model.init]".into())),
    }
}

fn shape(init: &InitConfig, tokenizer: &Tokenizer) -> Result<Qwen2Config, TrainError> {
    let vocab_size = init.vocab_size.unwrap_or(tokenizer.vocab_size());
    if vocab_size < tokenizer.vocab_size() {
        return Err(TrainError::Mismatch(format!(
            "model.init.vocab_size = {vocab_size} is less than the tokenizer's {} ids",
            tokenizer.vocab_size()
        )));
    }
    let mut shape = Qwen2Config::new(
        vocab_size,
        init.hidden_size,
        init.intermediate_size,
        init.num_hidden_layers,
        init.num_attention_heads,
        init.num_key_value_heads,
    );
    shape.max_position_embeddings = init.max_position_embeddings;
    shape.rope_theta = init.rope_theta;
    shape.tie_word_embeddings = init.tie_word_embeddings;
    shape.validate().map_err(|e| TrainError::Mismatch(format!("[model.init]: {e}")))?;
    Ok(shape)
}

fn check_lengths(config: &Config, shape: &Qwen2Config) -> Result<(), TrainError> {
    let (prompt, response) = (config.data.max_prompt_length, config.data.max_response_length);
    if prompt + response > shape.max_position_embeddings {
        return Err(TrainError::Mismatch(format!(
            "data.max_prompt_length = {prompt} and data.max_response_length = {response} make {} tokens, but the model \
             reads at most {}",
            prompt + response,
            shape.max_position_embeddings
        )));
    }
    Ok(())
}

/// Says how many validation prompts the policy is trained on.
fn warn_of_leaks(
    train: Option<&PromptDataset>,
    sft: &[SftExample],
    validation: Option<&PromptDataset>,
    observer: &mut dyn Observer,
) {
    let Some(validation) = validation else { return };
    let seen: HashSet<&[u32]> = train
        .into_iter()
        .flat_map(PromptDataset::prompts)
        .map(|prompt| &prompt.token_ids[..])
        .chain(sft.iter().map(|example| &example.prompt_ids[..]))
        .collect();
    let leaked = validation.distinct().into_iter().filter(|prompt| seen.contains(&prompt.token_ids[..])).count();
    if leaked > 0 {
        observer.note(&format!("warning: {leaked} validation prompts are also trained on; their accuracy says little"));
    }
}
