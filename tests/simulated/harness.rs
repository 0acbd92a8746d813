//! A small world in one process: the real rooms over a [`SimDisk`], a sender that sends again what was not answered,
//! and a sink that keeps its own durable epoch as the store does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidewatch::disk::DiskFolder;
use tidewatch::engine::{Engine, EngineLogs, FreedSlots, Listeners, OnFatal};
use tidewatch::journal::{self, EpochMode, Journal, JournalReader, Record, SyncedCallback};
use tidewatch::labels::{Labels, Limits};
use tidewatch::metrics::Metrics;
use tidewatch::outbox::{self, Outbox, OutboxBatch, Tail};
use tidewatch::segments::{DurablePosition, Position};
use tidewatch::snapshots::Snapshots;
use tidewatch_dataflows::sample::{Samples, SeriesId};

use super::disk::{SimDisk, Trouble};
use super::feeds::{Feed, NAME, Packet};
use super::laws::{Laws, Shared};

/// How long anything may take that does happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a packet is sent again while the disk refuses; the journal tries it once a second.
const TRIES: u32 = 1_000;

/// How a world is run.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub live: bool,
    /// The sender waits for each packet's rows, so that the steps come in the same order each time.
    pub lockstep: bool,
    pub segment_bytes: u64,
    /// In which time each shard is saved once, if it is.
    pub snapshots_every: Option<Duration>,
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was sent and computed, and it was closed in order.
    Finished,
    Died,
    /// The disk refused, and it stopped as it should, to be started again.
    GaveUp,
}

/// Why a world is not as it should be.
#[derive(Debug)]
pub enum Broken {
    /// The program stopped by itself, with these words, and nothing was done to it.
    Stopped(String),
    /// A law is broken.
    Law(String),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Stopped(why) => write!(f, "it stopped: {why}"),
            Broken::Law(why) => write!(f, "a law is broken: {why}"),
        }
    }
}

impl From<String> for Broken {
    fn from(why: String) -> Broken {
        Broken::Law(why)
    }
}

impl From<&str> for Broken {
    fn from(why: &str) -> Broken {
        Broken::Law(why.to_owned())
    }
}

/// Sent and acknowledged how often.
type Tally<K> = BTreeMap<K, (usize, usize)>;
/// Series, time, bits of the value, bootstrap.
type Sample = (u64, i64, u64, u64);

#[derive(Default)]
struct Sink {
    epoch: Option<u64>,
    batches: BTreeMap<u64, Vec<u8>>,
    broken: Option<String>,
}

/// The world.
pub struct World {
    pub disk: SimDisk,
    pub durable: Shared,
    feed: Arc<Feed>,
    rules: Rules,
    next: usize,
    samples: Tally<Sample>,
    controls: Tally<String>,
    acknowledged: usize,
    sink: Arc<Mutex<Sink>>,
    clock: Arc<AtomicI64>,
    /// Times that a packet was refused and taken later.
    pub refused: u32,
    /// Packets that are sent in all.
    pub packets: usize,
    /// What was changed behind the program's back.
    flip: Option<Flip>,
}

/// A bit that flipped.
#[derive(Clone, Debug)]
pub struct Flip {
    pub folder: &'static str,
    pub name: String,
    pub byte: usize,
    pub bit: u8,
    /// The byte as it is since.
    now: u8,
}

/// One process.
struct Running {
    journal: Journal,
    labels: Arc<Labels>,
    engine: Engine,
    snapshots: Option<Snapshots>,
    outbox: Arc<DurablePosition>,
    sink: JoinHandle<()>,
    quit: Arc<AtomicBool>,
    fatal: Arc<Mutex<Option<String>>>,
}

fn keys(samples: &Samples) -> impl Iterator<Item = Sample> {
    (0..samples.len())
        .map(|i| (samples.series[i], samples.at_ms[i], samples.value[i].to_bits(), samples.bootstrap))
}

fn bytes_of(batch: OutboxBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    outbox::encode(batch.epoch, &batch.rows, &mut bytes);
    bytes
}

impl World {
    pub fn new(feed: Arc<Feed>, rules: Rules) -> World {
        let (disk, durable) = (SimDisk::new(), Shared::default());
        disk.watch(Box::new(Laws(Arc::clone(&durable))));
        let clock = Arc::new(AtomicI64::new(feed.packets[0].now_ms));
        World {
            packets: feed.packets.len(),
            flip: None,
            disk,
            durable,
            feed,
            rules,
            next: 0,
            samples: Tally::new(),
            controls: Tally::new(),
            acknowledged: 0,
            sink: Arc::default(),
            clock,
            refused: 0,
        }
    }

