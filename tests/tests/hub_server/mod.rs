//! A hub of one model: as much of the protocol as fetching needs, and what can go wrong with it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

/// The model's name.
pub const REPOSITORY: &str = "owner/tiny";

/// The newest commit, at first.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One that may come after it.
pub const OTHER_COMMIT: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// What is wrong with the server.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Files are for who has this token.
    Gated(&'static str),
    /// Every answer has this status.
    Status(u16),
    /// Nothing is answered.
    Silent,
    /// It is some other web server.
    NotAHub,
    /// The connection ends after so many bytes of a file.
    BreakOff(&'static str, usize),
    /// The connection stays, but nothing comes after so many bytes of a file.
    Stall(&'static str, usize),
    /// A file is sent whole, whatever was asked for.
    NoRanges,
    /// A bit of a file is another.
    Flipped(&'static str),
    /// Every file has this hash.
    Hash(&'static str),
    /// The newest commit is this.
    Commit(&'static str),
}

struct State {
    folder: PathBuf,
    commit: &'static str,
    fault: Fault,
    /// Method and path of every request.
    requests: Vec<String>,
    ranges: Vec<String>,
    tokens_at_the_store: usize,
    stopped: bool,
}

/// A server that runs until it is dropped.
pub struct HubServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl HubServer {
    /// Serves the model of a folder.
    pub fn start(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            folder,
            commit: COMMIT,
            fault: Fault::None,
            requests: Vec::new(),
            ranges: Vec::new(),
            tokens_at_the_store: 0,
            stopped: false,
        };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().unwrap().stopped {
                    return;
                }
                let state = shared.clone();
                // The client may go away in the middle.
                thread::spawn(move || _ = answer(stream.unwrap(), address, &state));
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn fault(&self, fault: Fault) {
        self.state().fault = fault;
    }

    pub fn set_commit(&self, commit: &'static str) {
        self.state().commit = commit;
    }

    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// The parts of large files that were asked for.
    pub fn ranges(&self) -> Vec<String> {
        self.state().ranges.clone()
    }

    pub fn tokens_at_the_store(&self) -> usize {
        self.state().tokens_at_the_store
    }

    /// Nobody listens from now on.
    pub fn stop(&mut self) {
        self.state().stopped = true;
        if let Some(thread) = self.thread.take() {
            let _ = TcpStream::connect(self.address);
            thread.join().unwrap();
        }
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers one request and closes the connection.
fn answer(mut stream: TcpStream, address: SocketAddr, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut token, mut range) = (None, None);
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => token = Some(value.to_string()),
            Some((name, value)) if name.eq_ignore_ascii_case("range") => range = Some(value.to_string()),
            Some(_) => {}
        }
    }
    let (fault, commit, folder) = {
        let mut state = state.lock().unwrap();
        state.requests.push(format!("{method} {path}"));
        if path.starts_with("/store/") {
            state.ranges.extend(range.clone());
            state.tokens_at_the_store += usize::from(token.is_some());
        }
        (state.fault, state.commit, state.folder.clone())
    };
    let mut reply = |status: u16, headers: &str, body: &[u8]| {
        let length = if headers.contains("Content-Length") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        write!(stream, "HTTP/1.1 {status} .\r\n{headers}{length}Connection: close\r\n\r\n")?;
        if method != "HEAD" { stream.write_all(body) } else { Ok(()) }
    };

    match fault {
        Fault::Status(status) => return reply(status, "", b"{}"),
        Fault::NotAHub => return reply(200, "", b"<html>Welcome</html>"),
        Fault::Silent => {
            thread::sleep(Duration::from_secs(3));
            return Ok(());
        }
        _ => {}
    }
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{REPOSITORY}/revision/")) {
        let sha = if let Fault::Commit(sha) = fault { sha } else { commit };
        let files = fs::read_dir(folder)?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let siblings: Vec<_> = files.map(|name| json!({ "rfilename": name })).collect();
        return match revision == "main" || revision == commit {
            true => reply(200, "", json!({ "sha": sha, "siblings": siblings }).to_string().as_bytes()),
            false => reply(404, "", b"{}"),
        };
    }
    let at_the_hub = path.strip_prefix(&format!("/{REPOSITORY}/resolve/{commit}/"));
    let Some(name) = at_the_hub.or(path.strip_prefix("/store/")) else { return reply(404, "", b"{}") };
    if let Fault::Gated(secret) = fault
        && at_the_hub.is_some()
    {
        match token {
            None => return reply(401, "", b"{}"),
            Some(token) if token != format!("Bearer {secret}") => return reply(403, "", b"{}"),
            Some(_) => {}
        }
    }
    let Ok(mut body) = fs::read(folder.join(name)) else { return reply(404, "", b"{}") };
    let sha256: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let large = name.ends_with(".safetensors");
    // The hash of small files is git's, which has 40 digits; any 40 digits of the content do here.
    let hash = if let Fault::Hash(hash) = fault { hash } else { &sha256[..if large { 64 } else { 40 }] };
    if large && at_the_hub.is_some() {
        // Large files lie elsewhere: the same server under another name.
        let port = address.port();
        let place = format!("http://localhost:{port}/store/{name}");
        let size = body.len();
        let headers = format!("Location: {place}\r\nX-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {size}\r\n");
        return reply(302, &headers, b"");
    }
    if matches!(fault, Fault::Flipped(file) if file == name) {
        body[0] ^= 1;
    }
    let from = match range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()) {
        Some(from) if fault != Fault::NoRanges => from,
        _ => 0,
    };
    let (total, part) = (body.len(), body.split_off(from));
    let mut headers = format!("ETag: \"{hash}\"\r\nContent-Length: {}\r\n", part.len());
    if from > 0 {
        headers += &format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
    }
    let status = if from > 0 { 206 } else { 200 };
    match fault {
        Fault::BreakOff(file, bytes) if file == name => reply(status, &headers, &part[..bytes]),
        Fault::Stall(file, bytes) if file == name => {
            reply(status, &headers, &part[..bytes])?;
            thread::sleep(Duration::from_secs(3));
            Ok(())
        }
        _ => reply(status, &headers, &part),
    }
}
