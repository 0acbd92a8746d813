//! The store's files refuse writes or syncs for a while, of a real process: it goes on, or ends to be started again, and
//! in the end the store holds exactly the rows that the samples give.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tidewatch_dataflows::sample::Samples;

use crate::crashes::{any_settings, config};
use crate::kill_and_rerun::{Sender, value};
use crate::support::process::Tidewatch;
use crate::support::{eventually, server, stored};

/// File, calls and error.
const CASES: [(&str, &str, &str); 6] = [
    ("store.sqlite", "pwrite64", "ENOSPC"),
    ("store.sqlite", "pwrite64", "EIO"),
    ("store.sqlite", "fsync,fdatasync", "EIO"),
    ("store.sqlite-wal", "pwrite64", "ENOSPC"),
    ("store.sqlite-wal", "pwrite64", "EIO"),
    ("store.sqlite-wal", "fsync,fdatasync", "EIO"),
];

/// Makes calls of a running process on one file fail, each thread's at these counts.
struct Failing {
    strace: Child,
    trace: PathBuf,
}

impl Failing {
    fn begin(strace: &Path, tidewatch: &mut Tidewatch, file: &str, calls: &str, inject: &str) -> Failing {
        let (path, trace) = (tidewatch.folder().join("data").join(file), tidewatch.folder().join("trace"));
        let pid = tidewatch.process().id();
        let strace = Command::new(strace)
            .args(["-f", "-qq", "-p", &pid.to_string(), "-e", &format!("trace={calls}"), "-e", inject, "-P"])
            .args([path.as_os_str(), "-o".as_ref(), trace.as_os_str()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the process is traced", Duration::from_secs(10), || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let traced = status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
            if traced { Ok(()) } else { Err(status) }
        });
        Failing { strace, trace }
    }

    /// How many calls failed.
    fn failed(&self) -> usize {
        std::fs::read_to_string(&self.trace).unwrap_or_default().matches("(INJECTED)").count()
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // On this signal it lets the process go on without it.
        let _ = Command::new("kill").args(["-TERM", &self.strace.id().to_string()]).status();
        let _ = self.strace.wait();
    }
}

fn fail(strace: &Path, seed: u64, (file, calls, error): (&str, &str, &str)) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let settings = any_settings(&mut rng);
    let mut tidewatch = Tidewatch::start(&config(&settings, 2, "off"));
    let mut sender = Sender::new(seed, (0..30).map(|i| format!("failing_{i}")));
    // Of the store's file itself checkpoints are few, and syncs of both are seconds apart.
    let first = if (file, calls) == ("store.sqlite-wal", "pwrite64") { rng.usize(1..20) } else { 1 };
    let strikes = [1, 3, 20][rng.usize(0..3)];
    let inject = format!("inject={calls}:error={error}:when={first}..{}", first + strikes - 1);
    let what = format!("seed {seed}, {file}: {inject}");
    let url = tidewatch.url("/api/v1/write");
    assert!(sender.send(&url), "{what}");
    let failing = Failing::begin(strace, &mut tidewatch, file, calls, &inject);
    for n in 0..40 {
        // It may end with the failure, and whoever runs it starts it again.
        if !tidewatch.process().has_ended() {
            sender.send(&url);
        }
        std::thread::sleep(Duration::from_millis([0, 20, 150, 400][n % 4]));
    }
    if !tidewatch.process().has_ended() {
        let code = tidewatch.process().terminate().code();
        assert!(matches!(code, Some(0 | 75)), "{what}: {code:?}: {}", tidewatch.process().log_tail());
    }
    let struck = failing.failed();
    drop(failing);
    println!("{what}: {struck} calls failed, {} samples were acknowledged", sender.acknowledged.len());
    tidewatch.start_again();
    let url = tidewatch.url("/api/v1/write");
    assert!((0..4).all(|_| sender.send(&url)), "{what}: {}", tidewatch.process().log_tail());
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{what}: {}", tidewatch.process().log_tail());
    tidewatch.start_again();
    let range = [("start", "2025-12-31T00:00:00Z"), ("end", "2026-01-02T00:00:00Z")];
    let rows = tidewatch.rows("/api/v1/windows", &range);
    let journal = stored::samples(&tidewatch.folder().join("data"));
    let held: BTreeSet<(u64, i64)> =
        journal.series.iter().copied().zip(journal.at_ms.iter().copied()).collect();
    let lost = sender.acknowledged.difference(&held).next();
    assert!(lost.is_none(), "{what}: acknowledged and lost: {lost:?}");
    let mut samples = Samples::default();
    held.iter().for_each(|(series, at)| samples.push(*series, *at, value(*series, *at)));
    stored::check(&what, &settings, &rows, &samples);
    assert!(struck > 0, "{what}: nothing failed");
    assert!(!tidewatch.process().log().contains("panicked"), "{what}: {}", tidewatch.process().log());
}

#[test]
fn a_store_whose_files_fail_for_a_while_holds_every_row_in_the_end() {
    let Some(strace) = server("TEST_STRACE") else { return };
    let first = crate::first_seed(0xFA11);
    for seed in first..first + crate::rounds(1) {
        CASES.iter().zip(0..).for_each(|(case, n)| fail(&strace, seed ^ n << 32, *case));
    }
}
