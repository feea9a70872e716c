//! What a configuration must satisfy before anything is loaded.

use luspo_model::{MemoryOptions, Qwen2Config, WeightDtype};
use luspo_rollout::MIN_TEMPERATURE;

use super::Config;

pub(super) type Problem = Result<(), String>;

impl Config {
    /// Checks ranges and that sizes divide.
    ///
    /// # Errors
    /// One sentence that says what is wrong, with the arithmetic in words.
    pub(super) fn check(&self) -> Problem {
        self.check_sources()?;
        self.check_ranges()?;
        self.check_division()?;
        self.check_reward()?;
        self.check_engine()?;
        self.check_algorithm()
    }

    fn check_sources(&self) -> Problem {
        match (&self.model.path, &self.model.init) {
            (None, None) => return Err("[model] needs `path` (a folder) or [model.init] (a shape)".into()),
            (Some(_), Some(_)) => return Err("[model] has both `path` and [model.init]; keep one".into()),
            _ => {}
        }
        let files = !self.data.train_files.is_empty() || !self.data.val_files.is_empty();
        if self.data.task.is_some() && files {
            return Err("[data] has both files and [data.task]; keep one".into());
        }
        if self.sft.as_ref().is_some_and(|sft| sft.files.is_empty()) && self.data.task.is_none() {
            return Err("[sft] needs `files`; only a built-in task ([data.task]) brings its own".into());
        }
        if let Some(key) = self.empty_path() {
            return Err(format!("{key} is empty; name a file or folder"));
        }
        if !is_folder_name(&self.run.name) {
            let name = &self.run.name;
            return Err(format!(
                "run.name = {name:?} is not the name of one folder; run.dir=DIR puts the run anywhere"
            ));
        }
        Ok(())
    }

