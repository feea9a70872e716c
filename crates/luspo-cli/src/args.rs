//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use luspo::Backend;

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
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,
    /// Print results as JSON, one object a line
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
    /// Measure a policy on datasets: mean@n, pass@k, maj@n, lengths
    Eval(EvalArgs),
    /// Sample answers to a prompt, streaming
    Generate(GenerateArgs),
    /// Print the per-token log-probs of given sequences at temperature 1
    Score(ScoreArgs),
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
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The policy, a Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Parquet files in verl's schema; rows with the same prompt and gold count once
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Answers a prompt
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub n: u32,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f64,
    /// Nucleus: sample from the smallest set of tokens of this probability
    #[arg(long, default_value_t = 0.7)]
    pub top_p: f64,
    /// Longest answer in tokens [default: what the model has room for, at most 1024]
    #[arg(long, value_name = "TOKENS")]
    pub max_response_length: Option<usize>,
    /// Longest prompt in tokens; longer ones are left out
    #[arg(long, default_value_t = 1024)]
    pub max_prompt_length: usize,
    /// Answers decoded at once
    #[arg(long, default_value_t = 64)]
    pub max_batch_size: usize,
    /// Judge with this verifier instead of the data source's own
    #[arg(long, default_value = "auto")]
    pub verifier: String,
}

#[derive(Debug, Args)]
#[group(id = "text", required = true, multiple = false)]
pub struct PromptArg {
    /// Text that the model continues as it is
    #[arg(long, group = "text")]
    pub prompt: Option<String>,
    /// A user's message, put through the model's chat template
    #[arg(long, group = "text")]
    pub chat: Option<String>,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The policy, a Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    #[command(flatten)]
    pub text: PromptArg,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f64,
    /// Nucleus: sample from the smallest set of tokens of this probability
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Sample from the k most likely tokens; 0 turns it off
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Drop tokens less likely than this share of the most likely one
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f64,
    /// Longest answer in tokens [default: what the model has room for, at most 1024]
    #[arg(long, value_name = "TOKENS")]
    pub max_response_length: Option<usize>,
}

#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// The policy, a Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// JSON lines: {"token_ids": [...]}, or {"prompt": "...", "response": "..."}
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show columns, sources, lengths, duplicates and examples of Parquet files
    Inspect {
        /// Parquet files in verl's schema
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Folder with tokenizer.json: show lengths in tokens and prompts as the model reads them
        #[arg(long, value_name = "DIR")]
        tokenizer: Option<PathBuf>,
    },
    /// Write a built-in task as train.parquet, val.parquet and sft.parquet
    Generate {
        /// The task's name: arithmetic
        task: String,
        /// Folder to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
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
