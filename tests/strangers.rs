//! Whoever reaches the port, and pages that the browser of somebody who does has open: none of them holds a server up,
//! reads what is not his, or writes in its log.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::http;
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const START_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn push(tidewatch: &Tidewatch, name: &str) -> http::Answer {
    let request = WriteRequest::default().series(&[("__name__", name)], &[(START_MS, 1.0)]);
    request.send(&tidewatch.url("/api/v1/write")).unwrap()
}

/// The answer to one request, as it came.
fn ask(tidewatch: &Tidewatch, request: &str) -> String {
    let mut socket = TcpStream::connect(tidewatch.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "{request}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text.split_once(' ').unwrap().1.to_owned()
}

fn reached(tidewatch: &Tidewatch, limit: &str) -> f64 {
    tidewatch.metric(&format!("tidewatch_limit_reached_total{{limit=\"{limit}\"}}"))
}

#[test]
fn regexes_hold_up_neither_pushes_nor_health_and_end_in_time() {
    let mut tidewatch = Tidewatch::start("windows: [{length: 10s, hop: 1s}]\nidle_timeout: 1s\n");
    let mut random = fastrand::Rng::with_seed(5);
    for some in 0..4 {
        let mut request = WriteRequest::default();
        for i in 0..128 {
            let value: String = (0..3_900).map(|_| if random.bool() { 'a' } else { 'b' }).collect();
            let i = (some * 128 + i).to_string();
            request = request.series(
                &[("__name__", "n"), ("i", &i), ("x", &value)],
                &[(START_MS, 1.0), (START_MS + 20_000, 2.0)],
            );
        }
        assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    }
    eventually("all have rows", PATIENCE, || {
        match tidewatch.rows("/api/v1/catalog", &[("match[]", "n")]).len() {
            512 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    let hungry: Vec<String> =
        (0..5).map(|k| format!("x!~\"[ab]*a[ab]{{900}}[ab]{{900}}[ab]{{{}}}c\"", 900 - k)).collect();
    let select = format!("{{__name__=\"n\",{}}}", hungry.join(","));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let asked = ["/api/v1/windows", "/api/v1/catalog"].map(|path| {
            let (tidewatch, select) = (&tidewatch, &select);
            scope.spawn(move || match path {
                "/api/v1/windows" => {
                    http::get(&tidewatch.url(path), &[("at", "now"), ("match[]", select)]).unwrap()
                }
                _ => http::get(&tidewatch.url(path), &[("match[]", select)]).unwrap(),
            })
        });
        let mut n = 0;
        while !asked.iter().all(|thread| thread.is_finished()) {
            let one = Instant::now();
            assert_eq!(http::get(&tidewatch.url("/-/healthy"), &[]).unwrap().status, 200);
            // A series that is new needs the lock that was held.
            assert_eq!(push(&tidewatch, &format!("fresh_{n}")).status, 204);
            assert!(one.elapsed() < Duration::from_secs(8), "{:?}", one.elapsed());
            n += 1;
        }
        assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
        for answer in asked.map(|thread| thread.join().unwrap()) {
            // Too much work, or on a slow machine too much time.
            assert!([422, 504].contains(&answer.status), "{answer:?}");
        }
    });
    assert!(reached(&tidewatch, "api.regex_work") + reached(&tidewatch, "api.deadline") >= 2.0);
    assert_eq!(tidewatch.process().terminate().code(), Some(0));
}

#[test]
fn a_page_of_another_name_reads_and_writes_nothing() {
    let tidewatch = Tidewatch::start("web: {hosts: [tide.example.org]}\n");
    let port = tidewatch.address().rsplit_once(':').unwrap().1.to_owned();
    for path in ["/", "/-/healthy", "/api/v1/names", "/metrics", "/nothing"] {
        for (host, ours) in [
            ("evil.test", false),
            ("localhost.evil.test", false),
            ("localhost", true),
            ("127.0.0.1", true),
            ("[::1]", true),
            ("tide.example.org", true),
        ] {
            let answer = ask(&tidewatch, &format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}"));
            assert_eq!(!answer.starts_with("421 "), ours, "{path} of {host}: {answer}");
            assert!(answer.contains("x-content-type-options: nosniff\r\n"), "{path} of {host}: {answer}");
        }
    }
    let whole = ask(&tidewatch, "GET http://evil.test/api/v1/names HTTP/1.1\r\nHost: localhost");
    assert!(whole.starts_with("421 "), "{whole}");
    assert!(whole.contains("Host must be an address, localhost or one of web.hosts; got \\\"evil.test\\\""));
    assert!(reached(&tidewatch, "web.hosts") >= 11.0);
    assert!(tidewatch.metric("tidewatch_http_responses_total{route=\"other\",code=\"421\"}") >= 11.0);
    let begin = "POST /api/v1/backfill HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2";
    for (host, origin, status) in [
        ("10.0.0.7:7464", "http://evil.test", "403 "),
        ("10.0.0.7:7464", "null", "403 "),
        ("10.0.0.7:7464", "http://10.0.0.7:9090", "403 "),
        // Ours, and then it is what is asked for that is wrong.
        ("10.0.0.7:7464", "http://10.0.0.7:7464", "400 "),
        ("tide.example.org", "https://tide.example.org", "400 "),
    ] {
        let mut socket = TcpStream::connect(tidewatch.address()).unwrap();
        write!(socket, "{begin}\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n{{}}")
            .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host} {origin}: {answer}");
    }
    // A body without a type is what a page can send anywhere; senders have no origin.
    let typeless = "POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0";
    assert!(ask(&tidewatch, &format!("{typeless}\r\nOrigin: http://localhost")).starts_with("415 "));
    assert!(ask(&tidewatch, typeless).starts_with("400 "));
    let image = "GET /api/v1/windows?at=now HTTP/1.1\r\nHost: localhost\r\nReferer: http://evil.test/";
    assert!(ask(&tidewatch, image).starts_with("403 "));
    assert!(reached(&tidewatch, "http.cross_site") >= 4.0);
}

/// Everything below a folder, and the folder, with its permissions.
fn modes(path: &Path, all: &mut Vec<(String, u32)>) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    all.push((path.display().to_string(), meta.permissions().mode() & 0o777));
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            modes(&entry.unwrap().path(), all);
        }
    }
}

