//! From the series of an answer to samples with ids: the gate `validate`, what was taken before, what is left out.
//!
//! Spans overlap a little, because a scrape becomes visible after its time: a sample is taken if it is newer than the
//! last one taken of its series. Memory: 16 bytes for each series with a sample in the last overlap.
//!
//! Not here: asking, and where samples go.

use std::collections::HashMap;
use std::sync::Arc;

use tidewatch_dataflows::sample::Samples;

use super::SOURCE;
use super::choose::Chooser;
use super::client::QuerySeries;
use crate::labels::{Labels, check, series_id};
use crate::metrics::{Metrics, SourceLabels};
use crate::source::validate::{self, EventTimeBounds, NATIVE_HISTOGRAM, Refusals};

/// How far a span reaches back into the one before it when that one ended in the present.
pub const OVERLAP_MS: i64 = 60_000;

/// What a source has taken so far.
pub struct Taker {
    labels: Arc<Labels>,
    metrics: Arc<Metrics>,
    chooser: Chooser,
    /// Of each series: the newest sample taken.
    last: HashMap<u64, i64>,
    /// The newest sample taken of any.
    newest_ms: Option<i64>,
    encoded: Vec<u8>,
    refusals: Refusals,
}

/// The circumstances of taking.
#[derive(Clone, Copy, Debug)]
pub struct TakeContext {
    /// Unix milliseconds by the clock.
    pub now_ms: i64,
    /// The mark of last use for labels.
    pub epoch: u64,
    /// Series beyond a limit may fit a moment later: those are given back.
    pub again: bool,
}

impl Taker {
    /// Takes for one source.
    pub fn new(labels: Arc<Labels>, metrics: Arc<Metrics>, chooser: Chooser) -> Taker {
        Taker {
            labels,
            metrics,
            chooser,
            last: HashMap::new(),
            newest_ms: None,
            encoded: Vec::new(),
            refusals: Refusals::default(),
        }
    }

    /// What leaves series out.
    pub fn chooser(&mut self) -> &mut Chooser {
        &mut self.chooser
    }

    /// Takes note of an answer of the survey.
    pub fn survey(&mut self, answer: &[QuerySeries]) {
        for series in answer {
            if let Some(pairs) = self.judged(series) {
                let id = series_id(&pairs);
                let known = self.labels.get(id).is_some();
                self.chooser.survey(id.0, &pairs, known, &series.samples);
            }
        }
    }

    /// Appends the new samples of an answer to `out`; gives back the series that did not fit and may later.
    pub fn take(
        &mut self,
        answer: Vec<QuerySeries>,
        taking: TakeContext,
        out: &mut Samples,
    ) -> Vec<QuerySeries> {
        let bounds = EventTimeBounds::at(taking.now_ms, false);
        let mut again = Vec::new();
        let (before, mut received) = (out.len(), 0);
        for series in answer {
            match self.take_one(&series, bounds, taking, out) {
                Ok(taken_or_refused) => received += taken_or_refused,
                Err(NoRoom) => again.push(series),
            }
        }
        self.metrics.received.get_or_create(&SourceLabels { source: SOURCE }).inc_by(received);
        let refusals = std::mem::take(&mut self.refusals);
        refusals.record(SOURCE, &self.metrics);
        debug_assert_eq!(received, (out.len() - before) as u64 + refusals.total());
        again
    }

    /// Takes also what was taken before, from now on; gives the time of the newest sample taken so far.
    pub fn begin_again(&mut self) -> Option<i64> {
        self.last.clear();
        self.newest_ms.take()
    }

    /// Ends a span.
    pub fn end_span(&mut self, to_ms: i64) {
        self.last.retain(|_, last_ms| *last_ms > to_ms - OVERLAP_MS);
        self.chooser.end_span(to_ms);
    }

    /// The labels of a series as the gate wants them, unless they are refused; that is counted when they are interned.
    fn judged<'a>(&self, series: &'a QuerySeries) -> Option<Vec<(&'a str, &'a str)>> {
        let mut pairs = pairs(series);
        check(&mut pairs, self.labels.limits()).ok()?;
        Some(pairs)
    }

    /// How many samples were taken or refused.
    fn take_one(
        &mut self,
        series: &QuerySeries,
        bounds: EventTimeBounds,
        taking: TakeContext,
        out: &mut Samples,
    ) -> Result<u64, NoRoom> {
        if series.histograms > 0 {
            self.refusals.add(NATIVE_HISTOGRAM, series.histograms as u64, || {
                "native histograms are not read".to_owned()
            });
        }
        let histograms = series.histograms as u64;
        let mut pairs = pairs(series);
        encode(&pairs, &mut self.encoded);
        let found = self.labels.find(&self.encoded, taking.epoch);
        let id = found.unwrap_or_else(|| series_id(&pairs));
        let new = match self.last.get(&id.0) {
            Some(last_ms) => &series.samples[series.samples.partition_point(|(at_ms, _)| at_ms <= last_ms)..],
            None => &series.samples[..],
        };
        let known = found.is_some() || self.labels.get(id).is_some();
        let chosen = self.chooser.choose(id.0, &pairs, known, new);
        if chosen.is_empty() {
            return Ok(histograms);
        }
        if found.is_none()
            && let Err((reason, sentence)) =
                validate::intern(&self.labels, &mut pairs, &self.encoded, taking.epoch)
        {
            if taking.again && ["series_limit", "series_per_name_limit"].contains(&reason) {
                return Err(NoRoom);
            }
            self.refusals.add(reason, chosen.len() as u64, || sentence);
            return Ok(histograms + chosen.len() as u64);
        }
        let newest = chosen.iter().rfind(|(at_ms, _)| bounds.contain(*at_ms));
        if let Some((at_ms, _)) = newest {
            self.last.insert(id.0, *at_ms);
            self.newest_ms = self.newest_ms.max(Some(*at_ms));
        }
        for (at_ms, value) in chosen {
            match bounds.contain(*at_ms) {
                true => out.push(id.0, *at_ms, *value),
                false => self.refusals.add(bounds.reason(*at_ms), 1, || bounds.sentence(*at_ms)),
            }
        }
        Ok(histograms + chosen.len() as u64)
    }
}