    /// The same world, to be run otherwise from here on.
    pub fn fork(&self, rules: Rules) -> World {
        let (disk, durable) = (self.disk.copy(), Arc::new(Mutex::new(self.durable.lock().unwrap().clone())));
        disk.watch(Box::new(Laws(Arc::clone(&durable))));
        let sink = self.sink.lock().unwrap();
        let sink = Sink { epoch: sink.epoch, batches: sink.batches.clone(), broken: None };
        World {
            disk,
            durable,
            feed: Arc::clone(&self.feed),
            rules,
            next: self.next,
            samples: self.samples.clone(),
            controls: self.controls.clone(),
            acknowledged: self.acknowledged,
            sink: Arc::new(Mutex::new(sink)),
            clock: Arc::new(AtomicI64::new(self.clock.load(SeqCst))),
            refused: 0,
            packets: self.feed.packets.len(),
            flip: None,
        }
    }

    /// A bit of a file flips while no process runs.
    pub fn flip(&mut self, folder: &'static str, name: &str, byte: usize, bit: u8) {
        self.durable.lock().unwrap().damaged = true;
        let mut now = 0;
        self.disk.damage(folder, name, |content| {
            content[byte] ^= 1 << bit;
            now = content[byte];
        });
        self.flip = Some(Flip { folder, name: name.to_owned(), byte, bit, now });
    }

    /// One process, from its start to its end. An error is a law that was broken.
    pub fn live(&mut self, workers: usize, trouble: Trouble) -> Result<End, Broken> {
        let folder = self.disk.process(trouble);
        self.durable.lock().unwrap().begin();
        let mut end = match self.open(&folder, workers) {
            Ok(mut running) => {
                let sent = self.send_all(&mut running);
                self.stop(running, sent?)?
            }
            Err(_) if self.disk.dead() => End::Died,
            Err(_) if self.disk.struck() > 0 => End::GaveUp,
            Err(why) => return Err(Broken::Stopped(why)),
        };
        if let Some(why) = self.disk.broken().or_else(|| self.sink.lock().unwrap().broken.clone()) {
            return Err(Broken::Law(why));
        }
        if end == End::Finished && self.next < self.packets {
            end = End::GaveUp;
        }
        Ok(end)
    }

