//! What kind of series one is: its autocorrelation, whether it is stationary, its season, and its usual values.

use super::columns::{Cell, CellType, Column, Columns, Floats, RowFields};
use super::kind::{ResultRow, RowStorage, SeriesText};
use super::verdicts::{AdfStatus, ProfileStatus, Verdict};
use super::windows::WHOSE;
use crate::sample::SeriesId;
use crate::settings::STEP_MS;

/// Most lags of an autocorrelation, lag 0 included.
pub const LAGS_MAX: usize = 40;

/// What kind of series one is, by its steps of one minute over the last day.
#[derive(Clone, Debug, Default)]
pub struct SeriesProfile {
    /// The series.
    pub series: SeriesId,
    /// End of the newest step.
    pub at_ms: i64,
    /// Steps that have a value.
    pub steps: u32,
    /// Whether a step is the rate of a counter; else it is the mean of its samples.
    pub is_rate: bool,
    /// Share of the steps that have no value.
    pub gap_ratio: f64,
    /// Mean of the steps.
    pub mean: f64,
    /// Their variance (ddof 0).
    pub variance: f64,
    /// Autocorrelation by lag, from lag 0 on.
    pub acf: Floats<LAGS_MAX>,
    /// Lags of the Ljung-Box test.
    pub ljung_box_lags: u32,
    /// Its statistic.
    pub ljung_box_statistic: f64,
    /// Its p-value.
    pub ljung_box_p_value: f64,
    /// Whether that is below 0.05.
    pub autocorrelated: Verdict,
    /// The ADF test with a constant: its statistic.
    pub adf_statistic: f64,
    /// Its p-value.
    pub adf_p_value: f64,
    /// The lags that AIC chose.
    pub adf_used_lag: u32,
    /// Rows of the regression.
    pub adf_nobs: u32,
    /// The critical value at 1 %.
    pub adf_critical_1: f64,
    /// The critical value at 5 %.
    pub adf_critical_5: f64,
    /// The critical value at 10 %.
    pub adf_critical_10: f64,
    /// Whether it has a result.
    pub adf_status: AdfStatus,
    /// Whether the p-value is below 0.05.
    pub stationary: Verdict,
    /// Length of the season in seconds; 0 for none.
    pub period_seconds: u32,
    /// How strong the season is, 0 to 1.
    pub seasonal_strength: f64,
    /// How strong the trend is, 0 to 1.
    pub trend_strength: f64,
    /// Whether there is a significant period with a strength of 0.64 or more.
    pub seasonal: Verdict,
    /// Median of the last 15 steps.
    pub median_15: f64,
    /// Their median absolute deviation.
    pub mad_15: f64,
    /// Median of the last 60 steps.
    pub median_60: f64,
    /// Their median absolute deviation.
    pub mad_60: f64,
    /// Median of the last 240 steps.
    pub median_240: f64,
    /// Their median absolute deviation.
    pub mad_240: f64,
    /// Whether the verdicts say something.
    pub status: ProfileStatus,
}

row_fields! {
    SeriesProfile, |row| {
        series: SeriesId,
        at_ms: i64,
        steps: u32,
        is_rate: bool,
        gap_ratio: f64,
        mean: f64,
        variance: f64,
        acf: Floats<LAGS_MAX> = row.acf.clone(),
        ljung_box_lags: u32,
        ljung_box_statistic: f64,
        ljung_box_p_value: f64,
        autocorrelated: Verdict,
        adf_statistic: f64,
        adf_p_value: f64,
        adf_used_lag: u32,
        adf_nobs: u32,
        adf_critical_1: f64,
        adf_critical_5: f64,
        adf_critical_10: f64,
        adf_status: AdfStatus,
        stationary: Verdict,
        period_seconds: u32,
        seasonal_strength: f64,
        trend_strength: f64,
        seasonal: Verdict,
        median_15: f64,
        mad_15: f64,
        median_60: f64,
        mad_60: f64,
        median_240: f64,
        mad_240: f64,
        status: ProfileStatus,
    } => SeriesProfile {
        series, at_ms, steps, is_rate, gap_ratio, mean, variance, acf, ljung_box_lags, ljung_box_statistic,
        ljung_box_p_value, autocorrelated, adf_statistic, adf_p_value, adf_used_lag, adf_nobs, adf_critical_1,
        adf_critical_5, adf_critical_10, adf_status, stationary, period_seconds, seasonal_strength,
        trend_strength, seasonal, median_15, mad_15, median_60, mad_60, median_240, mad_240, status,
    }
}

/// By its bytes: numbers that are not known are equal.
impl PartialEq for SeriesProfile {
    fn eq(&self, other: &SeriesProfile) -> bool {
        let bytes = |row: &SeriesProfile| {
            let mut bytes = vec![0; SeriesProfile::BYTES];
            row.put(&mut bytes);
            bytes
        };
        bytes(self) == bytes(other)
    }
}

