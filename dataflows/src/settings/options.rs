//! What can be set for some series only: by the first entry of `select` that means them.
//!
//! The dataflow sees no labels. Which options a series has stands in the journal, before its first samples
//! ([`crate::sample::Control::Options`]); the entries themselves are in the settings, so that a start knows whether they changed.

use serde::{Deserialize, Serialize};

use crate::sample::MetricType;

/// Most entries of `select`.
pub const SELECT_MAX: usize = 64;
/// Most that are read back of what was written down.
pub(super) const SELECT_WRITTEN_MAX: usize = 4 * SELECT_MAX;
/// Seasons up to this one are looked at in minutes, which are held for a day; longer ones in quarters of an hour.
pub const MINUTES_PERIOD_MAX_MS: i64 = 6 * 3_600_000;
/// So many of a season must be held before it is measured.
pub const SEASON_CYCLES_MIN: i64 = 3;
/// Periods are whole minutes.
const MINUTE_MS: i64 = 60_000;
/// The longest period that is read back of what was written down.
const PERIOD_WRITTEN_MAX_MS: i64 = 183 * 86_400_000;

/// What a step of a series is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Transform {
    /// The rate of a counter, the mean of everything else.
    #[default]
    Auto = 0,
    /// The mean of its samples.
    Raw = 1,
    /// Its rate per second.
    Rate = 2,
}

/// How trend, season and rest make up a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Model {
    /// Their sum.
    #[default]
    Additive = 0,
    /// Their product, where all steps are above 0.
    Multiplicative = 1,
}

/// The quantiles that windows can have: each has a column of its own.
pub const QUANTILES: [f64; 8] = [0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999];

/// Some of [`QUANTILES`], a bit for each. Written down as a list of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct QuantileSet(u8);

impl QuantileSet {
    /// These; else the first that is none of [`QUANTILES`].
    ///
    /// # Errors
    /// A number for which there is no column.
    pub fn new(wanted: &[f64]) -> Result<QuantileSet, f64> {
        wanted.iter().try_fold(QuantileSet::default(), |set, wanted| {
            let place = QUANTILES.iter().position(|known| known == wanted).ok_or(*wanted)?;
            Ok(QuantileSet(set.0 | 1 << place))
        })
    }

    /// The set with this code; every byte is one.
    pub fn from_code(code: u8) -> QuantileSet {
        QuantileSet(code)
    }

    /// Its code.
    pub fn code(self) -> u8 {
        self.0
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The places of its quantiles in [`QUANTILES`], rising.
    pub fn places(self) -> impl Iterator<Item = usize> {
        (0..QUANTILES.len()).filter(move |place| self.0 >> place & 1 == 1)
    }
}

impl TryFrom<Vec<f64>> for QuantileSet {
    type Error = String;

    fn try_from(wanted: Vec<f64>) -> Result<QuantileSet, String> {
        QuantileSet::new(&wanted).map_err(|other| format!("windows have no quantile {other}"))
    }
}

impl From<QuantileSet> for Vec<f64> {
    fn from(set: QuantileSet) -> Vec<f64> {
        set.places().map(|place| QUANTILES[place]).collect()
    }
}

fn is_without_quantiles(set: &QuantileSet) -> bool {
    set.is_empty()
}

/// The options of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeriesOptions {
    /// What its steps are.
    pub transform: Transform,
    /// The length of its season; 0 if that is looked for.
    pub period_ms: i64,
    /// How its season is measured.
    pub model: Model,
    /// Which quantiles its windows have.
    #[serde(skip_serializing_if = "is_without_quantiles")]
    pub quantiles: QuantileSet,
}

impl SeriesOptions {
    /// Checks what the computation relies on.
    pub fn is_computable(&self) -> bool {
        (0..=PERIOD_WRITTEN_MAX_MS).contains(&self.period_ms) && self.period_ms % MINUTE_MS == 0
    }

    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == SeriesOptions::default()
    }
}

impl Transform {
    /// The transform with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Transform> {
        [Transform::Auto, Transform::Raw, Transform::Rate].into_iter().find(|known| *known as u8 == code)
    }
}

impl Model {
    /// The model with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Model> {
        [Model::Additive, Model::Multiplicative].into_iter().find(|known| *known as u8 == code)
    }
}

