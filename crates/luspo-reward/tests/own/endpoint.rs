//! Addresses that judge.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use luspo_reward::{ComponentConfig, FailureKind};

use crate::{kinds, pipeline, values};

/// Answers every POST with what `reply` makes of its body; how many were answered.
fn serve(reply: impl Fn(&serde_json::Value, &mut TcpStream) + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/score", listener.local_addr().unwrap());
    let (reply, asked) = (Arc::new(reply), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (reply, count) = (reply.clone(), count.clone());
            thread::spawn(move || {
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
                count.fetch_add(1, Ordering::Relaxed);
                reply(&serde_json::from_slice(&body).unwrap(), &mut stream);
            });
        }
    });
    (url, asked)
}

/// The client may have gone away.
fn respond(stream: &mut TcpStream, status: u16, body: &str) {
    let length = body.len();
    _ = write!(stream, "HTTP/1.1 {status} .\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
}

fn endpoint(url: &str) -> ComponentConfig {
    ComponentConfig { url: Some(url.into()), timeout: 2.0, ..Default::default() }
}

#[test]
fn an_address_is_asked_about_many_answers_at_once_and_answers_in_any_order() {
    let (url, asked) = serve(|question, stream| {
        let number: u64 = question["response"].as_str().unwrap().parse().unwrap();
        thread::sleep(Duration::from_millis(if number < 4 { 200 } else { 0 }));
        respond(stream, 200, &format!("{{\"score\": {number}}}"));
    });
    let texts: Vec<String> = (0..24).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let rewards = pipeline(ComponentConfig { concurrency: 8, ..endpoint(&url) });
    assert_eq!(values(&rewards, &texts), (0..24).map(f64::from).collect::<Vec<_>>());
    assert_eq!(asked.load(Ordering::Relaxed), 24);
}

#[test]
fn what_an_address_can_do_wrong_is_told_apart_and_counted() {
    type Wrong = fn(&serde_json::Value, &mut TcpStream);
    let wrongs: [(&str, Wrong, FailureKind); 9] = [
        ("an error", |_, stream| respond(stream, 500, "out of order"), FailureKind::Http),
        ("elsewhere", |_, stream| respond(stream, 302, ""), FailureKind::Http),
        ("no JSON", |_, stream| respond(stream, 200, "<html>"), FailureKind::Garbage),
        ("no score", |_, stream| respond(stream, 200, "{}"), FailureKind::Missing),
        ("NaN", |_, stream| respond(stream, 200, r#"{"score": NaN}"#), FailureKind::NotFinite),
        ("another id", |_, stream| respond(stream, 200, r#"{"id": 99, "score": 1}"#), FailureKind::WrongCount),
        ("a flood", |_, stream| respond(stream, 200, &"x".repeat(1 << 20)), FailureKind::Flood),
        ("silence", |_, _| thread::sleep(Duration::from_secs(8)), FailureKind::Timeout),
        (
            "drop by drop",
            |_, stream| {
                _ = write!(stream, "HTTP/1.1 200 .\r\nContent-Length: 100\r\n\r\n");
                for _ in 0..80 {
                    thread::sleep(Duration::from_millis(100));
                    _ = stream.write_all(b" ");
                }
            },
            FailureKind::Timeout,
        ),
    ];
    for (what, wrong, kind) in wrongs {
        let (url, _) = serve(wrong);
        let started = Instant::now();
        assert_eq!(kinds(endpoint(&url), &["1", "2"]), [(kind, 2)], "{what}");
        assert!(started.elapsed() < Duration::from_secs(6), "{what} took {:?}", started.elapsed());
    }
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(kinds(endpoint(&format!("http://{unused}/")), &["1"]), [(FailureKind::Http, 1)]);
}
