//! The policy: one object that samples and trains.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use luspo_core::{Prompt, RandomKey, Rollout};
use luspo_data::Tokenizer;
use luspo_model::{Adapter, ModelError, Pretrained, Qwen2Config, Qwen2ForCausalLM, WeightDtype};
use luspo_rollout::{BatchLimits, Engine, Request, RolloutError, Sampling, StopStrings};

use crate::TrainError;
use crate::fingerprint::sha256;

/// A language model with its tokenizer, on one device.
#[derive(Debug)]
pub struct Policy {
    /// The network; its parameters track gradients.
    pub model: Qwen2ForCausalLM,
    /// The shape, as in `config.json`.
    pub config: Qwen2Config,
    /// Turns text into the model's tokens and back.
    pub tokenizer: Tokenizer,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// What the network's adapters are and what they are on, where it has any; then they alone are trained and saved.
    pub adapter: Option<Adapter>,
}

impl Policy {
    /// Loads a Hugging Face folder with parameters in f32. See [`load_as`](Self::load_as).
    ///
    /// # Errors
    /// As [`load_as`](Self::load_as).
    pub fn load(dir: &Path, device: &Device) -> Result<Self, TrainError> {
        Self::load_as(dir, device, WeightDtype::F32)
    }

    /// Loads a Hugging Face folder: `config.json`, weights, `tokenizer.json`. Parameters are made the given type.
    ///
    /// The answer ends at any end-of-sequence token that `config.json`, `generation_config.json` or the tokenizer name.
    ///
    /// # Errors
    /// Whatever is missing or malformed in the folder, named; a tokenizer with more ids than the model has rows; no
    /// end-of-sequence token.
    pub fn load_as(dir: &Path, device: &Device, dtype: WeightDtype) -> Result<Self, TrainError> {
        Self::load_with(dir, Tokenizer::from_folder(dir)?, device, dtype, Pretrained::load_as)
    }

    /// As [`load_as`](Self::load_as), of a policy that is not trained: [`Pretrained::load_frozen`].
    ///
    /// # Errors
    /// As [`load_as`](Self::load_as).
    pub fn load_frozen(dir: &Path, device: &Device, dtype: WeightDtype) -> Result<Self, TrainError> {
        Self::load_with(dir, Tokenizer::from_folder(dir)?, device, dtype, Pretrained::load_frozen)
    }

    /// Loads the adapter in the folder `dir`, as PEFT writes it, on the [frozen](Pretrained::load_frozen) model in the
    /// folder `base`. The tokenizer is the adapter's where its folder has one.
    ///
    /// # Errors
    /// As [`load_as`](Self::load_as), [`Adapter::from_folder`] and [`Adapter::load`].
    pub fn load_adapted(base: &Path, dir: &Path, device: &Device, dtype: WeightDtype) -> Result<Self, TrainError> {
        let adapter = Adapter::from_folder(dir)?;
        let own = dir.join("tokenizer.json").exists();
        let tokenizer = Tokenizer::from_folder(if own { dir } else { base })?;
        let policy = Self::load_with(base, tokenizer, device, dtype, Pretrained::load_frozen)?;
        Ok(Self { model: adapter.load(dir, &policy.model)?, adapter: Some(adapter), ..policy })
    }

