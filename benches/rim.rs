//! The rim: journal, remote write, labels and store, each alone and checked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use tidewatch::journal::{EpochMode, Journal, JournalOptions, Record};
use tidewatch::labels::{Labels, Limits};
use tidewatch::metrics::Metrics;
use tidewatch::source::remote_write;
use tidewatch::source::validate::EventTimeBounds;
use tidewatch::store::embedded::{Embedded, EmbeddedOptions};
use tidewatch::store::{Store, StoreBatch};
use tidewatch_dataflows::rows::windows::QuantileValues;
use tidewatch_dataflows::rows::{RowLists, WindowStats};
use tidewatch_dataflows::sample::{EpochEnd, Mark, Samples, SeriesId};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::{driver, graph};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

use crate::core::{cpu_seconds, median, series_id, value};
use crate::wire::{bytes_into, varint};

/// A folder that goes with its bench.
pub struct Folder(pub PathBuf, #[expect(dead_code, reason = "removes it at its end")] tempfile::TempDir);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let folder = tempfile::Builder::new().prefix(&format!("tidewatch-bench-{name}-")).tempdir().unwrap();
        Folder(folder.path().to_owned(), folder)
    }
}

const SERIES: usize = 10_000;
const TICKS: usize = 1_200;
const FILL: usize = 240;
const EPOCH_TICKS: usize = 26;
const START_MS: i64 = 1_699_963_200_000;

enum Message {
    Batch(Samples),
    End(EpochEnd),
}

/// Sends every tick of the load as batches and epoch ends to `batch` and `end`; calls `filled` after an hour.
fn make(mut batch: impl FnMut(Samples), mut end: impl FnMut(EpochEnd), mut filled: impl FnMut()) {
    let ids: Vec<u64> = (0..SERIES).map(series_id).collect();
    for tick in 0..TICKS {
        if tick == FILL {
            filled();
        }
        let at_ms = START_MS + tick as i64 * 15_000;
        for (part, ids) in ids.chunks(driver::BATCH_SAMPLES).enumerate() {
            let mut samples = Samples::with_capacity(driver::BATCH_SAMPLES);
            for (i, id) in ids.iter().enumerate() {
                samples.push(*id, at_ms, value(part * driver::BATCH_SAMPLES + i, tick));
            }
            batch(samples);
        }
        if (tick + 1) % EPOCH_TICKS == 0 || tick + 1 == TICKS {
            end(EpochEnd {
                epoch: tick as u64 + 1,
                processing_ms: at_ms,
                watermark_ms: at_ms,
                last_of_input: false,
            });
        }
    }
}

/// Runs two workers on what comes through the channels and returns the rows and when they were done.
fn workers(receivers: Vec<Receiver<Message>>) -> std::thread::JoinHandle<(u64, Instant)> {
    std::thread::spawn(move || {
        let rows = Arc::new(AtomicU64::new(0));
        let receivers: Vec<_> = receivers.into_iter().map(|r| std::sync::Mutex::new(Some(r))).collect();
        let counted = Arc::clone(&rows);
        let settings =
            Arc::new(Settings { series_max: 2_000_000, ..Settings::default() }.validated().unwrap());
        let guards = timely::execute(timely::Config::process(2), move |worker| {
            let receiver = receivers[worker.index()].lock().unwrap().take().unwrap();
            let (probe, rows) = (ProbeHandle::new(), Arc::clone(&counted));
            type Ends = InputHandle<u64, CapacityContainerBuilder<Vec<Mark>>>;
            let (mut samples, mut ends): (InputHandle<u64, NoopBuilder<Samples>>, Ends) =
                worker.dataflow(|scope| {
                    let (samples, stream) = scope.new_input_with_builder();
                    let (ends, marks) = scope.new_input_with_builder();
                    let (outcomes, _) = graph::build(stream, marks.clone(), &settings, &Default::default());
                    driver::complete(outcomes, marks, "count", move |_, all| {
                        rows.fetch_add(all.windows.len() as u64, Ordering::Relaxed);
                        true
                    })
                    .probe_with(&probe);
                    (samples, ends)
                });
            let mut epoch = 0_u64;
            loop {
                match receiver.try_recv() {
                    Ok(Message::Batch(mut batch)) => samples.send_batch(&mut batch),
                    Ok(Message::End(end)) => {
                        ends.send(Mark::End(end));
                        epoch += 1;
                        samples.advance_to(epoch);
                        ends.advance_to(epoch);
                        worker.step_or_park_while(None, || probe.less_than(&epoch.saturating_sub(3)));
                    }
                    Err(TryRecvError::Empty) => {
                        worker.step_or_park(Some(Duration::from_micros(50)));
                    }
                    Err(TryRecvError::Disconnected) => break,
                }
            }
            worker.step_or_park_while(None, || probe.less_than(&epoch));
        })
        .unwrap();
        guards.join().into_iter().for_each(|joined| joined.unwrap());
        (rows.load(Ordering::Relaxed), Instant::now())
    })
}

