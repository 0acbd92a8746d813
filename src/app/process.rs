//! What the process itself uses, read from /proc where there is one, how it takes memory, and how many files it may open
//! and threads it may have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use crate::api;
use crate::metrics::Metrics;
use crate::source::receive;

/// Clock ticks of /proc/self/stat per second on every Linux that Rust runs on.
const TICKS: f64 = 100.0;
const PAGE_BYTES: i64 = 4_096;

/// Takes memory page by page. The allocator asks the system for huge pages, and then the first byte that is written
/// anywhere makes 2 MiB resident, also of state that is not written yet and of buffers that were given back in part.
pub fn refuse_huge_pages() {
    // A system that cannot say so has none either.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Files that a server has open at once beside its connections and sources: logs and their readers (24), snapshots (4),
/// the store with 16 questions (56), a backfill beside it (24), the runtime and the rest (20).
const FILES_OWN: u64 = 128;
/// Files that one source has open at once.
const FILES_PER_SOURCE: u64 = 2;
/// Connections that there must be room for, and below which it is worth a word.
const CONNECTIONS_MIN: u64 = 32;
const CONNECTIONS_USUAL: u64 = 1_024;

/// Raises the number of files that may be open to what the system allows.
pub fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where it is not allowed it stays as it is; `judge_open_files` looks at what there is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Judges how many files may be open.
///
/// # Errors
/// Fewer than a server with so many sources needs.
pub fn judge_open_files(sources: usize) -> anyhow::Result<()> {
    let open_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if let Some(sentence) = open_files(open_max, sources)? {
        tracing::warn!("{sentence}");
    }
    Ok(())
}

/// What there is to say of `open_max` files for a server with so many sources.
fn open_files(open_max: u64, sources: usize) -> anyhow::Result<Option<String>> {
    let own = FILES_OWN + FILES_PER_SOURCE * sources as u64;
    let needed = own + CONNECTIONS_MIN;
    anyhow::ensure!(
        open_max >= needed,
        "the process may have {open_max} files open (ulimit -n) and needs {needed}: {own} for logs, store and {sources} sources, and {CONNECTIONS_MIN} for connections"
    );
    let connections = open_max - own;
    Ok((connections < CONNECTIONS_USUAL).then(|| {
        format!(
            "the process may have {open_max} files open (ulimit -n): {own} are for logs, store and {sources} sources, so {connections} connections fit at once; {} are usual",
            CONNECTIONS_USUAL
        )
    }))
}

/// Threads of the pool that answers: beside answers, looking at the disk, and closing.
pub const POOL_THREADS: usize = api::THREADS + receive::DECODERS_MAX + CHORES_MAX;
const CHORES_MAX: usize = 2;
/// Threads of the runtime: connections.
const RUNTIME_THREADS: usize = 2;
/// Threads that a server makes at start beside those, its workers and its sources: journal, engine (3), snapshots, store,
/// release (2), trim, watchdog, check of the store, audit (2), HTTP.
const THREADS_OWN: usize = 14;
/// Threads that are made later: a backfill with an engine of its own.
const THREADS_LATER: usize = 10;
/// How long the system may count a thread after its end.
const TRIAL_END_MAX: Duration = Duration::from_secs(1);

/// The runtime of connections, once the system has shown that it gives every thread that a server with so many workers
/// and sources makes at start. Without that look the first one refused could be tokio's own, which panics.
///
/// # Errors
/// It gives fewer.
pub fn runtime(workers: usize, sources: usize) -> anyhow::Result<Runtime> {
    // A source looks names up on another thread of its own, perhaps before the engine has all of its.
    let needed = POOL_THREADS + RUNTIME_THREADS + THREADS_OWN + workers + 2 * sources;
    let wanted = needed + THREADS_LATER;
    if let Some(sentence) = threads(threads_given(wanted), needed, wanted)? {
        tracing::warn!("{sentence}");
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(RUNTIME_THREADS).enable_all().build().context("starting the runtime")
}

/// What there is to say where the system gives so many threads.
fn threads(given: usize, needed: usize, wanted: usize) -> anyhow::Result<Option<String>> {
    let bounds = "ulimit -u, pids.max of a cgroup, TasksMax of systemd";
    anyhow::ensure!(
        given >= needed,
        "the system gives the process {given} threads ({bounds}); a server with these workers and sources needs {needed}"
    );
    Ok((given < wanted).then(|| {
        format!(
            "the system gives the process {given} threads ({bounds}); the server has {needed}, and a backfill may find none: {wanted} are usual"
        )
    }))
}

/// How many of so many threads the system gives at once. They have ended when this returns.
fn threads_given(wanted: usize) -> usize {
    let (before, gate) = (own_threads(), Arc::new(Mutex::new(())));
    let closed = gate.lock();
    let start = |_| {
        let gate = Arc::clone(&gate);
        let trial = std::thread::Builder::new().name("trial".to_owned());
        trial.spawn(move || drop(gate.lock())).ok()
    };
    let threads: Vec<_> = (0..wanted).map_while(start).collect();
    drop(closed);
    let given = threads.len();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    let joined = Instant::now();
    while own_threads() > before && joined.elapsed() < TRIAL_END_MAX {
        std::thread::sleep(Duration::from_millis(1));
    }
    given
}

/// Threads of this process; none where /proc cannot be read.
fn own_threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Takes these permissions from all files and folders that the process makes from now on.
pub fn restrict_files(umask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
}

/// Sets the `process_*` metrics; leaves them where /proc cannot be read.
pub fn publish(metrics: &Metrics) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The second field is the name in parentheses and may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let cpu = (number(11) + number(12)) / TICKS;
    metrics.process_cpu_seconds.inc_by((cpu - metrics.process_cpu_seconds.get()).max(0.0));
    metrics.process_virtual_bytes.set(number(20) as i64);
    metrics.process_resident_bytes.set(number(21) as i64 * PAGE_BYTES);
    let boot = std::fs::read_to_string("/proc/stat").ok().and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.parse::<f64>().ok())
    });
    if let Some(boot) = boot {
        metrics.process_start_seconds.set(boot + number(19) / TICKS);
    }
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        metrics.process_fds.set(fds.count() as i64);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        metrics.process_fds_max.set(i64::try_from(most).unwrap_or(i64::MAX));
    }
}

