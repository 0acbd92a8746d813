//! How long the operators run, as timely logs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidewatch_dataflows::graph::OPERATORS;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};

use crate::metrics::{Metrics, StageLabels};

/// Nanoseconds operators ran, by name: the sum over workers, and the longest at a time.
#[derive(Default)]
pub(super) struct Busy(Mutex<HashMap<&'static str, OperatorTime>>);

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

impl Busy {
    fn add(&self, seen: &mut HashMap<&'static str, OperatorTime>) {
        let mut all = self.0.lock();
        for (name, ran) in seen.drain() {
            all.entry(name).or_default().add(ran);
        }
    }

    pub(super) fn publish(&self, metrics: &Metrics) {
        let mut all = self.0.lock();
        for (operator, ran) in all.drain() {
            let operator = StageLabels { operator: operator.to_owned() };
            metrics.operator_seconds.get_or_create(&operator).inc_by(ran.sum as f64 / 1e9);
            let longest = metrics.operator_longest_seconds.get_or_create(&operator);
            longest.set(longest.get().max(ran.longest as f64 / 1e9));
        }
    }
}

/// Has timely tell when operators run; sums it up by name.
pub(super) fn log_operators(worker: &timely::worker::Worker, busy: &Arc<Busy>) {
    let names = [OPERATORS[0], OPERATORS[1], "source", "outbox"];
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
