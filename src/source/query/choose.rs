//! Which series of those a server gives are taken: what `select` says of them with `drop_constant` and `sample`.
//!
//! The first entry that means a series decides. Before the first span is taken it is *surveyed*: read once without
//! taking anything. A series that did not change in it is `constant` and left out until it changes; of the others an
//! entry with `sample` takes those with the smallest ids. A series whose labels are known (it was taken before, perhaps
//! by an earlier run of Tidewatch) is never constant again, and comes before others in the sample. What appears later
//! is constant until it changes, and waits for a place in the sample, which is given at the end of a span: those that
//! were not heard of for [`FORGET_MS`] leave theirs.
//!
//! Memory: about 48 bytes for each series that an entry with either setting means.

use std::collections::HashMap;

use crate::config::SelectConfig;

/// How long a series is remembered that gives no samples.
pub const FORGET_MS: i64 = 3_600_000;

/// Tells which entry of `select`, by position, means the series with these labels, sorted by name.
pub type Classify = Box<dyn Fn(&[(&str, &str)]) -> Option<usize> + Send>;

/// What becomes of a series' samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeriesChoice {
    Taken,
    /// All had these bits.
    Constant(u64),
    /// The sample is full.
    Waiting,
}

#[derive(Clone, Copy, Debug)]
struct SeriesSighting {
    entry: usize,
    state: SeriesChoice,
    /// Its labels were known before.
    known: bool,
    last_ms: i64,
}

/// Chooses among the series of one source.
pub struct Chooser {
    select: Vec<SelectConfig>,
    classify: Classify,
    sightings: HashMap<u64, SeriesSighting>,
    /// Of each entry: series taken.
    taken_by_entry: Vec<usize>,
}

impl Chooser {
    /// A chooser over the entries of `select`.
    pub fn new(select: Vec<SelectConfig>, classify: Classify) -> Chooser {
        let taken_by_entry = vec![0; select.len()];
        Chooser { select, classify, sightings: HashMap::new(), taken_by_entry }
    }

    /// Whether any entry leaves anything out, so that a survey is worth its questions.
    pub fn is_needed(&self) -> bool {
        self.select.iter().any(|entry| entry.drop_constant || entry.sample > 0)
    }

    /// Series left out now: constant ones, and those beyond the sample.
    pub fn left_out(&self) -> (usize, usize) {
        let count = |wanted: fn(SeriesChoice) -> bool| {
            self.sightings.values().filter(|seen| wanted(seen.state)).count()
        };
        (
            count(|state| matches!(state, SeriesChoice::Constant(_))),
            count(|state| state == SeriesChoice::Waiting),
        )
    }

