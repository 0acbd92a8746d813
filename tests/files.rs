//! `replay`: what a file comes to does not depend on the order of its lines.

use std::fmt::Write as _;
use std::process::Command;

use crate::support::Folder;

const START_MS: i64 = 1_767_225_600_000;

const CONFIG: &str = "windows: [{length: 1m, hop: 10s}, {length: 5m, hop: 1m}]\n";

/// Replays `lines` and returns the rows of `export --final`, sorted.
fn rows(lines: &[(usize, i64)]) -> Vec<String> {
    let folder = Folder::new("files");
    let mut text = String::new();
    for (series, at_ms) in lines {
        writeln!(text, "up{{n=\"{series}\"}} {} {at_ms}", (series * 7 + 1) as i64 + at_ms / 1_000 % 13)
            .unwrap();
    }
    std::fs::write(folder.path().join("in.prom"), text).unwrap();
    std::fs::write(folder.path().join("tidewatch.yml"), CONFIG).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(arguments)
            .args(["--config", "tidewatch.yml", "--data-dir", "data"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["replay", "in.prom"]);
    let mut rows: Vec<String> = run(&["export", "--final"]).lines().map(str::to_owned).collect();
    rows.sort();
    rows
}

/// More samples than one epoch of a file holds; the last series fall silent ten minutes before the end.
#[test]
fn a_file_gives_the_same_rows_by_time_and_by_series() {
    let end = |series: usize| if series < 40 { 1_800 } else { 1_200 };
    let mut by_series: Vec<(usize, i64)> = Vec::new();
    for series in 0..44 {
        by_series.extend((0..=end(series)).map(|second| (series, START_MS + second * 1_000)));
    }
    assert!(by_series.len() > 65_536);
    let mut by_time = by_series.clone();
    by_time.sort_by_key(|line| line.1);
    let (by_series, by_time) = (rows(&by_series), rows(&by_time));
    assert!(!by_time.is_empty());
    let missing: Vec<_> = by_time.iter().filter(|row| !by_series.contains(row)).take(3).collect();
    assert_eq!(by_series.len(), by_time.len(), "only by time, among others: {missing:#?}");
    assert_eq!(by_series, by_time);
}
