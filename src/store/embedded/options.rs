//! How the embedded store behaves.

use std::time::Duration;

/// How the embedded store behaves.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedOptions {
    /// How long rows are kept after they were written.
    pub retention_ms: i64,
    /// Longest time a page may take.
    pub deadline: Duration,
    /// Most revisions of corrected keys that are kept.
    pub corrections_max: u64,
    /// Retention drops at most one of so many tables at a time, the oldest hour at least.
    pub drop_share: u64,
    /// Bytes of SQLite's log beyond which questions wait until a checkpoint had its turn.
    pub log_bytes_max: u64,
    /// How long an export shows one moment, if SQLite's log grows to half of its bound meanwhile.
    pub view_max: Duration,
    /// Series whose entry in the catalog the writer remembers as up to date: as many as are alive at once, or it reads
    /// entries again.
    pub series_seen: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            retention_ms: 30 * 86_400_000,
            deadline: Duration::from_secs(10),
            corrections_max: 1_000_000,
            drop_share: 10,
            log_bytes_max: 64 << 20,
            view_max: Duration::from_secs(30),
            series_seen: 2_400_000,
        }
    }
}
