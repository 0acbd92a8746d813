//! The series known, as an ordered list that can be read page by page.

use std::cmp::Ordering::Less;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tidewatch_dataflows::sample::{MetricType, SeriesId};

use super::{LabelSet, Labels};

/// Series looked at while new ones have to wait.
const LOOKED_AT_ONCE: usize = 4_096;

/// A series and its labels.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The series.
    pub series: SeriesId,
    /// Its labels.
    pub labels: Arc<LabelSet>,
    /// What a source said that it is, if one did.
    pub kind: Option<MetricType>,
}

impl Listed {
    /// The place in the list: by name, then by series.
    fn key(&self) -> (&str, u64) {
        (self.labels.name(), self.series.0)
    }

    /// Whether its place in the list is after this one.
    pub fn is_after(&self, (name, series): &(String, SeriesId)) -> bool {
        self.key() > (name, series.0)
    }
}

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Listed {}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Listed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Labels {
    /// A series as the list shows it, if it is known.
    pub fn listed(&self, series: SeriesId) -> Option<Listed> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.by_id.get(&series.0)?;
        let kind = MetricType::from_code(entry.told.load(Relaxed));
        Some(Listed { series, labels: Arc::clone(&entry.labels), kind })
    }

    /// The first `limit` series by (name, series) after `after` that `wanted` takes; `None` if it takes beyond `deadline`.
    ///
    /// Every series is looked at, whatever the limit. A series that comes or goes meanwhile may be in the list or not.
    pub fn list(
        &self,
        wanted: impl Fn(&LabelSet) -> bool,
        after: Option<(&str, SeriesId)>,
        limit: usize,
        deadline: Instant,
    ) -> Option<Vec<Listed>> {
        let entries = || self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<u64> = entries().by_id.keys().copied().collect();
        // The greatest of those that are kept is on top.
        let mut least = BinaryHeap::new();
        for some in ids.chunks(LOOKED_AT_ONCE) {
            if Instant::now() >= deadline {
                return None;
            }
            let entries = entries();
            for id in some {
                let Some(entry) = entries.by_id.get(id) else { continue };
                let key = (entry.labels.name(), *id);
                let shown = after.is_some_and(|(name, series)| key <= (name, series.0));
                let beyond = least.len() == limit
                    && least.peek().is_none_or(|top: &Listed| top.key().cmp(&key) == Less);
                if shown || beyond || !wanted(&entry.labels) {
                    continue;
                }
                if least.len() == limit {
                    least.pop();
                }
                let kind = MetricType::from_code(entry.told.load(Relaxed));
                least.push(Listed { series: SeriesId(*id), labels: Arc::clone(&entry.labels), kind });
            }
        }
        Some(least.into_sorted_vec())
    }
}
