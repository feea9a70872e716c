//! The command line.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};
use luspo::Backend;
use luspo::model::WeightDtype;
use luspo::reward::Extraction;

use crate::command::export::parse_size;
use crate::ranges;

/// Reinforcement learning with verifiable rewards for language models.
///
/// Prompts come from Parquet in verl's schema, a Qwen2.5 policy samples groups of answers, verifiers score them, and a
/// policy loss (PPO, GRPO, GSPO, LUSPO) updates the model. The result is a Hugging Face folder.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = "Start with: luspo train configs/arithmetic.toml")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

/// What every command understands.
#[derive(Debug, Args)]
pub struct Global {
    /// Where to compute: flex (cpu), ndarray, wgpu, cuda or cuda:N [default: the config's, else flex]
    #[arg(long, global = true, value_name = "NAME")]
    pub backend: Option<Backend>,
    /// Seed of everything random [default: the config's, else 0]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Print results as JSON, one object a line; without -q, `train` and `sft` also print each step's metrics
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more: -v for what is loaded and dropped, -vv for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a policy with reinforcement learning (after a supervised warm-up if the config has one)
    Train(ConfigArgs),
    /// Fine-tune a policy on worked answers: the warm-up of `train` alone
    Sft(ConfigArgs),
    /// Say what a configuration comes to before weights are loaded: batches, memory, disk, data, verifiers, what is missing
    Check(CheckArgs),
    /// Run a step of a run again and say whether it comes out the same, bit for bit
    Replay(ReplayArgs),
    /// Measure policies on datasets: mean@n, pass@k, maj@n, lengths
    Eval(EvalArgs),
    /// Sample answers to a prompt, streaming
    Generate(GenerateArgs),
    /// Serve a policy with the OpenAI API: completions and chat completions, with log-probs and token ids
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    /// Print the per-token log-probs of given sequences at temperature 1
    Score(ScoreArgs),
    /// Judge given answers with a verifier
    Verify(VerifyArgs),
    /// Write a policy as a Hugging Face folder, in f32, bf16 or f16
    Export(ExportArgs),
    /// Look at a dataset, or write a built-in task as Parquet
    #[command(subcommand)]
    Data(DataCommand),
    /// List the backends of this build and whether they work here
    Devices,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration, a TOML file
    pub config: PathBuf,
    /// Changes to it: `section.key=value`, or `key=value` where one section alone has the key
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Go on with the run in the config's run folder, from its newest whole checkpoint and with its own config
    #[arg(long)]
    pub resume: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration, a TOML file
    pub config: PathBuf,
    /// Changes to it: `section.key=value`, or `key=value` where one section alone has the key
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Memory of the device that the run is for, such as 80GB [default: that of this machine's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub device_memory: Option<u64>,
    /// Memory of the machine that the run is for [default: what is free here]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub host_memory: Option<u64>,
    /// Space for checkpoints on the machine that the run is for [default: what is free where the run folder will be]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub disk_space: Option<u64>,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The run folder
    pub run: PathBuf,
    /// The step, from 1
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub step: usize,
}

/// How exactly a model that is only read is computed with.
#[derive(Debug, Args)]
pub struct Precision {
    /// Number type to compute with, f32, bf16 or f16, whatever the files' [default: bf16 on cuda, else f32]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<WeightDtype>,
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The policies, one or several: run folders (their newest checkpoints), checkpoints, Hugging Face or PEFT folders, or
    /// models at the hub (owner/name or owner/name@revision; needs a build with the feature `hub`)
    #[arg(long, value_name = "MODEL", required = true, num_args = 1..)]
    pub model: Vec<PathBuf>,
    #[command(flatten)]
    pub precision: Precision,
    /// Parquet files in verl's schema; rows with the same prompt and gold count once
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Answers a prompt
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=ranges::MOST_ANSWERS))]
    pub n: u32,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = ranges::temperature)]
    pub temperature: f64,
    /// Nucleus: sample from the smallest set of tokens of this probability
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true, value_parser = ranges::top_p)]
    pub top_p: f64,
    /// Sample from the k most likely tokens; 0 turns it off
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub top_k: usize,
    /// Drop tokens less likely than this share of the most likely one
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_parser = ranges::min_p)]
    pub min_p: f64,
    /// Longest answer in tokens [default: what the model has room for, at most 1024]
    #[arg(long, value_name = "TOKENS", value_parser = ranges::at_least_one)]
    pub max_response_length: Option<usize>,
    /// Longest prompt in tokens; longer ones are left out
    #[arg(long, default_value_t = 1024, value_parser = ranges::at_least_one)]
    pub max_prompt_length: usize,
    /// Answers decoded at once
    #[arg(long, default_value_t = 64, value_parser = ranges::at_least_one)]
    pub max_batch_size: usize,
    /// Tokens that the key-value cache may have room for, over all answers [default: what max-batch-size answers may take]
    #[arg(long, value_name = "TOKENS", value_parser = ranges::at_least_one)]
    pub max_tokens_in_cache: Option<usize>,
    /// Judge with this verifier instead of the data source's own
    #[arg(long, default_value = "auto")]
    pub verifier: String,
    /// Where the verifier math looks for the answer; the first rule that finds one decides. Also: phrase, whole, formula,
    /// number
    #[arg(long, value_name = "RULES", value_delimiter = ',', value_parser = extraction,
        default_value = "boxed,answer_tag,answer_line,hashes")]
    pub extraction: Vec<Extraction>,
    /// Keep every answer in this folder, and go on from what is there already
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Score as the section [reward] of this configuration says, programs of one's own included
    #[arg(long, value_name = "CONFIG", conflicts_with_all = ["verifier", "extraction"])]
    pub reward: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(id = "text", required = true, multiple = false)]
