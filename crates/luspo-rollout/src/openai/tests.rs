use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use luspo_core::{FinishReason, Purpose};
use serde_json::Value;

use super::*;

/// What the server does with a request.
enum Act {
    Answer(Value),
    Status(u16),
    Text(&'static str),
    /// Promises more than it sends.
    Half,
    Never,
}

/// A server of one model, `m`, that does with its completions what `act` says, given their number from 0 and their body.
fn server(act: impl Fn(usize, &Value) -> Act + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (act, count) = (Arc::new(act), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (act, count) = (act.clone(), counted.clone());
            std::thread::spawn(move || answer(stream, &*act, &count));
        }
    });
    (url, count)
}

fn answer(mut stream: TcpStream, act: &(impl Fn(usize, &Value) -> Act + ?Sized), count: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let act = match head.starts_with("GET /v1/models") {
        true => Act::Answer(json!({ "data": [{ "id": "m" }] })),
        false => act(count.fetch_add(1, Ordering::SeqCst), &serde_json::from_slice(&body).unwrap()),
    };
    let (status, text, promised) = match act {
        Act::Answer(value) => (200, value.to_string(), None),
        Act::Status(status) => (status, json!({ "error": { "message": "no" } }).to_string(), None),
        Act::Text(text) => (200, text.into(), None),
        Act::Half => (200, r#"{"choices": ["#.into(), Some(1000)),
        Act::Never => return std::thread::sleep(Duration::from_secs(60)),
    };
    let length = promised.unwrap_or(text.len());
    let _ = write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");
}

/// `n` answers of the tokens 5 and 6.
fn answers(body: &Value) -> Value {
    let choice = |index: u64| {
        json!({
            "index": index, "text": "x", "finish_reason": "stop", "token_ids": [5, 6],
            "logprobs": { "token_logprobs": [-0.5, -1.5] }, "prompt_token_ids": body["prompt"],
        })
    };
    json!({ "choices": (0..body["n"].as_u64().unwrap()).map(choice).collect::<Vec<_>>() })
}

fn options(urls: &[&str]) -> ServerOptions {
    ServerOptions {
        base_urls: urls.iter().map(|url| (*url).into()).collect(),
        model: None,
        token: None,
        concurrency: 2,
        timeout: Duration::from_millis(1500),
        retries: 1,
        answers: Answers::Tokens,
    }
}

fn sampling() -> Sampling {
    Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 0.7,
        min_p: 0.0,
        repetition_penalty: 1.0,
        min_tokens: 0,
        max_response_length: 4,
        stop_token_ids: vec![6],
        stop: vec![],
        vocab_limit: 100,
    }
}

/// A tokenizer of single bytes.
fn tokenizer() -> Tokenizer {
    Tokenizer::train_byte_level(["ab"].into_iter(), 300).unwrap()
}

fn generate(options: ServerOptions, prompts: usize) -> Result<Vec<Rollout>, OpenAiError> {
    let requests: Vec<Request<'_>> =
        (0..prompts as u64).map(|prompt_id| Request { prompt_id, prompt_ids: &[1, 2, 3], samples: 2 }).collect();
    let key = RandomKey::new(0, Purpose::Rollout).at(1);
    let seen = std::sync::Mutex::new(Vec::new());
    let see = |start, answers: &[Rollout]| {
        seen.lock().unwrap().extend((start..).zip(answers.iter().map(|answer| (answer.prompt_id, answer.sample))));
    };
    let rollouts = Servers::connect(options)?.generate(&requests, &sampling(), key, &tokenizer(), see)?;
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    let places = rollouts.iter().map(|answer| (answer.prompt_id, answer.sample)).enumerate();
    assert_eq!(seen, places.collect::<Vec<_>>());
    Ok(rollouts)
}

