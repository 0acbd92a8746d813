//! Validated numbers that change results. No file format: the rim parses, this page judges.

mod options;

use serde::{Deserialize, Serialize};
use std::fmt;

pub use self::options::{
    MINUTES_PERIOD_MAX_MS, Model, QUANTILES, QuantileSet, SEASON_CYCLES_MIN, SELECT_MAX, SelectEntry,
    SeriesClass, SeriesOptions, Transform,
};

/// A window: its length is its identity, its hop the distance between two results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Length in milliseconds; a result at `T` covers `(T - length, T]`.
    pub length_ms: i64,
    /// Distance between results in milliseconds; divides the length.
    pub hop_ms: i64,
}

/// Everything that decides what the journal's samples come to. Written into the journal when it changes.
///
/// What a journal does not say, because a later release brought it, has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The windows, by rising length.
    pub windows: Vec<Window>,
    /// How long a silent series is waited for before its window closes.
    pub idle_timeout_ms: i64,
    /// How far behind the newest sample of its series a late one still corrects.
    pub allowed_lateness_ms: i64,
    /// How long one that was away is waited for before silence closes windows again.
    pub catch_up_ms: i64,
    /// Most raw samples kept per series for late corrections.
    pub late_samples_max: u32,
    /// Most series at once; tombstones are bounded by the same number.
    pub series_max: u64,
    /// Whether and when profiles are made.
    pub profile: ProfileSettings,
    /// What is set for some series only. Which options a series has is in the journal as well; the selectors are here so that
    /// a start knows whether that has to be said anew.
    pub select: Vec<SelectEntry>,
}

/// Whether and when profiles are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProfileSettings {
    /// Whether they are made at all.
    pub enabled: bool,
    /// Time between two evaluations of a series, of its own time; whole steps.
    pub every_ms: i64,
    /// Time between two rows of a series; one also comes when a verdict has changed.
    pub publish_every_ms: i64,
    /// How many days a season is looked for in.
    pub season_days: u32,
}

impl ProfileSettings {
    fn validate(&self) -> Result<(), SettingsError> {
        let err = |field: &str, value: String, bound: &str| {
            Err(SettingsError { field: field.to_owned(), value, bound: bound.to_owned() })
        };
        for (name, value) in
            [("profile.every", self.every_ms), ("profile.publish_every", self.publish_every_ms)]
        {
            if !(STEP_MS..=DAY_MS).contains(&value) || value % STEP_MS != 0 {
                return err(name, duration(value), "whole minutes from 1m to 1d");
            }
        }
        if !(1..=28).contains(&self.season_days) {
            return err("profile.season_days", self.season_days.to_string(), "1 to 28");
        }
        Ok(())
    }
}

impl Default for ProfileSettings {
    fn default() -> ProfileSettings {
        ProfileSettings { enabled: true, every_ms: 300_000, publish_every_ms: 3_600_000, season_days: 4 }
    }
}

/// A setting is outside its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// Path of the setting as in the configuration file.
    pub field: String,
    /// What was given.
    pub value: String,
    /// What would be allowed.
    pub bound: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must be {}; got {}", self.field, self.bound, self.value)
    }
}

impl std::error::Error for SettingsError {}

const SECOND_MS: i64 = 1_000;
const DAY_MS: i64 = 86_400_000;
/// A quarter of an hour.
const QUARTER_MS: i64 = 900_000;
/// The step of the stages that look at a series as one value a minute.
pub const STEP_MS: i64 = 60_000;
/// Most panes one ring of a series may hold.
pub const PANES_MAX: i64 = 4_096;
/// Most windows at once.
pub const WINDOWS_MAX: usize = 16;
/// Most windows, panes of a ring, and the longest time that are read back of what was written down. No release allowed more
/// windows than this one.
const WINDOWS_WRITTEN_MAX: usize = WINDOWS_MAX;
const PANES_WRITTEN_MAX: i64 = 1 << 20;
const TIME_WRITTEN_MAX_MS: i64 = 400 * DAY_MS;