/// What kind of series one is: as sources said, or its name does, and as it is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesClass {
    /// What kind of metric it is, if that is known.
    pub kind: Option<MetricType>,
    /// What is set for it.
    pub options: SeriesOptions,
}

impl SeriesClass {
    /// Whether its steps are rates.
    pub fn is_rate(&self) -> bool {
        match self.options.transform {
            Transform::Auto => self.kind == Some(MetricType::Counter),
            Transform::Raw => false,
            Transform::Rate => true,
        }
    }
}

/// An entry of `select`, as far as it changes results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelectEntry {
    /// A selector, which only the server reads.
    #[serde(rename = "match")]
    pub matching: String,
    /// What holds for the series that it means.
    #[serde(flatten)]
    pub options: SeriesOptions,
}

#[cfg(test)]
mod tests {
    use super::super::{STEP_MS, Settings};
    use super::*;

    fn with(options: SeriesOptions) -> Settings {
        let entry = SelectEntry { matching: "up".to_owned(), options };
        Settings { select: vec![SelectEntry::default(), entry], ..Settings::default() }
    }

    #[test]
    fn a_period_fits_into_what_is_held() {
        let minute = STEP_MS;
        for (minutes, fits) in [
            (0, true),
            (1, false),
            (2, true),
            (359, true),
            (360, true),
            (361, false),
            (375, true),
            (24 * 60, true),
            (32 * 60, true),
            (32 * 60 + 15, false),
            (-15, false),
        ] {
            let settings = with(SeriesOptions { period_ms: minutes * minute, ..SeriesOptions::default() });
            assert_eq!(settings.validated().is_ok(), fits, "{minutes} minutes");
        }
        let options = SeriesOptions { period_ms: 90_000, ..SeriesOptions::default() };
        let said = with(options).validated().unwrap_err().to_string();
        let want = "select[1].period must be whole minutes from 2m to 6h, or a multiple of 15m up to a third of profile.season_days (1d8h); got 1m30s";
        assert_eq!(said, want);
        assert!(with(options).computable().is_err());
    }

    #[test]
    fn options_are_journalled_and_read_back_and_absent_ones_are_the_default() {
        let options = |quantiles: &[f64]| SeriesOptions {
            transform: Transform::Rate,
            period_ms: 3_600_000,
            model: Model::Multiplicative,
            quantiles: QuantileSet::new(quantiles).unwrap(),
        };
        let written = r#"{"match":"up","transform":"rate","period_ms":3600000,"model":"multiplicative"}"#;
        let more = written.replace('}', r#","quantiles":[0.5,0.999]}"#);
        for (quantiles, want) in [(&[][..], written), (&[0.999, 0.5, 0.5], &more)] {
            let settings = with(options(quantiles));
            let text = serde_json::to_string(&settings).unwrap();
            assert!(text.contains(want), "{text}");
            assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        }
        assert!(serde_json::from_str::<SeriesOptions>(r#"{"quantiles":[0.51]}"#).is_err());
        assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), Settings::default());
    }

    #[test]
    fn there_is_a_column_for_each_quantile_of_a_set() {
        let set = QuantileSet::new(&[0.99, 0.05]).unwrap();
        assert_eq!(set.places().collect::<Vec<_>>(), [0, 6]);
        assert_eq!((QuantileSet::from_code(set.code()), set.is_empty()), (set, false));
        for other in [0.0, 1.0, 0.51, -0.5, f64::NAN, f64::INFINITY] {
            assert_eq!(QuantileSet::new(&[0.5, other]).unwrap_err().to_bits(), other.to_bits());
        }
    }

    #[test]
    fn what_is_set_counts_more_than_what_was_said() {
        let class = |kind, transform| {
            SeriesClass { kind, options: SeriesOptions { transform, ..SeriesOptions::default() } }.is_rate()
        };
        let (counter, gauge) = (Some(MetricType::Counter), Some(MetricType::Gauge));
        assert_eq!([counter, gauge, None].map(|kind| class(kind, Transform::Auto)), [true, false, false]);
        assert_eq!([counter, gauge, None].map(|kind| class(kind, Transform::Raw)), [false; 3]);
        assert_eq!([counter, gauge, None].map(|kind| class(kind, Transform::Rate)), [true; 3]);
    }
}