#[test]
fn answers_come_in_the_order_of_their_prompts_with_the_servers_own_numbers() {
    let (a, _) = server(|_, body| Act::Answer(answers(body)));
    let (b, _) = server(|_, body| Act::Answer(answers(body)));
    let rollouts = generate(options(&[&a, &b]), 7).unwrap();
    let places: Vec<_> = rollouts.iter().map(|rollout| (rollout.prompt_id, rollout.sample)).collect();
    assert_eq!(places, (0..7).flat_map(|prompt| [(prompt, 0), (prompt, 1)]).collect::<Vec<_>>());
    for rollout in &rollouts {
        assert_eq!((&rollout.response_ids[..], &rollout.log_probs[..]), (&[5, 6][..], &[-0.5, -1.5][..]));
        assert_eq!((rollout.finish, &rollout.prompt_ids[..]), (FinishReason::Stop, &[1, 2, 3][..]));
    }
}

#[test]
fn the_request_says_what_is_wanted_and_nothing_else() {
    let (url, _) = server(|_, body| {
        let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
        let wanted = ["model", "prompt", "n", "max_tokens", "temperature", "top_p", "seed"];
        let of_tokens = ["logprobs", "return_token_ids", "stop_token_ids"];
        let known = keys.iter().all(|key| wanted.contains(&key.as_str()) || of_tokens.contains(&key.as_str()));
        match known && body["model"] == "m" && body["top_p"] == 0.7 && body["prompt"] == json!([1, 2, 3]) {
            true => Act::Answer(answers(body)),
            false => Act::Status(400),
        }
    });
    generate(options(&[&url]), 1).unwrap();
}

#[test]
fn seeds_differ_by_prompt_and_are_the_same_again() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seeds = seen.clone();
    let (url, _) = server(move |_, body| {
        seeds.lock().unwrap().push(body["seed"].as_i64().unwrap());
        Act::Answer(answers(body))
    });
    let one = ServerOptions { concurrency: 1, ..options(&[&url]) };
    generate(one.clone(), 3).unwrap();
    generate(one, 3).unwrap();
    let seeds = seen.lock().unwrap();
    assert_eq!(seeds[..3], seeds[3..]);
    assert!(seeds[0] != seeds[1] && seeds[1] != seeds[2]);
}

#[test]
fn what_fails_once_is_tried_again() {
    type Fail = fn() -> Act;
    let failures: [Fail; 5] =
        [|| Act::Status(500), || Act::Status(429), || Act::Text("<html>"), || Act::Half, || Act::Never];
    for fail in failures {
        let (url, count) = server(move |number, body| if number == 0 { fail() } else { Act::Answer(answers(body)) });
        let one = ServerOptions { concurrency: 1, ..options(&[&url]) };
        assert_eq!(generate(one, 2).unwrap().len(), 4);
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }
}

#[test]
fn a_server_that_always_fails_leaves_its_work_to_the_others() {
    let (good, _) = server(|_, body| Act::Answer(answers(body)));
    let (bad, count) = server(|_, _| Act::Status(503));
    assert_eq!(generate(options(&[&bad, &good]), 20).unwrap().len(), 40);
    assert!(count.load(Ordering::SeqCst) <= 4, "{count:?}");
}

#[test]
fn a_batch_that_nobody_answers_ends_with_what_was_said_last() {
    let (a, _) = server(|_, _| Act::Status(503));
    let error = generate(options(&[&a]), 3).unwrap_err().to_string();
    assert!(error.contains("tries to sample from 1 server(s) failed") && error.contains("status 503: no"), "{error}");
    let (a, _) = server(|_, _| Act::Never);
    let patience = ServerOptions { timeout: Duration::from_millis(200), ..options(&[&a]) };
    let error = generate(patience, 1).unwrap_err().to_string();
    assert!(error.contains("timeout"), "{error}");
}