impl Default for Settings {
    fn default() -> Self {
        let window = |hours: i64| Window { length_ms: hours * 3_600_000, hop_ms: hours * 60_000 };
        Settings {
            windows: vec![window(1), window(3), window(12)],
            idle_timeout_ms: 30_000,
            allowed_lateness_ms: 600_000,
            catch_up_ms: 300_000,
            late_samples_max: 1_024,
            series_max: 1_200_000,
            profile: ProfileSettings::default(),
            select: Vec::new(),
        }
    }
}

impl Settings {
    /// Checks what the computation relies on, and sorts the windows by length: for settings that were written down when
    /// they were in force. The bounds of [`Settings::validated`] may have become tighter since.
    ///
    /// # Errors
    /// The first setting that nothing can be computed with.
    pub fn computable(mut self) -> Result<Settings, SettingsError> {
        let err = |field: &str, value: i64| {
            let bound = "what can be computed with".to_owned();
            Err(SettingsError { field: field.to_owned(), value: value.to_string(), bound })
        };
        if !(1..=WINDOWS_WRITTEN_MAX).contains(&self.windows.len()) {
            return err("windows", self.windows.len() as i64);
        }
        for w in &self.windows {
            let whole = w.hop_ms > 0 && w.hop_ms % SECOND_MS == 0 && w.length_ms % w.hop_ms == 0;
            if !whole || !(w.hop_ms..=TIME_WRITTEN_MAX_MS).contains(&w.length_ms) {
                return err("windows.hop", w.hop_ms);
            }
        }
        for (name, value) in [
            ("idle_timeout", self.idle_timeout_ms),
            ("allowed_lateness", self.allowed_lateness_ms),
            ("catch_up", self.catch_up_ms),
        ] {
            if !(0..=TIME_WRITTEN_MAX_MS).contains(&value) {
                return err(name, value);
            }
        }
        self.windows.sort_by_key(|w| w.length_ms);
        if self.windows.windows(2).any(|pair| pair[0].length_ms == pair[1].length_ms) {
            return err("windows.length", self.windows.len() as i64);
        }
        if self.panes_max() > PANES_WRITTEN_MAX {
            return err("windows.panes", self.panes_max());
        }
        if self.late_samples_max == 0 {
            return err("limits.late_samples", 0);
        }
        let profile = &self.profile;
        if !(STEP_MS..=TIME_WRITTEN_MAX_MS).contains(&profile.every_ms.min(profile.publish_every_ms)) {
            return err("profile.every", profile.every_ms);
        }
        if !(1..=366).contains(&profile.season_days) {
            return err("profile.season_days", profile.season_days.into());
        }
        if self.select.len() > options::SELECT_WRITTEN_MAX {
            return err("select", self.select.len() as i64);
        }
        if let Some(entry) = self.select.iter().find(|entry| !entry.options.is_computable()) {
            return err("select.period", entry.options.period_ms);
        }
        Ok(self)
    }

