//! A clock that is wrong for a while: no stored row is dropped, every restart goes on, samples of the true time are
//! asked for again, and processing time goes back when senders agree with the clock or the operator says so.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::time::Duration;

use tidewatch_dataflows::sample::Control;
use tokio::net::TcpSocket;

use crate::support::process::Tidewatch;
use crate::support::remote_write::{WriteRequest, snappy};
use crate::support::{Folder, eventually, stored};

const HOUR_MS: i64 = 3_600_000;
const CONFIG: &str =
    "windows: [{length: 10s, hop: 5s}]\nidle_timeout: 1s\ncatch_up: 1s\nsnapshots: {every: 1s}\n";
const PATIENCE: Duration = Duration::from_secs(120);

/// The true time.
fn unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A server whose clock the test sets.
struct Clocked {
    tidewatch: Tidewatch,
    clock: Folder,
    sent: Vec<(i64, f64)>,
}

impl Clocked {
    fn start() -> Clocked {
        let clock = Folder::new("clock");
        let file = clock.path().join("ahead_ms");
        std::fs::write(&file, "0").unwrap();
        let tidewatch = Tidewatch::start_with(CONFIG, &[("TIDEWATCH_CLOCK", file.to_str().unwrap())]);
        Clocked { tidewatch, clock, sent: Vec::new() }
    }

