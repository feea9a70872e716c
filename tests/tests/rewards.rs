//! Rewards of the user's own in whole runs: programs that are right, and those that hang, crash, lie and flood.
#![cfg(unix)] // the programs are for a POSIX shell

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use luspo::reward::{Answer, CustomRewards, Reward, Verdict};
use luspo::trainer::{Config, Custom, RolloutRow, read_rollouts, train_with_custom};
use serde_json::Value;
use support::{TINY, luspo, repository, train};

/// Two steps of 16 answers after a short warm-up.
const SHORT: [&str; 6] = [
    "sft.steps=2",
    "total_training_steps=2",
    "test_freq=0",
    "run.threads=1",
    "logging.tensorboard=false",
    "logging.console=false",
];

/// Reads a question, and has its number in `$id` and its answer, as JSON has it, in `$text`.
const READ: &str = "export LC_ALL=C
while IFS= read -r line; do
id=${line#*'\"id\":'}; id=${id%%,*}
text=${line#*'\"response\":\"'}; text=${text%%'\",\"ground_truth\"'*}
";

/// Replies with the number of bytes that an answer's JSON has.
const LENGTH: &str = r#"echo "{\"id\":$id,\"score\":${#text}}""#;

/// Writes a program that does this with each question, and says how it is called.
fn program(dir: &Path, name: &str, body: &str) -> String {
    fs::write(dir.join(name), format!("{READ}{body}\ndone\n")).unwrap();
    format!("reward.components.mine.command=[\"sh\", \"{name}\"]")
}

fn run(dir: &Path, name: &str, overrides: &[&str]) {
    train(dir, name, &[&SHORT, overrides].concat());
}

/// Every line of a run's metrics that has answers in it.
fn steps(dir: &Path, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("runs").join(name).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("critic/score/mean").is_some() || line.get("reward/masked").is_some()).collect()
}

fn rows(dir: &Path, name: &str, step: usize) -> Vec<RolloutRow> {
    read_rollouts(&dir.join(format!("runs/{name}/rollouts/step_{step:06}.parquet"))).unwrap()
}

fn component(row: &RolloutRow, name: &str) -> f64 {
    row.components.iter().find(|(known, _)| known == name).unwrap().1
}

/// As JSON has it within its quotation marks.
fn escaped(text: &str) -> String {
    let text = serde_json::to_string(text).unwrap();
    text[1..text.len() - 1].to_string()
}

/// Whether the programs below go wrong on an answer. The policy is fresh: its answers are bytes of any kind.
fn is_struck(text: &str) -> bool {
    text.contains(|c| ('A'..='H').contains(&c))
}

#[test]
fn a_programs_scores_are_in_the_reward_each_with_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    // Short answers take longer, so that others overtake them.
    let mine = program(dir.path(), "mine.sh", &format!("[ ${{#text}} -lt 8 ] && sleep 0.02\n{LENGTH}"));
    for (name, weight) in
        [("once", "reward.components.mine.weight=0.01"), ("more", "reward.components.mine.weight=0.5")]
    {
        run(dir.path(), name, &[&mine, weight]);
    }
    for row in rows(dir.path(), "more", 1) {
        assert_eq!(component(&row, "mine"), 0.5 * escaped(&row.response).len() as f64, "{:?}", row.response);
        assert_eq!(row.reward, row.components.iter().map(|(_, value)| value).sum::<f64>());
    }
    let of = |name: &str, metric: &str| steps(dir.path(), name)[0][metric].as_f64().unwrap();
    let (once, more) = (of("once", "reward/mine/mean"), of("more", "reward/mine/mean"));
    assert!(once > 0.0 && (more - 50.0 * once).abs() < 1e-9, "{once} {more}");
    assert!(of("more", "critic/score/mean") > of("once", "critic/score/mean"));
    // Shaping is apart from what is right: the first answers are the same, and so is how many are right.
    assert_eq!(of("more", "reward/acc/mean"), of("once", "reward/acc/mean"));
}