    /// Checks every bound and sorts the windows by length.
    ///
    /// # Errors
    /// The first setting outside its bounds, by its path in the configuration file.
    pub fn validated(mut self) -> Result<Settings, SettingsError> {
        let err = |field: &str, value: String, bound: String| {
            Err(SettingsError { field: field.to_owned(), value, bound })
        };
        if self.windows.is_empty() || self.windows.len() > WINDOWS_MAX {
            return err(
                "windows",
                format!("{} windows", self.windows.len()),
                format!("1 to {WINDOWS_MAX} windows"),
            );
        }
        for (name, value, low, high) in [
            ("idle_timeout", self.idle_timeout_ms, SECOND_MS, 3_600_000),
            ("allowed_lateness", self.allowed_lateness_ms, 0, DAY_MS),
            ("catch_up", self.catch_up_ms, 0, DAY_MS),
        ] {
            if !(low..=high).contains(&value) {
                return err(name, duration(value), format!("{} to {}", duration(low), duration(high)));
            }
        }
        if self.catch_up_ms < self.idle_timeout_ms {
            return err(
                "catch_up",
                duration(self.catch_up_ms),
                format!("at least idle_timeout ({})", duration(self.idle_timeout_ms)),
            );
        }
        for (i, w) in self.windows.iter().enumerate() {
            let field = |part: &str| format!("windows[{i}].{part}");
            if !(SECOND_MS..=30 * DAY_MS).contains(&w.length_ms) {
                return err(&field("length"), duration(w.length_ms), "1s to 30d".to_owned());
            }
            let divides = w.hop_ms > 0 && w.length_ms % w.hop_ms == 0 && w.hop_ms % SECOND_MS == 0;
            if !(SECOND_MS..=w.length_ms).contains(&w.hop_ms) || !divides {
                let bound = format!("whole seconds that divide the length {}", duration(w.length_ms));
                return err(&field("hop"), duration(w.hop_ms), bound);
            }
        }
        self.windows.sort_by_key(|w| w.length_ms);
        if let Some(pair) = self.windows.windows(2).find(|pair| pair[0].length_ms == pair[1].length_ms) {
            let twice = format!("{} twice", duration(pair[0].length_ms));
            return err(
                "windows",
                twice,
                "windows of different lengths (the length is a window's name)".to_owned(),
            );
        }
        if !(16..=1 << 20).contains(&self.late_samples_max) {
            return err("limits.late_samples", self.late_samples_max.to_string(), "16 to 1048576".to_owned());
        }
        if !(256..=100_000_000).contains(&self.series_max) {
            return err("limits.series", self.series_max.to_string(), "256 to 100000000".to_owned());
        }
        self.profile.validate()?;
        self.validate_select()?;
        let panes = self.panes_max();
        if panes > PANES_MAX {
            let bound = format!(
                "such that no ring of a series holds more than {PANES_MAX} panes (length plus allowed_lateness over hop)"
            );
            return err("windows", format!("{panes} panes"), bound);
        }
        Ok(self)
    }

    /// A season is measured where three of it are held: of two, noise would be one.
    fn validate_select(&self) -> Result<(), SettingsError> {
        let err = |field: String, value: String, bound: String| Err(SettingsError { field, value, bound });
        if self.select.len() > SELECT_MAX {
            let bound = format!("up to {SELECT_MAX} entries");
            return err("select".to_owned(), format!("{} entries", self.select.len()), bound);
        }
        let longest_ms = i64::from(self.profile.season_days) * DAY_MS / SEASON_CYCLES_MIN;
        for (at, SelectEntry { options, .. }) in self.select.iter().enumerate() {
            let period_ms = options.period_ms;
            let in_minutes =
                (2 * STEP_MS..=MINUTES_PERIOD_MAX_MS).contains(&period_ms) && period_ms % STEP_MS == 0;
            let in_quarters = (QUARTER_MS..=longest_ms).contains(&period_ms) && period_ms % QUARTER_MS == 0;
            if period_ms != 0 && !in_minutes && !in_quarters {
                let bound = format!(
                    "whole minutes from 2m to {}, or a multiple of 15m up to a third of profile.season_days ({})",
                    duration(MINUTES_PERIOD_MAX_MS),
                    duration(longest_ms)
                );
                return err(format!("select[{at}].period"), duration(period_ms), bound);
            }
        }
        Ok(())
    }

    /// The base pane: the greatest common divisor of all hops and of [`STEP_MS`], so that a step is made of whole base panes.
    pub fn base_ms(&self) -> i64 {
        self.windows.iter().fold(STEP_MS, |all, w| gcd(all, w.hop_ms))
    }

    /// The longest window.
    pub fn longest_ms(&self) -> i64 {
        self.windows.iter().map(|w| w.length_ms).max().unwrap_or(0)
    }

    /// How far back from the newest sample of a series its raw samples are kept: the base pane of the oldest sample that may
    /// still be late begins after that.
    pub fn raw_kept_ms(&self) -> i64 {
        self.allowed_lateness_ms + self.base_ms()
    }

    /// Base panes kept per series: enough to rebuild any hop a late sample can touch.
    pub fn base_panes(&self) -> i64 {
        let hop = self.windows.iter().map(|w| w.hop_ms).max().unwrap_or(0);
        (self.allowed_lateness_ms + hop) / self.base_ms() + 2
    }

    /// Panes of the largest ring of a series.
    fn panes_max(&self) -> i64 {
        self.windows.iter().map(|w| self.ring_panes(*w)).max().unwrap_or(0).max(self.base_panes())
    }

