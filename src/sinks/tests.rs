//! What the runner does for every sink, and what is asked about all of them, with sinks that do as they are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewatch_dataflows::rows::RowLists;

use super::list::SinkList;
use super::runner::{OnSinkFailure, RetryPolicy, SinkCondition, SinkInput};
use super::sink::{RowCounts, Sink, SinkError, SinkRecovery, SyncHook};
use crate::metrics::Metrics;
use crate::outbox::{Outbox, OutboxBatch, OutboxOptions};
use crate::store::testing::{T0, TempDir, WINDOWS, series, stats};

/// What a sink does at its next calls.
#[derive(Clone, Copy, Debug)]
enum Order {
    Refuse,
    RefuseForGood,
    Panic,
    /// It has lost what follows this epoch.
    Reopen(u64),
}

#[derive(Default)]
struct Script {
    /// The first is done first; without any, batches are taken.
    orders: Vec<Order>,
    /// What was taken, and what a reopening has left.
    epochs: Vec<u64>,
    batches: usize,
    reopens: usize,
    /// How often it does not say where it is.
    unreachable: usize,
}

#[derive(Clone)]
struct FakeSink {
    name: &'static str,
    essential: bool,
    /// What a sync tells, if it is asked for one.
    synced: Option<u64>,
    script: Arc<Mutex<Script>>,
}

impl FakeSink {
    fn new(name: &'static str, orders: &[Order]) -> FakeSink {
        let script = Script { orders: orders.to_vec(), ..Script::default() };
        FakeSink { name, essential: false, synced: None, script: Arc::new(Mutex::new(script)) }
    }

    fn next(&self) -> Option<Order> {
        let mut script = self.script.lock();
        (!script.orders.is_empty()).then(|| script.orders.remove(0))
    }

    fn epochs(&self) -> Vec<u64> {
        self.script.lock().epochs.clone()
    }
}

impl Sink for FakeSink {
    fn name(&self) -> &'static str {
        self.name
    }

    fn essential(&self) -> bool {
        self.essential
    }

    fn written(&self) -> Result<Option<u64>, SinkError> {
        let mut script = self.script.lock();
        if script.unreachable > 0 {
            script.unreachable -= 1;
            return Err(SinkError::Transient("out of reach".into()));
        }
        Ok(script.epochs.last().copied())
    }

    fn sync_hook(&self) -> Option<SyncHook> {
        let synced = self.synced?;
        Some(Arc::new(
            move || if synced > 0 { Ok(Some(synced)) } else { Err(SinkError::Transient("no".into())) },
        ))
    }

    fn recover(&mut self) -> Result<SinkRecovery, SinkError> {
        let mut script = self.script.lock();
        let Some(Order::Reopen(epoch)) = script.orders.first().copied() else {
            return Ok(SinkRecovery::Intact);
        };
        script.orders.remove(0);
        script.reopens += 1;
        script.epochs.retain(|held| *held <= epoch);
        Ok(SinkRecovery::Reopened(Some(epoch)))
    }

    fn write(&mut self, batches: &[OutboxBatch]) -> Result<RowCounts, SinkError> {
        match self.next() {
            Some(Order::Refuse) => return Err(SinkError::Transient("not now".into())),
            Some(Order::RefuseForGood) => {
                return Err(SinkError::Definite { cause: "never".into(), restart_helps: false });
            }
            Some(Order::Panic) => panic!("as the script says"),
            Some(Order::Reopen(_)) | None => {}
        }
        let mut script = self.script.lock();
        script.batches += 1;
        script.epochs.extend(batches.iter().map(|batch| batch.epoch));
        Ok(vec![("windows", batches.iter().map(|batch| batch.windows.len() as u64).sum())])
    }
}

/// An outbox with sinks.
struct World {
    _dir: TempDir,
    log: Outbox,
    metrics: Arc<Metrics>,
    sinks: SinkList,
    fatal: Arc<Mutex<Vec<String>>>,
}

