//! What a comparison came to: counts, the worst difference of each statistic and window, the rows that differ; as text
//! and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde_json::{Value, json};
use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::settings::duration;
use tidewatch_dataflows::statistics::Shown;

use super::judge::{Distance, NONE, RowVerdict, VERIFIED};
use crate::source::query::client::RangeConvention;
use crate::store::row::WindowRow;

/// Rows that differ and are shown as text; JSON has all that are kept.
pub const SHOWN_MAX: usize = 20;
/// Rows that differ and are kept; the rest are counted.
const KEPT_MAX: usize = 10_000;

/// A row that is not what Prometheus' samples give.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyDifference {
    /// Its series, 16 hex digits.
    pub series: String,
    /// Its metric name.
    pub name: String,
    /// Its other labels: the text of a JSON object.
    pub labels: String,
    /// Length of the window.
    pub window_ms: i64,
    /// End of the window.
    pub at_ms: i64,
    /// The statistic, ours, Prometheus'.
    pub what: Vec<(&'static str, f64, f64)>,
}

/// Rows of one window.
#[derive(Clone, Debug, Default, PartialEq)]
struct WindowReport {
    rows: u64,
    worst: Distance,
}

/// A profile that is not what Prometheus' samples give.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileDifference {
    /// Its series.
    pub series: SeriesId,
    /// Its metric name.
    pub name: String,
    /// Its other labels: the text of a JSON object.
    pub labels: String,
    /// End of its newest step.
    pub at_ms: i64,
    /// The number, ours, of Prometheus' samples.
    pub what: Vec<(&'static str, f64, f64)>,
}

/// What became of profiles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileReport {
    /// Profiles that there are of the series that were asked for.
    pub stored: u64,
    /// Those that are as the samples of Prometheus give them.
    pub equal: u64,
    /// Those of less than a day of which Prometheus has older samples.
    pub not_full: u64,
    /// Those of which it has no sample, or not the whole day.
    pub absent: u64,
    /// Those that are something else.
    pub different: u64,
    /// The first of these.
    pub differences: Vec<ProfileDifference>,
}

impl ProfileReport {
    /// Keeps what differs, if there is room.
    pub fn keep(&mut self, difference: ProfileDifference) {
        if self.differences.len() < KEPT_MAX {
            self.differences.push(difference);
        }
    }

    /// How many were looked at.
    pub fn looked_at(&self) -> u64 {
        self.equal + self.not_full + self.absent + self.different
    }

    fn json(&self) -> Value {
        let different = |difference: &ProfileDifference| {
            let labels: Value = serde_json::from_str(&difference.labels).unwrap_or(Value::Null);
            json!({"series": difference.series.to_string(), "name": difference.name, "labels": labels,
                "at_ms": difference.at_ms, "differs": numbers(&difference.what)})
        };
        json!({"stored": self.stored, "looked_at": self.looked_at(), "equal": self.equal, "not_full": self.not_full,
            "not_in_prometheus": self.absent, "different": self.different,
            "differences": self.differences.iter().map(different).collect::<Vec<_>>()})
    }
}

