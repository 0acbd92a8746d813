//! Answers that are given before the body of their request was read: each reaches a sender that writes its whole body before
//! it reads, and then the connection takes the next request, or the answer has said that it does not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::process::Tidewatch;
use crate::support::remote_write::{WriteRequest, snappy};

/// A time long past that is a fine time for a sample.
const AT_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "limits: {body_bytes: 64KiB}\n";

/// One connection.
struct Sender(TcpStream);

/// An answer: its status, its head in lower case, its body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    text: String,
}

impl Answer {
    fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}

impl Sender {
    fn to(tidewatch: &Tidewatch) -> Sender {
        let stream = TcpStream::connect(tidewatch.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Sender(stream)
    }

    fn head(&mut self, line: &str, headers: &str) {
        let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        self.0.write_all(head.as_bytes()).unwrap();
    }

    /// Writes so many bytes; with chunks the length of each in front, and an end.
    fn body(&mut self, length: usize, chunked: bool) -> std::io::Result<()> {
        let piece = [7; 1 << 16];
        let mut left = length;
        while left > 0 {
            let now = left.min(piece.len());
            if chunked {
                self.0.write_all(format!("{now:x}\r\n").as_bytes())?;
            }
            self.0.write_all(&piece[..now])?;
            if chunked {
                self.0.write_all(b"\r\n")?;
            }
            left -= now;
        }
        if chunked { self.0.write_all(b"0\r\n\r\n") } else { Ok(()) }
    }

    fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e} after {}", head.escape_ascii()));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.split_once("\r\ncontent-length: ").map_or(0, |(_, rest)| {
            let (digits, _) = rest.split_once("\r\n").unwrap();
            digits.parse().unwrap()
        });
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).unwrap();
        Answer { status, head, text: String::from_utf8(text).unwrap() }
    }

    /// A good push on the same connection.
    fn push(&mut self) -> Answer {
        let request = WriteRequest::default().series(&[("__name__", "up")], &[(AT_MS, 1.0)]);
        let body = snappy(request.message());
        self.head("POST /api/v1/write", &format!("Content-Length: {}\r\n", body.len()));
        self.0.write_all(&body).unwrap();
        self.answer()
    }
}

/// How the length of a body is told.
fn length(bytes: usize, chunked: bool) -> String {
    if chunked { "Transfer-Encoding: chunked\r\n".to_owned() } else { format!("Content-Length: {bytes}\r\n") }
}

