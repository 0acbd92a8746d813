//! What kind of metric series are, as far as sources said so: the types of metric families, remembered by name, and
//! of each series the type that is in the journal.
//!
//! A family may be heard of before its series and after them. What is new is given to the caller, who writes it to the
//! journal and comes back with [`Labels::record_types`]; what could not be written waits for the next request. Nothing of this
//! is durable by itself: after a start [`Labels::record_types`] is called with what the journal holds, and families are heard of
//! again, as senders repeat them every minute.
//!
//! Families are forgotten when there are too many and no known series bears their names.
//!
//! Twenty bytes of metadata change the type of every series of a family, and each of those is written down. So a type
//! that was said already changes at most once an hour, by family and, where it is said of series, by their name; other
//! words of that hour are counted and not heard. Two senders that contradict each other cost no more than that.
//!
//! Of a series of which no source has said anything the ending of its name tells. The journal takes that by itself, before
//! the first samples of the series.
//!
//! Not here: what rows show for a type (`store`).

use std::collections::HashMap;
use std::sync::atomic::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use tidewatch_dataflows::sample::{MetricType, SeriesId};

use super::Labels;
use super::families::{FAMILIES_MAX, FamilyType, TypeFamily, is_over};

/// So many names must have gone before it is worth looking which families nobody bears any more.
const NAMES_GONE_MIN: u64 = 1_024;

impl Labels {
    /// Takes note of the types of families, as of `epoch`; gives the types that follow for known series and are not in the
    /// journal. A type that changed within the last hour stays.
    ///
    /// A family whose type is as before costs one look-up under a lock that readers share.
    pub fn observe_families(&self, families: &[(&str, TypeFamily)], epoch: u64) -> Vec<(u64, MetricType)> {
        let changed = if families.is_empty() { Vec::new() } else { self.note(families, epoch) };
        if changed.is_empty() {
            return Vec::new();
        }
        let entries = self.entries.read();
        let held = self.types.families.read();
        let mut touched: HashMap<String, MetricType> = HashMap::new();
        for (family, kind) in changed {
            for (suffix, _) in kind.series() {
                let name = format!("{family}{suffix}");
                if entries.per_name.contains_key(name.as_str())
                    && let Some(kind) = held.of(&name)
                {
                    touched.insert(name, kind);
                }
            }
        }
        if touched.is_empty() {
            return Vec::new();
        }
        let fresh = entries.by_id.iter().filter_map(|(series, entry)| {
            let kind = *touched.get(entry.labels.name())?;
            (entry.recorded_type.load(Relaxed) != kind as u8).then_some((*series, kind))
        });
        fresh.collect()
    }

