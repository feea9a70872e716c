//! Rewards of the user's own: programs, addresses and Rust types that are right, and those that hang, crash, lie and
//! flood. Whatever they do, every answer has a score or is counted, in its place, and in bounded time.
#![cfg(unix)] // the programs are for a POSIX shell

mod custom;
mod endpoint;
mod programs;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use luspo_reward::{ComponentConfig, FailureKind, RewardConfig, RewardError, RewardPipeline, Scored};

use support::Asked;

fn program(command: &[&str]) -> ComponentConfig {
    let command = command.iter().map(|word| word.to_string()).collect();
    ComponentConfig { command, timeout: 10.0, ..Default::default() }
}

fn pipeline(component: ComponentConfig) -> RewardPipeline {
    let config = RewardConfig { components: BTreeMap::from([("mine".into(), component)]), ..exact() };
    RewardPipeline::new(&config, 100, ["any"]).unwrap()
}

fn exact() -> RewardConfig {
    RewardConfig { verifier: "exact".into(), ..Default::default() }
}

fn score(rewards: &RewardPipeline, texts: &[&str]) -> Result<Scored, RewardError> {
    let asked: Vec<Asked> = texts.iter().map(|text| Asked::new(text, "1", "any")).collect();
    rewards.score(&asked.iter().map(Asked::answer).collect::<Vec<_>>())
}

/// What the component says of texts.
fn values(rewards: &RewardPipeline, texts: &[&str]) -> Vec<f64> {
    let scored = score(rewards, texts).unwrap();
    let of_mine = |score: &luspo_core::Score| score.components.iter().find(|(name, _)| name == "mine").unwrap().1;
    scored.scores.iter().map(of_mine).collect()
}

/// The kinds of failures that scoring these texts counts.
fn kinds(component: ComponentConfig, texts: &[&str]) -> Vec<(FailureKind, usize)> {
    let scored = score(&pipeline(component), texts).unwrap();
    let unknown = scored.scores.iter().filter(|score| !score.is_known()).count();
    assert_eq!(
        unknown,
        scored.failures.counts.values().sum::<usize>(),
        "every failure is a NaN and the other way round"
    );
    scored.failures.counts.into_iter().map(|((_, kind), count)| (kind, count)).collect()
}
