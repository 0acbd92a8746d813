//! Many more series than may be alive at once: slots are freed and filled again, what does not fit is refused and
//! counted to the sample, and nothing grows with the names that ever were.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tidewatch_dataflows::pipeline;
use tidewatch_dataflows::sample::{EpochEnd, Samples};
use tidewatch_dataflows::settings::{ProfileSettings, Settings, Window};
use tidewatch_dataflows::stage::StageSpec;

use crate::oracle::Epoch;
use crate::rules::Tactics;
use crate::support::process::{Tidewatch, done};
use crate::support::remote_write::WriteRequest;
use crate::support::{Folder, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// Profiles keep the slots of silent series for half a day.
const OFF: ProfileSettings =
    ProfileSettings { enabled: false, every_ms: 300_000, publish_every_ms: 3_600_000, season_days: 4 };

fn minutes(windows: &[(i64, i64)]) -> Vec<Window> {
    windows.iter().map(|(length, hop)| Window { length_ms: length * 60_000, hop_ms: hop * 60_000 }).collect()
}

#[test]
fn the_state_of_a_shard_does_not_grow_with_the_names_that_were() {
    let settings = Settings {
        windows: minutes(&[(1, 1), (5, 5)]),
        allowed_lateness_ms: 60_000,
        series_max: 25_600,
        profile: OFF,
        ..Settings::default()
    };
    let settings = settings.validated().unwrap();
    let mut tactics = Tactics::new(&settings);
    let (mut id, mut bytes, mut freed) = (0_u64, Vec::new(), 0);
    for minute in 0..600_i64 {
        let at_ms = 1_767_225_600_000 + minute * 60_000;
        let end = EpochEnd {
            epoch: minute as u64 + 1,
            processing_ms: at_ms,
            watermark_ms: at_ms,
            last_of_input: false,
        };
        let mut live = Samples::default();
        for _ in 0..300 {
            id += 1;
            // All in one shard, and well mixed above it.
            let series = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) << 8;
            (0..3).for_each(|i| live.push(series, at_ms - 30_000 + i * 10_000, i as f64));
            // Rejects hold their slots for a minute, no longer.
            live.push(series, at_ms - 29_000, f64::NAN);
        }
        freed += tactics.epoch(&Epoch { end, controls: vec![], bootstraps: vec![], live }).freed.len() as u64;
        bytes.push(tactics.bytes());
    }
    assert!(id - freed < 300 * 10, "{} of {id} names still have a slot", id - freed);
    let (early, late) = (bytes[100..200].iter().max().unwrap(), bytes[400..].iter().max().unwrap());
    assert!(late <= early, "{early} bytes after 60,000 names, {late} after 180,000");
}

/// In place of the processing time at which a series last applied a sample, in the epoch that has not ended.
const HEARD_NOW: i64 = i64::MAX;

/// Ends an epoch: what was applied in it bears its time, and what fell silent is forgotten.
fn end_epoch(known: &mut HashMap<&str, (i64, i64)>, processing_ms: i64, settings: &Settings) {
    let keep = pipeline::keep_ms(settings);
    known.retain(|_, (newest, last_applied_ms)| {
        if *last_applied_ms == HEARD_NOW {
            *last_applied_ms = processing_ms;
        }
        let behind = *last_applied_ms - *newest > settings.idle_timeout_ms;
        let wait = if behind { settings.catch_up_ms } else { settings.idle_timeout_ms };
        let quiet = processing_ms > *newest + keep && processing_ms > *last_applied_ms + keep;
        !(quiet && *last_applied_ms + wait <= processing_ms)
    });
}

/// What becomes of a file by the rules of docs/semantics.md: samples taken, and refused because of `limits.series`.
fn model(lines: &str, settings: &Settings) -> (u64, u64) {
    let mut known: HashMap<&str, (i64, i64)> = HashMap::new();
    let (mut taken, mut refused, mut in_epoch, mut highest) = (0, 0, 0, i64::MIN);
    let mut lines = lines.lines().filter(|line| !line.starts_with('#')).peekable();
    while lines.peek().is_some() {
        // A batch is judged as a whole, before the epochs that end in it.
        let (mut batch, refused_before) = (Vec::new(), refused);
        for line in lines.by_ref().take(65_536) {
            let (series, rest) = line.split_at(line.find('}').unwrap() + 1);
            let at_ms: i64 = rest.split_whitespace().nth(1).unwrap().parse().unwrap();
            if known.contains_key(series) || known.len() < settings.series_max as usize {
                known.entry(series).or_insert((at_ms, HEARD_NOW));
                batch.push((series, at_ms));
            } else {
                // It tells the time all the same.
                refused += 1;
                highest = highest.max(at_ms);
            }
            if batch.len() == 4_096 {
                break;
            }
        }
        highest = highest.max(batch.iter().map(|(_, at_ms)| *at_ms).max().unwrap_or(i64::MIN));
        for (series, at_ms) in batch {
            known.insert(series, (at_ms, HEARD_NOW));
            (taken, in_epoch) = (taken + 1, in_epoch + 1);
            if in_epoch == 65_536 {
                in_epoch = 0;
                end_epoch(&mut known, highest - settings.idle_timeout_ms, settings);
            }
        }
        in_epoch += refused - refused_before;
        if in_epoch >= 65_536 {
            in_epoch = 0;
            end_epoch(&mut known, highest - settings.idle_timeout_ms, settings);
        }
    }
    (taken, refused)
}