    fn open(&self, folder: &DiskFolder, workers: usize) -> Result<Running, String> {
        let metrics = Arc::new(Metrics::new());
        let labels =
            Labels::open(folder.join("series"), Limits::default(), Arc::clone(&metrics)).map_err(text)?;
        let labels = Arc::new(labels);
        let snapshots = self.rules.snapshots_every.map(|every| {
            Snapshots::open(folder.join("snapshots"), every, Arc::clone(&metrics)).map_err(text)
        });
        let snapshots = snapshots.transpose()?;
        let stored = self.sink.lock().unwrap().epoch;
        let newest = snapshots.as_ref().and_then(Snapshots::newest_epoch);
        let config = outbox::OutboxOptions {
            segment_bytes: self.rules.segment_bytes,
            bytes_max: 1 << 30,
            proof: outbox::AcceptProof::new(newest, &[("sink", stored)], false),
        };
        let outbox = Outbox::open(folder.join("outbox"), config, Arc::clone(&metrics)).map_err(text)?;
        let clock = Arc::clone(&self.clock);
        let made = [("outbox", outbox.last_epoch()), ("sink", stored), ("newest snapshot", newest)];
        let config = journal::JournalOptions {
            derived: made.into_iter().filter_map(|(what, epoch)| Some((what, epoch?))).collect(),
            segment_bytes: self.rules.segment_bytes,
            clock: Arc::new(move || clock.load(SeqCst)),
            ..journal::JournalOptions::new(if self.rules.live { EpochMode::Live } else { EpochMode::File })
        };
        let before_commit = {
            let labels = Arc::clone(&labels);
            Box::new(move || labels.sync())
        };
        let settings = &self.feed.settings;
        let metrics_ = Arc::clone(&metrics);
        let journal =
            Journal::open(folder.join("journal"), config, settings.clone(), before_commit, metrics_)
                .map_err(text)?;
        let durable = outbox.durable();
        let quit = Arc::new(AtomicBool::new(false));
        let (freed_to, freed) = channel();
        let tail = Tail::open(folder.join("outbox"), Arc::clone(&durable), stored).map_err(text)?;
        let sink = self.start_sink(tail, freed, Arc::clone(&labels), Arc::clone(&quit));
        let fatal: Arc<Mutex<Option<String>>> = Arc::default();
        let on_fatal: OnFatal = {
            let fatal = Arc::clone(&fatal);
            Arc::new(move |error| {
                fatal.lock().unwrap().get_or_insert(error.to_string());
            })
        };
        let told = Arc::clone(&labels);
        let listeners = Listeners {
            freed: Box::new(move |freed| drop(freed_to.send(freed))),
            types: Box::new(move |types| told.record_types(types)),
            quarantined: Box::new(|_, _| {}),
        };
        let logs = EngineLogs { journal: journal.clone(), outbox, snapshots: snapshots.clone() };
        let engine = Engine::start(workers, settings, logs, metrics, listeners, on_fatal);
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => {
                // It must not look on in the next process.
                quit.store(true, SeqCst);
                let _ = sink.join();
                return Err(text(error));
            }
        };
        Ok(Running { journal, labels, engine, snapshots, outbox: durable, sink, quit, fatal })
    }

    fn start_sink(
        &self,
        mut tail: Tail,
        freed: Receiver<FreedSlots>,
        labels: Arc<Labels>,
        quit: Arc<AtomicBool>,
    ) -> JoinHandle<()> {
        let (sink, disk, durable) = (Arc::clone(&self.sink), self.disk.clone(), Arc::clone(&self.durable));
        std::thread::spawn(move || {
            let mut waiting = VecDeque::new();
            while !quit.load(SeqCst) {
                let batch = match tail.wait(Duration::from_millis(50)) {
                    Ok(Some(batch)) => batch,
                    Ok(None) if tail.finished() => return,
                    Ok(None) => continue,
                    Err(_) if disk.dead() => return,
                    Err(error) => {
                        let why = format!("the sink cannot read the outbox: {error}");
                        sink.lock().unwrap().broken.get_or_insert(why);
                        return;
                    }
                };
                let epoch = batch.epoch;
                let mut sink = sink.lock().unwrap();
                if !durable.lock().unwrap().outbox.contains(&epoch) {
                    let why = format!("the sink was shown epoch {epoch} before it was durable in the outbox");
                    sink.broken.get_or_insert(why);
                }
                for row in &batch.windows {
                    let known = labels.get(row.series).is_some()
                        || labels.find_in_log(row.series).is_ok_and(|found| found.is_some());
                    if !known && !disk.dead() {
                        sink.broken.get_or_insert(format!("series {} of a row has no labels", row.series));
                    }
                }
                sink.batches.insert(epoch, bytes_of(batch));
                sink.epoch = Some(epoch);
                waiting.extend(freed.try_iter());
                while let Some((epoch, series)) =
                    waiting.pop_front_if(|(at, _): &mut FreedSlots| *at <= epoch)
                {
                    labels.release(&series, epoch);
                }
            }
        })
    }

    /// Sends what was not acknowledged yet; how far it came.
    fn send_all(&mut self, running: &mut Running) -> Result<End, Broken> {
        let feed = Arc::clone(&self.feed);
        while let Some(packet) = feed.packets[..self.packets].get(self.next) {
            self.clock.store(packet.now_ms, SeqCst);
            let mut tries = 0;
            while !self.send(packet, running)? {
                tries += 1;
                self.refused += 1;
                if self.disk.dead() {
                    return Ok(End::Died);
                }
                let stopped = running.fatal.lock().unwrap().is_some();
                if self.disk.struck() == 0 {
                    let why = running.journal.failed();
                    return Err(Broken::Stopped(format!("packet {} was refused: {why:?}", self.next)));
                }
                if stopped || tries == TRIES || running.journal.failed().is_some() {
                    return Ok(End::GaveUp);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            self.next += 1;
            if self.rules.lockstep && !self.rows_are_there(running)? {
                let fatal = running.fatal.lock().unwrap().clone().unwrap_or_default();
                return match (self.disk.dead(), self.disk.struck()) {
                    (true, _) => Ok(End::Died),
                    (false, 0) => Err(Broken::Stopped(fatal)),
                    (false, _) => Ok(End::GaveUp),
                };
            }
            if let Some(snapshots) = &running.snapshots {
                if self.rules.lockstep {
                    self.disk.quiet();
                }
                // If that fails, it is tried again with the next packet, as the program does in a second.
                snapshots.trim_epoch().map(|epoch| running.journal.trim(epoch));
            }
        }
        Ok(End::Finished)
    }

    /// Sends one packet; whether all of it was acknowledged.
    fn send(&mut self, packet: &Packet, running: &Running) -> Result<bool, String> {
        let journal = &running.journal;
        let mut waiting: Vec<(SyncedCallback, Vec<Sample>, Option<String>)> = Vec::new();
        let mut taken = true;
        for control in &packet.controls {
            let key = format!("{control:?}");
            self.controls.entry(key.clone()).or_default().0 += 1;
            match journal.try_control(control.clone()) {
                Ok(synced) => waiting.push((synced, Vec::new(), Some(key))),
                Err(_) => taken = false,
            }
            if self.rules.lockstep {
                taken &= self.await_all(&mut waiting)?;
            }
        }
        for samples in &packet.samples {
            for series in &samples.series {
                let number = self.feed.numbers[series].to_string();
                let epoch = journal.current_epoch();
                let id = running.labels.intern(&mut vec![NAME, ("n", &number)], None, epoch);
                assert_eq!(id.map_err(text)?, SeriesId(*series));
            }
            keys(samples).for_each(|key| self.samples.entry(key).or_default().0 += 1);
            match journal.try_append(samples.clone(), "test") {
                Ok(synced) => waiting.push((synced, keys(samples).collect(), None)),
                Err(_) => taken = false,
            }
            if self.rules.lockstep {
                taken &= self.await_all(&mut waiting)?;
            }
        }
        if !self.rules.live {
            match journal.cut(packet.now_ms, packet.watermark_ms, false) {
                Ok(synced) => waiting.push((synced, Vec::new(), None)),
                Err(_) => taken = false,
            }
        }
        taken &= self.await_all(&mut waiting)?;
        Ok(taken)
    }

    fn await_all(
        &mut self,
        waiting: &mut Vec<(SyncedCallback, Vec<Sample>, Option<String>)>,
    ) -> Result<bool, String> {
        let mut taken = true;
        for (synced, samples, control) in waiting.drain(..) {
            if !matches!(synced.blocking_recv(), Ok(Ok(()))) {
                taken = false;
                continue;
            }
            self.acknowledged += samples.len();
            for sample in samples {
                self.samples.entry(sample).or_default().1 += 1;
            }
            if let Some(control) = control {
                self.controls.entry(control).or_default().1 += 1;
            }
            let durable = self.durable.lock().unwrap().samples();
            if durable < self.acknowledged && self.flip.is_none() {
                let acknowledged = self.acknowledged;
                return Err(format!("{acknowledged} samples are acknowledged, {durable} are durable"));
            }
        }
        Ok(taken)
    }

    /// Waits until the outbox holds everything that the journal holds; false if the process ended before.
    fn rows_are_there(&self, running: &Running) -> Result<bool, String> {
        let Some(end) = running.journal.last_epoch_end() else { return Ok(true) };
        let begun = Instant::now();
        while !running.outbox.wait_for_epoch(end.epoch, Duration::from_millis(20)) {
            if self.disk.dead() || running.fatal.lock().unwrap().is_some() {
                return Ok(false);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("epoch {} does not come to the outbox", end.epoch));
            }
            std::thread::yield_now();
        }
        Ok(true)
    }

    /// Ends a process: in order if it has `sent` everything.
    fn stop(&mut self, running: Running, sent: End) -> Result<End, Broken> {
        let Running { journal, labels, engine, snapshots, outbox, sink, quit, fatal } = running;
        let mut end = sent;
        if sent == End::Finished {
            let closed = journal.close();
            engine.join();
            sink.join().map_err(|_| "the sink panicked")?;
            let (held, stored) = (journal.last_epoch_end(), self.sink.lock().unwrap().epoch);
            let stopped = fatal.lock().unwrap().clone().or_else(|| closed.err().map(text));
            if let Some(why) = stopped {
                end = if self.disk.dead() { End::Died } else { End::GaveUp };
                if end == End::GaveUp && self.disk.struck() == 0 {
                    return Err(Broken::Stopped(why));
                }
            } else if stored < held.map(|end| end.epoch) {
                // The outbox had no room until the end, and the next start computes the rest.
                end = if self.disk.dead() { End::Died } else { End::GaveUp };
                if let Some(why) = self.sink.lock().unwrap().broken.clone() {
                    return Err(Broken::Law(why));
                }
                if end == End::GaveUp && self.disk.struck() == 0 {
                    return Err(Broken::Law(format!("it ended at epoch {stored:?} of {held:?}")));
                }
            }
        } else {
            self.disk.kill();
            // Nothing of it comes to the disk any more; only its threads end.
            let _ = journal.close();
            drop(engine);
            quit.store(true, SeqCst);
            sink.join().map_err(|_| "the sink panicked")?;
        }
        drop((labels, snapshots, outbox));
        match fatal.lock().unwrap().take().filter(|why| why.contains("panicked")) {
            Some(why) => Err(Broken::Law(why)),
            None => Ok(end),
        }
    }

    /// The rows that the sink holds.
    pub fn rows(&self) -> BTreeMap<u64, Vec<u8>> {
        self.sink.lock().unwrap().batches.clone()
    }

    /// Judges after a flipped bit: the rows of before are as they were, and those that came are those of an undisturbed
    /// run over the journal as it would be without the flip; `all` of them, if the process came to its end.
    pub fn judge_damaged(&self, before: &BTreeMap<u64, Vec<u8>>, all: bool) -> Result<(), String> {
        let mut now = self.rows();
        for (epoch, bytes) in before {
            // Their epochs may be in the part of the journal that had to be cut off.
            if now.remove(epoch).as_ref() != Some(bytes) {
                return Err(format!("the sink's rows of epoch {epoch} changed"));
            }
        }
        let (want, _) = undisturbed(&self.feed, &whole_journal(&self.disk, self.flip.as_ref()).0)?;
        compare("sink", &want, &now, false)?;
        match want.keys().find(|epoch| all && !now.contains_key(epoch) && !before.contains_key(epoch)) {
            Some(epoch) => Err(format!("the sink lacks epoch {epoch}")),
            None => Ok(()),
        }
    }

    /// Judges the end: nothing acknowledged is lost, nothing was made up, the rows are those of an undisturbed run. How many
    /// of them are profiles.
    pub fn judge(&self) -> Result<usize, Broken> {
        let (folder, durable) = whole_journal(&self.disk, None);
        self.nothing_is_lost(JournalReader::open(folder.join("journal"), durable).map_err(text)?)?;
        let (rows, profiles) = undisturbed(&self.feed, &folder)?;
        let sink = self.sink.lock().unwrap();
        compare("sink", &rows, &sink.batches, true)?;
        compare("outbox", &rows, &self.outbox_rows()?, false)?;
        Ok(profiles)
    }

    fn nothing_is_lost(&self, mut reader: JournalReader) -> Result<(), String> {
        let mut samples: BTreeMap<Sample, usize> = BTreeMap::new();
        let mut controls: BTreeMap<String, usize> = BTreeMap::new();
        while let Some(record) = reader.next_ready().map_err(text)? {
            match record {
                Record::Samples(some) => keys(&some).for_each(|key| *samples.entry(key).or_default() += 1),
                Record::Control(control) => *controls.entry(format!("{control:?}")).or_default() += 1,
                _ => {}
            }
        }
        account(&self.samples, &samples)?;
        account(&self.controls, &controls)
    }

    fn outbox_rows(&self) -> Result<BTreeMap<u64, Vec<u8>>, String> {
        let folder = self.disk.copy().process(Trouble::None).join("outbox");
        Ok(rows_of(&folder)?.0)
    }
}

