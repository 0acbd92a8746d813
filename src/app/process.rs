//! What the process itself uses, read from /proc where there is one, and how it takes memory.

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
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    if let Some(most) =
        open.and_then(|rest| rest.split_whitespace().next()).and_then(|text| text.parse().ok())
    {
        metrics.process_fds_max.set(most);
    }
}
