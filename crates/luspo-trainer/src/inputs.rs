//! What a configuration names, read and checked before the first step: its task, its tokenizer, the shape of its policy.

use std::collections::HashMap;
use std::path::PathBuf;

use burn::tensor::{DType, Device};
use luspo_data::task::{self, TaskFiles};
use luspo_data::{DataError, PromptDataset, Rows, SftExample, Tokenizer};
use luspo_model::{Adapter, Qwen2Config};

use crate::config::InitConfig;
use crate::plan::Lengths;
use crate::{Config, Observer, RunFolder, TrainError};

/// Writes the built-in task into the run folder, from where it is read like any other data.
pub(crate) fn write_task(
    config: &mut Config,
    folder: &RunFolder,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let Some(task) = &config.data.task else { return Ok(()) };
    let dir = folder.path().join("data");
    let files = match RunFolder::has_begun(folder.path()) {
        // Written when the run began; whether it is still the same is checked by its hash.
        true => task::files(&dir),
        false => {
            observer.note(&format!("wrote the task `{}` to {}", task.name(), dir.display()));
            task::generate(task, &dir, config.run.seed)?
        }
    };
    take_task(config, files);
    Ok(())
}

/// Puts the files of the built-in task where a configuration names files.
pub(crate) fn take_task(config: &mut Config, files: TaskFiles) {
    config.data.train_files = vec![files.train];
    config.data.val_files = vec![files.val];
    if let Some(sft) = &mut config.sft
        && sft.files.is_empty()
    {
        sft.files = vec![files.sft];
    }
}

pub(crate) fn tokenizer(config: &Config, observer: &mut dyn Observer) -> Result<Tokenizer, TrainError> {
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
    let vocab_size = config.model.init.as_ref().and_then(|init| init.vocab_size).unwrap_or(BYTE_VOCABULARY);
    // Without merges there is nothing to learn from texts, which may be more than fit into memory.
    for file in files.iter().filter(|_| vocab_size > BYTE_VOCABULARY) {
        for row in Rows::open(file)? {
            let row = match row {
                Err(DataError::Value { .. }) if config.data.filter_invalid => continue,
                row => row?,
            };
            texts.extend(row.prompt.messages().into_iter().map(|message| message.content));
            if let Some(answer) = answer_key.and_then(|key| row.extra_info.get(key)).and_then(|answer| answer.as_str())
            {
                texts.push(answer.to_string());
            }
        }
    }
    let tokenizer = Tokenizer::train_byte_level(texts.iter().map(String::as_str), vocab_size)?;
    observer.note(&match texts.len() {
        0 => format!("made a byte-level tokenizer with {} ids", tokenizer.vocab_size()),
        texts => format!("trained a byte-level tokenizer with {} ids on {texts} texts", tokenizer.vocab_size()),
    });
    Ok(tokenizer)
}

/// 256 bytes and three special tokens: a byte-level tokenizer without merges.
pub(crate) const BYTE_VOCABULARY: usize = 259;

/// Before anything is loaded.
pub(crate) fn check_dtype(config: &Config, device: &Device) -> Result<(), TrainError> {
    let (dtype, backend) = (config.dtype(), config.run.backend);
    match device.supports_dtype(DType::from(dtype)) {
        true => Ok(()),
        false => Err(TrainError::Mismatch(format!(
            "model.dtype = \"{dtype}\", but backend `{backend}` does not compute with it on this device; remove the key \
             (then it is {}), or choose another backend (`luspo devices` lists the types of each)",
            backend.default_dtype()
        ))),
    }
}

/// The shape of the policy, from the folder's `config.json` or from `[model.init]`.
pub(crate) fn model_shape(config: &Config, tokenizer: &Tokenizer) -> Result<Qwen2Config, TrainError> {
    match (&config.model.path, &config.model.init) {
        (Some(path), _) => Ok(Qwen2Config::from_folder(path)?),
        (None, Some(init)) => shape(init, tokenizer.vocab_size()),
        (None, None) => Err(TrainError::Mismatch("[model] needs `path` or [model.init]".into())),
    }
}

