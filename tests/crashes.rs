//! Real processes, killed at any moment under remote write and `replay`, with late, duplicate and shuffled samples and
//! another number of workers at each start; snapshots are made all the time, and logs trimmed behind them or kept.
//! Each run draws its own set of windows, idle timeout and lateness.
//!
//! What is in the logs is mirrored segment by segment, since trimming removes it. Then: everything acknowledged is in
//! the journal; the journal rerun from its beginning, undisturbed and without snapshots, gives the same outbox batch
//! for batch; and the stored windows are those that the samples give from scratch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::{Settings, Window, duration};

use crate::kill_and_rerun::{START_MS, Sender, TICKS, tick_ms, value};
use crate::support::process::{Tidewatch, command};
use crate::support::stored::{self, Rerun, segments};
use crate::support::{Folder, eventually};

/// Windows of any shape, one of which has results soon; no sample is ever too old.
pub fn any_settings(rng: &mut fastrand::Rng) -> Settings {
    const HOPS: [i64; 14] = [1, 3, 5, 7, 10, 15, 20, 30, 40, 45, 60, 90, 120, 240];
    loop {
        let mut windows = vec![second(10, 5)];
        for _ in 0..rng.usize(0..4) {
            let hop = HOPS[rng.usize(0..HOPS.len())];
            let window = second(hop * rng.i64(1..=20), hop);
            windows.retain(|held| held.length_ms != window.length_ms);
            windows.push(window);
        }
        let settings = Settings {
            windows,
            idle_timeout_ms: [1_000, 5_000, 30_000][rng.usize(0..3)],
            allowed_lateness_ms: [600_000, 900_000, 3_600_000][rng.usize(0..3)],
            ..Settings::default()
        };
        // A row for each second and series would be most of the run.
        let Ok(settings) = settings.validated() else { continue };
        if settings.windows.iter().any(|window| window.hop_ms <= 10_000) {
            return settings;
        }
    }
}

/// Every shard is saved once a second, and profiles go out every three minutes of a series' own time. Where logs are trimmed their segments are small, so that there is something to
/// trim: an eighth of the bound.
pub fn config(settings: &Settings, workers: usize, trim: &str) -> String {
    let (journal, outbox) = if trim == "on" { ("1MiB", "2MiB") } else { ("1GiB", "1GiB") };
    let windows: Vec<String> = settings.windows.iter().map(window).collect();
    format!(
        "windows: [{}]\nidle_timeout: {}\nallowed_lateness: {}\nworkers: {workers}\n\
         snapshots: {{every: 1s}}\nprofile: {{every: 1m, publish_every: 3m}}\njournal: {{bytes_max: {journal}, trim: {trim}}}\noutbox: {{bytes_max: {outbox}}}\n",
        windows.join(", "),
        duration(settings.idle_timeout_ms),
        duration(settings.allowed_lateness_ms)
    )
}

fn second(length: i64, hop: i64) -> Window {
    Window { length_ms: length * 1_000, hop_ms: hop * 1_000 }
}

fn window(window: &Window) -> String {
    format!("{{length: {}, hop: {}}}", duration(window.length_ms), duration(window.hop_ms))
}

/// Links the segments of the logs of a data directory into another folder, so that trimming does not lose them.
struct Mirror {
    folder: Folder,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    data: PathBuf,
}

impl Mirror {
    fn start(data: &Path) -> Mirror {
        let (folder, stop) = (Folder::new("mirror"), Arc::new(AtomicBool::new(false)));
        let (from, to, stopped) = (data.to_owned(), folder.path().to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                link(&from, &to);
                // A segment lives for two rounds of snapshots at least: seconds.
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Mirror { folder, stop, thread: Some(thread), data: data.to_owned() }
    }

    /// Everything that ever was in the logs; nobody writes any more.
    fn finish(&mut self) -> &Path {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        link(&self.data, self.folder.path());
        self.folder.path()
    }
}

fn link(from: &Path, to: &Path) {
    for log in ["journal", "series", "outbox"] {
        std::fs::create_dir_all(to.join(log)).unwrap();
        let Ok(files) = std::fs::read_dir(from.join(log)) else { continue };
        for file in
            files.map(Result::unwrap).filter(|file| file.path().extension().is_some_and(|e| e == "seg"))
        {
            match std::fs::hard_link(file.path(), to.join(log).join(file.file_name())) {
                // It is there already, or was trimmed a moment ago, and linked before.
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotFound
                    ) => {}
                other => other.unwrap(),
            }
        }
    }
}

