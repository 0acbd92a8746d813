//! The audit of a running server: on samples that come in, late, twice and in any order, over restarts, it checks and
//! finds nothing; samples that a start loses it finds.

use std::time::Duration;

use tidewatch_dataflows::sample::STALE_NAN_BITS;

use crate::support::eventually;
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const CONFIG: &str = "
windows: [{length: 10s, hop: 5s}, {length: 1m, hop: 10s}, {length: 30m, hop: 1m}]
idle_timeout: 5s
allowed_lateness: 2m
audit: 1000
snapshots: {every: 1s}
";

/// Times long past: windows close by the samples alone, so every key checked is one that a sample closed.
const START_MS: i64 = 1_767_225_600_000;

const NAMES: [&str; 5] = ["a_total", "b", "far_from_zero", "c", "d"];

/// A second of every series; some of it comes later.
fn send(tidewatch: &Tidewatch, rng: &mut fastrand::Rng, held: &mut Vec<(usize, i64)>, second: i64) {
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
        let mut samples: Vec<_> = now.iter().map(|s| (START_MS + s * 1_000, value(*s))).collect();
        // With another value, or as what is no sample.
        let other = [1.0, -1.0, f64::NAN, f64::from_bits(STALE_NAN_BITS)][rng.usize(..4)];
        samples.extend(samples.last().map(|(at_ms, value)| (at_ms - rng.i64(0..3) * 1_000, value + other)));
        request = request.series(&[("__name__", name)], &samples);
    }
    let answer = request.send(&tidewatch.url("/api/v1/write")).unwrap();
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

/// Waits until so many series are followed.
fn followed(tidewatch: &Tidewatch, series: usize) {
    eventually("series are followed", Duration::from_secs(60), || {
        let followed = tidewatch.metric("tidewatch_audit_followed_series");
        if followed >= series as f64 { Ok(()) } else { Err(format!("{followed} of {series}")) }
    });
}

/// Waits until the snapshots hold what was computed so far, and the file of the audit as well.
fn kept(tidewatch: &Tidewatch) {
    let epoch = tidewatch.get("/api/v1/status", &[]).json()["epoch"]["journal"].as_f64().unwrap();
    for metric in ["tidewatch_snapshot_epoch", "tidewatch_audit_epoch"] {
        eventually(metric, Duration::from_secs(60), || {
            let held = tidewatch.metric(metric);
            if held >= epoch { Ok(()) } else { Err(format!("{held} of {epoch}")) }
        });
    }
}

fn mismatches(tidewatch: &Tidewatch, what: &str) -> f64 {
    tidewatch.metric(&format!("tidewatch_audit_mismatches_total{{what=\"{what}\"}}"))
}

fn rows_checked(tidewatch: &Tidewatch, at_least: f64) {
    eventually("rows were computed again", Duration::from_secs(60), || {
        let rows = tidewatch.metric("tidewatch_audit_checks_total{what=\"row\"}");
        if rows >= at_least { Ok(()) } else { Err(format!("{rows} of {at_least}")) }
    });
}

