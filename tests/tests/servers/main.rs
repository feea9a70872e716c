//! Runs whose answers other processes sample: `rollout.engine = "openai"`.

mod foreign;
#[path = "../serve/server.rs"]
#[allow(dead_code)] // what its own tests say to it
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;
use server::Server;
use support::{luspo, train};

/// A policy that has learned a little, so that answers differ in length and reward.
fn start(dir: &Path) -> PathBuf {
    train(dir, "start", &["total_training_steps=0", "val_before_train=false"]);
    dir.join("runs/start/checkpoints/step_000000/policy")
}

fn serve(model: &Path) -> Server {
    Server::of(model, tempfile::tempdir().unwrap(), &[])
}

/// Three steps from the policy `model`, with the answers of these servers.
fn run(dir: &Path, model: &Path, name: &str, urls: &[String], overrides: &[&str]) -> Command {
    let config = format!(
        r#"
        run = {{ name = "{name}" }}
        model = {{ path = {model:?} }}
        data.task = {{ name = "arithmetic", train_prompts = 64, val_prompts = 4 }}
        data.train_batch_size = 4
        data.max_prompt_length = 40
        data.max_response_length = 39
        rollout = {{ n = 4, engine = "openai", openai = {{ base_urls = {urls:?}, retries = 1 }} }}
        reward = {{ overlong_buffer = 30, overlong_penalty = 0.3 }}
        optimizer.lr = 1e-3
        trainer = {{ total_training_steps = 3, val_before_train = false }}
        "#
    );
    let file = dir.join(format!("{name}.toml"));
    fs::write(&file, config).unwrap();
    let mut command = luspo(dir);
    command.arg("train").arg(file).args(overrides);
    command
}

fn url(server: &Server) -> String {
    format!("http://{}/v1", server.address)
}

/// A metric of each step.
fn metric(dir: &Path, name: &str, key: &str) -> Vec<f64> {
    let text = fs::read_to_string(dir.join(format!("runs/{name}/metrics.jsonl"))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line.get(key)?.as_f64()).collect()
}

const GAP: &str = "rollout/log_prob_gap/max";
const STALENESS: &str = "rollout/staleness";

#[test]
fn servers_sample_what_the_policy_would_and_get_its_new_weights() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = start(dir);
    let servers = [serve(&model), serve(&model)];
    let urls: Vec<String> = servers.iter().map(url).collect();
    run(dir, &model, "fresh", &urls, &[]).assert().success();
    assert_eq!(metric(dir, "fresh", STALENESS), [0.0, 0.0, 0.0]);
    let gaps = metric(dir, "fresh", GAP);
    assert!(gaps.len() == 3 && gaps.iter().all(|gap| *gap < 5e-5), "{gaps:?}");
    assert!(metric(dir, "fresh", "actor/grad_norm").iter().any(|norm| *norm > 0.0), "the weights moved");

    // The same where they keep their weights: those of the last step of the run before.
    run(dir, &model, "stale", &urls, &["rollout.openai.weights=none"]).assert().success();
    let gaps = metric(dir, "stale", GAP);
    assert!(gaps.iter().all(|gap| *gap > 1e-3), "{gaps:?}");
    let correction = ["rollout.openai.weights=none", "rollout_is=token", "rollout_is_threshold=2"];
    run(dir, &model, "corrected", &urls, &correction).assert().success();
    let norms = |name| metric(dir, name, "actor/grad_norm");
    assert_ne!(norms("stale"), norms("corrected"));
}

#[test]
fn the_next_answers_can_be_sampled_while_a_step_learns() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = start(dir);
    let server = serve(&model);
    for name in ["ahead", "again"] {
        run(dir, &model, name, &[url(&server)], &["rollout.max_staleness=1"]).assert().success();
        assert_eq!(metric(dir, name, STALENESS), [0.0, 1.0, 1.0]);
        let gaps = metric(dir, name, GAP);
        assert!(gaps[0] < 5e-5 && gaps[1] > 5e-5 && gaps[2] > 5e-5, "{gaps:?}");
    }
    let scores = |name| metric(dir, name, "critic/score/mean");
    assert_eq!(scores("ahead"), scores("again"), "a server that keeps to seeds gives the same run");
}

/// Waits until the run has made a step.
fn wait_for_a_step(dir: &Path, name: &str) {
    let begun = Instant::now();
    while !fs::read_to_string(dir.join(format!("runs/{name}/metrics.jsonl"))).is_ok_and(|text| text.contains('\n')) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no step");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_that_dies_leaves_its_work_to_the_other_and_two_end_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = start(dir);
    let (first, second) = (serve(&model), serve(&model));
    let urls = [url(&first), url(&second)];
    let end = std::thread::scope(|scope| {
        let run = scope.spawn(|| run(dir, &model, "dying", &urls, &["total_training_steps=60"]).assert());
        wait_for_a_step(dir, "dying");
        drop(first);
        while metric(dir, "dying", GAP).len() < 8 {
            assert!(!run.is_finished(), "the other server goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(second);
        run.join().unwrap()
    });
    let said = String::from_utf8_lossy(&end.code(1).get_output().stderr).into_owned();
    let error = said.lines().find(|line| line.starts_with("error:")).unwrap();
    assert!(urls.iter().any(|url| error.contains(url.as_str())), "{said}");

    let third = serve(&model);
    let moved = format!("rollout.openai.base_urls=[{:?}]", url(&third));
    run(dir, &model, "dying", &urls, &["--resume", "total_training_steps=9", &moved]).assert().success();
    let again = run(dir, &model, "again", &urls, &[]).assert().code(1);
    let said = String::from_utf8_lossy(&again.get_output().stderr).into_owned();
    assert!(said.contains(&urls[0]), "{said}");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let cases = [
        (&["rollout.max_staleness=2"][..], "0 or 1 steps ahead"),
        (&["rollout.engine=luspo"], "keep one of them"),
        (&["rollout.openai.answers=text", "old_log_probs=sampler"], "brings no log-probs"),
        (&["rollout.openai.concurrency=0"], "at least one request"),
    ];
    for (overrides, named) in cases {
        let refused =
            run(dir, Path::new("nowhere"), "x", &["http://127.0.0.1:1/v1".into()], overrides).assert().code(2);
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(said.contains(named), "{said}");
    }
}
