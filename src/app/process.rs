//! What the process itself uses, read from /proc where there is one, how it takes memory, and how many files it may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::metrics::Metrics;

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
