//! `luspo replay`: a step of a run, run again.

use std::io::Write;

use anyhow::{Result, bail, ensure};
use luspo::trainer::{Config, Replay, TrainError, replay};

use crate::args::{Global, ReplayArgs, UsageError};
use crate::command::train::start_threads;

/// Differences that are printed; the rest is counted.
const SHOWN: usize = 20;

pub fn run(args: ReplayArgs, global: &Global) -> Result<()> {
    if global.seed.is_some() || global.backend.is_some() {
        bail!(UsageError("a replay has the run's own seed and backend; leave --seed and --backend out".into()));
    }
    let file = args.run.join("config.toml");
    if !file.is_file() {
        bail!(TrainError::NoRun { dir: args.run });
    }
    start_threads(&Config::load(&file, &[])?)?;
    let replay = replay(args.run.clone(), args.step, &mut ())?;
    let mut out = std::io::stdout().lock();
    match global.json {
        true => writeln!(out, "{}", json(&replay))?,
        false => write!(out, "{}", text(&replay))?,
    }
    ensure!(replay.differences.is_empty(), "step {} came out differently than it was recorded", replay.step);
    Ok(())
}

fn json(replay: &Replay) -> serde_json::Value {
    serde_json::json!({
        "step": replay.step,
        "same": replay.differences.is_empty(),
        "from": replay.from,
        "rollouts": replay.rollouts,
        "tokens": replay.tokens,
        "metrics": replay.metrics,
        "policy_sha256": replay.policy_sha256,
        "differences": replay.differences,
    })
}

fn text(replay: &Replay) -> String {
    let Replay { step, rollouts, tokens, metrics, policy_sha256, differences, .. } = replay;
    let from = replay.from.as_ref().map_or("the start of the run".to_string(), |from| from.display().to_string());
    let answers = match rollouts {
        0 => "the run did not record its answers (logging.rollouts is off)".to_string(),
        _ => format!("{rollouts} answers, {tokens} tokens with their log-probs"),
    };
    let mut text = format!("step {step}, repeated from {from}\n");
    if differences.is_empty() {
        return text + &format!("  the same: {answers}; {metrics} metrics; weights {policy_sha256}\n");
    }
    for difference in differences.iter().take(SHOWN) {
        text += &format!("  {difference}\n");
    }
    if differences.len() > SHOWN {
        text += &format!("  and {} more differences\n", differences.len() - SHOWN);
    }
    text
}
