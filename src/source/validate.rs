//! The gate `validate`: what is refused before anything is durable, and how it is counted.
//!
//! Here: bounds of event times and names that are our own results. Labels judge themselves when they are interned
//! (`labels`), and what only the computation can know (duplicates, lateness) is judged by `admit`.

use std::fmt::Write as _;

pub use tidewatch_dataflows::sample::AHEAD_MS_MAX;
use tidewatch_dataflows::sample::{AT_MS_MAX, AT_MS_MIN};

use crate::labels::{Labels, NAME};
use crate::metrics::Metrics;

/// Most reasons with a sentence of their own in an answer.
pub const SENTENCES_MAX: usize = 8;

/// Earlier than the year 2000: a unit mistake.
pub const BEFORE_2000: &str = "before_2000";
/// Later than the clock and [`AHEAD_MS_MAX`] allow.
pub const TOO_FAR_AHEAD: &str = "too_far_ahead";
/// Later than the clock and [`AHEAD_MS_MAX`] allow, but not than the journal has seen: the clock is behind, or was ahead.
pub const CLOCK_BEHIND: &str = "clock_behind";
/// A result of ours coming back.
pub const OWN_RESULT: &str = "own_result";
/// A label whose name or value is not UTF-8.
pub const NOT_UTF8: &str = "not_utf8";
/// A native histogram as a query answers it, without the numbers to judge it by.
pub const NATIVE_HISTOGRAM: &str = "native_histogram";
/// A native histogram that does not add up.
pub const BAD_HISTOGRAM: &str = "bad_histogram";

/// Most characters of a name of our own that an answer repeats.
const OWN_RESULT_SHOWN: usize = 200;

/// Most bytes of a text that is not UTF-8 that an answer repeats.
const NOT_UTF8_SHOWN: usize = 120;

/// What the names of our result metrics begin with. Closed: metrics about ourselves never share these.
pub const OWN_RESULTS: [&str; 4] =
    ["tidewatch_window_", "tidewatch_forecast_", "tidewatch_profile_", "tidewatch_breach_"];

/// Whether a metric of this name is a result of ours.
pub fn own_result(name: &str) -> bool {
    OWN_RESULTS.iter().any(|prefix| name.starts_with(prefix))
}

/// Why a series is not taken: the reason's word, and the sentence.
pub type SeriesRefusal = (&'static str, String);

/// Gives labels that were not met before their series, if they pass the gate.
///
/// `encoded` are the bytes by which [`Labels::find`] will know them.
///
/// # Errors
/// Our own results, and what [`Labels::intern`] refuses.
pub fn intern(
    labels: &Labels,
    pairs: &mut Vec<(&str, &str)>,
    encoded: &[u8],
    epoch: u64,
) -> Result<u64, SeriesRefusal> {
    if let Some((_, name)) = pairs.iter().find(|(name, value)| *name == NAME && own_result(value)) {
        // No limit has judged its length yet.
        let cut: String = name.chars().take(OWN_RESULT_SHOWN).collect();
        let sentence = format!("{cut} is a result of tidewatch; taking it in would compute on results");
        return Err((OWN_RESULT, sentence));
    }
    match labels.intern(pairs, Some(encoded), epoch) {
        Ok(series) => Ok(series.0),
        Err(refused) => Err((refused.reason(), refused.to_string())),
    }
}

/// Refuses a series, whose metric has this name, for a label that is not UTF-8.
///
/// Such bytes cost their own series only: a request holds those of many exporters.
#[cold]
pub fn not_utf8(metric: &[u8], name: &[u8], value: &[u8]) -> SeriesRefusal {
    let shown = |bytes: &[u8]| bytes[..bytes.len().min(NOT_UTF8_SHOWN)].escape_ascii().to_string();
    let (metric, name, value) = (shown(metric), shown(name), shown(value));
    let sentence = format!("label names and values must be UTF-8; got {name}=\"{value}\" for \"{metric}\"");
    (NOT_UTF8, sentence)
}

/// The event times that are taken, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTimeBounds {
    /// The earliest, Unix milliseconds.
    pub low_ms: i64,
    /// The latest, Unix milliseconds.
    pub high_ms: i64,
    now_ms: i64,
    /// The latest that would be taken if the clock were where the journal has seen it.
    proven_ms: i64,
}