    /// Sets the clock so far ahead of the machine's.
    fn set(&self, ahead_ms: i64) {
        let (file, new) = (self.clock.path().join("ahead_ms"), self.clock.path().join("new"));
        std::fs::write(&new, ahead_ms.to_string()).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// Sends one sample of a series, so far from the true time; the status.
    fn send(&self, series: &str, ahead_ms: i64) -> u16 {
        let request = WriteRequest::default().series(&[("__name__", series)], &[(unix_ms() + ahead_ms, 1.0)]);
        request.send(&self.tidewatch.url("/api/v1/write")).unwrap().status
    }

    /// Sends one sample of the true time, which must be taken.
    fn send_now(&mut self) {
        let sample = (unix_ms(), self.sent.len() as f64);
        let request = WriteRequest::default().series(&[("__name__", "steady")], &[sample]);
        let answer = request.send(&self.tidewatch.url("/api/v1/write")).unwrap();
        assert_eq!(answer.status, 204, "{answer:?}");
        self.sent.push(sample);
    }

    fn behind_seconds(&self) -> f64 {
        self.tidewatch.get("/api/v1/status", &[]).json()["clock_behind_seconds"].as_f64().unwrap()
    }

    /// Waits until processing time is so far ahead of the clock, in seconds.
    fn await_behind(&self, wanted: std::ops::RangeInclusive<f64>) {
        eventually("the clock is so far behind", PATIENCE, || {
            let behind = self.behind_seconds();
            if wanted.contains(&behind) { Ok(()) } else { Err(format!("{behind} s")) }
        });
    }

    /// The clock jumps forward, is seen there, and is set right.
    fn jump(&mut self, ahead_ms: i64) {
        self.set(ahead_ms);
        let epoch = || self.tidewatch.get("/api/v1/status", &[]).json()["epoch"]["journal"].as_i64().unwrap();
        eventually("an epoch under the wrong clock", PATIENCE, || match epoch() {
            epoch if epoch > unix_ms() + ahead_ms / 2 => Ok(()),
            epoch => Err(epoch.to_string()),
        });
        eventually("the jump is told", PATIENCE, || {
            let log = self.tidewatch.process().log();
            if log.contains("the clock has jumped") { Ok(()) } else { Err(log) }
        });
        self.set(0);
    }

    /// The rows of a series so far.
    fn rows(&self, series: &str) -> Vec<serde_json::Value> {
        self.tidewatch.rows("/api/v1/windows", &[("match[]", series), ("start", "0")])
    }

    /// Rows whose windows begin after `from_ms` are right, to the end; the journal holds so many resets.
    fn end(mut self, resets: usize, from_ms: i64) {
        for _ in 0..7 {
            self.send_now();
            std::thread::sleep(Duration::from_secs(3));
        }
        self.send_now();
        let last = self.sent[self.sent.len() - 1].0;
        let wanted = last.div_euclid(5_000) * 5_000 - 5_000;
        eventually("the last rows", PATIENCE, || {
            let newest =
                self.rows("steady").iter().filter_map(|row| row["at_ms"].as_i64()).max().unwrap_or(0);
            if newest >= wanted { Ok(()) } else { Err(format!("{newest} of {wanted}")) }
        });
        let mut checked = 0;
        for row in self.rows("steady") {
            let at = row["at_ms"].as_i64().unwrap();
            if at - 10_000 < from_ms || at > last {
                continue;
            }
            let within = self.sent.iter().filter(|(t, _)| at - 10_000 < *t && *t <= at).count();
            assert_eq!(row["count"], within, "{row}");
            checked += 1;
        }
        assert!(checked > 0, "{:?}", self.rows("steady"));
        let status = self.tidewatch.process().terminate();
        assert_eq!(status.code(), Some(0), "{}", self.tidewatch.process().log_tail());
        let (epochs, _) = stored::epochs(&self.tidewatch.folder().join("data"));
        let found = epochs.iter().filter(|epoch| {
            epoch.controls.iter().any(|control| matches!(**control, Control::ClockReset { .. }))
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), resets);
        assert!(found.iter().all(|epoch| epoch.live.is_empty()), "a reset has an epoch of its own");
        let back =
            epochs.windows(2).filter(|two| two[1].end.processing_ms < two[0].end.processing_ms).count();
        assert_eq!(back, resets, "time goes back nowhere else");
    }
}

/// Sends a sample of the true time from another address of the loopback; the status line.
fn send_from(from: Ipv4Addr, to: &str) -> String {
    let request = WriteRequest::default()
        .series(&[("__name__", "witness"), ("from", &from.to_string())], &[(unix_ms(), 1.0)]);
    let body = snappy(request.message());
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nHost: {to}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\r\n",
        body.len()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to.parse().unwrap()).await.unwrap()
    });
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_clock_that_was_ahead_drops_no_rows_refuses_no_restart_and_is_accepted() {
    let mut clocked = Clocked::start();
    for _ in 0..4 {
        clocked.send_now();
        std::thread::sleep(Duration::from_secs(3));
    }
    eventually("the first rows", PATIENCE, || match clocked.rows("steady").len() {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
    let rows = clocked.rows("steady").len();
    clocked.jump(40 * 24 * HOUR_MS);
    // What the journal has seen is asked for again, not refused for good; what nobody has seen is.
    assert_eq!(clocked.send("ahead", 24 * HOUR_MS), 503);
    assert_eq!(clocked.send("ahead", 50 * 24 * HOUR_MS), 400);
    clocked.send_now();
    assert!(clocked.rows("steady").len() >= rows, "rows are dropped");
    let log = clocked.tidewatch.process().log();
    // A step between two looks may take a second.
    let told =
        ["40d", "39d23h59m"].iter().any(|by| log.contains(&format!("the clock has jumped and is now {by}")));
    assert!(log.contains("ERROR") && told, "{log}");
    clocked.await_behind(3_400_000.0..=3_500_000.0);
    // Every restart goes on.
    clocked.tidewatch.process().kill();
    clocked.tidewatch.start_again();
    clocked.await_behind(3_400_000.0..=3_500_000.0);
    assert!(clocked.rows("steady").len() >= rows, "rows are dropped");
    clocked.send_now();
    clocked.tidewatch.process().kill();
    let file = clocked.clock.path().join("ahead_ms").to_str().unwrap().to_owned();
    clocked.tidewatch.next_with(&[("TIDEWATCH_CLOCK", &file)], &["--accept-clock"]);
    clocked.tidewatch.start_again();
    clocked.await_behind(0.0..=60.0);
    assert_eq!(clocked.send("ahead", 24 * HOUR_MS), 400);
    // A kill right after it changes nothing.
    clocked.tidewatch.process().kill();
    clocked.tidewatch.start_again();
    clocked.await_behind(0.0..=60.0);
    let from_ms = unix_ms();
    clocked.end(1, from_ms);
}

#[test]
fn several_senders_who_agree_with_the_clock_set_processing_time_right() {
    let mut clocked = Clocked::start();
    clocked.send_now();
    clocked.set(6 * HOUR_MS);
    // A series of a sender whose clock is as wrong: it begins anew.
    eventually("a sample of the wrong time is taken", PATIENCE, || {
        let status = clocked.send("wrong", 6 * HOUR_MS);
        if status == 204 { Ok(()) } else { Err(status.to_string()) }
    });
    clocked.jump(6 * HOUR_MS);
    clocked.await_behind(21_000.0..=22_000.0);
    let alone = std::time::Instant::now();
    while alone.elapsed() < Duration::from_secs(14) {
        clocked.send_now();
        std::thread::sleep(Duration::from_secs(2));
    }
    assert!(clocked.behind_seconds() > 21_000.0, "one sender is not several");
    let address = clocked.tidewatch.address();
    eventually("processing time is right", PATIENCE, || {
        clocked.send_now();
        let answer = send_from(Ipv4Addr::new(127, 0, 0, 2), &address);
        assert!(answer.contains("204"), "{answer}");
        std::thread::sleep(Duration::from_secs(1));
        let behind = clocked.behind_seconds();
        if behind < 60.0 { Ok(()) } else { Err(format!("{behind} s")) }
    });
    let log = clocked.tidewatch.process().log();
    assert!(log.contains("2 senders agree with the clock"), "{log}");
    let from_ms = unix_ms();
    eventually("the series of the wrong time begins anew", PATIENCE, || {
        assert_eq!(clocked.send("wrong", 0), 204);
        std::thread::sleep(Duration::from_secs(2));
        let rows = clocked.rows("wrong");
        let now = unix_ms();
        let right =
            rows.iter().filter_map(|row| row["at_ms"].as_i64()).any(|at| (from_ms..now).contains(&at));
        if right { Ok(()) } else { Err(format!("{rows:?}")) }
    });
    clocked.tidewatch.process().kill();
    clocked.tidewatch.start_again();
    clocked.end(1, from_ms);
}

#[test]
fn a_clock_that_is_behind_asks_for_live_samples_again_and_drops_nothing() {
    let mut clocked = Clocked::start();
    clocked.send_now();
    eventually("an epoch", PATIENCE, || {
        let status = clocked.tidewatch.get("/api/v1/status", &[]).json();
        if status["epoch"]["journal"].is_u64() { Ok(()) } else { Err(status.to_string()) }
    });
    clocked.set(-6 * HOUR_MS);
    assert_eq!(clocked.send("live", 0), 503);
    clocked.tidewatch.process().kill();
    clocked.tidewatch.start_again();
    assert_eq!(clocked.send("live", 0), 503, "also after a restart");
    assert_eq!(clocked.send("live", 12 * HOUR_MS), 400);
    clocked.set(0);
    assert_eq!(clocked.send("live", 0), 204);
    clocked.end(0, 0);
}
