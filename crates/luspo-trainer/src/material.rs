//! What a run reads before its weights: tokenizer, prompts, worked examples, rewards; and what there is to say of them.

use std::path::PathBuf;

use luspo_data::{LoadOptions, PromptDataset, SftExample, Tokenizer, load_sft};
use luspo_model::Qwen2Config;
use luspo_reward::{CustomRewards, RewardPipeline};

use crate::golds::{GoldCheck, check_golds};
use crate::inputs::{check_adapter, check_critic, check_lengths, leaks, model_shape, tokenizer};
use crate::{Config, Observer, TrainError};

/// What a run reads before its weights.
pub(crate) struct Material {
    pub tokenizer: Tokenizer,
    /// The policy's.
    pub shape: Qwen2Config,
    pub train: Option<PromptDataset>,
    pub validation: Option<PromptDataset>,
    pub sft: Vec<SftExample>,
    pub rewards: RewardPipeline,
    /// What verifiers say of gold answers.
    pub golds: Vec<GoldCheck>,
    /// Validation prompts that are trained on.
    pub leaked: usize,
}

impl Material {
    /// Reads and checks what a configuration names, cheapest first; what the model decides is filled in. Folders stand in
    /// the place of models at the hub, and files in that of a built-in task.
    ///
    /// # Errors
    /// Whatever is missing, malformed or does not fit together, by name.
    pub fn read(config: &mut Config, rewards: &CustomRewards, observer: &mut dyn Observer) -> Result<Self, TrainError> {
        let tokenizer = tokenizer(config, observer)?;
        let shape = model_shape(config, &tokenizer)?;
        config.settle(&shape);
        check_lengths(config, &shape)?;
        check_adapter(config, &shape)?;
        check_critic(config, &shape)?;
        let data = &config.data;
        let load = |files: &[PathBuf]| -> Result<Option<PromptDataset>, TrainError> {
            if files.is_empty() {
                return Ok(None);
            }
            let options = LoadOptions {
                max_prompt_length: data.max_prompt_length,
                overlong: data.prompt_overlong,
                filter_invalid: data.filter_invalid,
                // Built-in verifiers do not read it.
                by_extra_info: !config.reward.components.is_empty(),
            };
            Ok(Some(PromptDataset::load(files, &tokenizer, options)?))
        };
        let (train, validation) = (load(&data.train_files)?, load(&data.val_files)?);
        let sources = [&train, &validation].into_iter().flatten().flat_map(PromptDataset::data_sources);
        let rewards = RewardPipeline::with_custom(&config.reward, data.max_response_length, sources, rewards)?;
        let mut golds = check_golds("training", train.as_ref(), &rewards)?;
        golds.extend(check_golds("validation", validation.as_ref(), &rewards)?);
        if let Some(prompt) = [&train, &validation].into_iter().flatten().find_map(|prompts| prompts.iter().next()) {
            rewards.rehearse(&prompt?)?;
        }
        let sft = match &config.sft {
            Some(sft) if sft.steps > 0 => {
                let longest = data.max_prompt_length + data.max_response_length;
                load_sft(&sft.files, &tokenizer, &sft.answer_key, longest)?
            }
            _ => Vec::new(),
        };
        let leaked = leaks(train.as_ref(), &sft, validation.as_ref())?;
        Ok(Self { tokenizer, shape, train, validation, sft, rewards, golds, leaked })
    }
}

/// What whoever starts the run should know.
pub(crate) fn warnings(golds: &[GoldCheck], leaked: usize) -> impl Iterator<Item = String> {
    let golds = golds.iter().filter(|check| !check.is_clean()).map(|check| format!("warning: {}", check.sentence()));
    let leaked = (leaked > 0)
        .then(|| format!("warning: {leaked} validation prompts are also trained on; their accuracy says little"));
    golds.chain(leaked)
}