    /// A key under which a path stands that names nothing.
    fn empty_path(&self) -> Option<&'static str> {
        let (data, sft, init) = (&self.data, self.sft.iter().flat_map(|sft| &sft.files), &self.model.init);
        let paths = (data.train_files.iter().map(|file| ("data.train_files", file)))
            .chain(data.val_files.iter().map(|file| ("data.val_files", file)))
            .chain(sft.map(|file| ("sft.files", file)))
            .chain(self.model.path.iter().map(|folder| ("model.path", folder)))
            .chain(self.critic.model_path.iter().map(|folder| ("critic.model_path", folder)))
            .chain(init.iter().flat_map(|init| &init.tokenizer).map(|folder| ("model.init.tokenizer", folder)))
            .chain(self.run.dir.iter().map(|folder| ("run.dir", folder)));
        paths.into_iter().find(|(_, path)| path.as_os_str().is_empty()).map(|(key, _)| key)
    }

    fn check_reward(&self) -> Problem {
        self.reward.check(self.data.max_response_length).map_err(|error| error.to_string())
    }

    fn check_ranges(&self) -> Problem {
        count("data.train_batch_size", self.data.train_batch_size, MOST)?;
        count("data.max_prompt_length", self.data.max_prompt_length, MOST)?;
        count("data.max_response_length", self.data.max_response_length, MOST)?;
        if let Some(chunk) = self.model.log_prob_chunk {
            count("model.log_prob_chunk", chunk, MOST)?;
        }
        count("model.attention_chunk", self.model.attention_chunk, MOST)?;
        if let Some(lora) = &self.model.lora {
            count("model.lora.rank", lora.rank, MOST)?;
            lora.adapter().check().map_err(|problem| format!("[model.lora]: {problem}"))?;
        }
        count("rollout.n", self.rollout.n, MOST_ANSWERS)?;
        self.check_sampling()?;
        count("trainer.ppo_epochs", self.trainer.ppo_epochs, MOST)?;
        count("eval.val_n", self.eval.val_n, MOST_ANSWERS)?;
        count("trainer.max_ckpt_to_keep", self.trainer.max_ckpt_to_keep.unwrap_or(1), usize::MAX)?;
        if self.run.threads > MOST_THREADS {
            return Err(format!("run.threads = {}; it must be at most {MOST_THREADS}", self.run.threads));
        }
        if self.model.dtype == Some(WeightDtype::F16) {
            return Err(
                "model.dtype = \"f16\"; training is in f32 or bf16, since gradients leave the range of f16".into()
            );
        }
        if self.rollout.temperature == 0.0 {
            return Err("rollout.temperature = 0; greedy answers to one prompt are all the same, so that there is \
                        nothing to compare (validation may be greedy: eval.val_temperature)"
                .into());
        }
        within("rollout.temperature", self.rollout.temperature, MIN_TEMPERATURE, 100.0)?;
        within("rollout.min_p", self.rollout.min_p, 0.0, 1.0)?;
        share("rollout.top_p", self.rollout.top_p)?;
        if self.eval.val_temperature != 0.0 {
            within("eval.val_temperature", self.eval.val_temperature, MIN_TEMPERATURE, 100.0)?;
        }
        share("eval.val_top_p", self.eval.val_top_p)?;
        within("eval.val_min_p", self.eval.val_min_p, 0.0, 1.0)?;
        within("algorithm.kl_loss_coef", self.algorithm.kl_loss_coef, 0.0, f64::MAX)?;
        within("algorithm.entropy_coeff", self.algorithm.entropy_coeff, 0.0, f64::MAX)?;
        self.optimizer_ranges("optimizer", &self.optimizer)?;
        if let Some(sft) = &self.sft {
            count("sft.batch_size", sft.batch_size, MOST)?;
            self.optimizer_ranges("sft", &sft.optimizer())?;
        }
        Ok(())
    }

    fn check_sampling(&self) -> Problem {
        let (rollout, longest) = (&self.rollout, self.data.max_response_length);
        count("rollout.max_batch_size", rollout.max_batch_size, MOST)?;
        count("rollout.prefill_chunk", rollout.prefill_chunk, MOST)?;
        positive("rollout.repetition_penalty", rollout.repetition_penalty)?;
        if rollout.min_tokens > longest {
            let min_tokens = rollout.min_tokens;
            return Err(format!("rollout.min_tokens = {min_tokens} is above data.max_response_length = {longest}"));
        }
        if rollout.stop.iter().any(String::is_empty) {
            return Err("rollout.stop has an empty string, which every text contains".into());
        }
        // The last token of an answer is never read.
        let needed = self.data.max_prompt_length + longest - 1;
        match rollout.max_tokens_in_cache {
            Some(most) if most < needed => Err(format!(
                "rollout.max_tokens_in_cache = {most}; one prompt of data.max_prompt_length = {} tokens and an answer of \
                 data.max_response_length = {longest} take {needed}",
                self.data.max_prompt_length
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn optimizer_ranges(&self, section: &str, optimizer: &super::OptimizerConfig) -> Problem {
        within(&format!("{section}.lr"), optimizer.lr, 0.0, f64::MAX)?;
        within(&format!("{section}.weight_decay"), optimizer.weight_decay, 0.0, f64::MAX)?;
        positive(&format!("{section}.eps"), optimizer.eps)?;
        positive(&format!("{section}.grad_clip"), optimizer.grad_clip)?;
        for beta in optimizer.betas {
            if !(0.0..1.0).contains(&beta) {
                return Err(format!("{section}.betas has {beta}; each lies in [0, 1)"));
            }
        }
        Ok(())
    }

    fn check_division(&self) -> Problem {
        let prompts = self.data.train_batch_size;
        let (n, rows) = (self.rollout.n, prompts * self.rollout.n);
        if rows > MOST {
            return Err(format!("{prompts} prompts × {n} answers = {rows} rows a step; there can be {MOST} at most"));
        }
        let mini = self.mini_batch_size();
        if mini == 0 || !prompts.is_multiple_of(mini) {
            return Err(format!(
                "trainer.ppo_mini_batch_size = {mini} does not divide data.train_batch_size = {prompts}: a step's \
                 {prompts} prompts are split into updates of {mini} prompts each"
            ));
        }
        let (rows, micro) = (mini * self.rollout.n, self.micro_batch_size());
        if micro == 0 || !rows.is_multiple_of(micro) {
            return Err(format!(
                "trainer.ppo_micro_batch_size = {micro} does not divide the rows of an update: {mini} prompts × {} \
                 answers = {rows} rows, taken {micro} at a time",
                self.rollout.n
            ));
        }
        if let Some(tokens) = self.trainer.max_tokens_per_micro_batch {
            let longest = self.data.max_prompt_length + self.data.max_response_length;
            if self.trainer.ppo_micro_batch_size.is_some() {
                return Err(
                    "trainer.ppo_micro_batch_size and trainer.max_tokens_per_micro_batch both say how large a \
                            micro-batch is; keep one"
                        .into(),
                );
            }
            if tokens < longest {
                return Err(format!(
                    "trainer.max_tokens_per_micro_batch = {tokens} is less than one row: a prompt of {} and a response \
                     of {} tokens are {longest}",
                    self.data.max_prompt_length, self.data.max_response_length
                ));
            }
        }
        if let Some(sft) = &self.sft {
            let micro = sft.micro_batch_size.unwrap_or(sft.batch_size);
            if micro == 0 || !sft.batch_size.is_multiple_of(micro) {
                return Err(format!(
                    "sft.micro_batch_size = {micro} does not divide sft.batch_size = {}",
                    sft.batch_size
                ));
            }
        }
        Ok(())
    }

    /// Number type of the parameters.
    pub fn dtype(&self) -> WeightDtype {
        self.model.dtype.unwrap_or(self.run.backend.default_dtype())
    }

    /// Fills in what depends on the model's size.
    pub(crate) fn settle(&mut self, shape: &Qwen2Config) {
        let suitable = MemoryOptions::of(shape);
        self.model.activation_checkpointing.get_or_insert(suitable.activation_checkpointing);
        self.model.log_prob_chunk.get_or_insert(suitable.log_prob_chunk);
    }

    /// What a pass of the model holds at once.
    pub fn memory_options(&self) -> MemoryOptions {
        let default = MemoryOptions::default();
        MemoryOptions {
            log_prob_chunk: self.model.log_prob_chunk.unwrap_or(default.log_prob_chunk),
            attention_chunk: self.model.attention_chunk,
            activation_checkpointing: self.model.activation_checkpointing.unwrap_or(default.activation_checkpointing),
        }
    }

    /// Prompts an update.
    pub fn mini_batch_size(&self) -> usize {
        self.trainer.ppo_mini_batch_size.unwrap_or(self.data.train_batch_size)
    }

    /// Rows in memory at once during an update.
    pub fn micro_batch_size(&self) -> usize {
        self.trainer.ppo_micro_batch_size.unwrap_or(self.mini_batch_size() * self.rollout.n)
    }

    /// Updates a step: mini-batches times epochs.
    pub fn updates_per_step(&self) -> usize {
        self.data.train_batch_size / self.mini_batch_size() * self.trainer.ppo_epochs
    }
}

/// The largest size of anything that is counted. A larger one is a mistake, and products of sizes would overflow.
const MOST: usize = 1 << 24;

/// The largest group.
const MOST_ANSWERS: usize = 1 << 16;

/// The most threads; rayon starts as many as it is told.
const MOST_THREADS: usize = 1 << 10;

pub(super) fn count(key: &str, value: usize, most: usize) -> Problem {
    match value {
        0 => Err(format!("{key} = 0; it must be at least 1")),
        _ if value > most => Err(format!("{key} = {value}; it must be at most {most}")),
        _ => Ok(()),
    }
}

/// Whether a path of this text alone is a new name below a folder, on every system.
fn is_folder_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'))
}

pub(super) fn within(key: &str, value: f64, low: f64, high: f64) -> Problem {
    if value.is_finite() && (low..=high).contains(&value) {
        return Ok(());
    }
    let range = if high == f64::MAX { format!("at least {low}") } else { format!("between {low} and {high}") };
    Err(format!("{key} = {value}; it must be {range}"))
}

fn positive(key: &str, value: f64) -> Problem {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("{key} = {value}; it must be above 0")) }
}