/// Series that both send have quantiles.
const QUANTILES: &str = "select: [{match: '{__name__=~\"both_.*\"}', quantiles: [0.05, 0.5, 0.999]}]\n";

/// What the rounds came to.
#[derive(Debug, Default)]
struct Figures {
    /// Window sets.
    runs: u64,
    kills: u64,
    replays: u64,
    acknowledged: u64,
    /// Starts that began from snapshots of all shards.
    restored: u64,
    /// Profile rows in the outbox.
    profiles: usize,
    slowest_start: Duration,
}

/// Names of one sender's series, some of them another's as well.
fn names(sender: usize) -> Vec<String> {
    let own =
        (0..40).map(|i| format!("{}own_{sender}_{i}{}", ["", "hours_"][i / 2 % 2], ["", "_total"][i % 2]));
    own.chain((0..10).map(|i| format!("both_{i}"))).collect()
}

/// Every stored window is that of these samples, and the series of both senders have quantiles.
fn windows_are_those_of(samples: &Samples, what: &str, settings: &Settings, tidewatch: &Tidewatch) {
    let range = [("start", "2025-12-31T00:00:00Z"), ("end", "2026-01-02T00:00:00Z")];
    let rows = tidewatch.rows("/api/v1/windows", &range);
    stored::check(what, settings, &rows, samples);
    for row in &rows {
        let is_set = row["name"].as_str().is_some_and(|name| name.starts_with("both_"));
        assert_eq!(row["p50"].is_number(), is_set, "{row}");
    }
}

fn crash(seed: u64, rounds: u64, trim: &str) -> Figures {
    let mut rng = fastrand::Rng::with_seed(seed);
    let settings = any_settings(&mut rng);
    println!("seed {seed}, {rounds} rounds, trim {trim}, {}", config(&settings, 1, trim).replace('\n', ", "));
    let mut figures = Figures { runs: 1, ..Figures::default() };
    let config = |workers| config(&settings, workers, trim) + QUANTILES;
    let mut tidewatch = Tidewatch::start(&config(1));
    let data = tidewatch.folder().join("data");
    let mut mirror = Mirror::start(&data);
    let mut senders = [0, 1].map(|n| Sender::new(seed + n as u64, names(n)));
    let mut replayed = BTreeSet::new();
    for round in 0..rounds {
        let begun = Instant::now();
        send_and_kill(&mut tidewatch, &mut senders, rounds - round, &mut rng);
        println!("round {round}: killed after {:?}", begun.elapsed());
        figures.kills += 1;
        tidewatch.configure(&config([2, 4, 1][round as usize % 3]));
        if rng.u8(0..3) == 0 {
            figures.replays += 1;
            replay_and_kill(tidewatch.folder(), round, &mut replayed, &mut rng);
        }
        if rng.u8(0..3) == 0 {
            tidewatch.start_and_kill(Duration::from_micros(rng.u64(0..400_000)));
            figures.kills += 1;
        }
        let begun = Instant::now();
        tidewatch.start_again();
        figures.slowest_start = figures.slowest_start.max(begun.elapsed());
        figures.restored += u64::from(tidewatch.metric("tidewatch_snapshot_epoch") > 0.0);
    }
    if trim == "on" {
        // However short the rounds were, it comes to two snapshots of every shard, and a start from them.
        eventually("the journal is trimmed", Duration::from_secs(60), || {
            let first = segments(&data, "journal").first().cloned().unwrap_or_default();
            if first > format!("{:020}.seg", 0) { Ok(()) } else { Err(format!("it begins with {first}")) }
        });
        tidewatch.process().kill();
        tidewatch.start_again();
        figures.restored += u64::from(tidewatch.metric("tidewatch_snapshot_epoch") > 0.0);
    }
    let url = tidewatch.url("/api/v1/write");
    assert!(senders.iter_mut().all(|sender| sender.send(&url)), "{}", tidewatch.process().log_tail());
    let status = tidewatch.process().terminate();
    assert_eq!(status.code(), Some(0), "{}", tidewatch.process().log_tail());
    let all = mirror.finish();
    if trim == "off" {
        assert_eq!(segments(&data, "journal"), segments(all, "journal"));
        assert_eq!(segments(&data, "outbox"), segments(all, "outbox"));
    }

    let journal = stored::samples(all);
    let pairs = journal.series.iter().copied().zip(journal.at_ms.iter().copied());
    let held: BTreeSet<(u64, i64)> = pairs.collect();
    for sender in &senders {
        let lost: Vec<_> = sender.acknowledged.difference(&held).collect();
        assert!(lost.is_empty(), "seed {seed}: acknowledged and lost: {lost:?}");
        figures.acknowledged += sender.acknowledged.len() as u64;
    }
    let sent: BTreeSet<(u64, i64)> = senders.iter().flat_map(|s| &s.sent).chain(&replayed).copied().collect();
    assert!(held.is_subset(&sent), "seed {seed}: nobody sent {:?}", held.difference(&sent).next());
    let again = rerun(&format!("seed {seed}"), &settings, all);
    assert!(again.revised > 0, "seed {seed}: nothing was late");
    figures.profiles = again.profiles;
    let mut samples = Samples::default();
    held.iter().for_each(|(series, at)| samples.push(*series, *at, value(*series, *at)));
    tidewatch.start_again();
    let what = format!("seed {seed}, after all kills");
    windows_are_those_of(&samples, &what, &settings, &tidewatch);
    assert_eq!(tidewatch.rows("/api/v1/profiles", &[]), again.stored, "{what}: stored profiles");
    assert!(!tidewatch.process().log().contains("panicked"), "{}", tidewatch.process().log());
    let trimmed = segments(all, "journal").len() - segments(&data, "journal").len();
    assert_eq!(trimmed > 0, trim == "on", "seed {seed}: {trimmed} segments of the journal were trimmed");
    figures
}

