//! `luspo eval`: how good a policy is.

use anyhow::Result;
use luspo::core::{Purpose, RandomKey};
use luspo::data::{PromptDataset, PromptOverlong};
use luspo::reward::{RewardConfig, RewardPipeline};
use luspo::trainer::evaluate;

use crate::args::{EvalArgs, Global};
use crate::command::load_policy;
use crate::console::evaluation_table;

pub fn run(args: EvalArgs, global: &Global) -> Result<()> {
    let policy = load_policy(&args.model, global)?;
    let prompts = PromptDataset::load(&args.data, &policy.tokenizer, args.max_prompt_length, PromptOverlong::Filter)?;
    let rewards = RewardPipeline::new(
        &RewardConfig { verifier: args.verifier, ..RewardConfig::default() },
        args.max_response_length,
        prompts.prompts().iter().map(|p| &p.data_source),
    )?;
    let mut sampling = policy.sampling(args.max_response_length);
    sampling.temperature = args.temperature;
    sampling.top_p = args.top_p;
    let key = RandomKey::new(global.seed.unwrap_or(0), Purpose::Validation).at(0);
    let evaluation =
        evaluate(&policy, &prompts.distinct(), &rewards, args.n as usize, &sampling, key, args.max_batch_size)?;
    if global.json {
        println!("{}", evaluation.metrics().to_json());
    } else {
        println!("{}", evaluation_table(&[("", &evaluation)]));
    }
    Ok(())
}