fn share(key: &str, value: f64) -> Problem {
    if value > 0.0 && value <= 1.0 { Ok(()) } else { Err(format!("{key} = {value}; it must be above 0 and at most 1")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{InitConfig, OptimizerConfig};

    fn config() -> Config {
        let mut config = Config::default();
        config.model.init = Some(InitConfig::default());
        config.data.train_files = vec!["t".into()];
        config.data.train_batch_size = 16;
        config
    }

    #[test]
    fn the_default_has_one_update_a_step() {
        let config = config();
        assert_eq!(config.check(), Ok(()));
        assert_eq!((config.updates_per_step(), config.micro_batch_size()), (1, 128));
    }

    #[test]
    fn sizes_that_do_not_divide_are_refused_with_the_arithmetic() {
        let mut config = config();
        config.trainer.ppo_mini_batch_size = Some(5);
        assert!(config.check().unwrap_err().contains("does not divide data.train_batch_size = 16"));
        config.trainer.ppo_mini_batch_size = Some(4);
        config.trainer.ppo_micro_batch_size = Some(7);
        assert!(config.check().unwrap_err().contains("4 prompts × 8 answers = 32 rows"));
    }

    #[test]
    fn values_out_of_range_are_refused_by_key() {
        type Change = fn(&mut Config);
        let broken: [(&str, Change); 12] = [
            ("rollout.n", |c| c.rollout.n = 0),
            ("rollout.temperature", |c| c.rollout.temperature = -1.0),
            ("rollout.top_p", |c| c.rollout.top_p = 0.0),
            ("rollout.repetition_penalty", |c| c.rollout.repetition_penalty = 0.0),
            ("rollout.min_tokens", |c| c.rollout.min_tokens = 1025),
            ("rollout.stop", |c| c.rollout.stop = vec![String::new()]),
            ("rollout.prefill_chunk", |c| c.rollout.prefill_chunk = 0),
            ("rollout.max_tokens_in_cache = 2046", |c| c.rollout.max_tokens_in_cache = Some(2046)),
            ("eval.val_min_p", |c| c.eval.val_min_p = 1.5),
            ("eval.val_top_p", |c| c.eval.val_top_p = 1.5),
            ("optimizer.betas", |c| c.optimizer = OptimizerConfig { betas: [0.9, 1.0], ..Default::default() }),
            ("optimizer.lr", |c| c.optimizer.lr = f64::NAN),
        ];
        for (key, break_it) in broken {
            let mut config = config();
            break_it(&mut config);
            assert!(config.check().unwrap_err().contains(key), "{key}");
        }
    }

    #[test]
    fn a_name_is_one_folder() {
        for name in ["a", "gspo 2", "über", "..."] {
            assert!(is_folder_name(name), "{name:?}");
        }
        for name in ["", ".", "..", "a/b", "/", "a\\b", "a\0b", "a\nb"] {
            assert!(!is_folder_name(name), "{name:?}");
        }
    }

    #[test]
    fn no_product_of_sizes_overflows() {
        let mut config = config();
        config.data.train_batch_size = MOST;
        config.rollout.n = MOST_ANSWERS;
        assert!(config.check().unwrap_err().contains("rows a step"));
        config.rollout.n = usize::MAX;
        assert!(config.check().unwrap_err().contains("rollout.n"));
    }
}