/// The series may fit a moment later.
struct NoRoom;

/// The labels of a series, sorted by name, without empty values.
fn pairs(series: &QuerySeries) -> Vec<(&str, &str)> {
    let all = series.labels.iter().filter(|(_, value)| !value.is_empty());
    let mut pairs: Vec<(&str, &str)> = all.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    pairs.sort_unstable();
    pairs
}

/// The spelling by which labels are found again.
fn encode(sorted: &[(&str, &str)], encoded: &mut Vec<u8>) {
    encoded.clear();
    for (name, value) in sorted {
        for text in [name, value] {
            encoded.extend_from_slice(text.as_bytes());
            encoded.push(0xff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SelectConfig;
    use crate::labels::Limits;
    use crate::source::support::Folder;

    const NOW: i64 = 1_700_000_000_000;

    fn series(name: &str, samples: &[(i64, f64)]) -> QuerySeries {
        let samples = samples.iter().map(|(at, value)| (NOW + at, *value)).collect();
        let labels =
            [("zone", "a"), ("__name__", name), ("empty", "")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        QuerySeries { labels: labels.into(), samples, histograms: 0 }
    }

    fn taker(folder: &Folder, limits: Limits, select: Vec<SelectConfig>) -> (Taker, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let labels = Arc::new(Labels::open(&folder.path, limits, Arc::clone(&metrics)).unwrap());
        let chooser = Chooser::new(select, Box::new(|_| Some(0)));
        (Taker::new(labels, Arc::clone(&metrics), chooser), metrics)
    }

    fn take(taker: &mut Taker, answer: Vec<QuerySeries>) -> Vec<(i64, f64)> {
        let mut out = Samples::default();
        let taking = TakeContext { now_ms: NOW, epoch: 1, again: false };
        assert!(taker.take(answer, taking, &mut out).is_empty());
        out.at_ms.iter().map(|at| at - NOW).zip(out.value.iter().copied()).collect()
    }

    #[test]
    fn what_was_taken_is_not_taken_again() {
        let folder = Folder::new();
        let (mut taker, metrics) = taker(&folder, Limits::default(), vec![]);
        assert_eq!(take(&mut taker, vec![series("a", &[(-2, 1.0), (-1, 2.0)])]), [(-2, 1.0), (-1, 2.0)]);
        taker.end_span(NOW);
        assert_eq!(
            take(&mut taker, vec![series("a", &[(-1, 2.0), (0, 3.0)]), series("b", &[(-1, 5.0)])]),
            [(0, 3.0), (-1, 5.0)]
        );
        let id = series_id(&[("__name__", "a"), ("zone", "a")]);
        assert!(taker.labels.get(id).is_some(), "an empty label is none");
        taker.end_span(NOW + OVERLAP_MS);
        assert!(taker.last.is_empty());
        assert!(metrics.text().contains("tidewatch_samples_received_total{source=\"prometheus\"} 4"));
    }

    #[test]
    fn the_gate_refuses_and_counts() {
        let folder = Folder::new();
        let (mut taker, metrics) = taker(&folder, Limits { series: 2, ..Limits::default() }, vec![]);
        let nameless = QuerySeries { labels: vec![], samples: vec![(NOW, 1.0)], histograms: 3 };
        let answer = vec![
            nameless,
            series("tidewatch_window_avg", &[(0, 1.0)]),
            series("late", &[(-NOW, 1.0), (0, f64::NAN), (601_000, 1.0)]),
            series("b", &[(0, 1.0)]),
            series("c", &[(0, 1.0)]),
        ];
        let taken = take(&mut taker, answer);
        assert_eq!(taken.len(), 2, "NaN is for the second gate; {taken:?}");
        for (reason, count) in [
            ("missing_name", 1),
            ("native_histogram", 3),
            ("own_result", 1),
            ("before_2000", 1),
            ("too_far_ahead", 1),
            ("series_limit", 1),
        ] {
            let line = format!(
                "tidewatch_samples_rejected_total{{source=\"prometheus\",gate=\"validate\",reason=\"{reason}\"}} {count}\n"
            );
            assert!(metrics.text().contains(&line), "{reason}: {}", metrics.text());
        }
        let mut out = Samples::default();
        let again = taker.take(
            vec![series("d", &[(0, 1.0)])],
            TakeContext { now_ms: NOW, epoch: 1, again: true },
            &mut out,
        );
        assert_eq!((again.len(), out.len()), (1, 0));
    }

    #[test]
    fn constant_series_are_not_even_interned() {
        let folder = Folder::new();
        let select = vec![SelectConfig {
            matching: String::new(),
            drop_constant: true,
            sample: 0,
            options: Default::default(),
        }];
        let (mut taker, _) = taker(&folder, Limits::default(), select);
        let both = || vec![series("a", &[(-2, 1.0), (-1, 1.0)]), series("b", &[(-2, 1.0), (-1, 2.0)])];
        taker.survey(&both());
        taker.chooser().decide();
        assert_eq!(take(&mut taker, both()), [(-2, 1.0), (-1, 2.0)]);
        assert_eq!(taker.labels.len(), 1);
        assert_eq!(
            take(&mut taker, vec![series("a", &[(0, 1.0), (1, 4.0), (2, 4.0)])]),
            [(1, 4.0), (2, 4.0)]
        );
    }
}