impl EventTimeBounds {
    /// The bounds at `now_ms` by the wall clock; with `allow_future` only the calendar ends them.
    pub fn at(now_ms: i64, allow_future: bool) -> EventTimeBounds {
        let ahead = now_ms.saturating_add(AHEAD_MS_MAX).min(AT_MS_MAX);
        let high_ms = if allow_future { AT_MS_MAX } else { ahead };
        EventTimeBounds { low_ms: AT_MS_MIN, high_ms, now_ms, proven_ms: high_ms }
    }

    /// The same where the journal has seen the clock at `processing_ms`.
    pub fn proven(self, processing_ms: i64) -> EventTimeBounds {
        let proven_ms = processing_ms.saturating_add(AHEAD_MS_MAX).min(AT_MS_MAX);
        EventTimeBounds { proven_ms: proven_ms.max(self.high_ms), ..self }
    }

    /// Whether a sample of this time is taken.
    #[inline]
    pub fn contain(&self, at_ms: i64) -> bool {
        self.low_ms <= at_ms && at_ms <= self.high_ms
    }

    /// The reason for a time outside the bounds.
    pub fn reason(&self, at_ms: i64) -> &'static str {
        match at_ms {
            _ if at_ms < self.low_ms => BEFORE_2000,
            _ if at_ms <= self.proven_ms => CLOCK_BEHIND,
            _ => TOO_FAR_AHEAD,
        }
    }

    /// The sentence for a time outside the bounds, with a word on the unit it is probably in.
    pub fn sentence(&self, at_ms: i64) -> String {
        let mut text = self.bound_broken_by(at_ms);
        if let Some(unit) = self.likely_unit(at_ms) {
            let _ = write!(text, ", which looks like {unit}");
        }
        text
    }

    /// As [`Bounds::sentence`], for a time that was given in seconds.
    pub fn sentence_for_seconds(&self, at_ms: i64) -> String {
        let mut text = self.bound_broken_by(at_ms);
        if let Some(unit) = self.likely_unit(at_ms / 1_000) {
            let _ = write!(text, "; {} looks like {unit} where seconds belong", at_ms / 1_000);
        }
        text
    }

    fn bound_broken_by(&self, at_ms: i64) -> String {
        if at_ms < self.low_ms {
            format!("timestamp_ms cannot be before the year 2000 ({}); got {at_ms}", self.low_ms)
        } else if self.high_ms == AT_MS_MAX {
            format!("timestamp_ms cannot be after the year 9999 ({AT_MS_MAX}); got {at_ms}")
        } else {
            let ahead = AHEAD_MS_MAX / 60_000;
            format!(
                "timestamp_ms cannot be more than {ahead} minutes ahead of the clock ({}); got {at_ms}",
                self.now_ms
            )
        }
    }

    /// The unit in which this number would be a time inside the bounds.
    fn likely_unit(&self, at: i64) -> Option<&'static str> {
        let near = EventTimeBounds::at(self.now_ms, false);
        let seconds = at.checked_mul(1_000).is_some_and(|ms| near.contain(ms));
        match () {
            () if seconds => Some("seconds"),
            () if near.contain(at) => Some("milliseconds"),
            () if near.contain(at / 1_000) => Some("microseconds"),
            () if near.contain(at / 1_000_000) => Some("nanoseconds"),
            () => None,
        }
    }
}

/// What was refused: how many samples for each reason, and one sentence for each of the first reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    entries: Vec<RefusedSamples>,
}

/// Samples refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSamples {
    /// The reason's word.
    pub reason: &'static str,
    /// How many samples.
    pub count: u64,
    /// What was wrong with the first of them: label or time, value and bound.
    pub first: String,
}

