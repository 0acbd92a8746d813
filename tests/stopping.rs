//! SIGTERM ends a server with status 0, whatever is in its way.

use std::io::Write as _;
use std::net::TcpStream;

use crate::support::eventually;
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const START_MS: i64 = 1_767_225_600_000;

#[test]
fn a_request_whose_body_never_comes_does_not_hold_the_server() {
    let mut tidewatch = Tidewatch::start("idle_timeout: 5s\n");
    let mut client = TcpStream::connect(tidewatch.address()).unwrap();
    write!(client, "POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
        .unwrap();
    client.flush().unwrap();
    // A whole request after it: the first has been taken up by then.
    let answer = WriteRequest::default()
        .series(&[("__name__", "up")], &[(START_MS, 1.0)])
        .send(&tidewatch.url("/api/v1/write"))
        .unwrap();
    assert_eq!(answer.status, 204);
    let status = tidewatch.process().terminate();
    assert_eq!(status.code(), Some(0), "{}", tidewatch.process().log_tail());
}

#[test]
fn a_full_outbox_does_not_hold_the_server() {
    // Trimming would make room.
    let config = "windows: [{length: 10s, hop: 5s}]\nidle_timeout: 5s\njournal: {trim: off}\noutbox: {bytes_max: 1MiB}\n";
    let mut tidewatch = Tidewatch::start(config);
    let samples: Vec<(i64, f64)> = (0..1_000).map(|i| (START_MS + i * 5_000, i as f64)).collect();
    let mut request = WriteRequest::default();
    for n in 0..30 {
        request = request.series(&[("__name__", "up"), ("n", &n.to_string())], &samples);
    }
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    eventually("the outbox is full", std::time::Duration::from_secs(30), || {
        let answer = crate::support::http::get(&tidewatch.url("/-/ready"), &[])?;
        if answer.status == 503 && answer.text.contains("outbox") { Ok(()) } else { Err(answer.text) }
    });
    let status = tidewatch.process().terminate();
    assert_eq!(status.code(), Some(0), "{}", tidewatch.process().log_tail());
}
