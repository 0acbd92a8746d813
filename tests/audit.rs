//! The audit of a running worker: on samples that come in, late, twice and in any order, it checks and finds nothing.

use std::time::Duration;

use crate::support::eventually;
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const CONFIG: &str = "
windows: [{length: 10s, hop: 5s}, {length: 1m, hop: 10s}, {length: 30m, hop: 1m}]
settle: 5s
lateness: 2m
audit: 1000
";

/// Times long past: windows close by the samples alone, so every key checked is one that a sample closed.
const START_MS: i64 = 1_767_225_600_000;

const NAMES: [&str; 5] = ["a_total", "b", "far_from_zero", "c", "d"];

/// A second of every series; some of it comes later.
fn send(worker: &Tidewatch, rng: &mut fastrand::Rng, held: &mut Vec<(usize, i64)>, second: i64) {
    held.extend((0..NAMES.len()).map(|series| (series, second)));
    let mut request = WriteRequest::default();
    for (series, name) in NAMES.iter().enumerate() {
        let mut now = Vec::new();
        held.retain(|(of, second)| {
            let goes = *of == series && rng.u8(0..4) == 0;
            now.extend(goes.then_some(*second));
            *of != series || !goes
        });
        // Some of it twice.
        now.extend(now.first().copied());
        let offset = if *name == "far_from_zero" { 4e10 } else { 0.0 };
        let value = |second: i64| offset + (second * second % 37) as f64 / 7.0;
        let samples: Vec<_> = now.iter().map(|s| (START_MS + s * 1_000, value(*s))).collect();
        request = request.series(&[("__name__", name)], &samples);
    }
    let answer = request.send(&worker.url("/api/v1/write")).unwrap();
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

#[test]
fn it_checks_what_comes_in_and_finds_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut worker = Tidewatch::start(&format!("{CONFIG}workers: 2\n"));
    let mut held = Vec::new();
    for second in 0..400 {
        if second % 80 == 79 {
            // Late is what comes in a later epoch.
            let epochs = || worker.metric("tidewatch_epochs_total");
            let before = epochs();
            eventually("an epoch ends", Duration::from_secs(30), || {
                (epochs() > before).then_some(()).ok_or_else(String::new)
            });
        }
        send(&worker, &mut rng, &mut held, second);
    }
    let wait = |worker: &Tidewatch| {
        eventually("panes and windows were checked", Duration::from_secs(60), || {
            let checked = ["pane", "window"]
                .map(|what| worker.metric(&format!("tidewatch_audit_checks_total{{what=\"{what}\"}}")));
            if checked[0] > 2_000.0 && checked[1] > 500.0 { Ok(()) } else { Err(format!("{checked:?}")) }
        });
        for what in ["pane", "window"] {
            let name = format!("tidewatch_audit_mismatches_total{{what=\"{what}\"}}");
            assert_eq!(worker.metric(&name), 0.0, "{what}");
        }
        assert!(worker.metric("tidewatch_audit_relative_difference_max") < 1e-12);
    };
    wait(&worker);
    assert!(worker.metric("tidewatch_samples_late_total") > 10.0, "nothing was late");
    // The state that a start computes again is the same.
    worker.process().kill();
    worker.start_again();
    for second in 400..450 {
        send(&worker, &mut rng, &mut held, second);
    }
    wait(&worker);
    let log = worker.process().log();
    assert!(!log.contains("audit:") && !log.contains("panicked"), "{log}");
    assert_eq!(worker.process().terminate().code(), Some(0), "{}", worker.process().log_tail());
}

#[test]
fn none_is_audited_if_none_is_to_be() {
    let worker = Tidewatch::start("audit: 0\n");
    let mut rng = fastrand::Rng::with_seed(1);
    send(&worker, &mut rng, &mut Vec::new(), 0);
    assert_eq!(worker.metric("tidewatch_audit_mismatches_total{what=\"pane\"}"), 0.0);
    assert_eq!(worker.metric("tidewatch_audit_series_total"), 0.0);
}