    /// Remembers the types of families within bounds; those that are new or another than before.
    fn note<'a>(&self, families: &[(&'a str, TypeFamily)], epoch: u64) -> Vec<(&'a str, TypeFamily)> {
        let mut changed = families.to_vec();
        {
            let held = self.types.families.read();
            changed.retain(|(name, kind)| match held.0.get(*name) {
                Some(heard) if heard.family == *kind => false,
                Some(heard) => self.may_change(heard.changed, epoch),
                None => true,
            });
        }
        if changed.is_empty() {
            return changed;
        }
        self.make_room(changed.len());
        let mut held = self.types.families.write();
        changed.retain(|(name, kind)| {
            // Also within a request a family may be named twice.
            if let Some(heard) = held.0.get_mut(*name) {
                let fresh = heard.family != *kind && self.may_change(heard.changed, epoch);
                if fresh {
                    *heard = FamilyType { family: *kind, changed: Some(epoch) };
                }
                return fresh;
            }
            let fits = held.0.len() < FAMILIES_MAX && name.len() <= self.limits.label_bytes;
            if fits {
                held.0.insert((*name).into(), FamilyType { family: *kind, changed: None });
            } else {
                self.family_beyond();
            }
            fits
        });
        changed
    }

    /// Whether a family may be of another type; counts it if not.
    fn may_change(&self, changed: Option<u64>, epoch: u64) -> bool {
        let may = changed.is_none_or(|since| is_over(since, epoch));
        if !may {
            self.metrics.limit("write.type_changes");
        }
        may
    }

    /// Forgets families that no known series belongs to, if `more` do not fit otherwise.
    ///
    /// One whose series come only later is heard of again with them, as senders repeat what they say.
    fn make_room(&self, more: usize) {
        let entries = self.entries.read();
        let mut held = self.types.families.write();
        let gone = entries.names_gone;
        if held.0.len() + more <= FAMILIES_MAX || gone < self.types.looked.load(Relaxed) + NAMES_GONE_MIN {
            return;
        }
        self.types.looked.store(gone, Relaxed);
        let mut name = String::new();
        held.0.retain(|family, heard| {
            heard.family.series().iter().any(|(suffix, _)| {
                name.clear();
                name.push_str(family);
                name.push_str(suffix);
                entries.per_name.contains_key(name.as_str())
            })
        });
    }

    /// Counts a family whose type nobody remembers, because there are too many.
    pub fn family_beyond(&self) {
        self.metrics.limit("write.families");
    }

    /// The type of a series that is to be written to the journal in `epoch`: what was said of it, else what its family's
    /// type says, if that is not what the journal holds. Where it holds another one, series of this name change at most
    /// once an hour.
    pub fn unrecorded_type(&self, series: u64, said: Option<MetricType>, epoch: u64) -> Option<MetricType> {
        let entries = self.entries.read();
        let entry = entries.by_id.get(&series)?;
        let heard = || {
            let families = self.types.families.read();
            families.of(entry.labels.name())
        };
        let kind = said.or_else(heard)?;
        let recorded = entry.recorded_type.load(Relaxed);
        if recorded == kind as u8 {
            return None;
        }
        if recorded != 0 && !self.types.changes.lock().allow(entry.labels.name(), kind, epoch) {
            self.metrics.limit("write.type_changes");
            return None;
        }
        Some(kind)
    }

    /// Takes note of what a new series is by its name, if no source has said what it is.
    pub(super) fn note_name(&self, series: SeriesId, name: &str) {
        if let Some(kind) = MetricType::by_name(name)
            && self.types.families.read().of(name).is_none()
        {
            self.defer_named(&[(series.0, kind)]);
        }
    }

    /// Takes note of all series of which the journal holds no type: after a start, once it is known what it holds.
    pub fn note_names(&self) {
        let entries = self.entries.read();
        let untyped = entries.by_id.iter().filter(|(_, entry)| entry.recorded_type.load(Relaxed) == 0);
        untyped.for_each(|(series, entry)| self.note_name(SeriesId(*series), entry.labels.name()));
    }

    /// What series are by their names that were met since it was taken last; cheap when there are none. Whoever takes it writes
    /// it to the journal before their samples.
    pub fn take_named(&self) -> Vec<(u64, MetricType)> {
        if self.types.named.load(Acquire) == 0 {
            return Vec::new();
        }
        let mut by_name = self.types.by_name.lock();
        self.types.named.store(0, Release);
        std::mem::take(&mut *by_name)
    }

    /// Gives back types that could not be written.
    pub fn defer_named(&self, types: &[(u64, MetricType)]) {
        let mut by_name = self.types.by_name.lock();
        by_name.extend_from_slice(types);
        self.types.named.store(by_name.len(), Release);
    }

    /// Takes note that the journal holds these types, durably. Series that are not known are passed over.
    pub fn record_types(&self, types: &[(u64, MetricType)]) {
        let entries = self.entries.read();
        for (series, kind) in types {
            let Some(entry) = entries.by_id.get(series) else { continue };
            entry.recorded_type.store(*kind as u8, Relaxed);
            for hash in &entry.spellings {
                let spellings = self.stripe(*hash).read();
                if let Some(spelling) = spellings.get(hash) {
                    spelling.record_type(*kind);
                }
            }
        }
    }

    /// Gives back types that could not be written; whoever asks [`Labels::waiting`] next writes them.
    pub fn defer_types(&self, types: Vec<(u64, MetricType)>) {
        // Of a series the newest type counts, and a body that is sent again and again adds nothing.
        let mut waiting = self.types.waiting.lock();
        waiting.extend(types);
        if waiting.len() > self.limits.series {
            // Of series that were released meanwhile nothing has to be told.
            let entries = self.entries.read();
            waiting.retain(|series, _| entries.by_id.contains_key(series));
        }
        self.types.waits.store(waiting.len(), Release);
    }

    /// Types that an earlier request found and did not write, as far as they are still untold; cheap when there are none.
    pub fn waiting(&self, epoch: u64) -> Vec<(u64, MetricType)> {
        if self.types.waits.load(Acquire) == 0 {
            return Vec::new();
        }
        let waiting = {
            let mut waiting = self.types.waiting.lock();
            self.types.waits.store(0, Release);
            std::mem::take(&mut *waiting)
        };
        let untold = |(series, kind): &(u64, _)| self.unrecorded_type(*series, Some(*kind), epoch).is_some();
        waiting.into_iter().filter(untold).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::labels::Limits;
    use crate::labels::families::CHANGE_EVERY_MS;
    use crate::metrics::Metrics;
    use crate::segments::tests::Dir;
    use tidewatch_dataflows::sample::MetricType::{Counter, Gauge};

    fn labels(dir: &Dir) -> Labels {
        Labels::open(dir.path(), Limits::default(), Arc::new(Metrics::new())).unwrap()
    }

    fn intern(labels: &Labels, name: &str) -> u64 {
        labels.intern(&mut vec![("__name__", name)], Some(name.as_bytes()), 1).unwrap().0
    }

    #[test]
    fn the_type_of_a_series_follows_from_its_familys_and_its_suffix() {
        let table: [(TypeFamily, &str, Option<MetricType>); 17] = [
            (TypeFamily::Counter, "x", Some(Counter)),
            (TypeFamily::Counter, "x_total", Some(Counter)),
            (TypeFamily::Counter, "x_count", None),
            (TypeFamily::Gauge, "x", Some(Gauge)),
            (TypeFamily::Gauge, "x_total", None),
            (TypeFamily::Histogram, "x", None),
            (TypeFamily::Histogram, "x_bucket", Some(Counter)),
            (TypeFamily::Histogram, "x_count", Some(Counter)),
            (TypeFamily::Histogram, "x_sum", Some(Counter)),
            (TypeFamily::GaugeHistogram, "x_bucket", Some(Gauge)),
            (TypeFamily::GaugeHistogram, "x_gcount", Some(Gauge)),
            (TypeFamily::GaugeHistogram, "x_gsum", Some(Gauge)),
            (TypeFamily::GaugeHistogram, "x_sum", Some(Gauge)),
            (TypeFamily::Summary, "x", Some(Gauge)),
            (TypeFamily::Summary, "x_count", Some(Counter)),
            (TypeFamily::Summary, "x_sum", Some(Counter)),
            (TypeFamily::Summary, "x_bucket", None),
        ];
        for (family, name, kind) in table {
            // The family is heard of after the series, and before it.
            let (after, before) = (Dir::new(), Dir::new());
            let (after, before) = (labels(&after), labels(&before));
            let id = intern(&after, name);
            let want: Vec<_> = kind.map(|kind| (id, kind)).into_iter().collect();
            assert_eq!(after.observe_families(&[("x", family)], 1), want, "{family:?} {name}");
            assert!(before.observe_families(&[("x", family)], 1).is_empty());
            intern(&before, name);
            assert_eq!(before.unrecorded_type(id, None, 1), kind, "{family:?} {name}");
        }
        // Said of the series itself, whose family's name is not known.
        for (family, name, kind) in table.into_iter().filter(|(_, name, _)| *name != "x_total") {
            let said = family.of(name.as_bytes());
            assert!(kind.is_none() || said == kind, "{family:?} {name}");
        }
        assert_eq!(TypeFamily::Gauge.of(b"odd_total"), Some(Gauge));
        assert_eq!(TypeFamily::Summary.of(b"x_bucket"), Some(Gauge));
        assert_eq!(
            [TypeFamily::Histogram, TypeFamily::GaugeHistogram, TypeFamily::Counter]
                .map(TypeFamily::of_derived),
            [Some(Counter), Some(Gauge), None]
        );
        let codes: Vec<_> = (-1..10).filter_map(TypeFamily::from_code).collect();
        assert_eq!(codes.len(), 7);
    }

    #[test]
    fn only_what_is_new_is_told_and_only_what_is_durable_counts() {
        let dir = Dir::new();
        let labels = labels(&dir);
        let (x, count) = (intern(&labels, "x"), intern(&labels, "y_count"));
        let said = [("x", TypeFamily::Counter), ("y", TypeFamily::Histogram), ("z", TypeFamily::Gauge)];
        let mut types = labels.observe_families(&said, 1);
        types.sort_unstable();
        let mut want = vec![(x, Counter), (count, Counter)];
        want.sort_unstable();
        assert_eq!(types, want);
        // It could not be written: it waits for the next request, once.
        labels.defer_types(types.clone());
        labels.defer_types(types.clone());
        let mut again = labels.waiting(1);
        again.sort_unstable();
        assert_eq!((again, labels.waiting(1)), (types.clone(), vec![]));
        assert!(!labels.find_recorded(b"x", 1, Some(Counter)).unwrap().1);
        labels.record_types(&types);
        assert!(labels.find_recorded(b"x", 1, Some(Counter)).unwrap().1);
        assert!(!labels.find_recorded(b"x", 1, Some(Gauge)).unwrap().1);
        assert_eq!((labels.unrecorded_type(x, None, 1), labels.observe_families(&said, 1)), (None, vec![]));
        // The newest type counts; the exact name comes before a suffix.
        assert_eq!(labels.observe_families(&[("y_count", TypeFamily::Gauge)], 1), [(count, Gauge)]);
        assert_eq!(labels.observe_families(&[("x", TypeFamily::Gauge)], 1), [(x, Gauge)]);
        // A series that was forgotten is told anew when it comes back, in whatever spelling.
        labels.record_types(&[(x, Gauge), (count, Gauge)]);
        labels.release(&[tidewatch_dataflows::sample::SeriesId(x)], 9);
        labels.record_types(&[(x, Gauge)]);
        assert_eq!(intern(&labels, "x"), x);
        assert_eq!(labels.unrecorded_type(x, None, 1), Some(Gauge));
    }

    #[test]
    fn families_are_bounded_and_those_beyond_counted() {
        let dir = Dir::new();
        let labels = labels(&dir);
        let names: Vec<String> = (0..FAMILIES_MAX + 3).map(|n| format!("f{n}")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), TypeFamily::Gauge)).collect();
        labels.observe_families(&all, 1);
        let long = "x".repeat(5_000);
        labels.observe_families(&[(&long, TypeFamily::Counter), ("f0", TypeFamily::Counter)], 1);
        let (held, beyond) = (intern(&labels, "f0"), intern(&labels, &names[FAMILIES_MAX]));
        assert_eq!(
            (labels.unrecorded_type(held, None, 1), labels.unrecorded_type(beyond, None, 1)),
            (Some(Counter), None)
        );
        let text = labels.metrics.text();
        assert!(text.contains("tidewatch_limit_reached_total{limit=\"write.families\"} 4"), "{text}");
    }

    #[test]
    fn families_whose_series_are_gone_make_room() {
        let dir = Dir::new();
        let labels = labels(&dir);
        for round in 0..3 {
            let names: Vec<String> = (0..FAMILIES_MAX).map(|n| format!("f{round}_{n}")).collect();
            let all: Vec<_> = names.iter().map(|name| (name.as_str(), TypeFamily::Gauge)).collect();
            let ids: Vec<_> = names.iter().map(|name| intern(&labels, name)).collect();
            labels.observe_families(&[("stays", TypeFamily::Counter)], 1);
            let stays = intern(&labels, "stays");
            labels.observe_families(&all[1..], 1);
            // Each round has room because the series of the one before were released.
            assert_eq!(labels.unrecorded_type(ids[FAMILIES_MAX - 1], None, 1), Some(Gauge), "round {round}");
            assert_eq!(labels.unrecorded_type(stays, None, 1), Some(Counter));
            let ids: Vec<_> = ids.into_iter().map(tidewatch_dataflows::sample::SeriesId).collect();
            assert_eq!(labels.release(&ids, 9), FAMILIES_MAX);
        }
        assert!(labels.metrics.limits_reached().is_empty(), "{:?}", labels.metrics.limits_reached());
    }

    /// A few bytes that contradict those before must not have every series of a family written down again.
    #[test]
    fn a_type_changes_once_an_hour_by_family_and_by_name() {
        let dir = Dir::new();
        let labels = labels(&dir);
        let flip: Vec<u64> = ["a", "b", "c"]
            .map(|value| labels.intern(&mut vec![("__name__", "flip"), ("n", value)], None, 1).unwrap().0)
            .to_vec();
        let other = intern(&labels, "other");
        let (families, hour) = ([TypeFamily::Counter, TypeFamily::Gauge], CHANGE_EVERY_MS);
        let mut written = 0;
        for n in 0..200 {
            // Nine minutes apart in the end: three hours.
            let epoch = 1_000 + n * 54_000;
            let types = labels.observe_families(&[("flip", families[n as usize % 2])], epoch);
            assert!(types.len() == 3 || types.is_empty());
            written += types.len();
            labels.record_types(&types);
        }
        // The first word, and three changes.
        assert_eq!(written, 3 * 4);
        let hits = labels.metrics.limits_reached()["write.type_changes"];
        // Half of the words say what holds.
        assert!((90..100).contains(&hits), "{hits}");
        // Others are heard meanwhile.
        assert_eq!(labels.observe_families(&[("other", TypeFamily::Gauge)], 1_000).len(), 1);
        // Said of each series: all of a name follow one change, and none comes back within the hour.
        labels.record_types(&[(other, Gauge)]);
        let at = 100 * hour;
        flip.iter().for_each(|series| labels.record_types(&[(*series, Gauge)]));
        let untold = |kind, epoch| {
            flip.iter().filter(|id| labels.unrecorded_type(**id, Some(kind), epoch).is_some()).count()
        };
        assert_eq!(untold(Counter, at), 3);
        labels.record_types(&[(flip[0], Counter)]);
        assert_eq!((untold(Counter, at + 1), untold(Gauge, at + 2)), (2, 0));
        assert_eq!(labels.unrecorded_type(other, Some(Counter), at + 3), Some(Counter));
        flip.iter().for_each(|series| labels.record_types(&[(*series, Counter)]));
        assert_eq!((untold(Gauge, at + hour - 1), untold(Gauge, at + hour)), (0, 3));
    }
}