#[test]
fn a_refusal_reaches_a_sender_that_writes_first_and_the_connection_goes_on() {
    const JSON: &str = "Content-Type: application/json\r\n";
    let tidewatch = Tidewatch::start(CONFIG);
    let table = [
        ("POST /api/v1/write", "Content-Encoding: zstd\r\n", 415),
        ("POST /api/v1/write", JSON, 415),
        ("POST /api/v1/write", "", 413),
        ("POST /api/v1/write", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("PUT /api/v1/write", "", 405),
        ("POST /api/v1/nosuch", "", 404),
        ("POST /", "", 405),
        ("POST /page/app.js", "", 405),
        ("POST /api/v1/windows", "", 405),
        ("GET /api/v1/windows?limit=0", "", 400),
        ("GET /-/healthy", "", 200),
        ("POST /api/v1/backfill", "", 415),
        ("POST /api/v1/backfill", JSON, 413),
        ("POST /api/v1/backfill?x=1", JSON, 400),
        ("DELETE /api/v1/backfill/none", "", 404),
    ];
    for (line, headers, status) in table {
        // One within the buffers of a socket, and one far beyond them.
        for (bytes, chunked) in [(200_000, false), (200_000, true), (20_000_000, false), (20_000_000, true)] {
            let what = format!("{line} {headers:?} {bytes} bytes, in chunks: {chunked}");
            let mut sender = Sender::to(&tidewatch);
            sender.head(line, &format!("{headers}{}", length(bytes, chunked)));
            // Time for a server to close the connection, were it to.
            std::thread::sleep(Duration::from_millis(20));
            sender.body(bytes, chunked).unwrap_or_else(|e| panic!("{what}: {e}"));
            let answer = sender.answer();
            assert_eq!((answer.status, answer.closes()), (status, false), "{what}: {answer:?}");
            let next = sender.push();
            assert_eq!((next.status, next.text.as_str()), (204, ""), "after {what}: {next:?}");
        }
    }
    assert_eq!(tidewatch.metric("tidewatch_limit_reached_total{limit=\"http.unread_body\"}"), 0.0);
}

#[test]
fn a_503_in_the_middle_of_a_body_reaches_its_sender() {
    let tidewatch = Tidewatch::start(CONFIG);
    // Eight of these hold all the room there is as long as their last byte does not come. One that finds a request of ours
    // in its place is refused and holds nothing, so there comes another with each.
    let mut holding = Vec::new();
    let mut hold = || {
        let mut sender = Sender::to(&tidewatch);
        sender.head("POST /api/v1/write", &length(65_536, false));
        sender.body(65_535, false).unwrap();
        holding.push(sender);
    };
    (0..8).for_each(|_| hold());
    let refused = eventually("no room is left", PATIENCE, || {
        hold();
        let mut sender = Sender::to(&tidewatch);
        sender.head("POST /api/v1/write", &length(60_000, false));
        sender.body(60_000, false).unwrap();
        match sender.answer() {
            answer if answer.status == 503 => Ok((sender, answer)),
            other => Err(format!("{other:?}")),
        }
    });
    let (mut sender, answer) = refused;
    assert!(!answer.closes() && answer.head.contains("\r\nretry-after: 1\r\n"), "{answer:?}");
    drop(holding);
    eventually("there is room again", PATIENCE, || match sender.push() {
        answer if answer.status == 204 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn beyond_its_bounds_an_answer_says_that_the_connection_closes() {
    let tidewatch = Tidewatch::start(CONFIG);
    // More than is thrown away is declared: the answer does not wait for it, and what still comes harms nobody.
    let mut sender = Sender::to(&tidewatch);
    sender.head("POST /api/v1/nosuch", &length(1 << 30, false));
    let answer = sender.answer();
    assert!(answer.status == 404 && answer.closes(), "{answer:?}");
    sender.body(8 << 20, false).unwrap();
    // More comes than is thrown away.
    let mut sender = Sender::to(&tidewatch);
    sender.head("POST /api/v1/nosuch", &length(0, true));
    sender.body(80 << 20, true).unwrap();
    let answer = sender.answer();
    assert!(answer.status == 404 && answer.closes(), "{answer:?}");
    // It does not come: the answer waits, but not for long.
    let begun = Instant::now();
    let mut sender = Sender::to(&tidewatch);
    sender.head("POST /api/v1/nosuch", &length(1_000, false));
    sender.body(10, false).unwrap();
    let answer = sender.answer();
    assert!(answer.status == 404 && answer.closes() && begun.elapsed() < PATIENCE / 2, "{answer:?}");
    assert_eq!(tidewatch.metric("tidewatch_limit_reached_total{limit=\"http.unread_body\"}"), 3.0);
}

#[test]
fn who_asks_before_sending_a_body_is_refused_at_once() {
    let tidewatch = Tidewatch::start(CONFIG);
    let mut sender = Sender::to(&tidewatch);
    sender.head("POST /api/v1/nosuch", &format!("Expect: 100-continue\r\n{}", length(1_000_000, false)));
    let answer = sender.answer();
    assert!(answer.status == 404 && answer.closes(), "{answer:?}");
    // Where the body is wanted, the leave is given.
    let mut sender = Sender::to(&tidewatch);
    sender.head("POST /api/v1/write", &format!("Expect: 100-continue\r\n{}", length(60_000, false)));
    assert_eq!(sender.answer().status, 100);
    sender.body(60_000, false).unwrap();
    assert_eq!(sender.answer().status, 400);
    assert_eq!(sender.push().status, 204);
}
