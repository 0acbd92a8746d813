//! Churn: many more series names than may be alive at once go through a server, so that slots are freed and filled again.
//!
//! The whole program as a user runs it: `generate --churn` piped into `replay --live-order -`. Each name lives a minute and
//! has six samples. Printed are the resident memory and the series log at ten points, slots, and a verdict: what
//! memory grows by in the second half, for a million names.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::core::median;
use crate::rim::Folder;

/// Most series at once.
const SERIES_MAX: u64 = 100_000;
/// Most bytes of memory that a million names may add, so that it counts as flat.
const SLOPE_MAX: f64 = (4 << 20) as f64;
const POINTS: u64 = 10;

/// One run.
struct Load {
    /// Names in all, about.
    names: u64,
    /// Names at once.
    series: u64,
}

/// What was seen at one point.
struct Seen {
    samples: u64,
    resident: u64,
    log: u64,
}

/// 10 million names, or as many millions as `CHURN_MILLIONS` says; then a tenth of it with twice the series that fit.
pub fn churn() {
    let millions = std::env::var("CHURN_MILLIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let within = run(&Load { names: millions * 1_000_000, series: 10_000 });
    assert_eq!(within["refused"], serde_json::json!({}), "everything fits");
    let beyond = run(&Load { names: millions * 100_000, series: 20_000 });
    assert!(beyond["refused"]["series_limit"].as_u64().unwrap() > 0, "not everything fits");
}

/// Replays one load and judges it.
fn run(load: &Load) -> serde_json::Value {
    let folder = Folder::new("churn");
    let program = env!("CARGO_BIN_EXE_tidewatch");
    let settings = format!(
        "windows: [{{length: 1m, hop: 1m}}, {{length: 5m, hop: 5m}}]\nidle_timeout: 10s\nallowed_lateness: 1m\n\
         limits: {{series: {SERIES_MAX}, series_per_name: {SERIES_MAX}}}\n"
    );
    std::fs::write(folder.0.join("churn.yml"), settings).unwrap();
    // Instances that are out of reach for longer than they live bear names that nobody sees.
    let hours = load.names as f64 * 1.07 / load.series as f64 / 60.0;
    let mut generate = Command::new(program)
        .args(["generate", "--churn", "1m", "--step", "10s", "--end", "2026-01-01T00:00:00Z"])
        .args(["--series", &load.series.to_string(), "--hours", &hours.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut replay = Command::new(program)
        .args(["replay", "--live-order", "--json", "--config", "churn.yml", "--data-dir", "data", "-"])
        .current_dir(&folder.0)
        .stdin(generate.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    println!("-- {} names, {} at once, at most {SERIES_MAX} kept", load.names, load.series);
    let (points, other) = watch(&mut replay, &folder, load.names * 6);
    let mut report = String::new();
    replay.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    assert!(replay.wait().unwrap().success() && generate.wait().unwrap().success(), "{other}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let figure = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    let refused: u64 = report["refused"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    println!(
        "{} names taken, {} slots given, {} freed; {} samples, refused {}; {} rows; {:.0} s",
        figure("series_released") + figure("series"),
        figure("slots_given"),
        figure("slots_freed"),
        figure("samples"),
        report["refused"],
        figure("rows_stored"),
        report["seconds"].as_f64().unwrap()
    );
    assert_eq!(figure("received"), figure("samples") + refused, "every sample is taken or counted");
    assert!(figure("series") <= SERIES_MAX);
    judge(&points, load);
    report
}

/// Reads the progress of a replay; what was seen at the points, and all other lines.
fn watch(replay: &mut std::process::Child, folder: &Folder, samples_all: u64) -> (Vec<Seen>, String) {
    let (mut points, mut other, mut between) = (Vec::new(), String::new(), Vec::new());
    let statm = format!("/proc/{}/statm", replay.id());
    for line in BufReader::new(replay.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some(samples) = line.split_once(" samples, ").and_then(|(n, _)| n.parse::<u64>().ok()) else {
            other.push_str(&line);
            other.push('\n');
            continue;
        };
        let pages = std::fs::read_to_string(&statm).unwrap_or_default();
        between.push(pages.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) * 4_096.0);
        if samples < samples_all * (points.len() as u64 + 1) / (POINTS + 1) {
            continue;
        }
        // The middle of all since the last point: transactions and snapshots come and go.
        let resident = median(&mut between) as u64;
        between.clear();
        let seen = Seen { samples, resident, log: bytes_in(&folder.0.join("data/series")) };
        println!(
            "{:>5.1} M samples {:>6.1} MiB resident {:>6.1} MiB series log",
            seen.samples as f64 / 1e6,
            seen.resident as f64 / f64::from(1 << 20),
            seen.log as f64 / f64::from(1 << 20)
        );
        points.push(seen);
    }
    (points, other)
}

fn bytes_in(folder: &std::path::Path) -> u64 {
    let Ok(files) = std::fs::read_dir(folder) else { return 0 };
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

/// The slope of resident memory over the second half, by least squares.
fn judge(points: &[Seen], load: &Load) {
    let half = &points[points.len() / 2..];
    if load.names < 5_000_000 || half.len() < 3 {
        println!("too short for a verdict on memory");
        return;
    }
    let n = half.len() as f64;
    let names = |seen: &Seen| seen.samples as f64 / 6e6;
    let (x, y) =
        (half.iter().map(names).sum::<f64>() / n, half.iter().map(|s| s.resident as f64).sum::<f64>() / n);
    let (mut xy, mut xx) = (0.0, 0.0);
    for seen in half {
        xy += (names(seen) - x) * (seen.resident as f64 - y);
        xx += (names(seen) - x) * (names(seen) - x);
    }
    let slope = xy / xx;
    println!("{:+.2} MiB resident for a million names, over the second half", slope / f64::from(1 << 20));
    assert!(slope < SLOPE_MAX, "memory grows with the names");
}
