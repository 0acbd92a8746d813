//! How long operators run, as timely logs it, and how long each stage of them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewatch_dataflows::graph::OPERATOR;
use tidewatch_dataflows::pipeline::{Meter, STAGES};
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};

use crate::metrics::{Metrics, OperatorLabels, StageLabels};

/// What was measured since it was published last.
#[derive(Default)]
pub(super) struct Busy {
    /// By name, over all workers.
    operators: Mutex<HashMap<&'static str, OperatorTime>>,
    /// By place in the list, over all workers.
    stages: [StageFigures; STAGES.len()],
}

/// How long an operator ran, in nanoseconds.
#[derive(Clone, Copy, Default)]
struct OperatorTime {
    sum: u64,
    longest: u64,
}

impl OperatorTime {
    fn add(&mut self, more: OperatorTime) {
        self.sum += more.sum;
        self.longest = self.longest.max(more.longest);
    }
}

/// What a stage did.
#[derive(Default)]
struct StageFigures {
    nanoseconds: AtomicU64,
    batches: AtomicU64,
    rows: AtomicU64,
}

impl Busy {
    fn add(&self, seen: &mut HashMap<&'static str, OperatorTime>) {
        let mut all = self.operators.lock();
        for (name, ran) in seen.drain() {
            all.entry(name).or_default().add(ran);
        }
    }

    pub(super) fn publish(&self, metrics: &Metrics) {
        for (operator, ran) in self.operators.lock().drain() {
            let operator = OperatorLabels { operator };
            metrics.operator_seconds.get_or_create(&operator).inc_by(ran.sum as f64 / 1e9);
            let longest = metrics.operator_longest_seconds.get_or_create(&operator);
            longest.set(longest.get().max(ran.longest as f64 / 1e9));
        }
        for (figures, spec) in self.stages.iter().zip(STAGES) {
            let stage = StageLabels { stage: spec.name };
            let take = |figure: &AtomicU64| figure.swap(0, Ordering::Relaxed);
            metrics.stage_seconds.get_or_create(&stage).inc_by(take(&figures.nanoseconds) as f64 / 1e9);
            metrics.stage_batches.get_or_create(&stage).inc_by(take(&figures.batches));
            metrics.stage_rows.get_or_create(&stage).inc_by(take(&figures.rows));
        }
    }
}

/// Measures the stages of one worker.
pub(super) struct StageMeter {
    busy: Arc<Busy>,
    began: Cell<Option<Instant>>,
}

impl StageMeter {
    pub(super) fn new(busy: &Arc<Busy>) -> StageMeter {
        StageMeter { busy: Arc::clone(busy), began: Cell::new(None) }
    }
}

impl Meter for StageMeter {
    fn enter(&self, _: usize) {
        self.began.set(Some(Instant::now()));
    }

    fn leave(&self, stage: usize, rows: usize, retired: bool) {
        let figures = &self.busy.stages[stage];
        let took = self.began.take().map_or(Duration::ZERO, |began| began.elapsed());
        figures.nanoseconds.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        figures.batches.fetch_add(u64::from(retired), Ordering::Relaxed);
        figures.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

/// Has timely tell when operators run; sums it up by name.
pub(super) fn log_operators(worker: &timely::worker::Worker, busy: &Arc<Busy>) {
    let names = [OPERATOR, "source", "outbox"];
    let (mut operators, mut running) =
        (HashMap::<usize, &'static str>::new(), HashMap::<usize, Duration>::new());
    let (mut seen, busy) = (HashMap::<&'static str, OperatorTime>::new(), Arc::clone(busy));
    let Some(mut register) = worker.log_register() else { return };
    register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        for (at, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
            match event {
                TimelyEvent::Operates(operates) => {
                    operators.extend(
                        names.iter().find(|name| **name == operates.name).map(|name| (operates.id, *name)),
                    );
                }
                TimelyEvent::Schedule(schedule) => match (operators.get(&schedule.id), schedule.start_stop) {
                    (Some(_), StartStop::Start) => {
                        running.insert(schedule.id, at);
                    }
                    (Some(name), StartStop::Stop) => {
                        if let Some(start) = running.remove(&schedule.id) {
                            let ran = at.saturating_sub(start).as_nanos() as u64;
                            seen.entry(*name).or_default().add(OperatorTime { sum: ran, longest: ran });
                        }
                    }
                    (None, _) => {}
                },
                _ => {}
            }
        }
        busy.add(&mut seen);
    });
}
