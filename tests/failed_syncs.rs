//! Syncs that fail once, put in by the feature `faults`: nobody knows what is on the disk then.

use std::time::Duration;

use crate::support::eventually;
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const CONFIG: &str = "
windows: [{length: 10s, hop: 5s}, {length: 1m, hop: 10s}]
idle_timeout: 5s
";

const START_MS: i64 = 1_767_225_600_000;
const LONG: Duration = Duration::from_secs(90);

/// Sends the samples number `n` of a series of that number; the status, unless there was no answer.
fn send(tidewatch: &Tidewatch, n: i64) -> Option<u16> {
    let name = n.to_string();
    let labels = [("__name__", "failed"), ("n", name.as_str())];
    let samples: Vec<(i64, f64)> = (0..30).map(|i| (START_MS + i * 1_000, i as f64)).collect();
    let request = WriteRequest::default().series(&labels, &samples);
    request.send(&tidewatch.url("/api/v1/write")).ok().map(|answer| answer.status)
}

/// Sends until the server is gone; the numbers that were acknowledged.
fn send_until_it_ends(tidewatch: &mut Tidewatch) -> Vec<i64> {
    let mut taken = Vec::new();
    let mut n = 0;
    eventually("the server ends", LONG, || {
        n += 1;
        match send(tidewatch, n) {
            None => Ok(()),
            Some(204) => {
                taken.push(n);
                Err(format!("{n} taken"))
            }
            Some(503) => Err("refused".to_owned()),
            Some(other) => panic!("{other}"),
        }
    });
    taken
}

/// Waits until each of these series has a full window.
fn are_stored(tidewatch: &Tidewatch, series: &[i64]) {
    for n in series {
        let name = format!("failed{{n=\"{n}\"}}");
        let (start, end) = ((START_MS / 1_000).to_string(), (START_MS / 1_000 + 20).to_string());
        let range = [("match[]", name.as_str()), ("window", "10s"), ("start", &start), ("end", &end)];
        eventually(&format!("the rows of {name}"), LONG, || {
            let rows = tidewatch.rows("/api/v1/windows", &range);
            let full = rows.iter().filter(|row| row["count"] == 10).count();
            if full >= 2 { Ok(()) } else { Err(format!("{rows:?}")) }
        });
    }
}

#[test]
fn a_log_whose_sync_fails_ends_the_process_which_may_be_started_again() {
    for (log, said) in [
        ("journal", "the journal has failed: cannot sync"),
        ("series", "the journal has failed: cannot sync the series log"),
        ("outbox", "the outbox cannot be written: cannot sync"),
    ] {
        let fault = format!("fail-sync:{log}@6");
        let mut tidewatch = Tidewatch::start_with(CONFIG, &[("TIDEWATCH_FAULT", &fault)]);
        let taken = send_until_it_ends(&mut tidewatch);
        let status = tidewatch.process().ended();
        assert_eq!(status.code(), Some(75), "{log}: {}", tidewatch.process().log_tail());
        let log_text = tidewatch.process().log();
        let error = log_text.lines().find(|line| line.contains("ERROR") && line.contains(said));
        assert!(error.is_some(), "{log}: {log_text}");
        tidewatch.next_with(&[], &[]);
        tidewatch.start_again();
        are_stored(&tidewatch, &taken);
        assert_eq!(send(&tidewatch, 1_000_000), Some(204), "{log}");
    }
}

/// The store takes again from the outbox what may not be on the disk, and goes on; pushes are taken meanwhile.
#[test]
fn a_store_whose_sync_fails_is_opened_anew_and_lacks_nothing() {
    // The first sync is made when the server starts, the next half a minute later.
    let mut tidewatch = Tidewatch::start_with(CONFIG, &[("TIDEWATCH_FAULT", "fail-sync:store@2")]);
    let mut taken = Vec::new();
    eventually("the store is opened anew", LONG, || {
        let n = taken.len() as i64 + 1;
        assert_eq!(send(&tidewatch, n), Some(204));
        taken.push(n);
        match tidewatch.metric("tidewatch_store_recoveries_total") {
            1.0 => Ok(()),
            other => Err(format!("{other} times, {n} taken")),
        }
    });
    are_stored(&tidewatch, &taken);
    let log = tidewatch.process().log();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("it was opened anew")), "{log}");
    assert_eq!(send(&tidewatch, 1_000_000), Some(204));
    are_stored(&tidewatch, &[1_000_000]);
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
}