impl Refusals {
    /// Counts `count` samples; `sentence` is asked only for the first of its reason.
    pub fn add(&mut self, reason: &'static str, count: u64, sentence: impl FnOnce() -> String) {
        match self.entries.iter_mut().find(|entry| entry.reason == reason) {
            Some(entry) => entry.count += count,
            // Reasons are words of the program, so the list is as short as the program's vocabulary.
            None => self.entries.push(RefusedSamples { reason, count, first: sentence() }),
        }
    }

    /// Counts one sample whose time is outside `bounds`.
    pub fn add_time(&mut self, bounds: &EventTimeBounds, at_ms: i64) {
        self.add(bounds.reason(at_ms), 1, || bounds.sentence(at_ms));
    }

    /// The refusals by reason, in the order of their first samples.
    pub fn iter(&self) -> impl Iterator<Item = &RefusedSamples> {
        self.entries.iter()
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many samples were refused.
    pub fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.count).sum()
    }

    /// How many samples were refused for `reason`.
    pub fn count(&self, reason: &str) -> u64 {
        self.entries.iter().find(|entry| entry.reason == reason).map_or(0, |entry| entry.count)
    }

    /// Adds everything of `other`.
    pub fn append(&mut self, other: Refusals) {
        for entry in other.entries {
            self.add(entry.reason, entry.count, || entry.first);
        }
    }

    /// Counts the refusals in the metrics of `source`.
    pub fn record(&self, source: &'static str, metrics: &Metrics) {
        for entry in self.entries.iter().filter(|entry| entry.count > 0) {
            metrics.refuse(source, entry.reason, entry.count);
        }
    }

    /// One line for a human: `3 too_far_ahead (...); 1 missing_name (...)`.
    pub fn sentence(&self) -> String {
        let mut text = String::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let gap = if at == 0 { "" } else { "; " };
            let _ = write!(text, "{gap}{} {}", entry.count, entry.reason);
            if at < SENTENCES_MAX {
                let _ = write!(text, " (first: {})", entry.first);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-05-01T00:00:00Z
    const NOW: i64 = 1_714_521_600_000;

    #[test]
    fn times_are_judged_with_a_word_on_the_unit() {
        let live = EventTimeBounds::at(NOW, false);
        for inside in [AT_MS_MIN, NOW, NOW + AHEAD_MS_MAX] {
            assert!(live.contain(inside));
        }
        let table = [
            (
                NOW / 1_000,
                BEFORE_2000,
                "timestamp_ms cannot be before the year 2000 (946684800000); got 1714521600, which looks like seconds",
            ),
            (
                NOW * 1_000,
                TOO_FAR_AHEAD,
                "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 1714521600000000, which looks like microseconds",
            ),
            (
                NOW * 1_000_000,
                TOO_FAR_AHEAD,
                "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 1714521600000000000, which looks like nanoseconds",
            ),
            (
                NOW + AHEAD_MS_MAX + 1,
                TOO_FAR_AHEAD,
                "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 1714522200001",
            ),
            (0, BEFORE_2000, "timestamp_ms cannot be before the year 2000 (946684800000); got 0"),
            (
                i64::MIN,
                BEFORE_2000,
                "timestamp_ms cannot be before the year 2000 (946684800000); got -9223372036854775808",
            ),
            (
                i64::MAX,
                TOO_FAR_AHEAD,
                "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 9223372036854775807",
            ),
        ];
        for (at_ms, reason, sentence) in table {
            assert!(!live.contain(at_ms));
            assert_eq!((live.reason(at_ms), live.sentence(at_ms).as_str()), (reason, sentence));
        }
    }

    #[test]
    fn what_the_journal_has_seen_is_of_a_clock_that_is_behind() {
        const HOUR_MS: i64 = 3_600_000;
        let plain = EventTimeBounds::at(NOW, false);
        assert_eq!(plain.proven(i64::MIN), plain);
        assert_eq!(
            plain.proven(NOW - HOUR_MS),
            plain,
            "processing time is behind the clock, most of the time"
        );
        let behind = plain.proven(NOW + 6 * HOUR_MS);
        let last_ms = NOW + 6 * HOUR_MS + AHEAD_MS_MAX;
        assert!(!behind.contain(NOW + 6 * HOUR_MS) && behind.contain(NOW + AHEAD_MS_MAX));
        assert_eq!(behind.reason(NOW + AHEAD_MS_MAX + 1), CLOCK_BEHIND);
        assert_eq!((behind.reason(last_ms), behind.reason(last_ms + 1)), (CLOCK_BEHIND, TOO_FAR_AHEAD));
        assert_eq!(behind.reason(0), BEFORE_2000);
    }

    #[test]
    fn times_in_seconds_are_judged_by_their_number() {
        let sentence = EventTimeBounds::at(NOW, false).sentence_for_seconds(NOW * 1_000);
        assert_eq!(
            sentence,
            "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); \
            got 1714521600000000; 1714521600000 looks like milliseconds where seconds belong"
        );
    }

    #[test]
    fn the_future_can_be_allowed_up_to_the_calendars_end() {
        let open = EventTimeBounds::at(NOW, true);
        assert!(open.contain(AT_MS_MAX) && !open.contain(AT_MS_MAX + 1) && !open.contain(AT_MS_MIN - 1));
        let sentence = open.sentence(AT_MS_MAX + 1);
        assert_eq!(
            sentence,
            "timestamp_ms cannot be after the year 9999 (253402300799999); got 253402300800000"
        );
        assert_eq!(EventTimeBounds::at(i64::MAX, false).high_ms, AT_MS_MAX);
    }

    #[test]
    fn only_our_results_are_our_results() {
        for name in [
            "tidewatch_window_avg",
            "tidewatch_forecast_mean",
            "tidewatch_profile_acf",
            "tidewatch_breach_state",
        ] {
            assert!(own_result(name), "{name}");
        }
        for name in
            ["tidewatch_samples_received_total", "tidewatch_windows", "up", "", "x_tidewatch_window_avg"]
        {
            assert!(!own_result(name), "{name}");
        }
        // A metric about ourselves may never be mistaken for a result.
        let own = Metrics::new().text();
        let names = own.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(names.filter(|name| own_result(name)).count(), 0);
        assert!(own.contains("tidewatch_samples_applied_total"));
    }

    #[test]
    fn a_result_of_ours_is_refused_in_few_words_however_long_its_name() {
        let folder = crate::source::support::Folder::new();
        let metrics = std::sync::Arc::new(Metrics::new());
        let labels = Labels::open(&folder.path, crate::labels::Limits::default(), metrics).unwrap();
        let name = "tidewatch_window_".to_owned() + &"é".repeat(1_000_000);
        let (reason, sentence) = intern(&labels, &mut vec![(NAME, &name)], b"x", 7).unwrap_err();
        assert_eq!((reason, labels.len()), (OWN_RESULT, 0));
        assert!(sentence.len() < 600, "{} bytes", sentence.len());
    }

    #[test]
    fn refusals_are_summed_by_reason_and_recorded() {
        let mut all = Refusals::default();
        all.add("a", 2, || "first a".to_owned());
        all.add("b", 1, || "first b".to_owned());
        all.add("a", 3, || unreachable!("only the first of a reason is put in words"));
        let mut more = Refusals::default();
        more.add("a", 1, || "other a".to_owned());
        more.append(all.clone());
        assert_eq!((more.count("a"), more.count("b"), more.count("c"), more.total()), (6, 1, 0, 7));
        assert_eq!(all.sentence(), "5 a (first: first a); 1 b (first: first b)");
        let metrics = Metrics::new();
        all.record("replay", &metrics);
        let line = "tidewatch_samples_rejected_total{source=\"replay\",gate=\"validate\",reason=\"a\"} 5";
        assert!(metrics.text().contains(line), "{}", metrics.text());
    }
}