/// What differs, for programs.
fn numbers(what: &[(&'static str, f64, f64)]) -> Vec<Value> {
    let one = |(name, ours, theirs): &(&str, f64, f64)| json!({"statistic": name, "stored": ours, "prometheus": theirs});
    what.iter().map(one).collect()
}

/// What a comparison came to.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    url: String,
    version: String,
    convention: RangeConvention,
    windows: BTreeMap<i64, WindowReport>,
    rounded: Distance,
    /// Series with a row.
    pub series: u64,
    /// Rows that are as Prometheus' functions say.
    pub equal: u64,
    /// Rows that are as its samples say without those that are not finite.
    pub not_finite: u64,
    /// Those of them that lack infinities.
    pub infinite: u64,
    /// Rows that are as it says once both were asked again.
    pub settled: u64,
    /// Rows of series that only we derive, from native histograms.
    pub derived: u64,
    /// Rows that are as its samples say where its functions round.
    pub rounding: u64,
    /// Rows that are as its samples say though its functions did not.
    pub samples: u64,
    /// Rows that hold the newest of its samples.
    pub not_full: u64,
    /// Rows that hold the newest of its samples and say that they are partial.
    pub partial: u64,
    /// Rows of which it has no sample.
    pub absent: u64,
    /// Rows of which it has the newest samples only.
    pub partly_absent: u64,
    /// Rows that are something else.
    pub different: u64,
    /// Those of them that were not read again, because so many differed or the time for it was over.
    pub different_at_once: u64,
    /// The first of these.
    pub differences: Vec<VerifyDifference>,
    /// What became of profiles.
    pub profiles: ProfileReport,
}

impl VerifyReport {
    /// Nothing compared yet.
    pub fn new(url: String, version: String, convention: RangeConvention) -> VerifyReport {
        VerifyReport {
            url,
            version,
            convention,
            windows: BTreeMap::new(),
            rounded: NONE,
            series: 0,
            equal: 0,
            not_finite: 0,
            infinite: 0,
            settled: 0,
            derived: 0,
            rounding: 0,
            samples: 0,
            not_full: 0,
            partial: 0,
            absent: 0,
            partly_absent: 0,
            different: 0,
            different_at_once: 0,
            differences: Vec::new(),
            profiles: ProfileReport::default(),
        }
    }

    /// Rows that could be compared.
    pub fn compared(&self) -> u64 {
        let as_known = self.not_full + self.partial;
        let as_samples = self.not_finite + self.rounding + self.samples;
        self.equal + self.settled + as_samples + as_known + self.different
    }

    /// Whether something was compared and nothing differs.
    pub fn is_clean(&self) -> bool {
        self.different == 0 && self.profiles.different == 0 && self.compared() > 0
    }

    /// Takes the verdict on a row; `apart` is its distance from what decided.
    pub fn add(&mut self, row: &WindowRow, verdict: &RowVerdict, apart: &Distance) {
        let count = match verdict {
            RowVerdict::Equal => &mut self.equal,
            RowVerdict::NotFinite => &mut self.not_finite,
            RowVerdict::Infinite => {
                self.infinite += 1;
                &mut self.not_finite
            }
            RowVerdict::Settled => &mut self.settled,
            RowVerdict::Derived => &mut self.derived,
            RowVerdict::Rounding => &mut self.rounding,
            RowVerdict::Samples => &mut self.samples,
            RowVerdict::NotFull { .. } => &mut self.not_full,
            RowVerdict::Partial => &mut self.partial,
            RowVerdict::PartlyAbsent => &mut self.partly_absent,
            RowVerdict::Absent => &mut self.absent,
            RowVerdict::Different(_) => &mut self.different,
        };
        *count += 1;
        if matches!(verdict, RowVerdict::Absent | RowVerdict::Derived | RowVerdict::PartlyAbsent) {
            return;
        }
        let of_window = self.windows.entry(row.stats.window_ms).or_default();
        of_window.rows += 1;
        raise(&mut of_window.worst, apart);
        if let RowVerdict::Different(what) = verdict
            && self.differences.len() < KEPT_MAX
        {
            self.differences.push(VerifyDifference {
                series: row.series.series.to_string(),
                name: row.series.name.clone(),
                labels: row.series.labels.clone(),
                window_ms: row.stats.window_ms,
                at_ms: row.stats.at_ms,
                what: what.clone(),
            });
        }
    }

    /// Takes how far the functions of Prometheus were from its own samples.
    pub fn rounded(&mut self, apart: &Distance) {
        raise(&mut self.rounded, apart);
    }

    fn ranges(&self) -> &'static str {
        match self.convention {
            RangeConvention::Closed => "closed",
            RangeConvention::LeftOpen => "left-open",
        }
    }

    /// The statistics that the table has: no quantile that no row had, which is never met to the last digit.
    fn columns(&self) -> impl Iterator<Item = usize> {
        let had = |place: &usize| self.windows.values().any(|of| of.worst[*place] > 0.0);
        (0..VERIFIED.len()).filter(move |place| VERIFIED[*place].shown != Shown::Selected || had(place))
    }

    /// All of it, for programs. A distance beyond all numbers is `null`.
    pub fn json(&self) -> Value {
        let distance = |of: &Distance| -> Value {
            VERIFIED.iter().zip(of).map(|(statistic, apart)| (statistic.name(), *apart)).collect()
        };
        let windows: Vec<Value> = self
            .windows
            .iter()
            .map(|(ms, of)| json!({"window": duration(*ms), "rows": of.rows, "worst": distance(&of.worst)}))
            .collect();
        let different = |difference: &VerifyDifference| {
            let labels: Value = serde_json::from_str(&difference.labels).unwrap_or(Value::Null);
            json!({"series": difference.series, "name": difference.name, "labels": labels,
                "window": duration(difference.window_ms), "at_ms": difference.at_ms, "differs": numbers(&difference.what)})
        };
        let differences: Vec<Value> = self.differences.iter().map(different).collect();
        json!({"prometheus": self.url, "version": self.version, "ranges": self.ranges(), "clean": self.is_clean(),
            "series": self.series, "compared": self.compared(), "equal": self.equal, "not_finite": self.not_finite,
            "infinite": self.infinite, "equal_later": self.settled, "derived_from_histograms": self.derived,
            "rounding": self.rounding, "by_samples": self.samples, "not_full": self.not_full, "partial": self.partial,
            "not_in_prometheus": self.absent, "partly_in_prometheus": self.partly_absent,
            "different": self.different, "different_at_once": self.different_at_once, "windows": windows, "rounding_worst": distance(&self.rounded),
            "differences": differences, "profiles": self.profiles.json()})
    }
}

