//! What the API asks the rest of the server: how it fares, what its workers know, samples, and backfills.
//!
//! Not here: what is asked of the store and of the labels, which the API knows themselves.

use std::time::Instant;

use serde_json::Value;
use tidewatch_dataflows::rows::inspect::{Explanation, StepsView};
use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::settings::Settings;

use crate::status::ServerStatus;
use crate::store::LabelPairs;

/// What the API asks the rest of the server.
pub trait ServerState: Workings {
    /// Whether the store holds every epoch that was found at start.
    ///
    /// # Errors
    /// A sentence saying what is still to come.
    fn ready(&self) -> Result<(), String>;

    /// How far everything is; the store's figures are added.
    fn status(&self) -> ServerStatus;

    /// Called before metrics are read, to bring up to date those that nobody pushes.
    fn before_scrape(&self) {}
}

/// What the workers know of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum SeriesState {
    /// It is held.
    Held(Box<Explanation>),
    /// Its slot was freed; nothing up to this sample is ever computed again.
    Freed {
        /// Unix milliseconds.
        newest_ms: i64,
    },
    /// No sample of it is known.
    Unknown,
}

/// What explaining asks the rest of the server.
pub trait Workings: Send + Sync {
    /// What the results are computed with.
    fn settings(&self) -> Settings;

    /// The labels of a series, if they are known.
    fn labels(&self, series: SeriesId) -> Option<LabelPairs>;

    /// What the workers know of the key `at_ms` of a window of a series.
    ///
    /// # Errors
    /// Why not now: come again.
    fn explain(&self, series: SeriesId, window_ms: i64, at_ms: i64) -> Result<SeriesState, String>;
}

/// Most samples that are read for one answer.
pub const SAMPLES_MAX: usize = 1_000_000;

/// The samples of a series that the workers hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RingSamples {
    /// All after this are held.
    pub after_ms: i64,
    /// Times and values, in order.
    pub samples: Vec<(i64, f64)>,
}

/// What a server has of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct OlderSamples {
    /// Its address.
    pub server: String,
    /// Times and values, in order.
    pub samples: Vec<(i64, f64)>,
}

/// Why older samples cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OlderError {
    /// No server is configured.
    #[error("no server is configured under sources.prometheus")]
    NoServer,
    /// The server failed: its address and why.
    #[error("{0} does not answer: {1}")]
    Failed(String, String),
    /// There are more than [`SAMPLES_MAX`].
    #[error("the range has more than {SAMPLES_MAX} samples")]
    TooMany,
    /// It takes beyond the deadline.
    #[error("the deadline is over")]
    Late,
}

/// Who has samples.
pub trait SampleSource: Send + Sync {
    /// What the workers hold of a series; none if they do not know it, or build its state anew from a bootstrap.
    ///
    /// # Errors
    /// Why not now: come again.
    fn ring_samples(&self, series: SeriesId) -> Result<Option<RingSamples>, String>;

    /// The steps that the profile of a series looks back on; none if the workers hold none, or take them from a bootstrap.
    ///
    /// # Errors
    /// Why not now: come again.
    fn steps(&self, series: SeriesId) -> Result<Option<StepsView>, String>;

    /// What the configured servers have of the series with exactly these labels in `(after_ms, to_ms]`.
    ///
    /// # Errors
    /// See [`OlderError`].
    fn older(
        &self,
        labels: &[(String, String)],
        after_ms: i64,
        to_ms: i64,
        deadline: Instant,
    ) -> Result<OlderSamples, OlderError>;
}

/// Which backfill is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillOrder {
    /// Of which configured server: its URL, or its place in the list; the first if absent.
    pub source: Option<ServerName>,
    /// Selectors; those of the server if absent.
    pub matching: Option<Vec<String>>,
    /// Keys after this time.
    pub start_ms: i64,
    /// Keys up to this time.
    pub end_ms: i64,
}

/// How a server is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// By its URL.
    Url(String),
    /// By its place, counted from 0.
    Place(u64),
}

/// Why there will be no backfill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackfillRefusal {
    /// The field names nothing that is configured: what it must be, and what it was.
    Source(String, String),
    /// One is at work, under this id.
    Running(String),
    /// Not now.
    Later(String),
}

/// What the API asks whoever computes backfills.
pub trait Backfills: Send + Sync {
    /// Begins a backfill; what [`Backfills::show`] shows of it.
    ///
    /// # Errors
    /// [`BackfillRefusal`]; nothing was begun.
    fn begin(&self, order: BackfillOrder) -> Result<Value, BackfillRefusal>;

    /// How far a backfill is, if it is known.
    fn show(&self, id: &str) -> Option<Value>;

    /// Tells a backfill to end, and shows it.
    fn cancel(&self, id: &str) -> Option<Value>;

    /// Unix milliseconds.
    fn now_ms(&self) -> i64;
}
