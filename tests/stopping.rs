//! SIGTERM ends a worker with status 0, whatever is in its way.

use std::io::Write as _;
use std::net::TcpStream;

use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const START_MS: i64 = 1_767_225_600_000;

#[test]
fn a_request_whose_body_never_comes_does_not_hold_the_worker() {
    let mut worker = Tidewatch::start("settle: 5s\n");
    let mut client = TcpStream::connect(worker.address()).unwrap();
    write!(client, "POST /api/v1/write HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc").unwrap();
    client.flush().unwrap();
    // A whole request after it: the first has been taken up by then.
    let answer = WriteRequest::default()
        .series(&[("__name__", "up")], &[(START_MS, 1.0)])
        .send(&worker.url("/api/v1/write"))
        .unwrap();
    assert_eq!(answer.status, 204);
    let status = worker.process().terminate();
    assert_eq!(status.code(), Some(0), "{}", worker.process().log_tail());
}