/// The shape of a policy with random weights, whose tokenizer has so many ids.
pub(crate) fn shape(init: &InitConfig, ids: usize) -> Result<Qwen2Config, TrainError> {
    let vocab_size = init.vocab_size.unwrap_or(ids);
    if vocab_size < ids {
        return Err(TrainError::Mismatch(format!(
            "model.init.vocab_size = {vocab_size} is less than the tokenizer's {ids} ids"
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

pub(crate) fn check_lengths(config: &Config, shape: &Qwen2Config) -> Result<(), TrainError> {
    let (prompt, response) = (config.data.max_prompt_length, config.data.max_response_length);
    if prompt + response > shape.max_position_embeddings {
        return Err(TrainError::Mismatch(format!(
            "data.max_prompt_length = {prompt} and data.max_response_length = {response} make {} tokens, but the model \
             reads at most {}",
            prompt + response,
            shape.max_position_embeddings
        )));
    }
    match config.rollout.stop_token_ids.iter().find(|id| **id as usize >= shape.vocab_size) {
        Some(id) => Err(TrainError::Mismatch(format!(
            "rollout.stop_token_ids has {id}, but the model's vocabulary has {} tokens, counted from 0",
            shape.vocab_size
        ))),
        None => Ok(()),
    }
}

/// A rank above the model's width would make adapters larger than what they are beside.
pub(crate) fn check_adapter(config: &Config, shape: &Qwen2Config) -> Result<(), TrainError> {
    match &config.model.lora {
        Some(lora) if lora.rank > shape.hidden_size => Err(TrainError::Mismatch(format!(
            "model.lora.rank = {} is above the model's width, hidden_size = {}",
            lora.rank, shape.hidden_size
        ))),
        _ => Ok(()),
    }
}

/// A run begins with a whole model.
pub(crate) fn refuse_adapters(config: &Config) -> Result<(), TrainError> {
    let paths = [("model.path", &config.model.path), ("critic.model_path", &config.critic.model_path)];
    for (key, path) in paths {
        if let Some(path) = path.as_ref().filter(|path| Adapter::is_in(path)) {
            return Err(TrainError::Mismatch(format!(
                "{key} = {}: is the folder of an adapter; `luspo export` makes a whole model of it, with which a run can \
                 begin",
                path.display()
            )));
        }
    }
    Ok(())
}

/// The critic of a folder reads what the policy reads.
pub(crate) fn check_critic(config: &Config, policy: &Qwen2Config) -> Result<(), TrainError> {
    let Some(path) = &config.critic.model_path else { return Ok(()) };
    let critic = Qwen2Config::from_folder(path)?;
    let sizes = |shape: &Qwen2Config| [shape.vocab_size, shape.max_position_embeddings];
    match sizes(&critic).iter().zip(sizes(policy)).all(|(critic, policy)| *critic >= policy) {
        true => Ok(()),
        false => Err(TrainError::Mismatch(format!(
            "critic.model_path = {}: it knows {} words and reads {} tokens, fewer than the policy's {} and {}",
            path.display(),
            critic.vocab_size,
            critic.max_position_embeddings,
            policy.vocab_size,
            policy.max_position_embeddings
        ))),
    }
}

/// The lengths of the prompts and examples that were read, for the prediction of memory.
pub(crate) fn lengths(
    config: &Config,
    train: Option<&PromptDataset>,
    validation: Option<&PromptDataset>,
    sft: &[SftExample],
) -> Lengths {
    let longest = [train, validation].into_iter().flatten().map(PromptDataset::longest_prompt);
    let example = |example: &SftExample| example.prompt_ids.len() + example.response_ids.len();
    Lengths {
        prompt: longest.max().unwrap_or(1),
        response: config.data.max_response_length,
        example: sft.iter().map(example).max().unwrap_or(0),
        validation: validation.map_or(0, |prompts| prompts.distinct_len().saturating_mul(config.eval.val_n)),
    }
}

/// How many validation prompts the policy is trained on.
pub(crate) fn leaks(
    train: Option<&PromptDataset>,
    sft: &[SftExample],
    validation: Option<&PromptDataset>,
) -> Result<usize, TrainError> {
    let Some(validation) = validation else { return Ok(0) };
    // Prompts by their tokens, with how many of them are judged apart. Validation sets are small, training sets may not
    // fit into memory.
    let mut held_out: HashMap<Vec<u32>, usize> = HashMap::new();
    for prompt in validation.distinct()? {
        *held_out.entry(prompt.token_ids).or_default() += 1;
    }
    let mut leaked = 0;
    for example in sft {
        leaked += held_out.remove(&example.prompt_ids).unwrap_or(0);
    }
    for prompt in train.into_iter().flat_map(PromptDataset::iter) {
        leaked += held_out.remove(&prompt?.token_ids).unwrap_or(0);
    }
    Ok(leaked)
}

/// A batch is of different prompts.
pub(crate) fn check_batch(config: &Config, train: &PromptDataset) -> Result<(), TrainError> {
    let batch = config.data.train_batch_size;
    match train.len() < batch {
        true => Err(TrainError::Mismatch(format!(
            "data.train_batch_size = {batch}, but there are only {} training prompts",
            train.len()
        ))),
        false => Ok(()),
    }
}