#[test]
fn data_is_its_owners_alone_unless_the_setting_says_otherwise() {
    for (config, denied, allowed) in [("", 0o077, 0o700), ("umask: \"0027\"\n", 0o027, 0o750)] {
        let mut tidewatch =
            Tidewatch::start(&format!("windows: [{{length: 10s, hop: 5s}}]\nidle_timeout: 1s\n{config}"));
        assert_eq!(push(&tidewatch, "up").status, 204);
        assert_eq!(tidewatch.process().terminate().code(), Some(0));
        let mut all = Vec::new();
        modes(&tidewatch.folder().join("data"), &mut all);
        assert!(all.len() > 5, "{all:?}");
        assert!(all.iter().all(|(_, mode)| mode & denied == 0), "{all:?}");
        assert_eq!(all[0].1, allowed, "{all:?}");
    }
}

fn threads(tidewatch: &mut Tidewatch) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", tidewatch.process().id())).unwrap().count()
}

#[test]
fn nothing_that_is_asked_or_sent_takes_a_thread_that_was_not_there() {
    let mut tidewatch = Tidewatch::start("windows: [{length: 10s, hop: 5s}]\nidle_timeout: 1s\n");
    assert_eq!(push(&tidewatch, "up").status, 204);
    let before = threads(&mut tidewatch);
    let samples: Vec<(i64, f64)> = (0..200_000).map(|i| (START_MS + i, i as f64)).collect();
    let large = WriteRequest::default().series(&[("__name__", "large")], &samples);
    std::thread::scope(|scope| {
        for n in 0..32 {
            let (tidewatch, large) = (&tidewatch, &large);
            scope.spawn(move || {
                for _ in 0..20 {
                    for parameter in [("start", "0"), ("at", "now")] {
                        let url = tidewatch.url("/api/v1/windows");
                        let answer = http::get(&url, &[parameter]).unwrap();
                        assert!([200, 503].contains(&answer.status), "{answer:?}");
                    }
                }
                if n < 4 {
                    large.send(&tidewatch.url("/api/v1/write")).unwrap();
                }
            });
        }
    });
    assert_eq!(threads(&mut tidewatch), before);
    assert_eq!(tidewatch.process().terminate().code(), Some(0));
}

#[test]
fn connections_that_do_nothing_hold_up_neither_pushes_nor_the_end() {
    let mut tidewatch = Tidewatch::start("limits: {connections: 64}\n");
    let sent = ["", "GET / HTTP/1.1\r\nHost: localhost\r\nX: "];
    let open = |i: usize| {
        let mut socket = TcpStream::connect(tidewatch.address()).unwrap();
        // One that gave its place to another may be closed already.
        let _ = socket.write_all(sent[i % 2].as_bytes());
        socket
    };
    let slow: Vec<TcpStream> = (0..500).map(open).collect();
    assert_eq!(push(&tidewatch, "up").status, 204);
    assert!(tidewatch.metric("tidewatch_http_connections") <= 64.0);
    eventually("all are counted", PATIENCE, || match reached(&tidewatch, "limits.connections") {
        n if n >= 400.0 => Ok(()),
        n => Err(n.to_string()),
    });
    let begun = Instant::now();
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
    assert!(!tidewatch.process().log().contains("cut off"), "{:?}", begun.elapsed());
    drop(slow);
}
