//! How long workers compute and wait, and how long operators run, as timely logs it; and how long each stage computes.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewatch_dataflows::graph::OPERATOR;
use tidewatch_dataflows::pipeline::{Meter, STAGES};
use timely::logging::{ParkEvent, StartStop, TimelyEvent, TimelyEventBuilder};

use crate::metrics::{Metrics, OperatorLabels, StageLabels, WorkerLabels};

/// What was measured since it was published last.
#[derive(Default)]
pub(super) struct Busy {
    /// By name, over all workers.
    operators: Mutex<HashMap<&'static str, OperatorTime>>,
    /// By their number.
    workers: Mutex<BTreeMap<usize, WorkerTime>>,
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

/// How a worker spent its time.
#[derive(Clone, Copy, Default)]
struct WorkerTime {
    busy: Duration,
    waiting: Duration,
}

/// The time of one worker, as its log tells it: it is parked, or busy.
#[derive(Default)]
struct WorkerClock {
    /// All time before this is counted.
    counted: Duration,
    parked: bool,
}

impl WorkerClock {
    /// Counts the time up to `at`.
    fn count(&mut self, at: Duration, time: &mut WorkerTime) {
        let more = at.saturating_sub(self.counted);
        *(if self.parked { &mut time.waiting } else { &mut time.busy }) += more;
        self.counted = self.counted.max(at);
    }

    /// It parks, or goes on.
    fn turn(&mut self, park: &ParkEvent, at: Duration, time: &mut WorkerTime) {
        self.count(at, time);
        self.parked = matches!(park, ParkEvent::Park(_));
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
    fn add(&self, seen: &mut HashMap<&'static str, OperatorTime>, worker: usize, time: WorkerTime) {
        let mut all = self.operators.lock();
        for (name, ran) in seen.drain() {
            all.entry(name).or_default().add(ran);
        }
        let mut workers = self.workers.lock();
        let worker = workers.entry(worker).or_default();
        worker.busy += time.busy;
        worker.waiting += time.waiting;
    }

    pub(super) fn publish(&self, metrics: &Metrics) {
        for (operator, ran) in self.operators.lock().drain() {
            let operator = OperatorLabels { operator };
            metrics.operator_seconds.get_or_create(&operator).inc_by(ran.sum as f64 / 1e9);
            let longest = metrics.operator_longest_seconds.get_or_create(&operator);
            longest.set(longest.get().max(ran.longest as f64 / 1e9));
        }
        for (worker, time) in std::mem::take(&mut *self.workers.lock()) {
            let worker = WorkerLabels { worker };
            metrics.worker_busy_seconds.get_or_create(&worker).inc_by(time.busy.as_secs_f64());
            metrics.worker_waiting_seconds.get_or_create(&worker).inc_by(time.waiting.as_secs_f64());
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

/// Has timely tell when operators run, and when the worker parks; sums it up.
pub(super) fn log_times(worker: &timely::worker::Worker, busy: &Arc<Busy>) {
    let names = [OPERATOR, "source", "outbox"];
    let (mut operators, mut running) =
        (HashMap::<usize, &'static str>::new(), HashMap::<usize, Duration>::new());
    let (mut seen, busy) = (HashMap::<&'static str, OperatorTime>::new(), Arc::clone(busy));
    let (index, mut clock) = (worker.index(), WorkerClock::default());
    let Some(mut register) = worker.log_register() else { return };
    register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        let (mut time, mut last) = (WorkerTime::default(), clock.counted);
        for (at, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
            last = last.max(at);
            match event {
                TimelyEvent::Park(park) => clock.turn(&park, at, &mut time),
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
        clock.count(last, &mut time);
        busy.add(&mut seen, index, time);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_parked_or_busy_and_each_moment_counts_once() {
        let (mut clock, mut time) = (WorkerClock::default(), WorkerTime::default());
        let at = Duration::from_millis;
        clock.turn(&ParkEvent::park(None), at(30), &mut time);
        clock.count(at(50), &mut time);
        clock.turn(&ParkEvent::unpark(), at(70), &mut time);
        // Events of one moment, and one that comes after a later one.
        clock.count(at(70), &mut time);
        clock.count(at(65), &mut time);
        clock.turn(&ParkEvent::park(Some(at(5))), at(100), &mut time);
        assert_eq!((time.busy, time.waiting), (at(60), at(40)));
    }
}
