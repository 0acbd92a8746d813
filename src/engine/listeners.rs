//! Who is told what the engine meets.

use std::sync::Arc;

use tidewatch_dataflows::sample::{MetricType, SeriesId};

use super::error::EngineError;

/// Slots that were freed in an epoch: the labels room may forget their series once sinks hold that epoch.
pub type FreedSlots = (u64, Vec<SeriesId>);

/// Told of types of series that the journal holds.
pub type OnTypes = Box<dyn FnMut(&[(u64, MetricType)]) + Send>;

/// Told of a series that is quarantined, and of the panic.
pub type OnQuarantine = Box<dyn Fn(SeriesId, &str) + Send>;

/// Who is told what the engine meets; none of them may block for long.
pub struct Listeners {
    /// Freed slots, epoch by epoch.
    pub freed: Box<dyn FnMut(FreedSlots) + Send>,
    /// Types of series, as the journal holds them.
    pub types: OnTypes,
    /// A series that is quarantined, and the panic.
    pub quarantined: OnQuarantine,
}

/// Called once with what stopped the engine.
pub type OnFatal = Arc<dyn Fn(EngineError) + Send + Sync>;