/// What a journal came to, with what was trimmed, on a disk of its own.
///
/// A bit that flipped in it is put back, unless it was cut off.
fn whole_journal(of: &SimDisk, flip: Option<&Flip>) -> (DiskFolder, Arc<DurablePosition>) {
    let disk = SimDisk::new();
    let mut end = Position { segment: 0, offset: 0 };
    for (name, mut content) in of.files("journal", true) {
        if let Some(flip) = flip.filter(|flip| flip.folder == "journal" && flip.name == name)
            && let Some(byte) = content.get_mut(flip.byte).filter(|byte| **byte == flip.now)
        {
            *byte ^= 1 << flip.bit;
        }
        let Some(first) = name.strip_suffix(".seg") else { continue };
        end = end.max(Position { segment: first.parse().unwrap(), offset: content.len() as u64 });
        disk.put("journal", &name, content);
    }
    let durable = Arc::new(DurablePosition::new(end, None));
    durable.close();
    (disk.process(Trouble::None), durable)
}

/// What is in a log is at least what was acknowledged, at most what was sent.
fn account<K: Ord + std::fmt::Debug>(sent: &Tally<K>, held: &BTreeMap<K, usize>) -> Result<(), String> {
    for (key, (sent, acknowledged)) in sent {
        let held = held.get(key).copied().unwrap_or(0);
        if held < *acknowledged {
            return Err(format!("{key:?} was acknowledged {acknowledged} times, {held} are in the journal"));
        }
        if held > *sent {
            return Err(format!("{key:?} was sent {sent} times, {held} are in the journal"));
        }
    }
    match held.keys().find(|key| !sent.contains_key(key)) {
        Some(key) => Err(format!("{key:?} is in the journal and was never sent")),
        None => Ok(()),
    }
}

