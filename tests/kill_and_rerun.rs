//! One worker, killed and started again: what was answered 2xx is never lost, and what was computed stays the same.

use serde_json::Value;

use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;
use crate::support::windows::{self, Window};

const WINDOWS: [Window; 2] = [("10s", 10_000, 5_000), ("1m", 60_000, 10_000)];

const CONFIG: &str = "
windows: [{length: 10s, hop: 5s}, {length: 1m, hop: 10s}]
settle: 5s
";

/// Times long past, so that windows close by the samples alone and by no clock.
const START_MS: i64 = 1_767_225_600_000;

/// Sends the samples of a series from index `from` to `to`, one a second, and expects them to be taken.
fn send(worker: &Tidewatch, from: i64, to: i64) {
    let samples: Vec<(i64, f64)> = (from..to).map(|i| (START_MS + i * 1_000, (i * i % 37) as f64)).collect();
    let request = WriteRequest::default().series(&[("__name__", "test_total"), ("job", "kill")], &samples);
    let answer = request.send(&worker.url("/api/v1/write")).unwrap();
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

/// The rows of the series now, after a check that they are what samples 0 to `to` give.
fn rows(worker: &Tidewatch, to: i64) -> Vec<Value> {
    let samples: Vec<(i64, f64)> = (0..to).map(|i| (START_MS + i * 1_000, (i * i % 37) as f64)).collect();
    let (start, end) = (START_MS / 1_000 - 60, START_MS / 1_000 + to + 60);
    let range = [("match[]", "test_total"), ("start", &start.to_string()), ("end", &end.to_string())];
    let rows = worker.rows("/api/v1/windows", &range);
    for window in WINDOWS {
        let of_window = rows.iter().filter(|row| row["window"] == window.0);
        let times: Vec<i64> = of_window.clone().map(|row| row["at_ms"].as_i64().unwrap()).collect();
        assert_eq!(times, windows::times(&samples, window), "{window:?}");
        for row in of_window {
            let different = windows::differences(row, &samples, window.1);
            assert!(different.is_empty(), "{different:?} in {row}");
        }
    }
    rows
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_changes() {
    let mut worker = Tidewatch::start(CONFIG);
    send(&worker, 0, 100);
    worker.process().kill();
    // Ready means that the store holds every epoch the journal held at start.
    worker.start_again();
    let before = rows(&worker, 100);
    assert!(!before.is_empty());

    send(&worker, 100, 200);
    // A sender that saw no answer sends again.
    send(&worker, 100, 200);
    worker.process().kill();
    worker.start_again();
    let after = rows(&worker, 200);
    let known = |row: &&Value| before.contains(row);
    assert_eq!(after.iter().filter(known).count(), before.len(), "a published row changed");

    let status = worker.process().terminate();
    assert_eq!(status.code(), Some(0), "{}", worker.process().log_tail());
    worker.start_again();
    assert_eq!(rows(&worker, 200), after);
}
