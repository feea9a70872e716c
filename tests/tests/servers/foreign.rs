//! A server that was not written here: `transformers serve`, which sends text alone.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Ends with the test.
struct Transformers(Child);

impl Drop for Transformers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Transformers {
    fn serve(model: &Path, port: u16) -> Self {
        let python = std::env::var_os("LUSPO_TEST_PYTHON").expect("LUSPO_TEST_PYTHON names a Python with transformers");
        let child = Command::new(python)
            .args(["-c", "from transformers.cli.transformers import main; main()", "serve"])
            .arg(model)
            .args(["--device", "cpu", "--port", &port.to_string()])
            .env("HF_HUB_OFFLINE", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

#[test]
#[ignore = "needs a Python with transformers[serving]: LUSPO_TEST_PYTHON"]
fn python_transformers_samples_the_answers_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = start(dir);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _server = Transformers::serve(&model, port);
    let begun = Instant::now();
    while std::net::TcpStream::connect(("localhost", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(120), "the server does not start");
        std::thread::sleep(Duration::from_millis(200));
    }
    let urls = [format!("http://localhost:{port}/v1")];
    let text = ["rollout.openai.answers=text", "rollout.openai.weights=none"];
    run(dir, &model, "text", &urls, &text).assert().success();
    assert_eq!(metric(dir, "text", "response_length/mean").len(), 3);

    // It does not know what it is asked for otherwise, and says so.
    let refused = run(dir, &model, "tokens", &urls, &["rollout.openai.weights=none"]).assert().code(1);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("status 422") && said.contains("return_token_ids"), "{said}");
}