    /// As [`load_as`](Self::load_as), with the folder's tokenizer already at hand; `load` reads the weights.
    pub(crate) fn load_with(
        dir: &Path,
        tokenizer: Tokenizer,
        device: &Device,
        dtype: WeightDtype,
        load: fn(&Path, &Device, WeightDtype) -> Result<Pretrained, ModelError>,
    ) -> Result<Self, TrainError> {
        let device = device.clone().autodiff();
        let Pretrained { model, config, mut eos_token_ids } = load(dir, &device, dtype)?;
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(TrainError::Mismatch(format!(
                "{}: the tokenizer has {} ids but the model only {} rows; they do not belong together",
                dir.display(),
                tokenizer.vocab_size(),
                config.vocab_size
            )));
        }
        if let Some(eos) = tokenizer.eos_token_id().filter(|id| !eos_token_ids.contains(id)) {
            eos_token_ids.push(eos);
        }
        if eos_token_ids.is_empty() {
            return Err(TrainError::Mismatch(format!(
                "{}: no end-of-sequence token in config.json, generation_config.json or tokenizer_config.json; answers \
                 would never end",
                dir.display()
            )));
        }
        Ok(Self { model, config, tokenizer, eos_token_ids, adapter: None })
    }

    /// A policy with random weights drawn from `key`.
    ///
    /// # Errors
    /// A shape that cannot be; a tokenizer without an end-of-sequence token, whose answers would never end.
    pub fn init(
        mut config: Qwen2Config,
        tokenizer: Tokenizer,
        key: RandomKey,
        device: &Device,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let eos = tokenizer.eos_token_id().ok_or_else(|| {
            TrainError::Mismatch("the tokenizer names no eos_token; answers would never end".to_string())
        })?;
        // As it will read when it is loaded.
        config.extra.insert("eos_token_id".into(), eos.into());
        let model = Qwen2ForCausalLM::init(&config, key, &device.clone().autodiff());
        Ok(Self { model, config, tokenizer, eos_token_ids: vec![eos], adapter: None })
    }

    /// The same policy with its parameters rounded to this number type.
    pub fn cast(self, dtype: WeightDtype) -> Self {
        Self { model: self.model.cast(dtype), ..self }
    }

    /// Writes the policy as a Hugging Face folder, in the number type that it computes with. Where it has adapters they
    /// are what is written, as PEFT has them, with the tokenizer.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), TrainError> {
        let Some(adapter) = &self.adapter else { return self.save_base(dir) };
        std::fs::create_dir_all(dir).map_err(TrainError::write(dir))?;
        adapter.save(dir, &self.model)?;
        self.tokenizer.save(dir)?;
        Ok(())
    }

    /// Writes the policy without its adapters.
    pub(crate) fn save_base(&self, dir: &Path) -> Result<(), TrainError> {
        self.save_as(self.model.without_lora(), dir)
    }

    /// Writes the policy with its adapters merged into the weights, for samplers that know of none.
    pub(crate) fn save_merged(&self, dir: &Path) -> Result<(), TrainError> {
        self.save_as(self.model.merged(), dir)
    }

    fn save_as(&self, model: Qwen2ForCausalLM, dir: &Path) -> Result<(), TrainError> {
        std::fs::create_dir_all(dir).map_err(TrainError::write(dir))?;
        let (config, eos_token_ids) = (self.config.clone(), self.eos_token_ids.clone());
        Pretrained { model, config, eos_token_ids }.save(dir)?;
        self.tokenizer.save(dir)?;
        Ok(())
    }

    /// SHA-256 of what is trained: all parameters, or those of the adapters.
    pub(crate) fn sha256(&self) -> String {
        match self.adapter {
            None => sha256(&self.model, self.model.dtype()),
            Some(_) => sha256(&self.model.adapters().cloned().collect::<Vec<_>>(), self.model.dtype()),
        }
    }

    /// How this policy samples: at most `max_response_length` tokens, ending at its end-of-sequence tokens, without
    /// vocabulary rows that the tokenizer does not know. Greedy until the caller sets a temperature.
    pub fn sampling(&self, max_response_length: usize) -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            min_tokens: 0,
            max_response_length,
            stop_token_ids: self.eos_token_ids.clone(),
            stop: Vec::new(),
            vocab_limit: self.tokenizer.vocab_size(),
        }
    }

    /// Samples `n` answers to each prompt. `limits` may be a number: answers that are decoded at once.
    ///
    /// # Errors
    /// A prompt that does not fit the model or the cache, or a policy whose logits are no longer finite.
    pub fn generate(
        &self,
        prompts: &[Prompt],
        n: usize,
        sampling: &Sampling,
        key: RandomKey,
        limits: impl Into<BatchLimits>,
    ) -> Result<Vec<Rollout>, TrainError> {
        self.generate_with(&mut Engine::new(limits)?, prompts, n, sampling, key)
    }

    /// The same with an engine that there is already, whose cache is used again.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_with(
        &self,
        engine: &mut Engine,
        prompts: &[Prompt],
        n: usize,
        sampling: &Sampling,
        key: RandomKey,
    ) -> Result<Vec<Rollout>, TrainError> {
        self.generate_each(engine, prompts, n, sampling, key, |_, _| {})
    }

    /// The same; each answer is shown as it ends, with its position among all.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub(crate) fn generate_each(
        &self,
        engine: &mut Engine,
        prompts: &[Prompt],
        n: usize,
        sampling: &Sampling,
        key: RandomKey,
        on_answer: impl FnMut(usize, &Rollout),
    ) -> Result<Vec<Rollout>, TrainError> {
        let requests = self.requests(prompts, n, sampling)?;
        let mut strings = StopStrings::new(&self.tokenizer, sampling);
        let without_text = Sampling { stop: Vec::new(), ..sampling.clone() };
        let on_token = |answer, token| strings.on_token(answer, token);
        let rollouts = engine.generate(&self.model.valid(), &requests, &without_text, key, on_token, on_answer)?;
        strings.finish()?;
        Ok(rollouts)
    }

    /// Requests for `n` answers to each prompt.
    ///
    /// # Errors
    /// A prompt that is too long for the policy.
    pub(crate) fn requests<'a>(
        &self,
        prompts: &'a [Prompt],
        n: usize,
        sampling: &Sampling,
    ) -> Result<Vec<Request<'a>>, RolloutError> {
        let request = |p: &'a Prompt| {
            let request = Request { prompt_id: p.id, prompt_ids: &p.token_ids, samples: n as u32 };
            request.check_length(sampling, self.max_length()).map(|()| request)
        };
        prompts.iter().map(request).collect()
    }

    /// The text of an answer, special tokens left out.
    ///
    /// # Errors
    /// Ids that the tokenizer does not know.
    pub fn text(&self, rollout: &Rollout) -> Result<String, TrainError> {
        Ok(self.tokenizer.decode(&rollout.response_ids)?)
    }

    /// Longest sequence that the policy can read, in tokens.
    pub fn max_length(&self) -> usize {
        self.config.max_position_embeddings
    }
}
