//! The core alone: samples made by the workers themselves, results counted and checked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use tidewatch_dataflows::graph::{Instruments, Sizes};
use tidewatch_dataflows::sample::{EpochEnd, Mark, Samples};
use tidewatch_dataflows::settings::{ProfileSettings, Settings, Window};
use tidewatch_dataflows::{driver, graph};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

const STEP_MS: i64 = 15_000;
pub const START_MS: i64 = 1_700_000_000_000 - 1_700_000_000_000 % 43_200_000 + 1;
const EPOCH_SAMPLES: usize = 262_144;

/// The value of a series at a tick.
pub type ValueOf = fn(usize, usize) -> f64;

/// What to run.
#[derive(Clone)]
pub struct Load {
    pub workers: usize,
    pub series: usize,
    pub windows: Vec<(i64, i64)>,
    /// Ticks of 15 s before the clock starts, and after.
    pub fill: usize,
    pub ticks: usize,
    /// Only exchange and count: the yardstick.
    pub bare: bool,
    /// Whether profiles are made beside windows.
    pub profiles: bool,
    /// The value of a series at a tick.
    pub value: ValueOf,
}

/// What it came to.
pub struct Figures {
    pub samples_per_second: f64,
    pub rows_per_second: f64,
    pub bytes_per_series: f64,
    pub resident_per_series: f64,
    /// Processor time of all threads per sample, generating included.
    pub cpu_ns_per_sample: f64,
}

/// Series ids as labels give them: well mixed.
pub fn series_id(i: usize) -> u64 {
    let mut x = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A node-exporter-like value: a third counters, the rest gauges at awkward offsets.
#[inline]
pub fn value(i: usize, tick: usize) -> f64 {
    let noise = (series_id(i ^ tick << 20) >> 40) as f64;
    match i % 3 {
        0 => tick as f64 * 1_500.0 + noise * 1e-5,
        1 => 4e10 + (noise * 0.25).floor() * 4096.0,
        _ => noise * 1e-7,
    }
}

/// Series by what their values look like, since that is what their panes take memory for.
pub const KINDS: [(&str, ValueOf); 5] = [
    ("constants", |i, _| (i * 37) as f64),
    ("counters of requests", |i, tick| (i * 1_000 + tick * 40 + i % 7 * (tick % 5)) as f64),
    ("counters of seconds", |i, tick| tick as f64 * 7.5 + (series_id(i ^ tick << 20) % 500) as f64 / 100.0),
    ("gauges of bytes", |i, tick| 8e9 + (series_id(i ^ tick << 20) % (1 << 20)) as f64 * 4_096.0),
    ("gauges with all digits", |i, tick| (series_id(i ^ tick << 20) >> 11) as f64 * 1e-16),
];

/// Processor seconds of this process.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The middle of some figures.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0) * 4096.0
}

