//! `luspo eval`: how good policies are.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use luspo::Backend;
use luspo::core::{Purpose, RandomKey};
use luspo::data::{LoadOptions, PromptDataset, PromptOverlong};
use luspo::reward::{RewardConfig, RewardPipeline};
use luspo::rollout::{BatchLimits, Engine};
use luspo::trainer::{Asked, Config, EvalFolder, Evaluation, Exam, TrainError, file_sha256, model_sha256};
use serde_json::{Value, json};

use crate::args::{EvalArgs, Global};
use crate::command::{check_cache, load_source, room_for_answer};
use crate::console::evaluation_table;
use crate::live_line::tell;
use crate::source::Source;

pub fn run(args: EvalArgs, global: &Global) -> Result<()> {
    let rewards = match &args.reward {
        Some(file) => Config::load(file, &[])?.reward,
        None => RewardConfig {
            verifier: args.verifier.clone(),
            math_extraction: args.extraction.clone(),
            ..RewardConfig::default()
        },
    };
    rewards.check_programs().map_err(TrainError::from)?;
    let sources = args.model.iter().map(|model| Source::named(model, global)).collect::<Result<Vec<_>>>()?;
    let mut folder = match &args.out {
        Some(out) => Some(EvalFolder::open(out.clone(), asked(&args, global, &rewards, &sources)?)?),
        None => None,
    };
    let names: Vec<String> = args.model.iter().map(|model| model.display().to_string()).collect();
    let mut evaluations: Vec<(&str, Evaluation)> = Vec::new();
    for (number, (name, source)) in names.iter().zip(&sources).enumerate() {
        let evaluation = one(&args, global, &rewards, (number, name, source), folder.as_mut())?;
        evaluations.push((name, evaluation));
    }
    let alone = evaluations.len() == 1;
    let lines: Vec<Value> = evaluations.iter().map(|(name, evaluation)| line(name, evaluation, alone)).collect();
    if let Some(folder) = &mut folder {
        folder.finish(&lines)?;
    }
    let mut out = std::io::stdout().lock();
    if global.json {
        lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    } else {
        let labels = labels(&names);
        let stages: Vec<(&str, &Evaluation)> =
            evaluations.iter().zip(&labels).map(|((_, evaluation), label)| (label.as_str(), evaluation)).collect();
        writeln!(out, "{}", evaluation_table(&stages, true))?;
    }
    Ok(())
}

/// Evaluates one policy, or takes what the folder has of it.
fn one(
    args: &EvalArgs,
    global: &Global,
    rewards: &RewardConfig,
    (number, name, source): (usize, &str, &Source),
    folder: Option<&mut EvalFolder>,
) -> Result<Evaluation> {
    let n = args.n as usize;
    if let Some(folder) = &folder {
        if let Some(answers) = folder.finished(number)? {
            tell(&format!("{name}: all {} answers are there", answers.rows.len()));
            return Ok(Evaluation::of(n, answers));
        }
        match folder.parts(number) {
            0 => {}
            parts => tell(&format!("{name}: going on behind {parts} parts that are there")),
        }
    }
    let policy = load_source(source, &args.precision, global)?;
    let options = LoadOptions {
        max_prompt_length: args.max_prompt_length,
        overlong: PromptOverlong::Filter,
        filter_invalid: true, // counted and logged, like prompts that are too long
        by_extra_info: !rewards.components.is_empty(),
    };
    let prompts = PromptDataset::load(&args.data, &policy.tokenizer, options)?;
    let longest_prompt = prompts.longest_prompt();
    let max_response_length = args.max_response_length.unwrap_or_else(|| room_for_answer(&policy, longest_prompt));
    let rewards =
        RewardPipeline::new(rewards, max_response_length, prompts.data_sources()).map_err(TrainError::from)?;
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
    let tokens = limits.tokens_for(distinct.len(), n, longest_prompt, max_response_length);
    check_cache(&policy, tokens, global)?;
    // The random numbers of the validation after the step that the policy was saved at.
    let key = RandomKey::new(global.seed.unwrap_or(0), Purpose::Validation).at(source.step.unwrap_or(0) as u64);
    let exam = Exam { prompts: &distinct, rewards: &rewards, n, sampling: &sampling, key };
    Ok(match folder {
        None => exam.evaluate(&policy, &mut Engine::new(limits)?)?,
        Some(folder) => folder.evaluate((number, name), &exam, &policy, limits)?,
    })
}

/// Everything that the answers depend on.
fn asked(args: &EvalArgs, global: &Global, rewards: &RewardConfig, sources: &[Source]) -> Result<Asked> {
    let mut models = Vec::new();
    for (name, source) in args.model.iter().zip(sources) {
        let folders: Vec<_> = std::iter::once(&source.policy).chain(&source.base).map(PathBuf::as_path).collect();
        models.push(json!({ "model": name, "step": source.step, "sha256": model_sha256(&folders)? }));
    }
    let mut data = Vec::new();
    for file in &args.data {
        data.push(json!({ "file": file, "sha256": file_sha256(file)? }));
    }
    let backend: Backend = global.backend.unwrap_or_default();
    Ok(Asked::of(&json!({
        "luspo": env!("CARGO_PKG_VERSION"),
        "models": models,
        "data": data,
        "n": args.n,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "min_p": args.min_p,
        "max_response_length": args.max_response_length,
        "max_prompt_length": args.max_prompt_length,
        "max_batch_size": args.max_batch_size,
        "max_tokens_in_cache": args.max_tokens_in_cache,
        "seed": global.seed.unwrap_or(0),
        "backend": backend.to_string(),
        "dtype": args.precision.dtype.unwrap_or(backend.default_dtype()).to_string(),
        "reward": rewards,
    }))?)
}

/// The numbers of one policy; it is named where there are several.
fn line(name: &str, evaluation: &Evaluation, alone: bool) -> Value {
    let mut line = json!({});
    if !alone {
        line["model"] = name.into();
    }
    if let (Value::Object(line), Value::Object(metrics)) = (&mut line, evaluation.metrics().to_json()) {
        line.extend(metrics);
    }
    line
}

/// What tells the policies apart in a table: their paths without the folders that all of them begin or end with.
fn labels(names: &[String]) -> Vec<String> {
    if names.len() == 1 {
        return vec![String::new()];
    }
    let mut paths: Vec<Vec<&str>> = names.iter().map(|name| name.split('/').collect()).collect();
    let all_share = |paths: &[Vec<&str>], end: fn(&[&'_ str]) -> Option<String>| {
        paths.iter().all(|path| path.len() > 1 && end(path) == end(&paths[0]))
    };
    while all_share(&paths, |path| path.first().map(ToString::to_string)) {
        for path in &mut paths {
            path.remove(0);
        }
    }
    while all_share(&paths, |path| path.last().map(ToString::to_string)) {
        for path in &mut paths {
            path.pop();
        }
    }
    paths.iter().map(|path| path.join("/")).collect()
}

#[cfg(test)]
mod tests {
    use super::labels;

    #[test]
    fn a_label_is_what_tells_a_policy_from_the_others() {
        let labels = |names: &[&str]| labels(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(labels(&["runs/a"]), [""]);
        assert_eq!(
            labels(&["runs/a/checkpoints/step_000001/policy", "runs/a/checkpoints/step_000002/policy"]),
            ["step_000001", "step_000002"]
        );
        assert_eq!(labels(&["runs/a", "runs/a/checkpoints/x"]), ["a", "a/checkpoints/x"]);
        assert_eq!(labels(&["one", "one"]), ["one", "one"]);
    }
}