fn channels() -> (Vec<SyncSender<Message>>, Vec<Receiver<Message>>) {
    (0..2).map(|_| sync_channel(64)).unzip()
}

/// Deals batches out to the workers in turn, and every end to all.
fn deal(to: Vec<SyncSender<Message>>) -> (impl FnMut(Samples), impl FnMut(EpochEnd)) {
    let (ends, mut turn) = (to.clone(), 0);
    let batch = move |samples| {
        turn += 1;
        to[turn % 2].send(Message::Batch(samples)).unwrap();
    };
    (batch, move |end| ends.iter().for_each(|to| to.send(Message::End(end)).unwrap()))
}

/// Samples to counted rows, with the journal between (written, synced, read back) and without, in turn.
pub fn journal() {
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (off, rows_off) = without_journal();
        let (on, rows_on) = with_journal();
        assert_eq!(rows_on, rows_off, "the journal must change nothing");
        ratios.push(on / off);
    }
    println!("on / off, median of 3 pairs    {:.2}", median(&mut ratios));
}

/// Prints a rate and the processor time behind it; returns the rate.
fn told(what: &str, (start, cpu): (Instant, f64), done: Instant) -> f64 {
    let timed = (SERIES * (TICKS - FILL)) as f64;
    let rate = timed / (done - start).as_secs_f64();
    let cpu = (cpu_seconds() - cpu) * 1e9 / timed;
    println!("journal {what:<22} {:>7.2} M samples/s {cpu:>6.0} ns cpu/sample", rate / 1e6);
    rate
}

fn without_journal() -> (f64, u64) {
    let (to, from) = channels();
    let running = workers(from);
    let (batch, end) = deal(to);
    let mut began = (Instant::now(), 0.0);
    make(batch, end, || began = (Instant::now(), cpu_seconds()));
    let (rows, done) = running.join().unwrap();
    (told("off", began, done), rows)
}

fn with_journal() -> (f64, u64) {
    let folder = Folder::new("journal");
    let settings = Settings { series_max: 2_000_000, ..Settings::default() };
    let config = JournalOptions { allow_future: true, ..JournalOptions::new(EpochMode::File) };
    let metrics = Arc::new(Metrics::new());
    let journal = Journal::open(&folder.0, config, settings, Box::new(|| Ok(())), metrics).unwrap();
    let mut reader = journal.reader().unwrap();
    let (to, from) = channels();
    let running = workers(from);
    let feeder = std::thread::spawn(move || {
        let (mut batch, mut end) = deal(to);
        while !reader.finished() {
            match reader.next(Duration::from_millis(50)).unwrap() {
                Some(Record::Samples(samples)) => batch(samples),
                Some(Record::EpochEnd(mark)) => end(mark),
                Some(_) | None => {}
            }
        }
    });
    let mut began = (Instant::now(), 0.0);
    make(
        |samples| journal.append_blocking(samples, "bench").unwrap(),
        |end| drop(journal.cut(end.processing_ms, end.watermark_ms, false).unwrap()),
        || began = (Instant::now(), cpu_seconds()),
    );
    journal.close().unwrap();
    feeder.join().unwrap();
    let (rows, done) = running.join().unwrap();
    (told("on", began, done), rows)
}