#[test]
fn what_is_refused_is_not_tried_again() {
    let (url, count) = server(|_, _| Act::Status(400));
    let one = ServerOptions { concurrency: 1, ..options(&[&url]) };
    let error = generate(one, 3).unwrap_err();
    assert_eq!(error, OpenAiError::Status { url, status: 400, message: "no".into() });
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn replies_that_lie_are_named() {
    type Lie = (fn(&mut Value), &'static str);
    let lies: [Lie; 9] = [
        (|reply| reply["choices"].as_array_mut().unwrap().truncate(1), "1 answers where 2 were asked for"),
        (|reply| reply["choices"][1]["index"] = 0.into(), "two answers, or none, have the index 0"),
        (|reply| reply["choices"][0]["token_ids"] = json!([5, 100]), "token 100 is not in the vocabulary of 100"),
        (|reply| reply["choices"][0]["token_ids"] = json!([1, 2, 3, 4, 5]), "2 log-probs of 5 tokens"),
        (|reply| reply["choices"][0]["logprobs"]["token_logprobs"] = json!([0.5, -1.0]), "0.5 is not the log"),
        (|reply| reply["choices"][0]["logprobs"] = Value::Null, "no `logprobs.token_logprobs`"),
        (|reply| reply["choices"][0]["token_ids"] = Value::Null, "return_token_ids"),
        (|reply| reply["choices"][0]["finish_reason"] = "abort".into(), "finish_reason is \"abort\""),
        (|reply| reply["choices"][0]["prompt_token_ids"] = json!([7]), "other prompt tokens"),
    ];
    for (lie, named) in lies {
        let (url, _) = server(move |_, body| {
            let mut reply = answers(body);
            lie(&mut reply);
            Act::Answer(reply)
        });
        let error = generate(ServerOptions { retries: 0, ..options(&[&url]) }, 1).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn token_ids_may_stand_where_vllm_used_to_put_them() {
    let (url, _) = server(|_, body| {
        let mut reply = answers(body);
        for choice in reply["choices"].as_array_mut().unwrap() {
            choice["token_ids"] = Value::Null;
            choice["logprobs"]["tokens"] = json!(["token_id:7", "token_id:6"]);
        }
        Act::Answer(reply)
    });
    let rollouts = generate(options(&[&url]), 1).unwrap();
    assert_eq!(rollouts[0].response_ids, [7, 6]);
}

#[test]
fn text_alone_is_tokenised_where_the_server_is_said_to_send_no_more() {
    let (url, count) = server(|_, body| match body.get("n").or(body.get("return_token_ids")) {
        None if body["prompt"] == "ba" => {
            Act::Answer(json!({ "choices": [{ "index": 0, "text": "ab", "finish_reason": "stop" }] }))
        }
        _ => Act::Status(400),
    });
    let (tokenizer, key) = (tokenizer(), RandomKey::new(0, Purpose::Rollout).at(1));
    let ids = |text: &str| tokenizer.encode(text).unwrap();
    let servers = Servers::connect(ServerOptions { answers: Answers::Text, ..options(&[&url]) }).unwrap();
    let prompt = ids("ba");
    let request = Request { prompt_id: 0, prompt_ids: &prompt, samples: 3 };
    let end = 299;
    let sampling = Sampling { stop_token_ids: vec![end], vocab_limit: 300, ..sampling() };
    let rollouts = servers.generate(&[request], &sampling, key, &tokenizer, |_, _| {}).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 3);
    for (sample, rollout) in (0..).zip(rollouts) {
        assert_eq!(rollout.sample, sample);
        assert_eq!(rollout.response_ids, [ids("ab"), vec![end]].concat());
        assert!(rollout.log_probs.iter().all(|value| value.is_nan()));
    }
}

#[test]
fn addresses_and_models_are_checked_first() {
    let (url, _) = server(|_, _| Act::Never);
    let wrong = ServerOptions { model: Some("other".into()), ..options(&[&url]) };
    let error = Servers::connect(wrong).unwrap_err().to_string();
    assert!(error.contains("does not have the model `other`; it has `m`"), "{error}");
    for (urls, named) in
        [(&["localhost:8000"][..], "no address"), (&[], "no server"), (&["http://127.0.0.1:1/v1"], "127.0.0.1:1")]
    {
        let error = Servers::connect(options(urls)).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
