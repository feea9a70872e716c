//! What requests get.

use serde_json::{Value, json};

use super::server::{Server, policy};

fn ask(prompt: Value) -> Value {
    json!({ "model": "model", "prompt": prompt, "max_tokens": 12, "seed": 7, "logprobs": 2, "return_token_ids": true,
        "ignore_eos": true })
}

fn with(mut request: Value, key: &str, value: Value) -> Value {
    request[key] = value;
    request
}

#[test]
fn every_form_of_a_prompt_gives_the_same_answer() {
    let server = Server::start(&[]);
    let (status, by_text) = server.post("/v1/completions", &ask(json!("ab")));
    assert_eq!(status, 200, "{by_text}");
    let choice = &by_text["choices"][0];
    assert_eq!(choice["token_ids"].as_array().unwrap().len(), 12);
    assert_eq!(choice["logprobs"]["token_logprobs"].as_array().unwrap().len(), 12);
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(by_text["usage"], json!({ "prompt_tokens": 2, "completion_tokens": 12, "total_tokens": 14 }));
    let ids = choice["prompt_token_ids"].clone();
    for prompt in [json!(["ab"]), ids.clone(), json!([ids])] {
        let (_, other) = server.post("/v1/completions", &ask(prompt));
        assert_eq!(other["choices"], by_text["choices"]);
    }
}

#[test]
fn answers_do_not_depend_on_what_they_are_batched_with() {
    let server = Server::start(&["--max-batch-size", "5"]);
    let (_, alone) = server.post("/v1/completions", &with(ask(json!("ab")), "n", json!(3)));
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..8)
            .map(|i| {
                let server = &server;
                let request =
                    with(with(ask(json!("x".repeat(1 + 7 * i))), "max_tokens", json!(5 + 9 * i)), "n", json!(2));
                scope.spawn(move || server.post("/v1/completions", &request).0)
            })
            .collect();
        let (_, together) = server.post("/v1/completions", &with(ask(json!("ab")), "n", json!(3)));
        for (a, b) in alone["choices"].as_array().unwrap().iter().zip(together["choices"].as_array().unwrap()) {
            assert_eq!(a["token_ids"], b["token_ids"]);
            let values = |choice: &Value| choice["logprobs"]["token_logprobs"].as_array().unwrap().clone();
            for (a, b) in values(a).iter().zip(&values(b)) {
                // The bound that log-probs of differently batched answers have everywhere in this project.
                assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 5e-5);
            }
        }
        assert!(others.into_iter().all(|other| other.join().unwrap() == 200));
    });
}

#[test]
fn a_stream_says_what_the_whole_reply_says() {
    let server = Server::start(&[]);
    let (_, whole) = server.post("/v1/completions", &ask(json!("ab")));
    let request =
        with(with(ask(json!("ab")), "stream", json!(true)), "stream_options", json!({ "include_usage": true }));
    let (status, text) = server.text("POST", "/v1/completions", "", &request.to_string());
    assert_eq!(status, 200);
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> = data[..data.len() - 1].iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
    let joined: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(whole["choices"][0]["text"], joined);
    let ids: Vec<Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).flatten().cloned().collect();
    assert_eq!(whole["choices"][0]["token_ids"], Value::Array(ids));
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let server = Server::start(&[]);
    let request = with(ask(json!("ab")), "max_tokens", json!(200));
    let (_, whole) = server.post("/v1/completions", &request);
    let text = whole["choices"][0]["text"].as_str().unwrap().to_string();
    let stop = text.chars().find(|c| c.is_ascii_alphanumeric()).expect("200 random bytes have a letter").to_string();
    let (_, cut) = server.post("/v1/completions", &with(request, "stop", json!([stop])));
    assert_eq!(cut["choices"][0]["text"], text.split(&stop).next().unwrap());
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
}

#[test]
fn what_cannot_be_answered_is_refused_with_an_error_object() {
    let server = Server::start(&["--max-waiting", "0", "--max-batch-size", "4"]);
    let cases = [
        (json!({ "model": "other", "prompt": "a" }), 404, "the model `other`"),
        (json!({ "prompt": "a" }), 400, "`model` is missing"),
        (json!({ "model": "model" }), 400, "`prompt` is missing"),
        (with(ask(json!("a")), "echo", json!(true)), 400, "`echo`"),
        (with(ask(json!("a")), "presence_penalty", json!(1.0)), 400, "`presence_penalty`"),
        (with(ask(json!("a")), "tempreature", json!(1.0)), 400, "`tempreature`"),
        (with(ask(json!("a")), "temperature", json!(-1.0)), 400, "temperature = -1"),
        (with(ask(json!("a")), "max_tokens", json!(0)), 400, "`max_tokens` = 0"),
        (with(ask(json!("a")), "max_tokens", json!(5000)), 400, "max_position_embeddings"),
        (with(ask(json!("a")), "n", json!(5)), 429, "the queue is full"),
        (ask(json!([])), 400, "empty list"),
        (ask(json!([[]])), 400, "no tokens"),
        (ask(json!([9000])), 400, "token 9000"),
        (ask(json!({})), 400, "`prompt` must be"),
    ];
    for (request, status, words) in cases {
        let (got, reply) = server.post("/v1/completions", &request);
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(got == status && message.contains(words), "{request}: {got}: {message}");
    }
    assert_eq!(server.post("/v1/embeddings", &json!({})).0, 404);
    assert_eq!(server.get("/v1/completions").0, 405);
    assert_eq!(server.send("POST", "/v1/completions", "", "{\"model\":").0, 400);
    let (status, reply) = server.post("/v1/completions", &with(ask(json!("a")), "user", json!("somebody")));
    assert_eq!(status, 200, "{reply}");
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let server = Server::start(&["--api-key-env", "TEST_TOKEN"]);
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.get("/v1/models").0, 401);
    assert_eq!(server.send("GET", "/v1/models", "Authorization: Bearer secreT\r\n", "").0, 401);
    let (status, models) = server.send("GET", "/v1/models", "Authorization: Bearer secret\r\n", "");
    assert_eq!((status, models["data"][0]["id"].as_str()), (200, Some("model")));
}

