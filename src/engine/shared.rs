//! What all generations of an engine share.

use std::sync::Arc;

use tidewatch_dataflows::settings::Settings;

use super::busy::Busy;
use super::feeder::TypesHook;
use super::merger::FreedHook;
use super::progress::EngineProgress;
use super::questions::Questions;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::snapshots::Snapshots;

/// What all generations of an engine share.
pub(super) struct EngineShared {
    pub(super) workers: usize,
    pub(super) settings: Arc<Settings>,
    pub(super) progress: Arc<EngineProgress>,
    pub(super) busy: Arc<Busy>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) outbox: Arc<std::sync::Mutex<Outbox>>,
    pub(super) freed: FreedHook,
    pub(super) types: TypesHook,
    pub(super) questions: Questions,
    /// Where shards begin, if they are saved.
    pub(super) snapshots: Option<Snapshots>,
}
