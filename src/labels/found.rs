//! What was found to be set for series, on its way to the journal.
//!
//! Not here: when it is looked for, and who takes it (`options`).

use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;
use tidewatch_dataflows::settings::SeriesOptions;

/// Tells what is set for the series with these labels, sorted by name.
pub type FindOptions = Box<dyn Fn(&[(&str, &str)]) -> SeriesOptions + Send + Sync>;

/// What was found and is not in the journal.
#[derive(Default)]
pub(super) struct FoundOptions {
    pub(super) find: OnceLock<FindOptions>,
    pub(super) waiting: Mutex<Vec<(u64, SeriesOptions)>>,
    /// How many that are: to look costs no lock.
    pub(super) waits: AtomicUsize,
}
