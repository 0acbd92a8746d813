//! What to generate, with every bound.

use tidewatch_dataflows::sample::{AT_MS_MAX, AT_MS_MIN};

/// An hour.
pub(super) const HOUR_MS: i64 = 3_600_000;
/// A day.
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;

/// Most series of one generator.
pub const SERIES_MAX: u64 = 100_000_000;
/// A late sample is delivered at most this far behind the newest of its series (the default of `allowed_lateness`).
pub const ALLOWED_LATENESS_MS: i64 = 600_000;
/// Longest span of time.
pub const SPAN_MS_MAX: i64 = 3_660 * DAY_MS;

/// In which order samples are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By time, all series beside one another, as a live source delivers.
    #[default]
    TimeMajor,
    /// One series after the other, as `promtool tsdb dump` prints.
    SeriesMajor,
}

/// What to generate. The ratios are probabilities, 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// How many series.
    pub series: u64,
    /// Seed of every choice.
    pub seed: u64,
    /// First possible time, Unix milliseconds.
    pub start_ms: i64,
    /// Last possible time, Unix milliseconds, inclusive.
    pub end_ms: i64,
    /// Distance of two samples of a series, milliseconds.
    pub step_ms: i64,
    /// Share of the samples delivered late, by at most `allowed_lateness_ms`.
    pub late_ratio: f64,
    /// How far behind the newest sample of its series a late one may be, milliseconds.
    pub allowed_lateness_ms: i64,
    /// Share of the samples delivered a second time, unchanged, at once or late.
    pub duplicate_ratio: f64,
    /// Share of the samples delivered a second time with another value.
    pub conflict_ratio: f64,
    /// Chance that an instance falls silent for a part of an hour (1 to 40 minutes).
    pub outage_ratio: f64,
    /// Chance that an instance restarts within an hour; half of the outages end in a restart as well.
    pub restart_ratio: f64,
    /// How long an instance bears its name before another takes its place with new series, milliseconds; 0 for ever.
    pub churn_ms: i64,
    /// The order of delivery.
    pub order: Order,
}

/// An option is outside its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option} must be {bound}; got {value}")]
pub struct OptionsError {
    /// The option.
    pub option: &'static str,
    /// What would be allowed.
    pub bound: String,
    /// What was given.
    pub value: String,
}

pub fn refused<T>(
    option: &'static str,
    bound: impl ToString,
    value: impl ToString,
) -> Result<T, OptionsError> {
    Err(OptionsError { option, bound: bound.to_string(), value: value.to_string() })
}

/// The times a caller means by any of start, end and hours: data ends at `now_ms` unless a start or an end is given.
///
/// # Errors
/// All three at once, or hours that are not a length of time.
pub fn span(
    start_ms: Option<i64>,
    end_ms: Option<i64>,
    hours: Option<f64>,
    now_ms: i64,
) -> Result<(i64, i64), OptionsError> {
    let length_ms = match hours {
        Some(_) if start_ms.is_some() && end_ms.is_some() => {
            return refused("hours", "left out when both start and end are given", "all three");
        }
        Some(hours) if hours > 0.0 && hours * HOUR_MS as f64 <= SPAN_MS_MAX as f64 => {
            (hours * HOUR_MS as f64) as i64
        }
        Some(hours) => return refused("hours", format!("above 0, at most {}", SPAN_MS_MAX / HOUR_MS), hours),
        None => HOUR_MS,
    };
    Ok(match (start_ms, end_ms) {
        (Some(start), Some(end)) => (start, end),
        (Some(start), None) => (start, start.saturating_add(length_ms)),
        (None, end) => {
            let end = end.unwrap_or(now_ms);
            (end.saturating_sub(length_ms), end)
        }
    })
}

impl GenerateOptions {
    /// The defaults over a span of time: 1,000 series every 15 s, delivered in time and once.
    pub fn over(start_ms: i64, end_ms: i64) -> GenerateOptions {
        GenerateOptions {
            series: 1_000,
            seed: 1,
            start_ms,
            end_ms,
            step_ms: 15_000,
            late_ratio: 0.0,
            allowed_lateness_ms: ALLOWED_LATENESS_MS,
            duplicate_ratio: 0.0,
            conflict_ratio: 0.0,
            outage_ratio: 0.08,
            restart_ratio: 0.1,
            churn_ms: 0,
            order: Order::TimeMajor,
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first option outside its bounds.
    pub fn validated(self) -> Result<GenerateOptions, OptionsError> {
        if !(1..=SERIES_MAX).contains(&self.series) {
            return refused("series", format!("1 to {SERIES_MAX}"), self.series);
        }
        if !(100..=DAY_MS).contains(&self.step_ms) {
            return refused("step", "100 ms to 86400000 ms", format!("{} ms", self.step_ms));
        }
        for (option, at_ms) in [("start", self.start_ms), ("end", self.end_ms)] {
            if !(AT_MS_MIN..=AT_MS_MAX).contains(&at_ms) {
                let bound = format!("{AT_MS_MIN} to {AT_MS_MAX} in Unix milliseconds (years 2000 to 9999)");
                return refused(option, bound, at_ms);
            }
        }
        if self.end_ms < self.start_ms || self.end_ms - self.start_ms > SPAN_MS_MAX {
            let bound = format!("0 to {} h after start ({})", SPAN_MS_MAX / HOUR_MS, self.start_ms);
            return refused("end", bound, self.end_ms);
        }
        if !(0..=DAY_MS).contains(&self.allowed_lateness_ms) {
            return refused(
                "allowed_lateness",
                "0 ms to 86400000 ms",
                format!("{} ms", self.allowed_lateness_ms),
            );
        }
        if self.churn_ms != 0 && !(self.step_ms..=SPAN_MS_MAX).contains(&self.churn_ms) {
            let bound = format!("0, or a step ({} ms) to {SPAN_MS_MAX} ms", self.step_ms);
            return refused("churn", bound, format!("{} ms", self.churn_ms));
        }
        for (option, ratio) in [
            ("late_ratio", self.late_ratio),
            ("duplicate_ratio", self.duplicate_ratio),
            ("conflict_ratio", self.conflict_ratio),
            ("outage_ratio", self.outage_ratio),
            ("restart_ratio", self.restart_ratio),
        ] {
            if !(0.0..=1.0).contains(&ratio) {
                return refused(option, "0 to 1", ratio);
            }
        }
        Ok(self)
    }
}