    /// Panes of one hop kept per series for window `w`: its length and the span that late samples can touch.
    pub fn ring_panes(&self, w: Window) -> i64 {
        (w.length_ms + self.allowed_lateness_ms) / w.hop_ms + 2
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Prints milliseconds as Prometheus does: `1h`, `1h30m`, `250ms`; `0s` for nothing.
pub fn duration(ms: i64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::from(if ms < 0 { "-" } else { "" });
    let mut left = ms.unsigned_abs();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= size {
            text.push_str(&format!("{}{unit}", left / size));
            left %= size;
        }
    }
    text
}

/// Reads a duration as Prometheus writes it: whole numbers with falling units, `1h30m`, `250ms`, `0`.
pub fn parse_duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut total, mut units) = (text, 0_i64, &UNITS[..]);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let unit = units.iter().position(|(unit, _)| *unit == &rest[digits..digits + letters])?;
        let count: i64 = rest[..digits].parse().ok()?;
        total = total.checked_add(count.checked_mul(units[unit].1)?)?;
        units = &units[unit + 1..];
        rest = &rest[digits + letters..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_printed() {
        for ms in [0, 1, 250, 1_000, 61_001, 5_400_000, 86_400_000, 31 * 86_400_000 + 1] {
            assert_eq!(parse_duration(&duration(ms)), Some(ms));
        }
        assert_eq!(parse_duration("1y1w1d"), Some(373 * 86_400_000));
        for text in
            ["", "1", "s", "-1s", "1m1h", "1s1s", "1.5h", "1h ", "1H", "+1s", "99999999999999999999s", "é"]
        {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    /// A later release may have tighter bounds; what an earlier one wrote down under its own is read all the same.
    #[test]
    fn what_was_written_down_is_read_under_tighter_bounds() {
        let wide = Settings {
            windows: vec![Window { length_ms: 60 * DAY_MS, hop_ms: 3_600_000 }],
            idle_timeout_ms: 500,
            late_samples_max: 8,
            series_max: 1,
            ..Settings::default()
        };
        assert!(wide.clone().validated().is_err());
        assert_eq!(wide.clone().computable(), Ok(wide));
    }

    #[test]
    fn nothing_is_computed_with_settings_that_make_no_panes() {
        let with = |length_ms: i64, hop_ms: i64| Settings {
            windows: vec![Window { length_ms, hop_ms }],
            ..Settings::default()
        };
        for (length_ms, hop_ms) in
            [(60_000, 0), (60_000, -1_000), (60_000, 7_000), (1_500, 1_500), (i64::MAX, 1_000), (0, 1_000)]
        {
            assert!(with(length_ms, hop_ms).computable().is_err(), "{length_ms} {hop_ms}");
        }
        assert!(with(30 * DAY_MS, 1_000).computable().is_err(), "too many panes");
        assert!(Settings { windows: Vec::new(), ..Settings::default() }.computable().is_err());
        assert!(Settings { idle_timeout_ms: -1, ..Settings::default() }.computable().is_err());
        assert!(Settings { allowed_lateness_ms: i64::MAX, ..Settings::default() }.computable().is_err());
        let twice = vec![Window { length_ms: 60_000, hop_ms: 1_000 }; 2];
        assert!(Settings { windows: twice, ..Settings::default() }.computable().is_err());
        assert_eq!(Settings::default().computable(), Ok(Settings::default()));
    }

    #[test]
    fn base_pane_is_the_largest_divisor_up_to_a_minute() {
        let with = |hops: &[i64]| Settings {
            windows: hops.iter().map(|h| Window { length_ms: h * 60, hop_ms: *h }).collect(),
            ..Settings::default()
        };
        assert_eq!(with(&[60_000, 180_000, 720_000]).base_ms(), 60_000);
        assert_eq!(with(&[90_000]).base_ms(), 30_000);
        assert_eq!(with(&[7_000, 60_000]).base_ms(), 1_000);
        assert_eq!(with(&[420_000]).base_ms(), 60_000);
        assert_eq!(with(&[61_000]).base_ms(), 1_000);
    }

    #[test]
    fn durations_print_like_prometheus() {
        assert_eq!(duration(5_400_000), "1h30m");
        assert_eq!(duration(250), "250ms");
        assert_eq!(duration(0), "0s");
        assert_eq!(duration(43_200_000), "12h");
    }
}
