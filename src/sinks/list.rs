//! All sinks of the process, and what is asked about all of them at once: the least position, by which the outbox is
//! trimmed and labels are released; which one is furthest behind; how each is.

use std::sync::Arc;

use super::runner::{OnSinkFailure, SinkCondition, SinkFailure, SinkInput, SinkProgress, SinkRunner};
use super::sink::{Sink, SinkError, SyncHook};
use crate::metrics::{Metrics, SinkLabels};
use crate::outbox::DurablePosition;
use crate::status::{KindRows, SinkStatus};

/// The running sinks.
pub struct SinkList {
    runners: Vec<SinkRunner>,
    positions: SinkPositions,
}

impl SinkList {
    /// Starts each sink behind the epoch that it holds.
    ///
    /// # Errors
    /// A sink or the outbox cannot be read, or a thread not started; those that run already are stopped.
    pub fn start(
        sinks: Vec<Box<dyn Sink>>,
        input: &SinkInput,
        metrics: &Arc<Metrics>,
        on_fatal: &OnSinkFailure,
    ) -> Result<SinkList, SinkFailure> {
        let (mut runners, mut all) = (Vec::with_capacity(sinks.len()), Vec::with_capacity(sinks.len()));
        for sink in sinks {
            let sync = sink.sync_hook();
            let runner = SinkRunner::start(sink, input.clone(), Arc::clone(metrics), Arc::clone(on_fatal))?;
            all.push(SinkPosition { progress: runner.progress(), sync });
            runners.push(runner);
        }
        let positions = SinkPositions { sinks: all.into(), outbox: Arc::clone(&input.durable) };
        Ok(SinkList { runners, positions })
    }

    /// Where they are.
    pub fn positions(&self) -> SinkPositions {
        self.positions.clone()
    }

    /// Waits until each has written everything in the outbox, or is not waited for any longer. The outbox must have been
    /// closed.
    pub fn join(self) {
        self.runners.into_iter().for_each(SinkRunner::join);
    }
}

/// A sync of one sink has failed.
#[derive(Debug, thiserror::Error)]
#[error("the sink {sink} cannot be synced: {error}")]
pub struct SinkSyncError {
    /// Its name.
    pub sink: &'static str,
    /// Why.
    pub error: SinkError,
}

struct SinkPosition {
    progress: Arc<SinkProgress>,
    sync: Option<SyncHook>,
}

/// Where all sinks are. Cheap to clone.
#[derive(Clone)]
pub struct SinkPositions {
    sinks: Arc<[SinkPosition]>,
    outbox: Arc<DurablePosition>,
}

impl SinkPositions {
    /// Where the sink of this name is.
    pub fn of(&self, name: &str) -> Option<Arc<SinkProgress>> {
        let found = self.sinks.iter().find(|sink| sink.progress.name == name);
        found.map(|sink| Arc::clone(&sink.progress))
    }

    /// The newest epoch that every sink holds; 0 while one holds none. A power cut may take it back.
    pub fn least(&self) -> u64 {
        self.sinks.iter().map(|sink| sink.progress.epoch()).min().unwrap_or(0)
    }

    /// Whether a sink has ended, so that [`SinkPositions::least`] stands still until the next start.
    pub fn ended(&self) -> bool {
        self.sinks.iter().any(|sink| matches!(sink.progress.condition(), SinkCondition::Failed(_)))
    }

    /// The sink that is furthest behind the outbox, and by how much; numbers of epochs are milliseconds.
    pub fn furthest_behind(&self) -> Option<(Arc<SinkProgress>, u64)> {
        let sinks = self.sinks.iter().map(|sink| (Arc::clone(&sink.progress), self.behind(&sink.progress)));
        sinks.max_by_key(|(_, behind)| *behind)
    }

    /// Makes what every sink has written safe from a power cut; the newest epoch that is safe in all of them.
    ///
    /// # Errors
    /// A sink cannot be synced; what is safe is what was before.
    pub fn sync(&self) -> Result<Option<u64>, SinkSyncError> {
        let mut least = u64::MAX;
        for SinkPosition { progress, sync } in self.sinks.iter() {
            let safe = match sync {
                Some(sync) => sync().map_err(|error| SinkSyncError { sink: progress.name, error })?,
                None => Some(progress.epoch()).filter(|epoch| *epoch > 0),
            };
            least = least.min(safe.unwrap_or(0));
        }
        Ok(Some(least).filter(|least| (1..u64::MAX).contains(least)))
    }

    /// How each is.
    pub fn status(&self) -> Vec<SinkStatus> {
        let one = |sink: &SinkPosition| {
            let (state, last_error) = match sink.progress.condition() {
                SinkCondition::Running => ("running", None),
                SinkCondition::Retrying(why) => ("retrying", Some(why)),
                SinkCondition::Failed(why) => ("failed", Some(why)),
            };
            SinkStatus {
                name: sink.progress.name.to_owned(),
                state: state.to_owned(),
                epoch: sink.progress.epoch(),
                behind_seconds: self.behind(&sink.progress) as f64 / 1e3,
                rows: KindRows(sink.progress.rows()),
                last_error,
            }
        };
        self.sinks.iter().map(one).collect()
    }

    /// Sets the metrics of how far they are behind.
    pub fn publish(&self, metrics: &Metrics) {
        for sink in self.sinks.iter() {
            let behind = self.behind(&sink.progress) as f64 / 1e3;
            metrics.sink_lag_seconds.get_or_create(&SinkLabels { sink: sink.progress.name }).set(behind);
        }
    }

    fn behind(&self, sink: &SinkProgress) -> u64 {
        self.outbox.epoch().unwrap_or(0).saturating_sub(sink.epoch())
    }
}