impl World {
    /// Starts these on an outbox with the epochs 1 to `epochs`, of one row each.
    fn new(sinks: &[&FakeSink], epochs: u64) -> World {
        let (dir, metrics) = (TempDir::new(), Arc::new(Metrics::new()));
        let outbox = dir.path().join("outbox");
        let mut log = Outbox::open(&outbox, OutboxOptions::default(), Arc::clone(&metrics)).unwrap();
        (1..=epochs).for_each(|epoch| append(&mut log, epoch));
        let ms = Duration::from_millis;
        let retry =
            RetryPolicy { first_pause: ms(1), longest_pause: ms(4), reopen_pause: ms(1), drain_max: ms(20) };
        let input = SinkInput { outbox: outbox.into(), durable: log.durable(), accept_loss: false, retry };
        let fatal: Arc<Mutex<Vec<String>>> = Arc::default();
        let on_fatal: OnSinkFailure = {
            let fatal = Arc::clone(&fatal);
            Arc::new(move |failure| fatal.lock().push(failure.to_string()))
        };
        let sinks = sinks.iter().map(|sink| Box::new((*sink).clone()) as Box<dyn Sink>).collect();
        let sinks = SinkList::start(sinks, &input, &metrics, &on_fatal).unwrap();
        World { _dir: dir, log, metrics, sinks, fatal }
    }

    fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let status = self.sinks.positions().status();
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {status:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn condition(&self, name: &str) -> SinkCondition {
        self.sinks.positions().of(name).unwrap().condition()
    }

    /// Closes the outbox and drains the sinks; what ended the process, if something did.
    fn close(self) -> Vec<String> {
        drop(self.log);
        self.sinks.join();
        std::mem::take(&mut *self.fatal.lock())
    }
}

fn append(log: &mut Outbox, epoch: u64) {
    let windows = vec![stats(series(0), WINDOWS[0].0, T0 + epoch as i64 * 60_000, 0, 1.0)];
    log.append(epoch, &RowLists { windows, ..RowLists::default() }).unwrap();
    log.sync().unwrap();
}

#[test]
fn a_sink_that_refuses_for_a_while_gets_every_epoch_once_in_few_batches() {
    let sink = FakeSink::new("one", &[Order::Refuse, Order::Refuse, Order::Refuse]);
    let world = World::new(&[&sink], 600);
    world.until("all is taken", |world| world.sinks.positions().least() == 600);
    assert_eq!(world.condition("one"), SinkCondition::Running);
    let text = world.metrics.text();
    for line in [
        "tidewatch_sink_errors_total{sink=\"one\"} 3",
        "tidewatch_sink_epoch{sink=\"one\"} 600",
        "tidewatch_rows_written_total{sink=\"one\",kind=\"windows\"} 600",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert_eq!(sink.epochs(), (1..=600).collect::<Vec<_>>());
    assert_eq!(sink.script.lock().batches, 3, "of at most 256 epochs");
    assert_eq!(world.close(), Vec::<String>::new());
}

#[test]
fn a_sink_that_has_lost_something_goes_on_behind_what_it_holds() {
    let sink = FakeSink::new("one", &[Order::Refuse, Order::Refuse]);
    let mut world = World::new(&[&sink], 10);
    world.until("all is taken", |world| world.sinks.positions().least() == 10);
    sink.script.lock().orders = vec![Order::Reopen(4)];
    world.until("it has begun anew", |world| {
        world.sinks.positions().least() == 10 && sink.script.lock().reopens == 1
    });
    append(&mut world.log, 11);
    world.until("it goes on", |_| sink.epochs().last() == Some(&11));
    assert_eq!(sink.epochs(), (1..=11).collect::<Vec<_>>());
    assert_eq!(world.close(), Vec::<String>::new());
}

#[test]
fn a_sink_that_ends_stops_no_other_and_holds_the_least_position() {
    for order in [Order::RefuseForGood, Order::Panic] {
        let (good, bad) = (FakeSink::new("good", &[]), FakeSink::new("bad", &[order]));
        let mut world = World::new(&[&good, &bad], 3);
        world.until("it has ended", |world| world.sinks.positions().ended());
        append(&mut world.log, 4);
        world.until("the other goes on", |_| good.epochs() == [1, 2, 3, 4]);
        world.until("it is told", |world| world.sinks.positions().of("good").unwrap().epoch() == 4);
        let positions = world.sinks.positions();
        assert_eq!((positions.least(), positions.sync().unwrap()), (0, None), "{order:?}");
        let (furthest, behind) = positions.furthest_behind().unwrap();
        assert_eq!((furthest.name, behind), ("bad", 4));
        let states: Vec<_> =
            positions.status().into_iter().map(|status| (status.name, status.state)).collect();
        let want = [("good", "running"), ("bad", "failed")];
        assert_eq!(states, want.map(|(name, state)| (name.to_owned(), state.to_owned())));
        assert_eq!(world.close(), Vec::<String>::new(), "the process goes on");
    }
}

#[test]
fn a_sink_that_is_out_of_reach_at_start_holds_up_no_other_and_goes_on_where_it_was() {
    let (near, far) = (FakeSink::new("near", &[]), FakeSink::new("far", &[]));
    *far.script.lock() = Script { epochs: vec![1, 2], unreachable: usize::MAX, ..Script::default() };
    let world = World::new(&[&near, &far], 5);
    world.until("it is asked again", |world| matches!(world.condition("far"), SinkCondition::Retrying(_)));
    world.until("the other goes on", |_| near.epochs().len() == 5);
    assert_eq!(world.sinks.positions().least(), 0, "nothing is trimmed before it is known where it is");
    far.script.lock().unreachable = 0;
    world.until("it goes on", |world| world.sinks.positions().least() == 5);
    assert_eq!(far.epochs(), (1..=5).collect::<Vec<_>>());
    assert_eq!(world.close(), Vec::<String>::new());
}

#[test]
fn without_an_essential_sink_the_process_ends() {
    for (order, words) in
        [(Order::RefuseForGood, "the sink one cannot be written: never"), (Order::Panic, "panicked")]
    {
        let sink = FakeSink { essential: true, ..FakeSink::new("one", &[order]) };
        let world = World::new(&[&sink], 3);
        world.until("it is told", |world| !world.fatal.lock().is_empty());
        let fatal = world.close();
        assert!(matches!(&fatal[..], [one] if one.contains(words)), "{order:?}: {fatal:?}");
    }
}

#[test]
fn a_sink_that_refuses_at_shutdown_is_not_waited_for_for_ever() {
    let (good, bad) = (FakeSink::new("good", &[]), FakeSink::new("bad", &[Order::Refuse; 10_000]));
    let world = World::new(&[&good, &bad], 5);
    world.until("it is tried again", |world| matches!(world.condition("bad"), SinkCondition::Retrying(_)));
    assert_eq!(world.close(), Vec::<String>::new());
    assert_eq!((good.epochs(), bad.epochs()), ((1..=5).collect(), Vec::new()));
}

#[test]
fn what_is_safe_is_what_every_sink_has_synced() {
    let with = |name, synced| FakeSink { synced, ..FakeSink::new(name, &[]) };
    let table = [
        (vec![with("a", Some(7)), with("b", Some(5))], Some(Some(5))),
        // What it has written is safe already.
        (vec![with("a", Some(20)), with("b", None)], Some(Some(9))),
        (vec![with("a", None)], Some(Some(9))),
        (vec![with("a", None), with("b", Some(0))], None),
    ];
    for (sinks, want) in table {
        let world = World::new(&sinks.iter().collect::<Vec<_>>(), 9);
        world.until("all is taken", |world| world.sinks.positions().least() == 9);
        let synced = world.sinks.positions().sync();
        assert_eq!(synced.as_ref().ok().copied(), want, "{synced:?}");
        if let Err(error) = synced {
            assert_eq!(error.to_string(), "the sink b cannot be synced: no");
        }
        assert_eq!(world.close(), Vec::<String>::new());
    }
}