/// [`Rerun::of`] with these settings.
pub fn rerun(what: &str, settings: &Settings, all: &Path) -> Rerun {
    Rerun::of(what, &config(settings, 3, "off"), all)
}

/// Both send for a moment or for some seconds; then the server is killed in the middle of it.
fn send_and_kill(
    tidewatch: &mut Tidewatch,
    senders: &mut [Sender; 2],
    rounds_left: u64,
    rng: &mut fastrand::Rng,
) {
    let (url, stop) = (tidewatch.url("/api/v1/write"), AtomicBool::new(false));
    // Some rounds are long enough for two rounds of snapshots.
    let lasts = Duration::from_millis(if rng.bool() { rng.u64(2_000..5_000) } else { rng.u64(0..400) });
    std::thread::scope(|scope| {
        for sender in senders.iter_mut() {
            let (url, stop) = (&url, &stop);
            let budget = sender.left() / (2 * rounds_left as usize) + 1;
            scope.spawn(move || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) && sent < budget && sender.send(url) {
                    sent += 1;
                }
                // Then as one that waits for its next scrape.
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        std::thread::sleep(lasts);
        tidewatch.process().kill();
        stop.store(true, Ordering::Relaxed);
    });
}

/// Replays a file of some new series into the same data directory and kills that as well.
fn replay_and_kill(folder: &Path, round: u64, replayed: &mut BTreeSet<(u64, i64)>, rng: &mut fastrand::Rng) {
    let mut text = String::new();
    let of_hours = if rng.bool() { "hours_" } else { "" };
    for i in 0..20 {
        let name = format!("{of_hours}file_{round}_{i}");
        let series = tidewatch::labels::series_id(&[("__name__", &name)]).0;
        for tick in 0..TICKS {
            let at_ms = START_MS + tick * tick_ms(&name);
            text.push_str(&format!("{name} {} {at_ms}\n", value(series, at_ms)));
            replayed.insert((series, at_ms));
        }
    }
    let file = folder.join(format!("file_{round}.prom"));
    std::fs::write(&file, text).unwrap();
    let mut replay = command(folder, &["replay", "--live-order", &file.to_string_lossy()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_micros(rng.u64(0..400_000)));
    // It may have ended.
    let _ = replay.kill();
    replay.wait().unwrap();
}

/// So many window sets, each with so many rounds of its own.
fn crash_many(seed: u64, sets: u64, rounds: u64, trim: &str) -> Figures {
    let mut all = Figures::default();
    for set in 0..sets {
        let one = crash(seed + set, rounds, trim);
        assert!(one.profiles > 0, "seed {}: no series has a profile", seed + set);
        all.runs += one.runs;
        all.kills += one.kills;
        all.replays += one.replays;
        all.acknowledged += one.acknowledged;
        all.restored += one.restored;
        all.profiles += one.profiles;
        all.slowest_start = all.slowest_start.max(one.slowest_start);
    }
    println!("{all:?}");
    all
}

#[test]
fn a_journal_that_is_kept_gives_the_same_outbox_after_any_kills() {
    crash_many(crate::first_seed(0x0FF), crate::rounds(1), 4, "off");
}

#[test]
fn with_logs_trimmed_behind_snapshots_nothing_is_lost_by_any_kills() {
    let figures = crash_many(crate::first_seed(0x7215), crate::rounds(1), 6, "on");
    assert!(figures.restored > 0, "no start began from snapshots");
}
