//! The questions to Prometheus and how many series go into one.
//!
//! `max_over_time` and its kin drop the metric's name, so a question is about one name. All functions go into it,
//! told apart by a label that `label_replace` adds. A server for which that is too much is asked for half of the series;
//! one that cannot answer now is asked again a few times.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use tidewatch_dataflows::statistics::Statistic;

use super::judge::{FunctionAnswers, ServerSamples, VERIFIED, VERIFIED_COUNT};
use crate::promql::matcher;
use crate::source::query::client::{PrometheusClient, QueryError, QuerySeries, RangeConvention};

/// Labels of a series without its name, sorted.
pub type VerifyLabels = Vec<(String, String)>;

/// Most series of one question.
pub const SERIES_AT_ONCE_MAX: usize = 2_000;
/// Most values that are listed for a label when the server need not be spared.
const LISTED_MAX: usize = 100;
/// How long the server may compute on one question.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pauses before a question is asked again.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// How far before a window raw samples are looked for.
const BEFORE_MS: i64 = 3_600_000;
/// The label that tells the functions apart. No series has it: it is reserved, and odd.
const STATISTIC: &str = "__tidewatch_statistic__";

/// A Prometheus and how its ranges are.
pub struct VerifiedServer<'c> {
    client: &'c PrometheusClient,
    /// How range selectors take their bounds.
    pub convention: RangeConvention,
    /// What it says it is.
    pub version: String,
}

impl<'c> VerifiedServer<'c> {
    /// Asks what server it is. The convention is tried out: versions of what is only like Prometheus say little.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn new(client: &'c PrometheusClient) -> Result<VerifiedServer<'c>, QueryError> {
        let version = again(|| client.version())?;
        // Evaluated at each full second: at two of them if the range is open at the left, at three if it is closed.
        let tried = again(|| {
            client.query("count_over_time(vector(1)[2s:1s])", 1_000_000_000_000, PATIENCE)?.whole()
        })?;
        let seconds = tried.first().and_then(|series| series.samples.first()).map(|(_, count)| *count);
        let convention = match seconds {
            Some(2.0) => RangeConvention::LeftOpen,
            Some(3.0) => RangeConvention::Closed,
            _ => version.range().unwrap_or(RangeConvention::LeftOpen),
        };
        Ok(VerifiedServer { client, convention, version: version.to_string() })
    }

    /// What the functions of these statistics answer for these series of one name over `(at - window, at]`.
    ///
    /// # Errors
    /// The server does not answer, or not even for a single series.
    pub fn functions(
        &self,
        name: &str,
        series: &[&VerifyLabels],
        (window_ms, at_ms): (i64, i64),
        wanted: &[&'static Statistic],
    ) -> Result<HashMap<VerifyLabels, FunctionAnswers>, QueryError> {
        let mut found = HashMap::new();
        let widest = widest(series);
        let mut sorted = series.to_vec();
        sorted.sort_unstable_by_key(|labels| value(labels, widest));
        let mut parts: Vec<&[&VerifyLabels]> = sorted.chunks(SERIES_AT_ONCE_MAX).collect();
        // Once one label had to be listed, it always is.
        let mut listed = parts.len() > 1;
        while let Some(part) = parts.pop() {
            let selector = selector(name, part, listed);
            let question = self.question(&selector, window_ms, wanted);
            match again(|| self.client.query(&question, at_ms, PATIENCE)?.whole()) {
                Ok(answered) => collect(answered, &mut found),
                Err(QueryError::TooMuch(_)) if part.len() > 1 => {
                    let (one, other) = part.split_at(part.len() / 2);
                    parts.extend([one, other]);
                    listed = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn question(&self, selector: &str, window_ms: i64, wanted: &[&Statistic]) -> String {
        // A closed range would hold a sample at `at - window`.
        let range_ms = match self.convention {
            RangeConvention::Closed => (window_ms - 1).max(1),
            RangeConvention::LeftOpen => window_ms,
        };
        let of = |statistic: &&Statistic| {
            let function = statistic.promql.unwrap_or_default();
            let before = statistic.quantile.map(|q| format!("{q}, ")).unwrap_or_default();
            let asked = format!("{function}({before}{selector}[{range_ms}ms])");
            format!("label_replace({asked}, \"{STATISTIC}\", \"{}\", \"\", \"\")", statistic.name())
        };
        wanted.iter().map(of).collect::<Vec<_>>().join(" or ")
    }

    /// The raw samples of one series in a window, and whether there are some before it.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn raw(
        &self,
        name: &str,
        labels: &VerifyLabels,
        window_ms: i64,
        at_ms: i64,
    ) -> Result<ServerSamples, QueryError> {
        let selector = selector(name, &[labels], false);
        let asked = format!("{selector}[{}ms]", window_ms + BEFORE_MS);
        let answered = again(|| self.client.query(&asked, at_ms, PATIENCE)?.whole())?;
        // The selector also finds series that have these labels and more.
        let own = answered.into_iter().find(|series| plain(series).1 == *labels);
        let own = own.unwrap_or_default();
        Ok(ServerSamples::new(&own.samples, own.histograms, at_ms - window_ms, at_ms))
    }

    /// Whether a series is one that we derive from a native histogram that the server has: its `_count` or `_sum`.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn derived(
        &self,
        name: &str,
        labels: &VerifyLabels,
        window_ms: i64,
        at_ms: i64,
    ) -> Result<bool, QueryError> {
        let Some(of) = name.strip_suffix("_count").or_else(|| name.strip_suffix("_sum")) else {
            return Ok(false);
        };
        let raw = self.raw(of, labels, window_ms, at_ms)?;
        Ok(raw.histograms > 0)
    }
}

/// Asks again what may be answered a moment later.
fn again<T>(mut ask: impl FnMut() -> Result<T, QueryError>) -> Result<T, QueryError> {
    for pause in AGAIN {
        match ask() {
            Err(QueryError::Transient(_)) => std::thread::sleep(pause),
            done => return done,
        }
    }
    ask()
}

/// The statistic of an answered series and its labels.
fn plain(series: &QuerySeries) -> (Option<usize>, VerifyLabels) {
    let statistic = value(&series.labels, STATISTIC);
    let own = series.labels.iter().filter(|(name, _)| name != STATISTIC && name != "__name__");
    let mut labels: VerifyLabels = own.cloned().collect();
    labels.sort_unstable();
    (VERIFIED.iter().position(|known| known.name() == statistic), labels)
}

fn collect(answered: Vec<QuerySeries>, found: &mut HashMap<VerifyLabels, FunctionAnswers>) {
    for series in answered {
        if let ((Some(statistic), labels), Some((_, value))) = (plain(&series), series.samples.first()) {
            found.entry(labels).or_insert([f64::NAN; VERIFIED_COUNT])[statistic] = *value;
        }
    }
}

fn value<'l>(labels: &'l VerifyLabels, name: &str) -> &'l str {
    labels.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
}