/// A remote write 1.0 body: `series` series of one sample and ten labels.
fn body(from: usize, series: usize, at_ms: i64) -> Vec<u8> {
    let mut request = Vec::new();
    for i in from..from + series {
        let instance = format!("10.0.{}.{}:9100", i / 250 % 250, i % 250);
        let (cpu, mode) = ((i % 64).to_string(), ["idle", "user", "system", "iowait"][i % 4]);
        let labels = [
            ("__name__", "node_cpu_seconds_total"),
            ("cluster", "europe-west-1"),
            ("cpu", &cpu),
            ("env", "production"),
            ("instance", &instance),
            ("job", "node"),
            ("mode", mode),
            ("namespace", "monitoring"),
            ("pod", &format!("node-exporter-{i:08}")),
            ("zone", "b"),
        ];
        let mut one = Vec::new();
        for (name, value) in labels {
            let mut label = Vec::new();
            bytes_into(1, name.as_bytes(), &mut label);
            bytes_into(2, value.as_bytes(), &mut label);
            bytes_into(1, &label, &mut one);
        }
        let mut sample = vec![1 << 3 | 1];
        sample.extend_from_slice(&(i as f64).to_bits().to_le_bytes());
        sample.push(2 << 3);
        varint(at_ms as u64, &mut sample);
        bytes_into(2, &sample, &mut one);
        bytes_into(1, &one, &mut request);
    }
    request
}

const AT_MS: i64 = 1_700_000_000_000;
/// What a Prometheus sends at once.
const PER_REQUEST: usize = 2_000;

fn open_labels(folder: &Folder) -> Labels {
    let limits = Limits { series: 2_000_000, series_per_name: 2_000_000, labels: 64, label_bytes: 4_096 };
    Labels::open(&folder.0, limits, Arc::new(Metrics::new())).unwrap()
}

/// Decompression, decoding and look-up of warm series, on one core.
pub fn remote_write() {
    for series in [10_000, 100_000] {
        let folder = Folder::new("write");
        let labels = open_labels(&folder);
        let bodies: Vec<Vec<u8>> = (0..series / PER_REQUEST)
            .map(|n| {
                snap::raw::Encoder::new().compress_vec(&body(n * PER_REQUEST, PER_REQUEST, AT_MS)).unwrap()
            })
            .collect();
        let bounds = EventTimeBounds::at(AT_MS, false);
        let (mut out, mut total, mut rounds) = (Samples::default(), 0, 0);
        let mut start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) || rounds < 2 {
            for body in &bodies {
                let plain = snap::raw::Decoder::new().decompress_vec(body).unwrap();
                out.clear();
                let decoded = remote_write::decode(&plain, &labels, bounds, 1, &mut out).unwrap();
                assert_eq!((decoded.received, out.len()), (PER_REQUEST as u64, PER_REQUEST));
                total += out.len();
            }
            if rounds == 0 {
                println!(
                    "{series} series, cold            {:>7.2} M samples/s",
                    total as f64 / start.elapsed().as_secs_f64() / 1e6
                );
                (start, total) = (Instant::now(), 0);
            }
            rounds += 1;
        }
        println!(
            "{series} series, warm            {:>7.2} M samples/s",
            total as f64 / start.elapsed().as_secs_f64() / 1e6
        );
    }
}

