//! What is set for series by their labels (`select`): found once, when a series is met, for the journal to write before its
//! samples.
//!
//! After a start it is found anew for every series known: nobody remembers whether the journal had it before a crash, and what it
//! holds already changes nothing.
//!
//! Not here: how a selector is read. Whoever composes the server hands in a closure.

use std::sync::atomic::{Ordering::Acquire, Ordering::Release};

use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::settings::SeriesOptions;

use super::Labels;
use super::found::FindOptions;

impl Labels {
    /// From now on `find` tells what is set for series; those known are asked about at once. The first one stays.
    pub fn find_options(&self, find: FindOptions) {
        let find = self.options.find.get_or_init(|| find);
        let entries = self.entries.read();
        let found = entries.by_id.iter().map(|(series, entry)| {
            let pairs: Vec<(&str, &str)> = entry.labels.iter().collect();
            (*series, find(&pairs))
        });
        self.defer_options(found.filter(|(_, options)| !options.is_default()).collect());
    }

    /// What is set for a series that is not known yet.
    pub(super) fn options_of(&self, pairs: &[(&str, &str)]) -> SeriesOptions {
        self.options.find.get().map_or_else(SeriesOptions::default, |find| find(pairs))
    }

    /// Takes note of what is set for a new series.
    pub(super) fn note_options(&self, series: SeriesId, options: SeriesOptions) {
        if !options.is_default() {
            self.defer_options(vec![(series.0, options)]);
        }
    }

    /// What was found since it was taken last; cheap when there is nothing. Whoever takes it writes it to the journal before the
    /// samples of these series.
    pub fn take_options(&self) -> Vec<(u64, SeriesOptions)> {
        if self.options.waits.load(Acquire) == 0 {
            return Vec::new();
        }
        let mut waiting = self.options.waiting.lock();
        self.options.waits.store(0, Release);
        std::mem::take(&mut *waiting)
    }

    /// Gives back what could not be written.
    pub fn defer_options(&self, mut found: Vec<(u64, SeriesOptions)>) {
        let mut waiting = self.options.waiting.lock();
        waiting.append(&mut found);
        self.options.waits.store(waiting.len(), Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidewatch_dataflows::settings::Transform;

    use super::super::Limits;
    use super::*;
    use crate::metrics::Metrics;
    use crate::segments::tests::Dir;

    #[test]
    fn options_are_found_for_series_known_and_once_for_each_that_comes() {
        let dir = Dir::new();
        let open = || Labels::open(dir.path(), Limits::default(), Arc::new(Metrics::new())).unwrap();
        let rate = SeriesOptions { transform: Transform::Rate, ..SeriesOptions::default() };
        let find = || -> FindOptions {
            Box::new(move |pairs| match pairs.contains(&("job", "a")) {
                true => rate,
                false => SeriesOptions::default(),
            })
        };
        let intern = |labels: &Labels, name: &str, job: &str| {
            labels.intern(&mut vec![("__name__", name), ("job", job)], None, 1).unwrap().0
        };
        let labels = open();
        let before = intern(&labels, "x", "a");
        intern(&labels, "x", "b");
        labels.find_options(find());
        assert_eq!(labels.take_options(), [(before, rate)]);
        let new = intern(&labels, "y", "a");
        intern(&labels, "y", "a");
        intern(&labels, "y", "b");
        let told = labels.take_options();
        assert_eq!(told, [(new, rate)]);
        assert!(labels.take_options().is_empty());
        labels.defer_options(told);
        assert_eq!(labels.take_options(), [(new, rate)]);
        // One that was released and comes back is told again.
        labels.sync().unwrap();
        labels.release(&[SeriesId(new)], 9);
        intern(&labels, "y", "a");
        assert_eq!(labels.take_options(), [(new, rate)]);
        labels.sync().unwrap();
        drop(labels);
        let labels = open();
        labels.find_options(find());
        let mut told = labels.take_options();
        told.sort_by_key(|(series, _)| *series);
        let mut want = [(before, rate), (new, rate)];
        want.sort_by_key(|(series, _)| *series);
        assert_eq!(told, want);
    }
}