/// How many connections fit beside the files that a server with so many sources has open itself; none where files are
/// not bounded.
pub fn connections_room(sources: usize) -> Option<u64> {
    let open_max = getrlimit(Resource::Nofile).current?;
    Some(open_max.saturating_sub(FILES_OWN + FILES_PER_SOURCE * sources as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_threads_are_refused_and_few_are_worth_a_word() {
        let refused = threads(43, 44, 54).unwrap_err().to_string();
        assert!(
            refused.contains("gives the process 43 threads") && refused.ends_with("needs 44"),
            "{refused}"
        );
        let few = threads(44, 44, 54).unwrap().unwrap();
        assert!(few.contains("the server has 44") && few.ends_with("54 are usual"), "{few}");
        assert_eq!(threads(54, 44, 54).unwrap(), None);
        assert_eq!(threads_given(8), 8);
    }

    #[test]
    fn too_few_files_are_refused_and_few_are_worth_a_word() {
        let refused = open_files(159, 0).unwrap_err().to_string();
        assert!(refused.contains("may have 159 files open (ulimit -n) and needs 160"), "{refused}");
        assert!(open_files(161, 1).is_err());
        let few = open_files(256, 2).unwrap().unwrap();
        assert!(few.contains("132 are for logs") && few.contains("124 connections fit"), "{few}");
        assert_eq!(open_files(1_152, 0).unwrap(), None);
        assert_eq!(open_files(u64::MAX, 1_000).unwrap(), None);
    }
}