/// Looking a warm series up by its encoded labels.
pub fn labels() {
    for series in [10_000_usize, 100_000] {
        let folder = Folder::new("labels");
        let labels = open_labels(&folder);
        let keys: Vec<String> = (0..series)
            .map(|i| format!("node_cpu_seconds_total{{instance=\"10.0.0.{i}:9100\",job=\"node\"}}"))
            .collect();
        for (i, key) in keys.iter().enumerate() {
            let instance = format!("10.0.0.{i}:9100");
            let mut pairs = vec![
                ("__name__", "node_cpu_seconds_total"),
                ("instance", instance.as_str()),
                ("job", "node"),
            ];
            labels.intern(&mut pairs, Some(key.as_bytes()), 1).unwrap();
        }
        let start = Instant::now();
        let mut found = 0;
        for _ in 0..5 {
            found += keys.iter().filter(|key| labels.find(key.as_bytes(), 2).is_some()).count();
        }
        assert_eq!(found, 5 * series);
        println!(
            "{series} series, find            {:>7.0} ns",
            start.elapsed().as_secs_f64() * 1e9 / found as f64
        );
    }
}

/// Rows into SQLite, as the sink writes them.
pub fn store() {
    let folder = Folder::new("store");
    let store = Embedded::open(&folder.0.join("store.sqlite"), EmbeddedOptions::default()).unwrap();
    let mut ids: Vec<u64> = (0..SERIES).map(series_id).collect();
    ids.sort_unstable();
    let row = |id: u64, at_ms: i64| WindowStats {
        series: SeriesId(id),
        window_ms: 3_600_000,
        at_ms,
        revision: 0,
        count: 240,
        span_ms: 3_585_000,
        min: value(id as usize % 999, 1),
        max: 2.5,
        avg: 1.25,
        std: 0.125,
        first: 0.5,
        last: 1.5,
        sum: 300.0,
        changes: 3,
        increase: 9.0,
        resets: 1,
        partial: false,
        quantiles: QuantileValues::default(),
    };
    let (start, mut rows) = (Instant::now(), 0);
    for epoch in 0..20 {
        let windows: Vec<WindowStats> = ids
            .iter()
            .flat_map(|id| (0..6).map(move |k| (*id, AT_MS - AT_MS % 60_000 + (epoch * 6 + k) * 60_000)))
            .map(|(id, at)| row(id, at))
            .collect();
        let lists = RowLists { windows, ..RowLists::default() };
        let batch = StoreBatch::new(epoch as u64 + 1, AT_MS, &lists);
        let labels = |id: SeriesId| {
            Some(vec![("__name__".to_owned(), "bench".to_owned()), ("id".to_owned(), id.to_string())])
        };
        rows += store.write(&[batch], &labels).unwrap().rows_of::<WindowStats>();
    }
    assert_eq!(rows, 20 * 6 * SERIES as u64);
    assert_eq!(store.status().unwrap().rows_of::<WindowStats>(), rows);
    println!(
        "rows into SQLite               {:>7.0} k rows/s",
        rows as f64 / start.elapsed().as_secs_f64() / 1e3
    );
}

/// A file to stored rows, by the program itself.
pub fn replay() {
    let folder = Folder::new("replay");
    let program = env!("CARGO_BIN_EXE_tidewatch");
    let tidewatch = |args: &[&str]| {
        let done = std::process::Command::new(program).args(args).current_dir(&folder.0).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    tidewatch(&[
        "generate",
        "--series",
        "2000",
        "--hours",
        "6",
        "--end",
        "2026-01-01T00:00:00Z",
        "-o",
        "samples.prom",
    ]);
    let report = tidewatch(&["replay", "samples.prom", "--data-dir", "data", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let figure = |name: &str| report[name].as_f64().unwrap();
    assert_eq!(figure("computed"), figure("samples"));
    let stored = tidewatch(&["export", "--data-dir", "data"]).lines().count();
    assert_eq!(stored as f64, figure("rows_stored"));
    println!(
        "file to stored rows            {:>7.0} k samples/s, {:.0} k rows/s",
        figure("samples_per_second") / 1e3,
        figure("rows_per_second") / 1e3
    );
}