/// What is shown of a row behind its series.
const SHOWN: [Column; 33] = [
    Column::new("at", CellType::Time, "The end of the newest step of one minute that it is made of."),
    Column::new("at_ms", CellType::Int, "The same in Unix milliseconds.").unit("ms"),
    Column::new("steps", CellType::UInt, "Steps of the last 24 hours that have a value.").unit("steps"),
    Column::new(
        "transform",
        CellType::Text,
        "What a step is: `raw`, the mean of its samples, or `rate`, of a counter, per second.",
    ),
    Column::new(
        "gap_ratio",
        CellType::Float,
        "Share of the steps without a value. Above 0.2 no verdict is given.",
    )
    .unit("ratio"),
    Column::new("mean", CellType::Float, "Mean of the steps."),
    Column::new("variance", CellType::Float, "Variance of the steps (ddof 0)."),
    Column::new("acf", CellType::Floats { most: LAGS_MAX }, "Autocorrelation by lag, from lag 0 on."),
    Column::new("ljung_box_lags", CellType::UInt, "Lags of the Ljung-Box test."),
    Column::new("ljung_box_statistic", CellType::Float, "Statistic of the Ljung-Box test."),
    Column::new(
        "ljung_box_p_value",
        CellType::Float,
        "Probability of such a statistic without autocorrelation.",
    ),
    Column::new("autocorrelated", CellType::Bool, "Whether that probability is below 0.05.").or_null(),
    Column::new(
        "adf_statistic",
        CellType::Float,
        "Statistic of the augmented Dickey-Fuller test with a constant.",
    ),
    Column::new(
        "adf_p_value",
        CellType::Float,
        "Probability of such a statistic under a unit root (MacKinnon).",
    ),
    Column::new("adf_used_lag", CellType::UInt, "Lags that the AIC chose."),
    Column::new("adf_nobs", CellType::UInt, "Rows of the regression."),
    Column::new("adf_critical_1", CellType::Float, "Critical value at 1 %."),
    Column::new("adf_critical_5", CellType::Float, "Critical value at 5 %."),
    Column::new("adf_critical_10", CellType::Float, "Critical value at 10 %."),
    Column::new(
        "adf_status",
        CellType::Text,
        "`ok`, or why the test has no result: `constant`, `too_short`, `non_finite`, `perfect_fit`, `degenerate_level`.",
    ),
    Column::new("stationary", CellType::Bool, "Whether that probability is below 0.05.").or_null(),
    Column::new("period_seconds", CellType::UInt, "Length of the season; `null` if none was found.")
        .unit("s")
        .or_null(),
    Column::new("seasonal_strength", CellType::Float, "How much of the variance is the season's, 0 to 1.")
        .unit("ratio"),
    Column::new(
        "trend_strength",
        CellType::Float,
        "How much of the variance is the trend's, 0 to 1; of a series with a season.",
    )
    .unit("ratio"),
    Column::new(
        "seasonal",
        CellType::Bool,
        "Whether there is a significant period with a strength of 0.64 or more.",
    )
    .or_null(),
    Column::new("median_15", CellType::Float, "Median of the last 15 steps."),
    Column::new("mad_15", CellType::Float, "Median absolute deviation of the last 15 steps."),
    Column::new("median_60", CellType::Float, "Median of the last 60 steps."),
    Column::new("mad_60", CellType::Float, "Median absolute deviation of the last 60 steps."),
    Column::new("median_240", CellType::Float, "Median of the last 240 steps."),
    Column::new("mad_240", CellType::Float, "Median absolute deviation of the last 240 steps."),
    Column::new(
        "status",
        CellType::Text,
        "`ok`, or why no verdict is given: `too_short` (fewer than 60 steps), `gaps`, `constant`.",
    ),
    Column::new("step_seconds", CellType::UInt, "Length of a step.").unit("s"),
];

impl ResultRow for SeriesProfile {
    const KIND: u8 = 4;
    const VERSION: u8 = 1;
    const NAME: &'static str = "profiles";
    const SINGULAR: &'static str = "profile";
    const STORAGE: RowStorage = RowStorage::Latest;
    const COLUMNS: Columns = &[&WHOSE, &SHOWN];

    type Key = (SeriesId, i64);

    fn key(&self) -> Self::Key {
        (self.series, self.at_ms)
    }

    fn series(&self) -> Option<SeriesId> {
        Some(self.series)
    }

    type Place = SeriesId;

    fn place(&self) -> Self::Place {
        self.series
    }

    fn span_ms(&self) -> Option<(i64, i64)> {
        Some((self.at_ms, self.at_ms))
    }

    fn cells<'a>(&'a self, series: Option<SeriesText<'a>>, cells: &mut Vec<Cell<'a>>) {
        let series = series.unwrap_or(SeriesText { name: "", labels: "{}", counter: false });
        let period =
            if self.period_seconds == 0 { Cell::Null } else { Cell::UInt(self.period_seconds.into()) };
        cells.extend([
            Cell::Series(self.series),
            Cell::Text(series.name),
            Cell::Json(series.labels),
            Cell::Time(self.at_ms),
            Cell::Int(self.at_ms),
            Cell::UInt(self.steps.into()),
            Cell::Text(if self.is_rate { "rate" } else { "raw" }),
            Cell::Float(self.gap_ratio),
            Cell::Float(self.mean),
            Cell::Float(self.variance),
            Cell::Floats(&self.acf),
            Cell::UInt(self.ljung_box_lags.into()),
            Cell::Float(self.ljung_box_statistic),
            Cell::Float(self.ljung_box_p_value),
            self.autocorrelated.into(),
            Cell::Float(self.adf_statistic),
            Cell::Float(self.adf_p_value),
            Cell::UInt(self.adf_used_lag.into()),
            Cell::UInt(self.adf_nobs.into()),
            Cell::Float(self.adf_critical_1),
            Cell::Float(self.adf_critical_5),
            Cell::Float(self.adf_critical_10),
            Cell::Text(self.adf_status.as_str()),
            self.stationary.into(),
            period,
            Cell::Float(self.seasonal_strength),
            Cell::Float(self.trend_strength),
            self.seasonal.into(),
            Cell::Float(self.median_15),
            Cell::Float(self.mad_15),
            Cell::Float(self.median_60),
            Cell::Float(self.mad_60),
            Cell::Float(self.median_240),
            Cell::Float(self.mad_240),
            Cell::Text(self.status.as_str()),
            Cell::UInt(STEP_MS as u64 / 1_000),
        ]);
    }
}