/// The values of each label name of these series; one without the label has the empty value.
fn values<'l>(series: &[&'l VerifyLabels]) -> BTreeMap<&'l str, BTreeSet<&'l str>> {
    let names: BTreeSet<&str> =
        series.iter().flat_map(|labels| labels.iter().map(|(n, _)| n.as_str())).collect();
    let of = |name| series.iter().map(|labels| value(labels, name)).collect();
    names.into_iter().map(|name| (name, of(name))).collect()
}

/// The label with the most values.
fn widest<'l>(series: &[&'l VerifyLabels]) -> &'l str {
    values(series).into_iter().max_by_key(|(_, values)| values.len()).map_or("", |(name, _)| name)
}

/// A selector that finds at least these series of a name: what they have in common, and, if they are few or `listed`,
/// the values of the label that has the most.
pub fn selector(name: &str, series: &[&VerifyLabels], listed: bool) -> String {
    let mut text = format!("{{{}", matcher("__name__", "=", name));
    let values = values(series);
    let widest = values.iter().max_by_key(|(_, values)| values.len()).map(|(name, _)| *name);
    for (label, values) in &values {
        let mut all = values.iter();
        let matcher = match (all.next(), all.next()) {
            (Some(only), None) => matcher(label, "=", only),
            _ if Some(*label) == widest && (listed || values.len() <= LISTED_MAX) => {
                let any: Vec<String> = values.iter().map(|value| regex::escape(value)).collect();
                matcher(label, "=~", &any.join("|"))
            }
            _ => continue,
        };
        // Writing into a String cannot fail.
        let _ = write!(text, ",{matcher}");
    }
    text + "}"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> VerifyLabels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn selectors_hold_what_series_have_in_common() {
        let a = labels(&[("job", "x"), ("mode", "a.b")]);
        let b = labels(&[("job", "x"), ("mode", "c\"d\n")]);
        let c = labels(&[("job", "x")]);
        let table: [(&[&VerifyLabels], &str); 5] = [
            (&[&a], r#"{__name__="m",job="x",mode="a.b"}"#),
            (&[&a, &b], r#"{__name__="m",job="x",mode=~"a\\.b|c\"d\n"}"#),
            (&[&a, &c], r#"{__name__="m",job="x",mode=~"|a\\.b"}"#),
            (&[&labels(&[("a.b", "\\")])], r#"{__name__="m","a.b"="\\"}"#),
            (&[&labels(&[])], r#"{__name__="m"}"#),
        ];
        for (series, want) in table {
            assert_eq!(selector("m", series, false), want);
        }
        assert_eq!(selector("a \"b\"", &[], false), r#"{__name__="a \"b\""}"#);
        let many: Vec<VerifyLabels> =
            (0..=LISTED_MAX).map(|n| labels(&[("job", "x"), ("n", &n.to_string())])).collect();
        let many: Vec<&VerifyLabels> = many.iter().collect();
        assert_eq!(selector("m", &many, false), r#"{__name__="m",job="x"}"#);
        assert!(selector("m", &many, true).contains(",n=~\"0|1|10|100|11|"));
        assert_eq!(widest(&many), "n");
    }

    #[test]
    fn answers_are_put_together_by_series() {
        let answered = |statistic: &str, l: &str, value: f64| QuerySeries {
            labels: labels(&[(STATISTIC, statistic), ("l", l), ("__name__", "m"), ("a", "b")]),
            samples: vec![(1, value)],
            histograms: 0,
        };
        let mut found = HashMap::new();
        collect(
            vec![
                answered("count", "x", 2.0),
                answered("std", "x", 0.5),
                answered("max", "y", 7.0),
                answered("median", "y", 9.0),
            ],
            &mut found,
        );
        let x = found[&labels(&[("a", "b"), ("l", "x")])];
        assert!(x[0] == 2.0 && x[4] == 0.5 && x[1].is_nan());
        assert_eq!(found[&labels(&[("a", "b"), ("l", "y")])][2], 7.0);
    }
}