#[test]
fn programs_that_hang_crash_lie_and_flood_cost_their_answers_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let some = |wrong: &str| format!("case $text in *[A-H]*) {wrong};; *) {LENGTH};; esac");
    for (name, body, kind) in [
        ("hang", some("sleep 600"), "timeout"),
        ("crash", some("echo broken >&2; kill -KILL $$"), "exited"),
        ("lie", some(r#"echo "{\"id\":12345,\"score\":1}""#), "wrong_count"),
        ("nan", some(r#"echo "{\"id\":$id,\"score\":NaN}""#), "not_finite"),
        ("mute", some(r#"echo "{\"id\":$id}""#), "missing"),
        ("babble", some("echo what"), "garbage"),
        ("flood", some("tr '\\0' x < /dev/zero"), "flood"),
    ] {
        let mine = program(dir.path(), &format!("{name}.sh"), &body);
        let started = Instant::now();
        let limits = ["reward.components.mine.timeout=2", "reward.components.mine.concurrency=16"];
        run(dir.path(), name, &[&[mine.as_str(), "val_before_train=false"][..], &limits].concat());
        assert!(started.elapsed() < Duration::from_secs(120), "{name} took {:?}", started.elapsed());
        for (index, step) in steps(dir.path(), name).iter().enumerate() {
            let rows = rows(dir.path(), name, index + 1);
            let struck: Vec<bool> = rows.iter().map(|row| is_struck(&row.response)).collect();
            let count = struck.iter().filter(|struck| **struck).count();
            assert!((1..rows.len()).contains(&count), "{name}: {count} of {} answers", rows.len());
            let counted = step[&format!("reward/errors/mine/{kind}")].as_u64();
            assert_eq!((counted, step["reward/masked"].as_u64()), (Some(count as u64), Some(count as u64)), "{name}");
            for (row, struck) in rows.iter().zip(struck) {
                assert_eq!((row.reward.is_nan(), struck), (struck, struck), "{name}: {:?}", row.response);
                assert!(!struck || row.advantage == 0.0, "{name}");
            }
            assert!(step["critic/score/mean"].is_number() && step["actor/grad_norm"].is_number(), "{name}: {step}");
        }
    }
}

#[test]
fn a_run_whose_reward_never_answers_ends_and_has_learned_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mine = "reward.components.mine.command=[\"sleep\", \"600\"]";
    let fast =
        ["reward.components.mine.timeout=0.2", "reward.components.mine.concurrency=16", "optimizer.weight_decay=0.1"];
    run(dir.path(), "deaf", &[&[mine][..], &fast].concat());
    let policy = |step: usize| {
        fs::read(dir.path().join(format!("runs/deaf/checkpoints/step_{step:06}/policy/model.safetensors"))).unwrap()
    };
    assert!(policy(0) == policy(2), "an answer without a score moved the policy");
    for step in steps(dir.path(), "deaf") {
        assert_eq!(step["reward/errors/mine/timeout"], 16);
        assert_eq!(step["reward/masked"], 16);
    }
    luspo(dir.path()).args(["train", "runs/deaf/config.toml", "--resume"]).assert().success();
    let text = fs::read_to_string(dir.path().join("runs/deaf/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["val-aux/luspo/arithmetic/unjudged_ratio"], 1);
    assert_eq!(last["val-aux/reward/errors/mine/timeout"], 16);
    assert!(last["val-core/luspo/arithmetic/acc/mean@1"].is_null(), "not a silent zero");
}

#[test]
fn zero_and_stop_are_as_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let mine = program(
        dir.path(),
        "mine.sh",
        &format!("case $text in *[A-H]*) echo no capitals >&2; exit 3;; esac\n{LENGTH}"),
    );
    run(dir.path(), "zero", &[&mine, "reward.components.mine.on_failure=zero"]);
    let failed: Vec<f64> = rows(dir.path(), "zero", 1)
        .iter()
        .filter(|row| is_struck(&row.response))
        .map(|row| component(row, "mine"))
        .collect();
    assert!(!failed.is_empty() && failed.iter().all(|value| *value == 0.0), "{failed:?}");
    assert_eq!(steps(dir.path(), "zero")[0]["reward/errors/mine/exited"], failed.len());
    assert!(steps(dir.path(), "zero")[0].get("reward/masked").is_none());

    let output = luspo(dir.path())
        .arg("train")
        .arg(repository().join("configs/arithmetic.toml"))
        .args(TINY)
        .args(SHORT)
        .args([&mine, "run.name=stop", "reward.components.mine.on_failure=stop"])
        .assert()
        .code(1);
    let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    for part in ["reward `mine` failed", "exited", "exit status: 3", "no capitals"] {
        assert!(error.contains(part), "{part:?} is missing in {error}");
    }
}

#[test]
fn a_verifier_in_shell_or_python_says_what_is_right_to_training_and_validation() {
    let dir = tempfile::tempdir().unwrap();
    let examples = repository().join("examples/own-reward");
    run(dir.path(), "built_in", &[]);
    for (name, interpreter, script) in [("shell", "sh", "reward.sh"), ("python", "python3", "reward.py")] {
        if std::process::Command::new(interpreter).args(["-c", "exit()"]).output().is_err() {
            println!("there is no {interpreter}");
            continue;
        }
        let script = examples.join(script);
        let mine = format!("reward.components.judge.command=[\"{interpreter}\", \"{}\"]", script.display());
        run(dir.path(), name, &["reward.verifier=judge", &mine]);
        // The task's own verifier calls the same answers right, so that it is the same run.
        let own = rows(dir.path(), name, 1);
        for (own, built_in) in own.iter().zip(rows(dir.path(), "built_in", 1)) {
            assert_eq!((&own.response, own.correct), (&built_in.response, built_in.correct));
        }
        let lines = |run: &str| fs::read_to_string(dir.path().join("runs").join(run).join("metrics.jsonl")).unwrap();
        let last = |run: &str| serde_json::from_str::<Value>(lines(run).lines().last().unwrap()).unwrap();
        for metric in ["reward/acc/mean", "reward/accuracy/mean", "val-core/luspo/arithmetic/acc/mean@1"] {
            assert_eq!(last(name)[metric], last("built_in")[metric], "{metric} of {name}");
        }
        let (run, data) = (format!("runs/{name}"), format!("runs/{name}/data/val.parquet"));
        let config = format!("runs/{name}/config.toml");
        let eval = ["eval", "--model", &run, "--data", &data, "--temperature", "0", "--max-response-length", "39"];
        let output = luspo(dir.path()).args(eval).args(["--json", "--reward", &config]).assert().success();
        let evaluation: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        for (metric, value) in evaluation.as_object().unwrap() {
            assert_eq!(*value, last(name)[metric], "{metric} of {name}");
        }
    }
}

#[test]
fn what_a_programs_verdict_calls_right_is_apart_from_its_score() {
    let dir = tempfile::tempdir().unwrap();
    let body = r#"right=false; case $text in *[A-H]*) right=true;; esac
echo "{\"id\":$id,\"score\":-${#text},\"correct\":$right}""#;
    let mine = program(dir.path(), "mine.sh", body);
    let own =
        [mine.as_str(), "reward.verifier=mine", "reward.accuracy_weight=2", "algorithm.filter_groups.enable=true"];
    let others = ["max_num_gen_batches=1", "algorithm.filter_groups.metric=acc", "val_temperature=1", "val_top_p=1"];
    run(dir.path(), "own", &[&own[..], &others].concat());
    let rows = rows(dir.path(), "own", 1);
    for row in &rows {
        assert_eq!(row.correct, is_struck(&row.response), "{:?}", row.response);
        assert_eq!(component(row, "accuracy"), -2.0 * escaped(&row.response).len() as f64);
    }
    let step = &steps(dir.path(), "own")[0];
    let right = rows.iter().filter(|row| row.correct).count();
    assert!((1..16).contains(&right), "{right}");
    assert_eq!(step["reward/acc/mean"].as_f64(), Some(right as f64 / 16.0));
    let unmixed = rows.chunks(4).filter(|group| group.iter().all(|row| row.correct == group[0].correct)).count();
    assert_eq!(
        step["train/groups_filtered"].as_u64(),
        Some(unmixed as u64),
        "by what is right, not by 16 different scores"
    );
    let text = fs::read_to_string(dir.path().join("runs/own/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let accuracy = last["val-core/luspo/arithmetic/acc/mean@1"].as_f64().unwrap();
    assert!(
        accuracy > 0.0 && accuracy < 1.0 && last["val-aux/luspo/arithmetic/score/mean@1"].as_f64() < Some(-1.0),
        "{last}"
    );
}

#[test]
fn a_replay_asks_again_and_a_resumed_run_goes_on_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let body = format!("case $text in *[A-H]*) exit 3;; esac\n{LENGTH}");
    let mine = program(dir.path(), "mine.sh", &body);
    run(dir.path(), "whole", &[&mine, "trainer.save_freq=1"]);
    run(dir.path(), "cut", &[&mine, "trainer.save_freq=1", "total_training_steps=1"]);
    luspo(dir.path()).args(["train", "runs/cut/config.toml", "--resume", "total_training_steps=2"]).assert().success();
    let policy = |run: &str| {
        fs::read(dir.path().join(format!("runs/{run}/checkpoints/step_000002/policy/model.safetensors"))).unwrap()
    };
    assert!(policy("whole") == policy("cut"));

    // How it is asked may change, what is asked may not.
    let resume = |setting: &str| {
        luspo(dir.path())
            .args(["train", "runs/cut/config.toml", "--resume", "total_training_steps=2"])
            .arg(format!("reward.components.mine.{setting}"))
            .assert()
    };
    resume("concurrency=1").success();
    resume("timeout=7").success();
    for fixed in ["weight=2", "command=[\"true\"]", "output_limit=4096"] {
        let refused = resume(fixed).code(2);
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(said.contains("a resumed run keeps its own reward.components.mine."), "{said}");
    }

    luspo(dir.path()).args(["replay", "runs/whole", "--step", "2"]).assert().success();
    program(dir.path(), "mine.sh", &LENGTH.replace("${#text}", "7"));
    let output = luspo(dir.path()).args(["replay", "runs/whole", "--step", "2"]).assert().code(1);
    let output = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(output.contains("reward/mine/mean"), "{output}");
}

/// Whether a process is there and does something; one that has ended may not have been waited for.
#[cfg(target_os = "linux")]
fn is_alive(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_does_not_outlive_a_run_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    // It does not look at its input again, and does not mind that it is closed.
    fs::write(dir.path().join("stuck.sh"), "trap '' TERM HUP INT\necho $$ > process\nwhile :; do sleep 0.1; done\n")
        .unwrap();
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
        .current_dir(dir.path())
        .arg("train")
        .arg(repository().join("configs/arithmetic.toml"))
        .args(TINY)
        .args(SHORT)
        .args(["reward.components.mine.command=[\"sh\", \"stuck.sh\"]", "reward.components.mine.timeout=600"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let wait = |until: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !until() {
            assert!(started.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let process = || fs::read_to_string(dir.path().join("process")).unwrap_or_default();
    wait(&|| process().ends_with('\n'));
    assert!(is_alive(&process()));
    run.kill().unwrap(); // SIGKILL
    run.wait().unwrap();
    wait(&|| !is_alive(&process()));
}

#[test]
fn groups_are_filtered_by_what_is_right_and_not_by_a_programs_score() {
    let dir = tempfile::tempdir().unwrap();
    let mine = program(dir.path(), "mine.sh", LENGTH);
    let filtered = |name: &str, metric: &str| {
        let metric = format!("algorithm.filter_groups.metric={metric}");
        let filter = ["algorithm.filter_groups.enable=true", "max_num_gen_batches=1", metric.as_str()];
        run(dir.path(), name, &[&[mine.as_str()][..], &filter].concat());
        steps(dir.path(), name)[0]["train/groups_filtered"].as_u64().unwrap()
    };
    assert!(filtered("acc", "acc") > filtered("score", "score"));
}

/// Scores answers by their length in bytes, as often as it is asked up to `most` times; then nobody listens.
fn serve(most: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(most) {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let question: Value = serde_json::from_slice(&body).unwrap();
            let reply = format!("{{\"score\":{}}}", question["response"].as_str().unwrap().len());
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{reply}", reply.len()).unwrap();
        }
    });
    url
}

#[test]
fn an_address_scores_a_run_and_where_it_goes_away_its_answers_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    // A first answer before the run, 16 of its first step, 8 of its second.
    let url = format!("reward.components.mine.url={}", serve(1 + 16 + 8));
    run(dir.path(), "http", &[&url, "val_before_train=false", "reward.components.mine.timeout=5"]);
    for row in rows(dir.path(), "http", 1) {
        assert_eq!(component(&row, "mine"), row.response.len() as f64);
    }
    let steps = steps(dir.path(), "http");
    assert!(steps[0].get("reward/masked").is_none());
    assert_eq!((&steps[1]["reward/masked"], &steps[1]["reward/errors/mine/http"]), (&8.into(), &8.into()));
}

/// A reward that likes digits, and fails on an answer with a 1 in it.
struct Digits;

impl Reward for Digits {
    fn score(&self, answer: &Answer<'_>) -> Result<Verdict, String> {
        assert!(!answer.text.contains('1'), "a one");
        let digits = answer.text.chars().filter(char::is_ascii_digit).count();
        Ok(Verdict { score: digits as f64, correct: false, extracted: None, style: None })
    }
}

#[test]
fn a_rust_type_goes_into_a_run_and_the_command_refuses_the_run_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let dir_word = format!("run.dir={}", run_dir.display());
    let own = [dir_word.as_str(), "reward.components.digits.custom=true", "trainer.save_freq=1"];
    let words: Vec<String> = [&TINY[..], &SHORT, &own].concat().iter().map(|word| word.to_string()).collect();
    let config = Config::load(&repository().join("configs/arithmetic.toml"), &words).unwrap();
    let rewards = CustomRewards::from([("digits".to_string(), Arc::new(Digits) as Arc<dyn Reward>)]);
    train_with_custom(config.clone(), Custom { rewards, ..Custom::default() }, &mut ()).unwrap();
    for row in read_rollouts(&run_dir.join("rollouts/step_000001.parquet")).unwrap() {
        let digits = row.response.chars().filter(char::is_ascii_digit).count() as f64;
        let expected = if row.response.contains('1') { f64::NAN } else { digits };
        assert_eq!(component(&row, "digits").to_string(), expected.to_string(), "{:?}", row.response);
    }
    let none = train_with_custom(config, Custom::default(), &mut ()).unwrap_err().to_string();
    assert!(none.contains("not empty") || none.contains("[reward.components.digits]"), "{none}");
    for command in
        [&["train", "run/config.toml", "--resume", "total_training_steps=3"][..], &["replay", "run", "--step", "1"]]
    {
        let output = luspo(dir.path()).args(command).assert().failure();
        let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(error.contains("digits") && error.contains("program"), "{error}");
    }
}