/// Runs a load and checks the number of rows.
#[expect(clippy::too_many_lines, reason = "a benchmark from its beginning to its end")]
pub fn run(load: &Load) -> Figures {
    let windows = load
        .windows
        .iter()
        .map(|(length, hop)| Window { length_ms: length * 60_000, hop_ms: hop * 60_000 })
        .collect();
    let profile = ProfileSettings { enabled: load.profiles, ..ProfileSettings::default() };
    let settings = Arc::new(
        Settings { windows, series_max: 2_000_000, profile, ..Settings::default() }
            .validated()
            .expect("the bench's windows are valid"),
    );
    let sizes: Arc<Sizes> = Arc::default();
    let rows = Arc::new(AtomicU64::new(0));
    let times: Arc<Mutex<Vec<(Instant, Instant, f64)>>> = Arc::default();
    let barrier = Arc::new(Barrier::new(load.workers));
    let before = resident();
    let shared = (load.clone(), settings.clone(), sizes.clone(), rows.clone(), times.clone(), barrier);
    let guards = timely::execute(timely::Config::process(load.workers), move |worker| {
        let (load, settings, sizes, rows, times, barrier) = shared.clone();
        let instruments = Instruments { sizes, ..Instruments::default() };
        let (index, peers) = (worker.index(), worker.peers());
        let probe = ProbeHandle::new();
        type SampleInput = InputHandle<u64, NoopBuilder<Samples>>;
        type EndInput = InputHandle<u64, CapacityContainerBuilder<Vec<Mark>>>;
        let (mut samples, mut ends): (SampleInput, EndInput) = worker.dataflow(|scope| {
            let (samples, stream) = scope.new_input_with_builder::<NoopBuilder<Samples>>();
            let (ends, marks) = scope.new_input_with_builder::<CapacityContainerBuilder<Vec<Mark>>>();
            if load.bare {
                let count = Arc::clone(&rows);
                stream
                    .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
                        driver::exchange(),
                        "count",
                        move |_, _| {
                            move |input, _| {
                                input.for_each(|_, batch| {
                                    count.fetch_add(batch.len() as u64, Ordering::Relaxed);
                                    batch.clear();
                                })
                            }
                        },
                    )
                    .probe_with(&probe);
                marks.probe_with(&probe);
            } else {
                let (outcomes, _) = graph::build(stream, marks.clone(), &settings, &instruments);
                driver::complete(outcomes, marks, "count", move |_, all| {
                    rows.fetch_add(all.windows.len() as u64, Ordering::Relaxed);
                    true
                })
                .probe_with(&probe);
            }
            (samples, ends)
        });
        let ticks_per_epoch = (EPOCH_SAMPLES / load.series).max(1);
        let parts = (load.series / EPOCH_SAMPLES).max(1);
        let mine: Vec<(usize, u64)> =
            (index..load.series).step_by(peers).map(|i| (i, series_id(i))).collect();
        let mut epoch = 0;
        let mut batch = Samples::with_capacity(driver::BATCH_SAMPLES);
        let mut feed = |worker: &mut timely::worker::Worker, from: usize, to: usize| {
            let mut tick = from;
            while tick < to {
                let until = (tick + ticks_per_epoch).min(to);
                for part in 0..parts {
                    epoch += 1;
                    for t in tick..until {
                        let at_ms = START_MS + t as i64 * STEP_MS;
                        for (i, id) in
                            mine[mine.len() * part / parts..mine.len() * (part + 1) / parts].iter().copied()
                        {
                            batch.push(id, at_ms, (load.value)(i, t));
                            if batch.len() == driver::BATCH_SAMPLES {
                                samples.send_batch(&mut batch);
                                batch.clear();
                            }
                        }
                    }
                    if !batch.is_empty() {
                        samples.send_batch(&mut batch);
                        batch.clear();
                    }
                    let now = START_MS + tick as i64 * STEP_MS;
                    ends.send(Mark::End(EpochEnd {
                        epoch,
                        processing_ms: now,
                        watermark_ms: now,
                        last_of_input: false,
                    }));
                    samples.advance_to(epoch + 1);
                    ends.advance_to(epoch + 1);
                    worker.step_or_park_while(None, || probe.less_than(&(epoch.saturating_sub(2))));
                }
                tick = until;
            }
            worker.step_or_park_while(None, || probe.less_than(&(epoch + 1)));
        };
        feed(worker, 0, load.fill);
        barrier.wait();
        let (start, cpu) = (Instant::now(), cpu_seconds());
        feed(worker, load.fill, load.fill + load.ticks);
        times.lock().expect("no worker panics while timing").push((start, Instant::now(), cpu));
    })
    .expect("timely starts");
    guards.join().into_iter().for_each(|r| r.expect("no worker panics"));
    let cpu_end = cpu_seconds();
    let times = times.lock().expect("no worker panicked");
    let start = times.iter().map(|t| t.0).min().expect("a worker ran");
    let wall = times.iter().map(|t| t.1).max().expect("a worker ran") - start;
    let total = (load.series * (load.fill + load.ticks)) as u64;
    let got = rows.load(Ordering::Relaxed);
    let last = START_MS + (load.fill + load.ticks - 1) as i64 * STEP_MS;
    let keys = |hop: i64| (last - 1).div_euclid(hop * 60_000) - (START_MS - 1).div_euclid(hop * 60_000);
    let want = if load.bare {
        total
    } else {
        load.windows.iter().map(|(_, hop)| keys(*hop) as u64 * load.series as u64).sum()
    };
    assert_eq!(got, want, "the bench's results must be complete");
    let share = load.ticks as f64 / (load.fill + load.ticks) as f64;
    let seconds = wall.max(Duration::from_millis(1)).as_secs_f64();
    Figures {
        samples_per_second: (load.series * load.ticks) as f64 / seconds,
        rows_per_second: got as f64 * share / seconds,
        bytes_per_series: sizes.bytes.iter().map(|b| b.load(Ordering::Relaxed)).sum::<u64>() as f64
            / load.series as f64,
        cpu_ns_per_sample: (cpu_end - times.iter().map(|t| t.2).fold(f64::MAX, f64::min)) * 1e9
            / (load.series * load.ticks) as f64,
        resident_per_series: (resident() - before).max(0.0) / load.series as f64,
    }
}