#[test]
fn new_weights_are_taken_and_those_of_another_shape_refused() {
    let server = Server::start(&[]);
    let (_, before) = server.post("/v1/completions", &ask(json!("ab")));
    let reload = |folder: &std::path::Path| server.post("/update_weights_from_disk", &json!({ "model_path": folder }));
    let (status, reply) = reload(&policy(&server.folder.path().join("wide"), 2, 32));
    assert!(status == 400 && reply["error"]["message"].as_str().unwrap().contains("another shape"), "{reply}");
    assert_eq!(server.post("/v1/completions", &ask(json!("ab"))).1["choices"], before["choices"]);

    let (status, reply) = reload(&policy(&server.folder.path().join("new"), 2, 16));
    assert_eq!((status, &reply["success"]), (200, &json!(true)), "{reply}");
    assert_ne!(server.post("/v1/completions", &ask(json!("ab"))).1["choices"], before["choices"]);
    assert_eq!(reload(&server.folder.path().join("nowhere")).0, 400);
}

#[test]
fn an_address_that_others_can_reach_needs_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
        .current_dir(folder.path())
        .args(["serve", "--model", "model", "--addr", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--api-key-env"));
}

/// The official client, with its own checks of what comes back.
#[test]
#[ignore = "needs LUSPO_TEST_PYTHON"]
fn python_openai_client_gets_what_it_asks_for() {
    let python = std::env::var("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON is a Python with the package openai");
    let server = Server::start(&["--api-key-env", "TEST_TOKEN"]);
    let program = r#"
import sys, openai
client = openai.OpenAI(base_url=f"http://{sys.argv[1]}/v1", api_key="secret", max_retries=0)
assert [m.id for m in client.models.list()] == ["model"]
a = client.completions.create(model="model", prompt=["ab", "cd"], n=2, max_tokens=9, seed=3, logprobs=2, user="u",
                              extra_body={"return_token_ids": True, "ignore_eos": True})
assert [c.index for c in a.choices] == [0, 1, 2, 3] and a.usage.completion_tokens == 36
assert all(len(c.logprobs.token_logprobs) == len(c.token_ids) == 9 for c in a.choices)
parts = list(client.completions.create(model="model", prompt=["ab", "cd"], n=2, max_tokens=9, seed=3, stream=True,
                                       stream_options={"include_usage": True}, extra_body={"ignore_eos": True}))
for i in range(4):
    text = "".join(c.text for p in parts for c in p.choices if c.index == i)
    assert text == a.choices[i].text, (i, text, a.choices[i].text)
assert parts[-1].usage.completion_tokens == 36
messages = [{"role": "user", "content": "hi"}]
try:
    c = client.chat.completions.create(model="model", messages=messages, max_completion_tokens=7, logprobs=True,
                                       top_logprobs=3, temperature=0, extra_body={"ignore_eos": True})
    assert len(c.choices[0].logprobs.content) == 7 and len(c.choices[0].logprobs.content[0].top_logprobs) == 3
    s = client.chat.completions.create(model="model", messages=messages, max_completion_tokens=7, temperature=0, stream=True,
                                       extra_body={"ignore_eos": True})
    assert "".join(p.choices[0].delta.content or "" for p in s) == c.choices[0].message.content
except openai.BadRequestError as error:
    raise SystemExit(f"chat: {error}")
for bad, kind in [({"echo": True}, openai.BadRequestError), ({"model": "x"}, openai.NotFoundError)]:
    try:
        client.completions.create(**{"model": "model", "prompt": "a", **bad})
        raise SystemExit(f"{bad} was not refused")
    except kind as error:
        assert error.body["message"], error
try:
    client.with_options(api_key="wrong").models.list()
    raise SystemExit("a wrong token was not refused")
except openai.AuthenticationError:
    pass
print("ok")
"#;
    let output =
        std::process::Command::new(python).args(["-c", program, &server.address.to_string()]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout.starts_with(b"ok"), "{error}");
}