#[test]
fn it_checks_what_comes_in_and_finds_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut tidewatch = Tidewatch::start(&format!("{CONFIG}workers: 2\n"));
    let mut held = Vec::new();
    for second in 0..400 {
        if second % 80 == 79 {
            // Late is what comes in a later epoch.
            let epochs = || tidewatch.metric("tidewatch_epochs_total");
            let before = epochs();
            eventually("an epoch ends", Duration::from_secs(30), || {
                (epochs() > before).then_some(()).ok_or_else(String::new)
            });
            followed(&tidewatch, NAMES.len());
        }
        send(&tidewatch, &mut rng, &mut held, second);
    }
    let wait = |tidewatch: &Tidewatch| {
        eventually("panes and windows were checked", Duration::from_secs(60), || {
            let checked = ["pane", "window", "step", "profile"]
                .map(|what| tidewatch.metric(&format!("tidewatch_audit_checks_total{{what=\"{what}\"}}")));
            let enough =
                checked[0] > 2_000.0 && checked[1] > 500.0 && checked[2..].iter().all(|n| *n > 100.0);
            if enough { Ok(()) } else { Err(format!("{checked:?}")) }
        });
        for what in ["pane", "window", "step", "profile", "row"] {
            assert_eq!(mismatches(tidewatch, what), 0.0, "{what}");
        }
        assert!(tidewatch.metric("tidewatch_audit_relative_difference_max") < 1e-12);
    };
    // 320 seconds of five series: 64 rows of 10s each, and as many corrections as late samples make.
    rows_checked(&tidewatch, 300.0);
    wait(&tidewatch);
    assert!(tidewatch.metric("tidewatch_samples_late_total") > 10.0, "nothing was late");
    // The state that a start computes again is the same.
    for (round, kill) in [true, false, true].into_iter().enumerate() {
        kept(&tidewatch);
        if kill {
            tidewatch.process().kill();
        } else {
            assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
        }
        tidewatch.start_again();
        followed(&tidewatch, NAMES.len());
        for second in 400 + 100 * round as i64..500 + 100 * round as i64 {
            send(&tidewatch, &mut rng, &mut held, second);
        }
        rows_checked(&tidewatch, 90.0);
        wait(&tidewatch);
    }
    for reason in ["journal", "bootstrap", "quarantine", "silent", "settings", "samples"] {
        let name = format!("tidewatch_audit_skipped_total{{reason=\"{reason}\"}}");
        assert_eq!(tidewatch.metric(&name), 0.0, "{reason}");
    }
    let log = tidewatch.process().log();
    assert!(!log.contains("audit:") && !log.contains("panicked"), "{log}");
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
}

#[test]
fn none_is_audited_if_none_is_to_be() {
    let tidewatch = Tidewatch::start("audit: 0\n");
    let mut rng = fastrand::Rng::with_seed(1);
    send(&tidewatch, &mut rng, &mut Vec::new(), 0);
    assert_eq!(tidewatch.metric("tidewatch_audit_mismatches_total{what=\"pane\"}"), 0.0);
    assert_eq!(tidewatch.metric("tidewatch_audit_series_total"), 0.0);
}

/// One base pane of a window of 5m goes at a start. Panes and windows agree with one another, so nothing of the state tells.
#[cfg(feature = "faults")]
fn restart(lose: bool) -> Tidewatch {
    let config = "windows: [{length: 5m, hop: 10s}]\nidle_timeout: 5s\nallowed_lateness: 30s\naudit: 1000\nsnapshots: {every: 1s}\n";
    let mut tidewatch = Tidewatch::start(config);
    let labels = [("__name__", "lost"), ("job", "audit")];
    let send = |tidewatch: &Tidewatch, from: i64, to: i64| {
        let samples: Vec<_> = (from..to).map(|i| (START_MS + i * 1_000, (i * i % 37) as f64)).collect();
        let answer =
            WriteRequest::default().series(&labels, &samples).send(&tidewatch.url("/api/v1/write")).unwrap();
        assert!((200..300).contains(&answer.status), "{answer:?}");
    };
    send(&tidewatch, 0, 1);
    followed(&tidewatch, 1);
    send(&tidewatch, 1, 200);
    kept(&tidewatch);
    tidewatch.process().kill();
    let series = tidewatch::labels::series_id(&labels);
    let fault = format!("lose:{series}@{}", START_MS + 100_000);
    let faults = [("TIDEWATCH_FAULT", fault.as_str())];
    tidewatch.next_with(&faults[..usize::from(lose)], &[]);
    tidewatch.start_again();
    send(&tidewatch, 200, 401);
    // Those from 300 s to 400 s reach back to the first sample, and no further.
    rows_checked(&tidewatch, 10.0);
    tidewatch
}