#[test]
fn what_does_not_fit_of_a_file_is_counted_to_the_sample() {
    let config = "windows: [{length: 1m, hop: 1m}, {length: 5m, hop: 5m}]\nidle_timeout: 10s\nallowed_lateness: 1m\n\
                  limits: {series: 20000, series_per_name: 20000}\nprofile: {enabled: false}\n";
    let settings = Settings {
        windows: minutes(&[(1, 1), (5, 5)]),
        idle_timeout_ms: 10_000,
        allowed_lateness_ms: 60_000,
        series_max: 20_000,
        profile: OFF,
        ..Settings::default()
    };
    let folder = Folder::new("churn");
    std::fs::write(folder.path().join("tidewatch.yml"), config).unwrap();
    let generate = ["generate", "--series", "2500", "--churn", "1m", "--step", "10s", "--hours", "0.4"];
    let generate = [&generate[..], &["--end", "2026-01-01T00:00:00Z", "-o", "churn.prom"]].concat();
    done(folder.path(), &generate, None);
    let lines = std::fs::read_to_string(folder.path().join("churn.prom")).unwrap();
    let report = done(folder.path(), &["replay", "--live-order", "--json", "churn.prom"], None);
    let report: Value = serde_json::from_str(&report).unwrap();
    let figure = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    let refused = report["refused"]["series_limit"].as_u64().unwrap_or(0);
    assert_eq!((figure("samples"), refused), model(&lines, &settings), "{report}");
    assert!(refused > 0 && figure("samples") + refused == figure("received"), "{report}");
    // More names than fit at once had their turn.
    assert!(figure("slots_given") > 25_000 && figure("series_released") > 5_000, "{report}");
    assert!(figure("series") <= 20_000, "{report}");
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Sends one sample now of each of these names; the status and how many samples were taken.
fn send(tidewatch: &Tidewatch, names: std::ops::Range<u64>) -> (u16, f64) {
    let accepted = || tidewatch.metric("tidewatch_samples_accepted_total{source=\"remote_write\"}");
    let at_ms = now_ms();
    let request = names.fold(WriteRequest::default(), |request, n| {
        request.series(&[("__name__", "churn"), ("n", &n.to_string())], &[(at_ms, n as f64)])
    });
    let before = accepted();
    let status = request.send(&tidewatch.url("/api/v1/write")).unwrap().status;
    (status, accepted() - before)
}

#[test]
fn a_running_server_forgets_what_fell_silent_and_takes_others() {
    // What was sent first must still be known when the rest is sent, on a slow machine as well.
    let mut tidewatch = Tidewatch::start(
        "windows: [{length: 2s, hop: 1s}]\nidle_timeout: 8s\nallowed_lateness: 1s\ncatch_up: 8s\n\
         limits: {series: 1000, series_per_name: 1000}\nprofile: {enabled: false}\nstore: {rows_per_day_max: 1000000000}\n",
    );
    let reached =
        |tidewatch: &Tidewatch| tidewatch.metric("tidewatch_limit_reached_total{limit=\"limits.series\"}");
    let empty = |tidewatch: &Tidewatch| {
        eventually("all are forgotten", PATIENCE, || {
            match tidewatch.metric("tidewatch_label_entries") + tidewatch.metric("tidewatch_active_series") {
                0.0 => Ok(()),
                n => Err(format!("{n} left")),
            }
        });
    };
    let mut bytes = Vec::new();
    for round in 0..3_u64 {
        let first = round * 10_000;
        assert_eq!(send(&tidewatch, first..first + 900), (204, 900.0), "round {round}");
        // 100 more fit, the other 50 are refused one by one; those known go on.
        assert_eq!(send(&tidewatch, first + 850..first + 1_050), (400, 150.0), "round {round}");
        assert_eq!(reached(&tidewatch), 50.0 * (round + 1) as f64);
        empty(&tidewatch);
        assert_eq!(tidewatch.metric("tidewatch_series_released_total"), 1_000.0 * (round + 1) as f64);
        let of = |stage: &StageSpec| {
            tidewatch.metric(&format!("tidewatch_stage_state_bytes{{stage=\"{}\"}}", stage.name))
        };
        bytes.push(pipeline::STAGES.iter().map(of).collect::<Vec<f64>>());
    }
    assert_eq!(tidewatch.metric("tidewatch_slots_given_total"), 3_000.0);
    assert_eq!(tidewatch.metric("tidewatch_slots_freed_total"), 3_000.0);
    // After a kill the log brings all of them back; they are forgotten once the workers know better.
    tidewatch.process().kill();
    tidewatch.start_again();
    empty(&tidewatch);
    assert_eq!(send(&tidewatch, 90_000..91_000), (204, 1_000.0));
    let log = tidewatch.process().log();
    assert!(!log.contains("panicked"), "{log}");
    println!("bytes of state after each round: {bytes:?}");
}
