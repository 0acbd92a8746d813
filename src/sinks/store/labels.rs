//! The labels of series that are new to the store: from memory, or from the series log.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;

use tidewatch_dataflows::sample::SeriesId;

use crate::labels::{LabelSet, Labels};
use crate::metrics::Metrics;
use crate::store::LabelPairs;

/// Series without labels that are remembered, so that the series log is not read again for each row of theirs.
const MISSING_MAX: usize = 65_536;
/// How often is said that series have no labels.
const WARN_EVERY_MS: i64 = 60_000;

/// Finds labels, and counts the series that have none.
pub(super) struct RowLabels {
    labels: Arc<Labels>,
    /// Series that the series log does not know: only memory is asked for them.
    missing: RefCell<HashSet<SeriesId>>,
    /// Series without labels that were not said yet.
    unlabelled: Cell<u64>,
    /// When it was said last.
    warned_ms: Cell<i64>,
}

impl RowLabels {
    pub(super) fn new(labels: Arc<Labels>) -> RowLabels {
        let (missing, unlabelled, warned_ms) = (RefCell::default(), Cell::new(0), Cell::new(i64::MIN));
        RowLabels { labels, missing, unlabelled, warned_ms }
    }

    /// The labels of a series: from memory, or from the series log if its slot was freed meanwhile.
    pub(super) fn find(&self, series: SeriesId) -> Option<LabelPairs> {
        let pairs = |set: &LabelSet| set.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        if let Some(set) = self.labels.get(series) {
            self.missing.borrow_mut().remove(&series);
            return Some(pairs(&set));
        }
        // Reading the log again would find nothing: what is sent again is in memory first.
        if self.missing.borrow().contains(&series) {
            return None;
        }
        match self.labels.find_in_log(series) {
            Ok(Some(found)) => Some(pairs(&found)),
            Ok(None) => {
                let mut missing = self.missing.borrow_mut();
                if missing.len() < MISSING_MAX {
                    missing.insert(series);
                }
                None
            }
            Err(error) => {
                tracing::warn!("the labels of series {series} cannot be read from the series log: {error}");
                None
            }
        }
    }

    /// Counts series that are in the catalog without labels, and says so once a minute: the series log lost them.
    pub(super) fn count_unlabelled(&self, series: u64, now_ms: i64, metrics: &Metrics) {
        metrics.series_unlabelled.inc_by(series);
        self.unlabelled.update(|unsaid| unsaid + series);
        if self.unlabelled.get() > 0 && now_ms.saturating_sub(self.warned_ms.get()) >= WARN_EVERY_MS {
            self.warned_ms.set(now_ms);
            tracing::warn!(
                "{} series got rows and have no labels in the store: the series log does not know them",
                self.unlabelled.take()
            );
        }
    }
}
