//! `tidewatch status`: a dozen lines about a server, as JSON for programs, and a sentence for what is no server.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;

use crate::support::process::{Ended, Tidewatch, done, free_port, run};
use crate::support::remote_write::WriteRequest;
use crate::support::{Folder, eventually};

const START_MS: i64 = 1_767_225_600_000;

fn folder() -> Folder {
    let folder = Folder::new("status");
    std::fs::write(folder.path().join("tidewatch.yml"), "").unwrap();
    folder
}

#[test]
fn a_server_is_told_in_a_dozen_lines() {
    let tidewatch = Tidewatch::start("limits: {series: 256}\n");
    let mut request = WriteRequest::default();
    for n in 0..300 {
        request = request.series(
            &[("__name__", "up"), ("n", &n.to_string())],
            &[(START_MS, 1.0), (START_MS + 60_001, 2.0)],
        );
    }
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 400, "44 series too many");
    let url = tidewatch.url("");
    let told = |more: &[&str]| {
        let arguments: Vec<&str> =
            ["status", "--url", &url].into_iter().chain(more.iter().copied()).collect();
        done(tidewatch.folder(), &arguments, None)
    };
    let text = eventually("all is computed", Duration::from_secs(60), || {
        let text = told(&[]);
        if text.contains("256 of 256") && text.contains("; 1,024 window rows") { Ok(text) } else { Err(text) }
    });
    assert_eq!(text.lines().count(), 12, "{text}");
    for line in [
        format!("tidewatch {} at {url}, up ", env!("CARGO_PKG_VERSION")),
        "ready        yes\n".to_owned(),
        "series       256 of 256\n".to_owned(),
        "sources      none are asked; remote write is taken\n".to_owned(),
        " of 20 GiB, outbox ".to_owned(),
        "rows a day   522,240 of 50,000,000\n".to_owned(),
        "limits met   limits.series 44\n".to_owned(),
        "quarantined  none\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line:?} is not in {text}");
    }
    let value: Value = serde_json::from_str(&told(&["--json"])).unwrap();
    assert_eq!(value["limits_reached"]["limits.series"], 44, "{value}");
    eventually("there is a rate", Duration::from_secs(30), || {
        let value: Value = serde_json::from_str(&told(&["--json"])).unwrap();
        value["samples_per_second"].as_f64().map(|_| ()).ok_or_else(|| value.to_string())
    });
    for path in ["/disk/journal/bytes", "/disk/outbox/bytes", "/disk/series/bytes", "/store/bytes"] {
        assert!(value.pointer(path).and_then(Value::as_u64) > Some(0), "{path}: {value}");
    }
    // Without --url it asks where the server is configured to listen.
    let listen = tidewatch.address();
    assert!(done(tidewatch.folder(), &["status", "--listen", &listen], None).contains("up "));
}

#[test]
fn what_a_start_computes_again_is_no_live_sample() {
    const SAMPLES: u64 = 200_000;
    let mut tidewatch = Tidewatch::start("");
    let samples: Vec<(i64, f64)> = (0..SAMPLES as i64 / 100).map(|n| (START_MS + n * 1_000, 1.0)).collect();
    let mut request = WriteRequest::default();
    for n in 0..100 {
        request = request.series(&[("__name__", "up"), ("n", &n.to_string())], &samples);
    }
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    let told = |tidewatch: &Tidewatch, what: &str, holds: &dyn Fn(u64, f64) -> bool| {
        eventually(what, Duration::from_secs(60), || {
            let status = tidewatch.get("/api/v1/status", &[]).json();
            let figures = status["samples"].as_u64().zip(status["samples_per_second"].as_f64());
            match figures {
                Some((samples, rate)) if holds(samples, rate) => Ok(rate),
                _ => Err(status.to_string()),
            }
        })
    };
    told(&tidewatch, "live samples are computed", &|samples, rate| samples >= SAMPLES && rate > 100.0);
    tidewatch.process().kill();
    tidewatch.start_again();
    let rate = told(&tidewatch, "they are computed again", &|samples, _| samples >= SAMPLES);
    assert_eq!(rate, 0.0, "nothing is live");
    let one = WriteRequest::default().series(&[("__name__", "up")], &samples[..300]);
    assert_eq!(one.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    told(&tidewatch, "what came is", &|_, rate| rate > 0.0 && rate <= 300.0);
}

/// What `status` says of a server that answers every request like this.
fn asked(answer: &'static str) -> Ended {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let ended = run(folder().path(), &["status", "--url", &url], None);
    server.join().unwrap();
    ended
}

#[test]
fn what_is_no_server_is_told_in_a_sentence() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let nobody = run(folder().path(), &["status", "--url", &nobody], None);
    let table = [
        (nobody, "no tidewatch answers at http://127.0.0.1:"),
        (run(folder().path(), &["status", "--url", "localhost"], None), "--url must be "),
        (
            asked("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"),
            "is no tidewatch: /api/v1/status is hello",
        ),
        (
            asked(
                "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\n{\"status\":\"success\"}",
            ),
            "is no tidewatch: /api/v1/status is {\"status\":\"success\"}",
        ),
        (
            asked("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            "is no tidewatch, or a proxy before one: /api/v1/status is 404: empty",
        ),
        (
            asked(
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 33\r\nConnection: close\r\n\r\n{\"detail\":\"at most 16 questions\"}",
            ),
            "does not tell how it is: 503: at most 16 questions",
        ),
        (asked("SSH-2.0-OpenSSH_9.2\r\n"), "no tidewatch answers at http://127.0.0.1:"),
    ];
    for (ended, words) in table {
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.err.contains(words) && ended.err.lines().count() == 1, "{words}: {ended:?}");
    }
}
