//! `luspo eval`: how good a policy is.

use std::io::Write;

use anyhow::Result;
use luspo::core::{Purpose, RandomKey};
use luspo::data::{LoadOptions, PromptDataset, PromptOverlong};
use luspo::reward::{RewardConfig, RewardPipeline};
use luspo::rollout::{BatchLimits, Engine};
use luspo::trainer::{Config, TrainError, evaluate};

use crate::args::{EvalArgs, Global};
use crate::command::{check_cache, load_policy, room_for_answer};
use crate::console::evaluation_table;

pub fn run(args: EvalArgs, global: &Global) -> Result<()> {
    let rewards = match &args.reward {
        Some(file) => Config::load(file, &[])?.reward,
        None => RewardConfig { verifier: args.verifier, math_extraction: args.extraction, ..RewardConfig::default() },
    };
    rewards.check_programs().map_err(TrainError::from)?;
    let policy = load_policy(&args.model, &args.precision, global)?;
    let options = LoadOptions {
        max_prompt_length: args.max_prompt_length,
        overlong: PromptOverlong::Filter,
        filter_invalid: true, // counted and logged, like prompts that are too long
    };
    let prompts = PromptDataset::load(&args.data, &policy.tokenizer, options)?;
    let longest_prompt = prompts.longest_prompt();
    let max_response_length = args.max_response_length.unwrap_or_else(|| room_for_answer(&policy, longest_prompt));
    let rewards =
        RewardPipeline::new(&rewards, max_response_length, prompts.data_sources()).map_err(TrainError::from)?;
    let mut sampling = policy.sampling(max_response_length);
    sampling.temperature = args.temperature;
    sampling.top_p = args.top_p;
    sampling.top_k = args.top_k;
    sampling.min_p = args.min_p;
    let distinct = prompts.distinct()?;
    if let Some(prompt) = distinct.first() {
        rewards.rehearse(prompt).map_err(TrainError::from)?;
    }
    let max_tokens_in_cache = args.max_tokens_in_cache;
    let limits = BatchLimits { max_tokens_in_cache, ..BatchLimits::from(args.max_batch_size) };
    let tokens = limits.tokens_for(distinct.len(), args.n as usize, longest_prompt, max_response_length);
    check_cache(&policy, tokens, global)?;
    let key = RandomKey::new(global.seed.unwrap_or(0), Purpose::Validation).at(0);
    let mut engine = Engine::new(limits)?;
    let evaluation = evaluate(&policy, &distinct, &rewards, args.n as usize, &sampling, key, &mut engine)?;
    let mut out = std::io::stdout().lock();
    if global.json {
        writeln!(out, "{}", evaluation.metrics().to_json())?;
    } else {
        writeln!(out, "{}", evaluation_table(&[("", &evaluation)]))?;
    }
    Ok(())
}