pub struct PromptArg {
    /// Text that the model continues as it is; may be repeated
    #[arg(long, group = "text", value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub prompt: Vec<String>,
    /// A user's message, put through the model's chat template; may be repeated, for conversations of one message each
    #[arg(long, group = "text", value_name = "TEXT")]
    pub chat: Vec<String>,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The policy: a run folder (its newest checkpoint), a checkpoint, a Hugging Face or PEFT folder, or a model at the hub
    /// (owner/name or owner/name@revision; needs a build with the feature `hub`)
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    pub precision: Precision,
    #[command(flatten)]
    pub text: PromptArg,
    /// Answers to each prompt
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=ranges::MOST_ANSWERS))]
    pub n: u32,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = ranges::temperature)]
    pub temperature: f64,
    /// Nucleus: sample from the smallest set of tokens of this probability
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = ranges::top_p)]
    pub top_p: f64,
    /// Sample from the k most likely tokens; 0 turns it off
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub top_k: usize,
    /// Drop tokens less likely than this share of the most likely one
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, value_parser = ranges::min_p)]
    pub min_p: f64,
    /// Above 1, what was said before becomes less likely
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, value_parser = ranges::penalty)]
    pub repetition_penalty: f64,
    /// Text that ends an answer, and is not printed; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Tokens that an answer has before it can end
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub min_tokens: usize,
    /// Longest answer in tokens [default: what the model has room for, at most 1024]
    #[arg(long, value_name = "TOKENS", value_parser = ranges::at_least_one)]
    pub max_response_length: Option<usize>,
    /// Answers decoded at once
    #[arg(long, default_value_t = 64, value_parser = ranges::at_least_one)]
    pub max_batch_size: usize,
    /// Tokens that the key-value cache may have room for, over all answers [default: what max-batch-size answers may take]
    #[arg(long, value_name = "TOKENS", value_parser = ranges::at_least_one)]
    pub max_tokens_in_cache: Option<usize>,
    /// Print each token with its log-prob after its answer, a line each: id, log-prob in nats, text
    #[arg(long)]
    pub log_probs: bool,
}

