//! Panics and hangs in the computation of a real server, put in by the feature `faults`.

use std::time::Duration;

use serde_json::Value;
use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::SeriesId;

use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;
use crate::support::windows::{self, Window};
use crate::support::{Folder, eventually, http};

const WINDOWS: [Window; 2] = [("10s", 10_000, 5_000), ("1m", 60_000, 10_000)];

const CONFIG: &str = "
windows: [{length: 10s, hop: 5s}, {length: 1m, hop: 10s}]
idle_timeout: 5s
watchdog: 10s
";

/// Times long past, so that windows close by the samples alone and by no clock.
const START_MS: i64 = 1_767_225_600_000;
/// Long enough for eight restarts and the waits between them.
const LONG: Duration = Duration::from_secs(90);

fn labels(name: &str) -> [(&str, &str); 2] {
    [("__name__", name), ("job", "panics")]
}

fn id(name: &str) -> SeriesId {
    series_id(&labels(name))
}

fn samples(from: i64, to: i64) -> Vec<(i64, f64)> {
    (from..to).map(|i| (START_MS + i * 1_000, (i * i % 37) as f64)).collect()
}

/// Sends samples of these series, one a second, and expects them to be taken.
fn send(tidewatch: &Tidewatch, names: &[&str], from: i64, to: i64) {
    let request = names
        .iter()
        .fold(WriteRequest::default(), |request, name| request.series(&labels(name), &samples(from, to)));
    let answer = request.send(&tidewatch.url("/api/v1/write")).unwrap();
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

/// The rows of a series up to its sample `to`, once all are there, after a check that they are right.
fn rows(tidewatch: &Tidewatch, name: &str, to: i64) -> Vec<Value> {
    let samples = samples(0, to);
    let want: Vec<(&str, i64)> = WINDOWS
        .iter()
        .flat_map(|window| windows::times(&samples, *window).into_iter().map(|at_ms| (window.0, at_ms)))
        .collect();
    let (start, end) = (START_MS / 1_000 - 60, START_MS / 1_000 + to + 60);
    let range = [("match[]", name), ("start", &start.to_string()), ("end", &end.to_string())];
    let rows = eventually(&format!("the rows of {name}"), LONG, || {
        let rows = tidewatch.rows("/api/v1/windows", &range);
        let there = |(window, at_ms): &(&str, i64)| {
            rows.iter().any(|row| row["window"] == *window && row["at_ms"] == *at_ms)
        };
        match want.iter().find(|key| !there(key)) {
            Some(missing) => Err(format!("{missing:?} is missing; {} rows", rows.len())),
            None => Ok(rows),
        }
    });
    for row in &rows {
        let window = WINDOWS.iter().find(|window| row["window"] == window.0).unwrap();
        let different = windows::differences(row, &samples, window.1);
        assert!(different.is_empty(), "{different:?} in {row}");
    }
    rows
}

fn restarts(tidewatch: &Tidewatch) -> f64 {
    tidewatch.metric("tidewatch_engine_restarts_total{cause=\"worker\"}")
}

fn quarantined(tidewatch: &Tidewatch) -> Value {
    tidewatch.get("/api/v1/status", &[]).json()["quarantined"].clone()
}

#[test]
fn after_a_panic_every_row_is_right_and_the_server_answers_meanwhile() {
    let fault = format!("panic-once:{}@{}", id("bad"), START_MS + 150_000);
    let tidewatch = Tidewatch::start_with(CONFIG, &[("TIDEWATCH_FAULT", &fault)]);
    send(&tidewatch, &["bad", "good"], 0, 100);
    rows(&tidewatch, "bad", 100);
    assert_eq!(restarts(&tidewatch), 0.0);
    send(&tidewatch, &["bad", "good"], 100, 200);
    let mut taken = 200;
    eventually("a restart", LONG, || {
        // Intake and API go on.
        send(&tidewatch, &["good"], taken, taken + 10);
        taken += 10;
        tidewatch.get("/api/v1/windows", &[("match[]", "good")]);
        if restarts(&tidewatch) == 1.0 { Ok(()) } else { Err("none yet".to_owned()) }
    });
    rows(&tidewatch, "bad", 200);
    rows(&tidewatch, "good", taken);
    eventually("ready again", LONG, || match http::get(&tidewatch.url("/-/ready"), &[])? {
        answer if answer.status == 200 => Ok(()),
        answer => {
            assert!(answer.text.contains("the engine was restarted after: worker"), "{}", answer.text);
            Err(answer.text)
        }
    });
    assert_eq!(restarts(&tidewatch), 1.0);
    assert_eq!(quarantined(&tidewatch)["count"], 0);
}

#[test]
fn a_series_that_always_panics_is_kept_out_until_it_is_let_in_again() {
    let fault = format!("panic:{}@{}", id("bad"), START_MS + 150_000);
    let mut tidewatch = Tidewatch::start_with(CONFIG, &[("TIDEWATCH_FAULT", &fault)]);
    send(&tidewatch, &["bad", "good"], 0, 100);
    let before = rows(&tidewatch, "bad", 100);
    send(&tidewatch, &["bad", "good"], 100, 200);
    rows(&tidewatch, "good", 200);
    assert_eq!(restarts(&tidewatch), 2.0);
    let held = serde_json::json!({"count": 1, "series": [id("bad").to_string()]});
    assert_eq!(quarantined(&tidewatch), held);
    let name = format!("series {} bad{{job=\"panics\"}} is quarantined", id("bad"));
    assert!(tidewatch.process().log().contains(&name), "{}", tidewatch.process().log_tail());
    send(&tidewatch, &["bad", "good"], 200, 300);
    rows(&tidewatch, "good", 300);
    let refused =
        "tidewatch_samples_rejected_total{source=\"journal\",gate=\"admit\",reason=\"quarantined\"}";
    eventually("its samples are refused", LONG, || match tidewatch.metric(refused) {
        200.0 => Ok(()),
        other => Err(format!("{other} are")),
    });
    eventually("the refusal is a row", LONG * 2, || {
        let rejects = tidewatch.get("/api/v1/rejects", &[]).json();
        let all = rejects["data"].as_array().unwrap();
        all.iter().find(|row| row["reason"] == "quarantined").map(|_| ()).ok_or(rejects.to_string())
    });

    // The journal knows it: killed and started again, it is kept out of the same epoch on, at once.
    tidewatch.process().kill();
    tidewatch.start_again();
    assert_eq!((quarantined(&tidewatch), restarts(&tidewatch)), (held, 0.0));
    rows(&tidewatch, "good", 300);
    let all = [("match[]", "bad"), ("start", "2026-01-01T00:00:00Z"), ("end", "2026-01-01T01:00:00Z")];
    let kept = tidewatch.rows("/api/v1/windows", &all);
    assert!(before.iter().all(|row| kept.contains(row)), "rows from before are gone");
    assert!(kept.iter().all(|row| row["at_ms"].as_i64().unwrap() < START_MS + 150_000), "{kept:?}");

    // A rerun of a copy of the journal, by a program without the fault, keeps it out of the same epoch on.
    tidewatch.process().kill();
    let rerun = Folder::new("rerun");
    std::fs::write(rerun.path().join("tidewatch.yml"), CONFIG).unwrap();
    for log in ["journal", "series"] {
        let to = rerun.path().join("data").join(log);
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(tidewatch.folder().join("data").join(log)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let rerun = Tidewatch::start_in(rerun);
    assert_eq!((quarantined(&rerun)["count"].clone(), restarts(&rerun)), (1.into(), 0.0));
    assert_eq!(rerun.rows("/api/v1/windows", &all), kept);
    rows(&rerun, "good", 300);
    drop(rerun);

    // Mended, and let in again: what is newer than what it had is computed.
    tidewatch.next_with(&[], &["--lift-quarantine", &id("bad").to_string()]);
    tidewatch.start_again();
    eventually("it is let in", LONG, || match quarantined(&tidewatch) {
        none if none["count"] == 0 => Ok(()),
        some => Err(some.to_string()),
    });
    send(&tidewatch, &["bad"], 400, 500);
    let key = START_MS + 490_000;
    eventually("it is computed again", LONG, || {
        let rows = tidewatch.rows("/api/v1/windows", &all);
        rows.iter().find(|row| row["at_ms"] == key).map(|_| ()).ok_or(format!("{} rows", rows.len()))
    });
    tidewatch.process().kill();
    tidewatch.start_again();
    assert_eq!((quarantined(&tidewatch)["count"].clone(), restarts(&tidewatch)), (0.into(), 0.0));
}

/// Without the name of the series nothing could be kept out, and the process would end with 75 for ever.
#[test]
fn a_series_at_which_other_settings_panic_is_kept_out() {
    let mut tidewatch = Tidewatch::start(CONFIG);
    send(&tidewatch, &["bad", "good"], 0, 100);
    rows(&tidewatch, "bad", 100);
    rows(&tidewatch, "good", 100);
    assert_eq!(tidewatch.process().terminate().code(), Some(0));
    tidewatch.configure(
        &CONFIG.replace("{length: 1m, hop: 10s}", "{length: 1m, hop: 10s}, {length: 40s, hop: 20s}"),
    );
    tidewatch.next_with(&[("TIDEWATCH_FAULT", &format!("panic-on-settings:{}", id("bad")))], &[]);
    tidewatch.start_again_alive();
    eventually("it is kept out", LONG, || match quarantined(&tidewatch) {
        held if held["count"] == 1 => Ok(()),
        other => Err(other.to_string()),
    });
    let log = tidewatch.process().log();
    assert!(log.contains(&format!("series {} bad{{job=\"panics\"}} is quarantined", id("bad"))), "{log}");
    send(&tidewatch, &["good"], 100, 300);
    rows(&tidewatch, "good", 300);
    assert_eq!(restarts(&tidewatch), 2.0);
}

#[test]
fn after_eight_restarts_the_process_asks_to_be_started_again() {
    let names = ["a", "b", "c", "d", "e"];
    let faults: Vec<String> = names.iter().map(|name| format!("panic:{}", id(name))).collect();
    let mut tidewatch = Tidewatch::start_with(CONFIG, &[("TIDEWATCH_FAULT", &faults.join(","))]);
    send(&tidewatch, &names, 0, 100);
    let status = tidewatch.process().ended();
    let log = tidewatch.process().log();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("the engine was built anew 8 times within 10 minutes already"), "{log}");
    // Four were found out, and the next start finds the fifth.
    tidewatch.start_again_alive();
    eventually("all are kept out", LONG, || match quarantined(&tidewatch) {
        all if all["count"] == 5 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_computation_that_stands_still_ends_the_process() {
    let fault = format!("hang:{}@{}", id("bad"), START_MS + 150_000);
    let mut tidewatch = Tidewatch::start_with(CONFIG, &[("TIDEWATCH_FAULT", &fault)]);
    send(&tidewatch, &["bad", "good"], 0, 100);
    rows(&tidewatch, "bad", 100);
    send(&tidewatch, &["bad", "good"], 100, 200);
    let status = tidewatch.process().ended();
    let log = tidewatch.process().log();
    assert_eq!(status.code(), Some(75), "{log}");
    let said = format!("is at series {} of epoch", id("bad"));
    assert!(log.contains("nothing was computed for 10 s (watchdog)") && log.contains(&said), "{log}");
    tidewatch.next_with(&[], &[]);
    tidewatch.start_again();
    rows(&tidewatch, "bad", 200);
    rows(&tidewatch, "good", 200);
}