fn raise(worst: &mut Distance, apart: &Distance) {
    for (worst, apart) in worst.iter_mut().zip(apart) {
        *worst = worst.max(*apart);
    }
}

impl fmt::Display for VerifyDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} {} at {}:", self.name, self.labels, duration(self.window_ms), self.at_ms)?;
        write_numbers(f, &self.what)
    }
}

fn write_numbers(f: &mut fmt::Formatter<'_>, what: &[(&'static str, f64, f64)]) -> fmt::Result {
    for (i, (name, ours, theirs)) in what.iter().enumerate() {
        write!(f, "{} {name} {ours}, Prometheus {theirs}", if i == 0 { "" } else { ";" })?;
    }
    Ok(())
}

impl fmt::Display for ProfileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} profiles computed again from the samples of Prometheus, {} equal",
            self.looked_at(),
            self.stored,
            self.equal
        )?;
        for (count, what) in [
            (self.not_full, "not full yet: Prometheus has older samples of the day"),
            (self.absent, "not in Prometheus, or not their whole day"),
            (self.different, "differ; a sample that came late after an evaluation is in the next one only"),
        ] {
            if count > 0 {
                writeln!(f, "{count} profiles {what}")?;
            }
        }
        for difference in self.differences.iter().take(SHOWN_MAX) {
            let ProfileDifference { name, labels, at_ms, what, .. } = difference;
            write!(f, "  {name}{labels} profile at {at_ms}:")?;
            write_numbers(f, what)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Prometheus {} at {}, its ranges are {}", self.version, self.url, self.ranges())?;
        if !self.windows.is_empty() {
            writeln!(f, "worst relative difference")?;
            let mut head = format!("{:<10} {:>10}", "window", "rows");
            for place in self.columns() {
                let _ = write!(head, " {:>8}", VERIFIED[place].name());
            }
            writeln!(f, "{head}")?;
        }
        for (ms, of) in &self.windows {
            write!(f, "{:<10} {:>10}", duration(*ms), of.rows)?;
            for place in self.columns() {
                let apart = of.worst[place];
                match apart {
                    0.0 => write!(f, " {:>8}", "0")?,
                    _ => write!(f, " {apart:>8.1e}")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f, "{} windows of {} series compared, {} equal", self.compared(), self.series, self.equal)?;
        let rounded = self.rounded.iter().copied().fold(0.0, f64::max);
        for (count, what) in [
            (self.settled, "equal once asked again: samples came between the questions".to_owned()),
            (self.not_finite - self.infinite, "equal once NaN and native histograms are left out".to_owned()),
            (self.infinite, "equal once samples of +Inf and -Inf are left out: Prometheus has them in count, min and max, Tidewatch has not".to_owned()),
            (self.rounding, format!("equal to the samples of Prometheus, whose functions round (by {rounded:.1e} at most)")),
            (self.samples, "equal to the samples of Prometheus, whose functions said something else".to_owned()),
            (self.not_full, "not full yet: they hold the newest samples, the older were never sent here".to_owned()),
            (self.partial, "partial, as they say: the window was added later than the older samples came".to_owned()),
            (self.absent, "not in Prometheus: of another source, or older than its retention (does it write with external_labels? see --without-label)".to_owned()),
            (self.derived, "of _count and _sum that Tidewatch derives from native histograms: Prometheus keeps those whole".to_owned()),
            (self.partly_absent, "only partly in Prometheus: its samples begin within the window".to_owned()),
            (self.different, "differ".to_owned()),
            (self.different_at_once, "of these were not read again, for there were too many: late samples may explain some".to_owned()),
        ] {
            if count > 0 {
                writeln!(f, "{count} {what}")?;
            }
        }
        for difference in self.differences.iter().take(SHOWN_MAX) {
            writeln!(f, "  {difference}")?;
        }
        let more = self.different.saturating_sub(SHOWN_MAX as u64);
        if more > 0 {
            writeln!(f, "  and {more} more (--json has them)")?;
        }
        if self.profiles.looked_at() > 0 {
            write!(f, "{}", self.profiles)?;
        }
        if self.compared() == 0 {
            writeln!(f, "there was nothing to compare")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidewatch_dataflows::rows::WindowStats;

    use super::*;
    use crate::store::row::SeriesRow;

    fn row(window_ms: i64) -> WindowRow {
        let series = SeriesRow {
            series: SeriesId(7),
            name: "up".to_owned(),
            labels: r#"{"job":"x"}"#.to_owned(),
            kind: None,
        };
        let stats = WindowStats {
            series: SeriesId(7),
            window_ms,
            at_ms: 1_767_225_600_000,
            count: 2,
            span_ms: 1,
            min: 0.0,
            max: 1.0,
            avg: 0.5,
            std: 0.5,
            first: 0.0,
            last: 1.0,
            increase: 1.0,
            ..WindowStats::default()
        };
        WindowRow { series: Arc::new(series), stats }
    }

    /// Distances of the first statistics.
    fn first(of: [f64; 5]) -> Distance {
        let mut all = NONE;
        all[..5].copy_from_slice(&of);
        all
    }

    #[test]
    fn a_report_tells_counts_the_worst_and_the_first_that_differ() {
        let mut report =
            VerifyReport::new("http://h:9090".to_owned(), "2.42.0".to_owned(), RangeConvention::Closed);
        assert!(!report.is_clean() && report.to_string().ends_with("there was nothing to compare\n"));
        report.series = 1;
        report.add(&row(3_600_000), &RowVerdict::Absent, &first([9.0; 5]));
        assert!(!report.is_clean(), "what is not there is not compared");
        report.add(&row(3_600_000), &RowVerdict::Equal, &first([0.0, 0.0, 0.0, 1e-16, 2e-12]));
        report.add(&row(3_600_000), &RowVerdict::Rounding, &first([0.0, 0.0, 0.0, 2e-16, 1e-12]));
        report.rounded(&first([0.0, 0.0, 0.0, 0.0, 3e-7]));
        report.add(&row(60_000), &RowVerdict::NotFull { since_ms: 5 }, &NONE);
        report.add(&row(60_000), &RowVerdict::Partial, &NONE);
        report.add(&row(60_000), &RowVerdict::Derived, &NONE);
        report.add(&row(60_000), &RowVerdict::NotFinite, &NONE);
        report.add(&row(60_000), &RowVerdict::Infinite, &NONE);
        report.add(&row(60_000), &RowVerdict::Settled, &NONE);
        assert!(report.is_clean());
        let text = report.to_string();
        for line in [
            "Prometheus 2.42.0 at http://h:9090, its ranges are closed",
            "window           rows    count      min      max      avg      std      sum  changes   resets",
            "1h                  2        0        0        0  2.0e-16  2.0e-12        0        0        0",
            "1m                  5        0        0        0        0        0        0        0        0",
            "7 windows of 1 series compared, 1 equal",
            "1 equal once asked again: samples came between the questions",
            "1 equal once NaN and native histograms are left out",
            "1 equal once samples of +Inf and -Inf are left out: Prometheus has them in count, min and max, Tidewatch has not",
            "1 of _count and _sum that Tidewatch derives from native histograms: Prometheus keeps those whole",
            "1 partial, as they say: the window was added later than the older samples came",
            "1 equal to the samples of Prometheus, whose functions round (by 3.0e-7 at most)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for _ in 0..25 {
            report.add(
                &row(60_000),
                &RowVerdict::Different(vec![("count", 2.0, 3.0), ("max", 1.0, 4.0)]),
                &first([1.0; 5]),
            );
        }
        report.different_at_once = 2;
        let text = report.to_string();
        let words = "25 differ\n2 of these were not read again, for there were too many: late samples may explain some\n";
        assert!(text.contains(words), "{text}");
        let shown = r#"  up{"job":"x"} 1m at 1767225600000: count 2, Prometheus 3; max 1, Prometheus 4"#;
        assert_eq!(text.lines().filter(|line| *line == shown).count(), SHOWN_MAX);
        assert!(text.ends_with("  and 5 more (--json has them)\n") && !report.is_clean());
        let json = report.json();
        assert_eq!(json["differences"].as_array().unwrap().len(), 25);
        assert_eq!(json["different_at_once"], 2);
        assert_eq!(
            (&json["clean"], &json["compared"], &json["not_full"]),
            (&json!(false), &json!(32), &json!(1))
        );
        assert_eq!(
            json["differences"][0]["differs"][0],
            json!({"statistic": "count", "stored": 2.0, "prometheus": 3.0})
        );
        assert_eq!(json["windows"][1]["worst"]["std"], json!(2e-12));
    }
}