    /// Takes note of samples in the survey.
    pub fn survey(&mut self, id: u64, labels: &[(&str, &str)], known: bool, samples: &[(i64, f64)]) {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return };
        if !self.sightings.contains_key(&id) {
            let Some(entry) = self.entry(labels) else { return };
            let state = SeriesChoice::Constant(first.1.to_bits());
            self.sightings.insert(id, SeriesSighting { entry, state, known, last_ms: last.0 });
        }
        if let Some(seen) = self.sightings.get_mut(&id) {
            seen.last_ms = last.0;
            if let SeriesChoice::Constant(bits) = seen.state
                && samples.iter().any(|(_, value)| value.to_bits() != bits)
            {
                seen.state = SeriesChoice::Waiting;
            }
        }
    }

    /// Ends the survey: what was seen is taken or left out.
    pub fn decide(&mut self) {
        for seen in self.sightings.values_mut() {
            if seen.known || !self.select[seen.entry].drop_constant {
                seen.state = SeriesChoice::Waiting;
            }
        }
        self.bootstrap_places();
    }

    /// The samples to take of these: all, those from the first change on, or none.
    pub fn choose<'a>(
        &mut self,
        id: u64,
        labels: &[(&str, &str)],
        known: bool,
        samples: &'a [(i64, f64)],
    ) -> &'a [(i64, f64)] {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return &[] };
        if !self.sightings.contains_key(&id) {
            let Some(entry) = self.entry(labels) else { return samples };
            let constant = self.select[entry].drop_constant && !known;
            let state =
                if constant { SeriesChoice::Constant(first.1.to_bits()) } else { SeriesChoice::Waiting };
            self.sightings.insert(id, SeriesSighting { entry, state, known, last_ms: last.0 });
        }
        let Some(seen) = self.sightings.get_mut(&id) else { return samples };
        seen.last_ms = last.0;
        let begin = match seen.state {
            SeriesChoice::Taken => return samples,
            SeriesChoice::Waiting => 0,
            SeriesChoice::Constant(bits) => {
                let Some(change) = samples.iter().position(|(_, value)| value.to_bits() != bits) else {
                    return &[];
                };
                seen.state = SeriesChoice::Waiting;
                change
            }
        };
        // Without a bound on their number all are taken at once.
        if self.select[seen.entry].sample > 0 {
            return &[];
        }
        seen.state = SeriesChoice::Taken;
        self.taken_by_entry[seen.entry] += 1;
        &samples[begin..]
    }

    /// Ends a span: forgets what was long silent, and gives free places to those that wait.
    pub fn end_span(&mut self, to_ms: i64) {
        let taken = &mut self.taken_by_entry;
        self.sightings.retain(|_, seen| {
            let stays = seen.last_ms > to_ms - FORGET_MS;
            if !stays && seen.state == SeriesChoice::Taken {
                taken[seen.entry] -= 1;
            }
            stays
        });
        self.bootstrap_places();
    }

    fn bootstrap_places(&mut self) {
        let mut waiting: Vec<(bool, u64)> = Vec::new();
        waiting.extend(
            self.sightings
                .iter()
                .filter(|(_, seen)| seen.state == SeriesChoice::Waiting)
                .map(|(id, seen)| (!seen.known, *id)),
        );
        waiting.sort_unstable();
        for (_, id) in waiting {
            let Some(seen) = self.sightings.get_mut(&id) else { continue };
            let places = self.select[seen.entry].sample;
            if places == 0 || self.taken_by_entry[seen.entry] < places {
                seen.state = SeriesChoice::Taken;
                self.taken_by_entry[seen.entry] += 1;
            }
        }
    }

    /// The entry that means the series, if it leaves anything out.
    fn entry(&self, labels: &[(&str, &str)]) -> Option<usize> {
        let entry = (self.classify)(labels)?;
        let select = self.select.get(entry)?;
        (select.drop_constant || select.sample > 0).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: i64 = 15_000;

    fn chooser(entries: &[(bool, usize)]) -> Chooser {
        let select = entries
            .iter()
            .map(|(drop_constant, sample)| SelectConfig {
                matching: String::new(),
                drop_constant: *drop_constant,
                sample: *sample,
                options: Default::default(),
            })
            .collect();
        // The label `entry` says which entry means the series.
        Chooser::new(select, Box::new(|labels| labels.first()?.1.parse().ok()))
    }

    const FIRST: &[(&str, &str)] = &[("entry", "0")];
    const OTHER: &[(&str, &str)] = &[("entry", "none")];

    fn samples(values: &[f64]) -> Vec<(i64, f64)> {
        values.iter().enumerate().map(|(at, value)| (at as i64 * STEP, *value)).collect()
    }

    #[test]
    fn what_does_not_change_is_left_out_until_it_does() {
        let mut chooser = chooser(&[(true, 0)]);
        for chunk in [[1.0, 1.0], [1.0, 1.0]] {
            chooser.survey(7, FIRST, false, &samples(&chunk));
            chooser.survey(8, FIRST, true, &samples(&chunk));
            chooser.survey(10, OTHER, false, &samples(&chunk));
        }
        chooser.survey(9, FIRST, false, &samples(&[1.0]));
        chooser.survey(9, FIRST, false, &samples(&[2.0]));
        chooser.decide();
        assert_eq!(chooser.left_out(), (1, 0));
        let (same, changed) = (samples(&[1.0, 1.0]), samples(&[1.0, 2.0, 1.0]));
        assert!(chooser.choose(7, FIRST, false, &same).is_empty());
        for taken in [8, 9, 10] {
            assert_eq!(
                chooser.choose(taken, if taken == 10 { OTHER } else { FIRST }, false, &same),
                same,
                "{taken}"
            );
        }
        chooser.end_span(STEP);
        assert_eq!(chooser.choose(7, FIRST, false, &changed), &changed[1..]);
        assert_eq!(chooser.choose(7, FIRST, false, &same), same, "for good");
        assert_eq!(chooser.left_out(), (0, 0));
        // One that appears later is judged by what came of it; one that was taken before is not.
        assert!(chooser.choose(11, FIRST, false, &same).is_empty());
        assert_eq!(chooser.choose(12, FIRST, true, &same), same);
        assert_eq!(chooser.choose(13, FIRST, false, &changed), &changed[1..]);
    }

    #[test]
    fn a_sample_is_the_smallest_ids_and_stays_what_it_is() {
        let mut chooser = chooser(&[(false, 2)]);
        for id in [50, 40, 30, 60] {
            chooser.survey(id, FIRST, id == 60, &samples(&[1.0]));
        }
        chooser.decide();
        let one = samples(&[1.0]);
        let taken = |chooser: &mut Chooser, ids: &[u64]| -> Vec<u64> {
            ids.iter().copied().filter(|id| !chooser.choose(*id, FIRST, false, &one).is_empty()).collect()
        };
        assert_eq!(taken(&mut chooser, &[30, 40, 50, 60]), [30, 60], "the known one, then the smallest");
        assert_eq!(taken(&mut chooser, &[10, 30, 60]), [30, 60], "a newcomer with a smaller id waits");
        chooser.end_span(0);
        assert_eq!(taken(&mut chooser, &[10, 30]), [30]);
        assert_eq!(chooser.left_out(), (0, 3));
        // 60 is not heard of any more; those that are heard of wait for its place.
        let later = [(FORGET_MS + 1, 1.0)];
        for id in [20, 30, 40] {
            chooser.choose(id, FIRST, false, &later);
        }
        chooser.end_span(FORGET_MS + 1);
        assert_eq!(taken(&mut chooser, &[20, 30, 40]), [20, 30]);
    }

    #[test]
    fn a_sample_is_taken_of_what_changes() {
        let mut chooser = chooser(&[(true, 1)]);
        chooser.survey(1, FIRST, false, &samples(&[1.0, 1.0]));
        chooser.survey(2, FIRST, false, &samples(&[1.0, 2.0]));
        chooser.survey(3, FIRST, false, &samples(&[1.0, 2.0]));
        chooser.decide();
        assert_eq!(chooser.left_out(), (1, 1));
        assert!(!chooser.choose(2, FIRST, false, &samples(&[1.0])).is_empty());
        assert!(chooser.is_needed() && !super::tests::chooser(&[(false, 0)]).is_needed());
    }
}
