//! Programs that judge.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use luspo_reward::{ComponentConfig, FailureKind, OnFailure, RewardConfig, RewardPipeline};

use crate::support::Asked;
use crate::{exact, kinds, pipeline, program, score, values};

/// Gives each question's id and text to the body, which says what to print.
fn shell(body: &str) -> ComponentConfig {
    let script = format!(
        "while IFS= read -r line; do
            id=${{line#*'\"id\":'}}; id=${{id%%,*}}
            text=${{line#*'\"response\":\"'}}; text=${{text%%'\"'*}}
            {body}
        done"
    );
    program(&["sh", "-c", &script])
}

/// What scores a text by its number.
const ECHO: &str = r#"echo "{\"id\":$id,\"score\":$text}""#;

#[test]
fn scores_come_in_the_order_of_the_answers_however_many_are_asked_at_once() {
    let texts: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected: Vec<f64> = (0..60).map(f64::from).collect();
    for concurrency in [1, 3, 8] {
        // Small numbers take longer, so that they are overtaken.
        let body = format!("[ $text -lt 8 ] && sleep 0.1; {ECHO}");
        let rewards = pipeline(ComponentConfig { concurrency, ..shell(&body) });
        assert_eq!(values(&rewards, &texts), expected, "{concurrency} at once");
        assert_eq!(values(&rewards, &texts[..2]), expected[..2], "the processes are asked again");
    }
}

#[test]
fn a_question_says_all_there_is_to_know() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("asked");
    let body = format!("printf '%s\\n' \"$line\" >> {}; echo \"{{\\\"id\\\":$id,\\\"score\\\":0}}\"", file.display());
    let rewards = pipeline(shell(&body));
    let mut asked = Asked::new("a \"b\"\n\u{1f980}\u{0}", "9", "any");
    asked.tokens = 41;
    rewards.score(&[asked.answer()]).unwrap();
    let question: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let expected = serde_json::json!({
        "id": 0, "response": "a \"b\"\n\u{1f980}\u{0}", "ground_truth": "9", "data_source": "any",
        "prompt": [{ "role": "user", "content": "how many?" }], "extra_info": { "level": 3 },
        "tokens": 41, "finish": "stop",
    });
    assert_eq!(question, expected);
}

#[test]
fn every_way_to_fail_is_told_apart_and_counted() {
    let reply = |reply: &str| shell(&format!("printf '%s\\n' \"{reply}\""));
    let fast = |component: ComponentConfig| ComponentConfig { timeout: 0.4, ..component };
    for (what, component, kind) in [
        ("NaN", reply(r#"{\"id\":$id,\"score\":NaN}"#), FailureKind::NotFinite),
        ("infinite", reply(r#"{\"id\":$id,\"score\":-Infinity}"#), FailureKind::NotFinite),
        ("null", reply(r#"{\"id\":$id,\"score\":null}"#), FailureKind::NotFinite),
        ("no score", reply(r#"{\"id\":$id}"#), FailureKind::Missing),
        ("no id", reply(r#"{\"score\":1}"#), FailureKind::Missing),
        ("no JSON", reply("one"), FailureKind::Garbage),
        ("an empty line", reply(""), FailureKind::Garbage),
        ("another question's id", reply(r#"{\"id\":99,\"score\":1}"#), FailureKind::WrongCount),
        ("its own error", reply(r#"{\"id\":$id,\"error\":\"cannot\"}"#), FailureKind::Error),
        ("nothing, for ever", fast(shell("sleep 60")), FailureKind::Timeout),
        ("deaf", fast(program(&["sleep", "60"])), FailureKind::Timeout),
        ("deaf to signals", fast(shell("trap '' TERM INT HUP; sleep 60")), FailureKind::Timeout),
        ("an early end", program(&["true"]), FailureKind::Exited),
        ("a crash", shell("kill -SEGV $$"), FailureKind::Exited),
        ("closed output", fast(shell("exec 1>&-; sleep 60")), FailureKind::Exited),
        ("a flood of one line", program(&["sh", "-c", "tr '\\0' x < /dev/zero"]), FailureKind::Flood),
        ("a flood of lines", program(&["yes"]), FailureKind::Garbage),
        ("bytes", program(&["sh", "-c", "printf '\\377\\n'; cat"]), FailureKind::Garbage),
    ] {
        let started = Instant::now();
        assert_eq!(kinds(component, &["1", "2", "3"]), [(kind, 3)], "{what}");
        assert!(started.elapsed() < Duration::from_secs(20), "{what} took {:?}", started.elapsed());
    }
}

/// Processes whose command line has this word.
#[cfg(target_os = "linux")]
fn processes(word: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).split('\0').any(|other| other == word)).count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_takes_too_long_is_killed_with_its_children() {
    let word = "3607.25"; // seconds that nobody else sleeps
    let hanging = ComponentConfig { timeout: 0.3, concurrency: 2, ..shell(&format!("sleep {word} & sleep {word}")) };
    assert_eq!(kinds(hanging, &["1", "2", "3"]), [(FailureKind::Timeout, 3)]);
    let ended = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(20));
        processes(word) == 0
    });
    assert!(ended, "{} are still there", processes(word));
}

#[test]
fn a_program_sees_the_end_of_its_questions() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ended");
    let mut component = shell(ECHO);
    component.command[2] += &format!("; echo bye >> {}", file.display());
    let rewards = pipeline(ComponentConfig { concurrency: 3, ..component });
    assert_eq!(values(&rewards, &["1", "2", "3", "4", "5", "6"]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert!(!file.exists());
    drop(rewards);
    assert!(fs::read_to_string(file).unwrap().starts_with("bye\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn processes_end_with_the_pipeline() {
    let word = "3607.75";
    let rewards = pipeline(shell(&format!("{ECHO}; sleep {word} & ")));
    assert_eq!(values(&rewards, &["1"]), [1.0]);
    assert!((0..100).any(|_| processes(word) == 1 || {
        thread::sleep(Duration::from_millis(20));
        false
    }));
    drop(rewards);
    assert!((0..100).any(|_| processes(word) == 0 || {
        thread::sleep(Duration::from_millis(20));
        false
    }));
}

#[test]
fn one_answer_that_kills_its_process_costs_no_other_its_score() {
    let bodies = [
        ("crash", format!("[ $text = 5 ] && exit 3; {ECHO}")),
        ("hang", format!("[ $text = 5 ] && sleep 60; {ECHO}")),
        ("talk too much before", format!("[ $text = 5 ] && echo what; {ECHO}")),
    ];
    for (what, body) in bodies {
        for concurrency in [1, 2] {
            let rewards = pipeline(ComponentConfig { concurrency, timeout: 2.0, ..shell(&body) });
            for texts in [["1", "5", "2", "3"], ["5", "3", "2", "1"]] {
                let values = values(&rewards, &texts);
                for (text, value) in texts.iter().zip(values) {
                    match *text {
                        "5" => assert!(value.is_nan(), "{what}: {value}"),
                        text => assert_eq!(value.to_string(), text, "{what}"),
                    }
                }
            }
        }
    }
}

#[test]
fn a_program_that_replies_twice_or_once_in_its_life_is_started_again_and_misplaces_nothing() {
    let texts = ["1", "2", "3", "4", "5", "6"];
    for body in [format!("{ECHO}; {ECHO}"), format!("{ECHO}; sleep 0.05; {ECHO}"), format!("{ECHO}; exit 0")] {
        let rewards = pipeline(ComponentConfig { concurrency: 2, ..shell(&body) });
        let scored = score(&rewards, &texts).unwrap();
        let values: Vec<f64> = scored.scores.iter().map(|score| score.components[1].1).collect();
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{body}");
        assert!(scored.failures.counts.is_empty() && scored.failures.restarts["mine"] > 0, "{body}");
        let metrics: Vec<String> = scored.failures.metrics().map(|(name, _)| name).collect();
        assert_eq!(metrics, ["reward/errors/mine/restart"]);
    }
}

#[test]
fn a_policy_decides_what_becomes_of_an_answer_that_cannot_be_judged() {
    let body = format!("[ $text = 5 ] && echo 'no idea' >&2 && exit 3; {ECHO}");
    let with = |on_failure| pipeline(ComponentConfig { on_failure, weight: 2.0, concurrency: 1, ..shell(&body) });
    let texts = ["1", "5", "2"];
    let masked = score(&with(OnFailure::Mask), &texts).unwrap();
    assert_eq!(masked.scores[0].total, 3.0, "1 of the verifier, and twice the program's");
    assert!(!masked.scores[1].is_known() && masked.scores[2].is_known());
    let zero = score(&with(OnFailure::Zero), &texts).unwrap();
    assert_eq!((zero.scores[1].total, zero.scores[1].is_known()), (0.0, true));
    assert_eq!(zero.failures.counts, BTreeMap::from([(("mine".to_string(), FailureKind::Exited), 1)]));
    let error = score(&with(OnFailure::Stop), &texts).unwrap_err().to_string();
    for part in ["`mine`", "prompt 7", "exited", "exit status: 3", "no idea"] {
        assert!(error.contains(part), "{part:?} is missing in {error}");
    }
}

#[test]
fn a_program_of_ones_own_can_be_the_verifier() {
    let config = |body: &str, on_failure| RewardConfig {
        verifier: "mine".into(),
        accuracy_weight: 3.0,
        components: BTreeMap::from([("mine".into(), ComponentConfig { on_failure, ..shell(body) })]),
        ..Default::default()
    };
    let body = r#"if [ $text = 1 ]; then right=true; else right=false; fi
        echo "{\"id\":$id,\"score\":0.5,\"correct\":$right,\"extracted\":\"<$text>\"}""#;
    let rewards = RewardPipeline::new(&config(body, OnFailure::Mask), 100, ["unheard of"]).unwrap();
    let scores = score(&rewards, &["1", "2"]).unwrap().scores;
    assert_eq!((scores[0].correct, scores[1].correct), (true, false));
    assert_eq!((scores[0].components.clone(), scores[0].total), (vec![("accuracy".to_string(), 1.5)], 1.5));
    assert_eq!(scores[1].extracted.as_deref(), Some("<2>"));

    // Right or wrong is never guessed from a score.
    let rewards = RewardPipeline::new(&config(ECHO, OnFailure::Zero), 100, ["any"]).unwrap();
    let scored = score(&rewards, &["1"]).unwrap();
    assert_eq!((scored.scores[0].total, scored.scores[0].correct), (0.0, false));
    assert_eq!(scored.failures.counts, BTreeMap::from([(("mine".to_string(), FailureKind::Missing), 1)]));
}

#[cfg(target_os = "linux")]
#[test]
fn memory_beyond_the_limit_is_refused_to_the_process() {
    // dd takes a buffer of the size of a block.
    let body = format!("dd if=/dev/zero of=/dev/null bs=512M count=1 2>/dev/null || exit 9; {ECHO}");
    assert_eq!(values(&pipeline(shell(&body)), &["1"]), [1.0]);
    let limited = ComponentConfig { memory_limit: Some(200), ..shell(&body) };
    assert_eq!(kinds(limited, &["1"]), [(FailureKind::Exited, 1)]);
}

#[test]
fn the_limit_on_output_is_of_the_longest_reply() {
    let long = r#"printf '{"id":%s,"score":1,"comment":"%0*d"}\n' $id $text 0"#;
    let limited = ComponentConfig { output_limit: 200, ..shell(long) };
    let scored = score(&pipeline(limited), &["100", "300"]).unwrap();
    assert!(scored.scores[0].is_known());
    assert_eq!(scored.failures.counts, BTreeMap::from([(("mine".to_string(), FailureKind::Flood), 1)]));
}

#[test]
fn floods_of_errors_and_long_answers_hold_nobody_up() {
    let body = format!("head -c 3000000 /dev/zero | tr '\\0' e >&2; {ECHO}");
    assert_eq!(values(&pipeline(shell(&body)), &["1", "2"]), [1.0, 2.0]);
    // Longer than a pipe holds; the program never reads it.
    let long = "9".repeat(1 << 20);
    let deaf = ComponentConfig { timeout: 0.4, ..program(&["sleep", "60"]) };
    assert_eq!(kinds(deaf, &[&long]), [(FailureKind::Timeout, 1)]);
    let counts = shell(r#"echo "{\"id\":$id,\"score\":${#text}}""#);
    assert_eq!(values(&pipeline(counts), &[&long]), [f64::from(1 << 20)]);
}

#[test]
fn what_is_not_there_is_refused_before_anything_is_asked() {
    let refused = |component: ComponentConfig| {
        let config = RewardConfig { components: BTreeMap::from([("mine".into(), component)]), ..exact() };
        let missing = config.missing();
        let error = RewardPipeline::new(&config, 100, ["any"]).err().unwrap().to_string();
        assert_eq!(missing, std::slice::from_ref(&error), "`luspo check` says the same");
        error
    };
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::write(&plain, "").unwrap();
    for command in [&["no-such-program"][..], &["./no-such-program"], &[plain.to_str().unwrap()]] {
        let error = refused(program(command));
        assert!(error.contains("[reward.components.mine]") && error.contains(command[0]), "{error}");
    }
    assert!(refused(program(&["sh", "nowhere.sh"])).contains("no file nowhere.sh"));
    assert!(refused(ComponentConfig { custom: true, ..Default::default() }).contains("train_with_custom"));
    let config = RewardConfig { components: BTreeMap::from([("mine".into(), shell(ECHO))]), ..exact() };
    assert_eq!(config.missing(), [""; 0]);
}

#[test]
fn components_that_make_no_sense_are_refused() {
    let check = |name: &str, component: ComponentConfig| {
        let config = RewardConfig { components: BTreeMap::from([(name.into(), component)]), ..exact() };
        config.check(100).unwrap_err().to_string()
    };
    let default = ComponentConfig::default;
    for name in ["accuracy", "format", "errors", "gsm8k", "a/b", "", "ü"] {
        assert!(check(name, program(&["true"])).contains("name"), "{name:?}");
    }
    let url = |url: &str| ComponentConfig { url: Some(url.into()), ..default() };
    for (component, words) in [
        (default(), "needs one of"),
        (ComponentConfig { custom: true, ..program(&["true"]) }, "needs one of"),
        (program(&[""]), "empty"),
        (url("example.org"), "is no address"),
        (url("ftp://example.org"), "is no address"),
        (ComponentConfig { weight: f64::NAN, ..program(&["true"]) }, "weight = NaN"),
        (ComponentConfig { timeout: 0.0, ..program(&["true"]) }, "timeout = 0"),
        (ComponentConfig { timeout: f64::INFINITY, ..program(&["true"]) }, "timeout = inf"),
        (ComponentConfig { concurrency: 0, ..program(&["true"]) }, "concurrency = 0"),
        (ComponentConfig { output_limit: 1, ..program(&["true"]) }, "output_limit = 1"),
        (ComponentConfig { memory_limit: Some(1), ..url("http://h/") }, "memory_limit is of `command`"),
        (ComponentConfig { memory_limit: Some(0), ..program(&["true"]) }, "memory_limit"),
    ] {
        let error = check("mine", component);
        assert!(error.contains(words), "{words}: {error}");
    }
    if !cfg!(feature = "https") {
        assert!(check("mine", url("https://example.org/")).contains("no TLS"));
    }
    let mut config = RewardConfig { verifier: "mine".into(), ..exact() };
    config.components.insert("mine".into(), ComponentConfig { weight: 2.0, ..program(&["true"]) });
    assert!(config.check(100).unwrap_err().to_string().contains("accuracy_weight"));
}

/// What the examples of the documentation do.
#[test]
fn the_examples_in_python_and_in_shell_judge() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/own-reward");
    for (command, has) in [("python3", "reward.py"), ("sh", "reward.sh")] {
        if std::process::Command::new(command).args(["-c", "exit()"]).output().is_err() {
            println!("there is no {command}");
            continue;
        }
        let script = examples.join(has);
        let component = program(&[command, script.to_str().unwrap()]);
        let config = RewardConfig {
            verifier: "mine".into(),
            components: BTreeMap::from([("mine".into(), component)]),
            ..Default::default()
        };
        let rewards = RewardPipeline::new(&config, 100, ["any"]).unwrap();
        let scored = score(&rewards, &["6-5=1", "=2", "", "\"\\=1", "1,2=1"]).unwrap();
        assert_eq!(scored.failures, Default::default(), "{has}");
        let correct: Vec<bool> = scored.scores.iter().map(|score| score.correct).collect();
        assert_eq!(correct, [true, false, false, true, true], "{has}");
    }
}
