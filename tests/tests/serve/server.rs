//! A server in another process, and a client that says what was sent and what came.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use luspo::Backend;
use luspo::core::{Purpose, RandomKey};
use luspo::data::Tokenizer;
use luspo::model::Qwen2Config;
use luspo::trainer::Policy;
use serde_json::Value;

/// A server that ends with the test.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub folder: tempfile::TempDir,
}

/// Writes a policy of random weights over bytes, whose answers hardly ever end.
pub fn policy(folder: &Path, seed: u64, hidden: usize) -> PathBuf {
    let tokenizer = Tokenizer::train_byte_level([""].into_iter(), 259).unwrap();
    let config = Qwen2Config::new(259, hidden, 32, 2, 4, 2).with_max_position_embeddings(2048);
    let key = RandomKey::new(seed, Purpose::Init);
    let policy = Policy::init(config, tokenizer, key, &Backend::Flex.device().unwrap()).unwrap();
    policy.save(folder).unwrap();
    folder.to_path_buf()
}

impl Server {
    /// Of a policy of random weights, `model`.
    pub fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        policy(&folder.path().join("model"), 1, 16);
        Self::of(Path::new("model"), folder, options)
    }

    /// Of the policy in the folder `model`, as seen from `folder`, where the server works.
    pub fn of(model: &Path, folder: tempfile::TempDir, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_luspo-under-test"))
            .current_dir(folder.path())
            .args(["serve", "--addr", "127.0.0.1:0", "--json", "--model"])
            .arg(model)
            .args(options)
            .env("TEST_TOKEN", "secret")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        Self { child, address: line["address"].as_str().unwrap().parse().unwrap(), folder }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// The status and the JSON of a reply.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, "", &body.to_string())
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "", "")
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, Value) {
        let (status, text) = self.text(method, path, headers, body);
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// The status and the text of a reply, which ends with its connection.
    pub fn text(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\n{headers}");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
    }

    /// Asks the process to end, and returns its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
