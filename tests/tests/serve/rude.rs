//! Clients that send half, send too much, do not read, go away, or come all at once.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use super::server::Server;

fn ask(max_tokens: usize, stream: bool) -> String {
    json!({ "model": "model", "prompt": "ab", "max_tokens": max_tokens, "stream": stream, "ignore_eos": true })
        .to_string()
}

fn raw(body: &str, length: usize) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn half_requests_and_garbage_leave_the_others_alone() {
    let server = Server::start(&[]);
    let mut kept = Vec::new();
    for bytes in ["POST /v1/comp".to_string(), raw("{\"model\":", 500), "\u{1}\u{2}\r\n\r\n".into()] {
        let mut stream = server.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        kept.push(stream);
    }
    assert_eq!(server.send("POST", "/v1/completions", "", &ask(8, false)).0, 200);
}

#[test]
fn a_giant_body_is_refused_unread() {
    let server = Server::start(&[]);
    let chunked = raw("", 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    // One says how long it is and one does not; five MiB of the latter come.
    for bytes in [raw("", 1 << 40), format!("{chunked}500000\r\n{}", " ".repeat(5 << 20))] {
        let mut stream = server.connect();
        // The server may close while this is still being sent.
        let _ = stream.write_all(bytes.as_bytes());
        let mut reply = [0; 12];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"HTTP/1.1 413");
    }
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn a_client_that_went_away_frees_its_slot() {
    // One slot: whoever comes second waits for the first, whose answer takes 1900 tokens.
    let server = Server::start(&["--max-batch-size", "1"]);
    let begun = Instant::now();
    assert_eq!(server.send("POST", "/v1/completions", "", &ask(1900, false)).0, 200);
    let whole = begun.elapsed();
    for stream in [false, true] {
        for _ in 0..5 {
            let mut gone = server.connect();
            let body = ask(1900, stream);
            gone.write_all(raw(&body, body.len()).as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let begun = Instant::now();
    assert_eq!(server.send("POST", "/v1/completions", "", &ask(1, false)).0, 200);
    // Ten answers were given up; had two of them gone on to their end, it would have taken twice as long.
    assert!(begun.elapsed() < 2 * whole, "{:?} after {whole:?}", begun.elapsed());
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let server = Server::start(&["--max-batch-size", "2"]);
    let body = ask(1900, true);
    let mut idle: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for stream in &mut idle {
        stream.write_all(raw(&body, body.len()).as_bytes()).unwrap();
    }
    // Both slots are free again once their answers are sampled, read or not.
    assert_eq!(server.send("POST", "/v1/completions", "", &ask(4, false)).0, 200);
}

#[test]
fn two_hundred_at_once_are_all_answered() {
    let server = Server::start(&["--max-batch-size", "32"]);
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..200).map(|_| scope.spawn(|| server.send("POST", "/v1/completions", "", &ask(8, false)).0)).collect();
        assert!(asked.into_iter().all(|status| status.join().unwrap() == 200));
    });
}

#[test]
fn what_is_open_is_finished_before_the_server_ends() {
    let mut server = Server::start(&[]);
    let mut open = server.connect();
    let body = ask(300, true);
    open.write_all(raw(&body, body.len()).as_bytes()).unwrap();
    let mut first = [0; 64];
    open.read_exact(&mut first).unwrap();
    let reader = std::thread::spawn(move || {
        let mut rest = String::new();
        open.read_to_string(&mut rest).map(|_| rest)
    });
    assert_eq!(server.terminate(), Some(0));
    assert!(reader.join().unwrap().unwrap().contains("[DONE]"));
}