#[cfg(feature = "faults")]
#[test]
fn samples_that_a_start_loses_are_found_in_the_rows_that_lack_them() {
    let mut tidewatch = restart(true);
    eventually("panes and windows are checked after it", Duration::from_secs(60), || {
        let checked = tidewatch.metric("tidewatch_audit_checks_total{what=\"window\"}");
        if checked > 10.0 { Ok(()) } else { Err(format!("{checked}")) }
    });
    assert!(mismatches(&tidewatch, "row") >= 10.0);
    assert_eq!(
        ["pane", "window", "step", "profile"].map(|what| mismatches(&tidewatch, what)),
        [0.0; 4],
        "the state tells by itself"
    );
    let series = tidewatch::labels::series_id(&[("__name__", "lost"), ("job", "audit")]);
    let words = format!("audit: series {series}");
    let line = eventually("it is told", Duration::from_secs(10), || {
        let log = tidewatch.process().log();
        let line = log.lines().find(|line| line.contains("ERROR") && line.contains(&words));
        line.map(str::to_owned).ok_or(log)
    });
    assert!(line.contains("lost{job=\"audit\"}"), "{line}");
    assert!(
        line.contains("the count of the window of 5m up to 2026-01-01T00:05:00Z is 2.9e2 in the outbox"),
        "{line}"
    );
    assert!(
        line.contains("and 3e2 by the journal, which has 300 samples after 2026-01-01T00:00:00.999Z"),
        "{line}"
    );
}

#[cfg(feature = "faults")]
#[test]
fn the_same_restart_without_the_loss_is_not_told() {
    let mut tidewatch = restart(false);
    assert_eq!(
        ["pane", "window", "step", "profile", "row"].map(|what| mismatches(&tidewatch, what)),
        [0.0; 5],
        "{}",
        tidewatch.process().log()
    );
}

/// The file is of 10s of lateness, and the journal that would go on from it is gone.
#[test]
fn settings_of_a_file_that_the_journal_was_trimmed_beyond_do_not_hold_on() {
    let config = |lateness: &str, audit: u32| {
        format!(
            "windows: [{{length: 10s, hop: 5s}}, {{length: 1m, hop: 10s}}]\nidle_timeout: 5s\nallowed_lateness: {lateness}\n\
             audit: {audit}\nsnapshots: {{every: 1s}}\njournal: {{bytes_max: 1MiB}}\n"
        )
    };
    let write = |tidewatch: &Tidewatch, samples: &[(i64, f64)]| {
        let answer = WriteRequest::default().series(&[("__name__", "late")], samples);
        let answer = answer.send(&tidewatch.url("/api/v1/write")).unwrap();
        assert!((200..300).contains(&answer.status), "{answer:?}");
    };
    let at = |second: i64| START_MS + second * 1_000;
    let mut tidewatch = Tidewatch::start(&config("10s", 1_000));
    write(&tidewatch, &[(at(0), 1.0)]);
    followed(&tidewatch, 1);
    kept(&tidewatch);
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());

    tidewatch.configure(&config("2m", 0));
    tidewatch.start_again();
    let first = tidewatch.folder().join("data/journal/00000000000000000000.seg");
    assert!(first.exists());
    let mut second = 0;
    eventually("the journal is trimmed", Duration::from_secs(60), || {
        // A segment is an eighth of the journal: some of them are bootstrapped, and then snapshots go on.
        let many = if second < 20 { 999 } else { 1 };
        let samples: Vec<_> = (0..many).map(|i| (at(second) + 1 + i, i as f64)).collect();
        second += 1;
        write(&tidewatch, &samples);
        if first.exists() { Err(format!("second {second}")) } else { Ok(()) }
    });
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());

    tidewatch.configure(&config("2m", 1_000));
    tidewatch.start_again();
    eventually("what was followed is given up", Duration::from_secs(30), || {
        let log = tidewatch.process().log();
        if log.contains("it was trimmed") { Ok(()) } else { Err(log) }
    });
    write(&tidewatch, &[(at(second + 1), 1.0)]);
    followed(&tidewatch, 1);
    let begin = second + 2;
    for second in begin..begin + 300 {
        // Of every ten seconds one comes 30 to 40 seconds late: the gate takes it.
        let late = (second % 10 == 9).then(|| (at(second - 35), 7.0));
        let now = (second % 10 != 4).then(|| (at(second), (second * second % 37) as f64));
        let late = late.filter(|(at_ms, _)| *at_ms > at(begin));
        write(&tidewatch, &now.into_iter().collect::<Vec<_>>());
        if let Some(late) = late {
            std::thread::sleep(Duration::from_millis(150));
            write(&tidewatch, &[late]);
        }
    }
    rows_checked(&tidewatch, 80.0);
    assert!(tidewatch.metric("tidewatch_samples_late_total") > 10.0, "nothing was late");
    kept(&tidewatch);
    assert_eq!(mismatches(&tidewatch, "row"), 0.0, "{}", tidewatch.process().log());
}