/// The rows of an outbox that nobody writes to, and how many of them are profiles.
fn rows_of(folder: &DiskFolder) -> Result<(BTreeMap<u64, Vec<u8>>, usize), String> {
    let mut end = Position { segment: 0, offset: 0 };
    for name in folder.list().map_err(text)? {
        let Some(first) = name.strip_suffix(".seg") else { continue };
        let offset = folder.open(&name).and_then(|file| file.len()).map_err(text)?;
        end = end.max(Position { segment: first.parse().unwrap(), offset });
    }
    let mut tail = Tail::open(folder, Arc::new(DurablePosition::new(end, None)), None).map_err(text)?;
    let (mut rows, mut profiles) = (BTreeMap::new(), 0);
    while let Some(batch) = tail.next().map_err(text)? {
        let epoch = batch.epoch;
        profiles += batch.profiles.len();
        if rows.insert(epoch, bytes_of(batch)).is_some() {
            return Err(format!("epoch {epoch} is in the outbox twice"));
        }
    }
    Ok((rows, profiles))
}

/// The rows that one server comes to over a journal when nothing goes wrong, and how many of them are profiles.
fn undisturbed(feed: &Feed, folder: &DiskFolder) -> Result<(BTreeMap<u64, Vec<u8>>, usize), String> {
    let metrics = Arc::new(Metrics::new());
    let config =
        journal::JournalOptions { allow_future: true, ..journal::JournalOptions::new(EpochMode::File) };
    let (settings, before_commit) = (feed.settings.clone(), Box::new(|| Ok(())));
    let journal =
        Journal::open(folder.join("journal"), config, settings, before_commit, Arc::clone(&metrics))
            .map_err(text)?;
    journal.close().map_err(text)?;
    let config = outbox::OutboxOptions::default();
    let outbox = Outbox::open(folder.join("outbox"), config, Arc::clone(&metrics)).map_err(text)?;
    let listeners =
        Listeners { freed: Box::new(drop), types: Box::new(|_| {}), quarantined: Box::new(|_, _| {}) };
    let fatal: Arc<Mutex<Option<String>>> = Arc::default();
    let on_fatal: OnFatal = {
        let fatal = Arc::clone(&fatal);
        Arc::new(move |error| *fatal.lock().unwrap() = Some(error.to_string()))
    };
    let logs = EngineLogs { journal, outbox, snapshots: None };
    let engine = Engine::start(1, &feed.settings, logs, metrics, listeners, on_fatal);
    engine.map_err(text)?.join();
    match fatal.lock().unwrap().take() {
        Some(why) => Err(format!("the undisturbed run stopped: {why}")),
        None => rows_of(&folder.join("outbox")),
    }
}

/// Whether rows are those of the undisturbed run: all of them, or what is held of them.
fn compare(
    who: &str,
    want: &BTreeMap<u64, Vec<u8>>,
    got: &BTreeMap<u64, Vec<u8>>,
    all: bool,
) -> Result<(), String> {
    for (epoch, bytes) in got {
        match want.get(epoch) {
            None => return Err(format!("the {who} holds epoch {epoch}, an undisturbed run does not")),
            Some(want) if want != bytes => {
                return Err(format!("the {who}'s rows of epoch {epoch} are not those of an undisturbed run"));
            }
            Some(_) => {}
        }
    }
    match want.keys().find(|epoch| all && !got.contains_key(epoch)) {
        Some(epoch) => Err(format!("the {who} lacks epoch {epoch}")),
        None => Ok(()),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
