//! The series known, as an ordered list that can be read page by page.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidewatch_dataflows::sample::{MetricType, SeriesId};

use super::{LabelSet, Labels};

/// Series copied while new ones have to wait.
const LOOKED_AT_ONCE: usize = 4_096;

/// A series and its labels.
#[derive(Clone, Debug)]
pub struct LabelsOfSeries {
    /// The series.
    pub series: SeriesId,
    /// Its labels.
    pub labels: Arc<LabelSet>,
    /// What a source said that it is, if one did.
    pub kind: Option<MetricType>,
}

impl LabelsOfSeries {
    /// The place in the list: by name, then by series.
    fn key(&self) -> (&str, u64) {
        (self.labels.name(), self.series.0)
    }

    /// Whether its place in the list is after this one.
    pub fn is_after(&self, (name, series): &(String, SeriesId)) -> bool {
        self.key() > (name, series.0)
    }
}

impl PartialEq for LabelsOfSeries {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for LabelsOfSeries {}

impl PartialOrd for LabelsOfSeries {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LabelsOfSeries {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Labels {
    /// A series as the list shows it, if it is known.
    pub fn listed(&self, series: SeriesId) -> Option<LabelsOfSeries> {
        let entries = self.entries.read();
        let entry = entries.by_id.get(&series.0)?;
        let kind = MetricType::from_code(entry.recorded_type.load(Relaxed));
        Some(LabelsOfSeries { series, labels: Arc::clone(&entry.labels), kind })
    }

    /// The first `limit` series by (name, series) after `after` that `wanted` takes.
    ///
    /// Every series is looked at, whatever the limit. A series that comes or goes meanwhile may be in the list or not.
    /// `wanted` may take its time: it is asked while nobody waits, about copies of some thousand series at a time.
    ///
    /// # Errors
    /// That of `wanted`, at once.
    pub fn list<E>(
        &self,
        mut wanted: impl FnMut(&LabelSet) -> Result<bool, E>,
        after: Option<(&str, SeriesId)>,
        limit: usize,
    ) -> Result<Vec<LabelsOfSeries>, E> {
        let ids: Vec<u64> = {
            let entries = self.entries.read();
            entries.by_id.keys().copied().collect()
        };
        // The greatest of those that are kept is on top.
        let mut least = BinaryHeap::new();
        for some in ids.chunks(LOOKED_AT_ONCE) {
            for listed in self.copy(some) {
                let shown = after.is_some_and(|(name, series)| listed.key() <= (name, series.0));
                let beyond = |least: &BinaryHeap<LabelsOfSeries>| {
                    least.len() == limit && least.peek().is_none_or(|top| *top < listed)
                };
                if shown || beyond(&least) || !wanted(&listed.labels)? {
                    continue;
                }
                if least.len() == limit {
                    least.pop();
                }
                least.push(listed);
            }
        }
        Ok(least.into_sorted_vec())
    }

    /// Those of some series that are still known.
    fn copy(&self, ids: &[u64]) -> Vec<LabelsOfSeries> {
        let entries = self.entries.read();
        let found = ids.iter().filter_map(|id| {
            let entry = entries.by_id.get(id)?;
            let kind = MetricType::from_code(entry.recorded_type.load(Relaxed));
            Some(LabelsOfSeries { series: SeriesId(*id), labels: Arc::clone(&entry.labels), kind })
        });
        found.collect()
    }
}
