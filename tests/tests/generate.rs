//! `luspo generate`: several prompts and answers at once, as text and as JSON, and what ends an answer.

mod support;

use std::path::Path;

use luspo::Backend;
use luspo::core::{FinishReason, Message, Prompt, Purpose, RandomKey};
use luspo::rollout::Sampling;
use luspo::trainer::Policy;
use serde_json::Value;
use support::{luspo, train};

const POLICY: &str = "runs/a/checkpoints/step_000000/policy";

/// Standard output of `luspo generate` with these arguments.
fn generated(dir: &Path, arguments: &[&str]) -> String {
    let output = luspo(dir).args(["generate", "--model", POLICY, "-q"]).args(arguments).assert().success();
    String::from_utf8(output.get_output().stdout.clone()).unwrap()
}

fn lines(dir: &Path, arguments: &[&str]) -> Vec<Value> {
    let text = generated(dir, &[arguments, &["--json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn several_prompts_have_several_answers_each_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "a", &["total_training_steps=1", "console=false"]);
    let prompts = ["--prompt", "01+02+03+04+05+06+07+08+09+01=", "--prompt", "2+2=", "--n", "3"];
    let short = ["--max-response-length", "12"];
    let all = lines(dir.path(), &[&prompts[..], &short].concat());
    let place = |line: &Value| (line["prompt"].as_u64().unwrap(), line["sample"].as_u64().unwrap());
    assert_eq!(all.iter().map(place).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
    assert_ne!(all[0]["token_ids"], all[1]["token_ids"]);
    for line in &all {
        assert_eq!(line["token_ids"].as_array().unwrap().len(), line["log_probs"].as_array().unwrap().len());
        assert!(["stop", "length"].contains(&line["finish"].as_str().unwrap()));
    }
    // How many are decoded at once, and with how much cache, changes no token.
    let tight = ["--max-batch-size", "2", "--max-tokens-in-cache", "90"];
    let ids = |lines: &[Value]| lines.iter().map(|line| line["token_ids"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&lines(dir.path(), &[&prompts[..], &short, &tight].concat())), ids(&all));

    // As text: each under its own line, and the log-probs of its tokens behind it.
    let text = generated(dir.path(), &[&prompts[..], &short].concat());
    let answer = |line: &Value| {
        let (prompt, sample) = (line["prompt"].as_u64().unwrap() + 1, line["sample"].as_u64().unwrap() + 1);
        format!("[prompt {prompt}, answer {sample}]\n{}\n", line["text"].as_str().unwrap())
    };
    assert_eq!(text, all.iter().map(answer).collect::<Vec<_>>().join("\n"));
    let text = generated(dir.path(), &[&["--prompt", "2+2=", "--log-probs"][..], &short].concat());
    let alone = &lines(dir.path(), &[&["--prompt", "2+2="][..], &short].concat())[0];
    let mut printed = text.lines();
    assert_eq!(printed.next(), alone["text"].as_str());
    for (line, (id, log_prob)) in
        printed.zip(alone["token_ids"].as_array().unwrap().iter().zip(alone["log_probs"].as_array().unwrap()))
    {
        let mut columns = line.split_whitespace();
        assert_eq!(columns.next(), Some(id.to_string().as_str()));
        let printed: f64 = columns.next().unwrap().parse().unwrap();
        assert!((printed - log_prob.as_f64().unwrap()).abs() < 1e-5, "{line}");
    }

    stop_strings(dir.path());
    policies_end_at_stop_strings(dir.path());
}

fn stop_strings(dir: &Path) {
    let greedy = ["--prompt", "01+02+03+04+05+06+07+08+09+01=", "--temperature", "0", "--max-response-length", "20"];
    let whole = &lines(dir, &greedy)[0];
    let text = whole["text"].as_str().unwrap();
    assert!(text.len() > 4, "{text:?}");
    let stop = &text[3..5];
    let stopped = &lines(dir, &[&greedy[..], &["--stop", stop]].concat())[0];
    assert_eq!(stopped["text"].as_str().unwrap(), &text[..text.find(stop).unwrap()]);
    assert_eq!(stopped["finish"], "stop");
    // The tokens are as sampled, with the one that completed the string.
    let ids = |line: &Value| line["token_ids"].as_array().unwrap().clone();
    assert_eq!(ids(stopped)[..], ids(whole)[..text.find(stop).unwrap() + 2]);
    let later = &lines(dir, &[&greedy[..], &["--stop", stop, "--min-tokens", "20"]].concat())[0];
    assert_eq!(ids(later).len(), 20);
}

fn policies_end_at_stop_strings(dir: &Path) {
    let policy = Policy::load(&dir.join(POLICY), &Backend::Flex.device().unwrap()).unwrap();
    let text = "01+02+03+04+05+06+07+08+09+01=";
    let prompt = Prompt {
        id: 0,
        messages: vec![Message::new("user", text)],
        token_ids: policy.tokenizer.encode(text).unwrap(),
        data_source: String::new(),
        ground_truth: String::new(),
        extra_info: Value::Null,
    };
    let sampling = Sampling { temperature: 1.0, stop: vec!["0".into(), "1".into()], ..policy.sampling(30) };
    let key = RandomKey::new(0, Purpose::Generate).at(0);
    let answers = policy.generate(&[prompt], 16, &sampling, key, 5).unwrap();
    let mut ended = 0;
    for answer in answers {
        let text = policy.text(&answer).unwrap();
        let first = ["0", "1"].into_iter().filter_map(|stop| Some(text.find(stop)? + stop.len())).min();
        assert!(first.is_none_or(|first| first == text.len()), "{text:?} goes on");
        if first.is_some() {
            assert_eq!(answer.finish, FinishReason::Stop);
            ended += 1;
        }
    }
    assert!(ended > 4, "{ended} answers had a stop string");
}