#[cfg(feature = "serve")]
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The policy: a run folder (its newest checkpoint), a checkpoint, a Hugging Face or PEFT folder, or a model at the hub
    /// (owner/name or owner/name@revision; needs a build with the feature `hub`)
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    pub precision: Precision,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    pub addr: std::net::SocketAddr,
    /// Environment variable with the token that requests have to bring; needed where others can reach the address
    #[arg(long, value_name = "VARIABLE")]
    pub api_key_env: Option<String>,
    /// The name of the model to clients [default: as in --model]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// Answers decoded at once
    #[arg(long, default_value_t = 64, value_parser = ranges::at_least_one)]
    pub max_batch_size: usize,
    /// Tokens that the cache may have room for, over all answers [default: 2048 for each of max-batch-size, or what the
    /// model has positions for]
    #[arg(long, value_name = "TOKENS", value_parser = ranges::at_least_one)]
    pub max_tokens_in_cache: Option<usize>,
    /// Tokens of prompts that are read at once; open answers go on in between
    #[arg(long, value_name = "TOKENS", default_value_t = luspo::rollout::BatchLimits::PREFILL_CHUNK, value_parser = ranges::at_least_one)]
    pub prefill_chunk: usize,
    /// Answers that may wait for their turn; a request for more is refused
    #[arg(long, value_name = "ANSWERS", default_value_t = 1024)]
    pub max_waiting: usize,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// The policy: a run folder (its newest checkpoint), a checkpoint, a Hugging Face or PEFT folder, or a model at the hub
    /// (owner/name or owner/name@revision; needs a build with the feature `hub`)
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    pub precision: Precision,
    /// JSON lines: {"token_ids": [...]}, or {"prompt": "...", "response": "..."}; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// JSON lines: {"prediction": "...", "gold": "...", "data_source": "..."}; `-` reads standard input
    #[arg(long, value_name = "FILE", required_unless_present = "prediction", conflicts_with = "prediction")]
    pub input: Option<PathBuf>,
    /// One answer, as a model would write it, instead of a file
    #[arg(long, value_name = "TEXT", requires = "gold", allow_hyphen_values = true)]
    pub prediction: Option<String>,
    /// The gold answer to it
    #[arg(long, value_name = "TEXT", requires = "prediction", allow_hyphen_values = true)]
    pub gold: Option<String>,
    /// Who judges: auto (by each line's data_source; math for one pair), exact, gsm8k, math, math_dapo, math_reward or a
    /// built-in task's
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub verifier: String,
    /// Where the verifier math looks for the answer; the first rule that finds one decides. Also: phrase, whole, formula,
    /// number
    #[arg(long, value_name = "RULES", value_delimiter = ',', value_parser = extraction,
        default_value = "boxed,answer_tag,answer_line,hashes")]
    pub extraction: Vec<Extraction>,
    /// Say why: what was extracted by which rule, how both sides were read, why they are the same or not
    #[arg(long)]
    pub explain: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A run folder (its newest checkpoint), a checkpoint, a Hugging Face or PEFT folder, or a model at the hub
    #[arg(value_name = "RUN_OR_CHECKPOINT")]
    pub source: PathBuf,
    /// Folder to write: absent, or empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Number type of the weights: f32, bf16 or f16 [default: as stored]
    #[arg(long)]
    pub dtype: Option<WeightDtype>,
    /// Split the weights into files of at most this size
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    pub max_shard_size: u64,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show columns, sources, lengths, duplicates, conflicting golds and examples of datasets
    Inspect {
        /// Files in verl's schema: JSON Lines (.jsonl), else Parquet
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Folder with tokenizer.json, as a model's: show lengths in tokens and prompts as the model reads them
        #[arg(long, visible_alias = "model", value_name = "DIR")]
        tokenizer: Option<PathBuf>,
        /// Validation file, may be repeated: show which of its prompts are in the files too
        #[arg(long, value_name = "FILE")]
        val: Vec<PathBuf>,
    },
    /// Write a built-in task as train.parquet, val.parquet and sft.parquet
    Generate {
        /// The task's name: arithmetic, countdown, linear_equation, base_conversion or sorting
        task: String,
        /// How hard its problems are, from 1 to 5; not for arithmetic [default: 1]
        #[arg(long, value_name = "LEVEL")]
        difficulty: Option<u32>,
        /// Folder to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// A rule of extraction by its name.
fn extraction(name: &str) -> Result<Extraction, String> {
    Extraction::named(name).ok_or_else(|| {
        let known = Extraction::ALL.map(|rule| format!("`{}`", rule.name())).join(", ");
        format!("there is no such rule; there are {known}")
    })
}

/// Something on the command line cannot be used.
#[derive(Debug)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
