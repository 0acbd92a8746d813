//! `tidewatch demo`: what it stores is what its generator's samples give, in the history and live, whenever it is killed;
//! it goes on where it was, and leaves the directories of others alone.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tidewatch::generate::{Delivery, GenerateOptions, Generator, SPAN_MS_MAX};
use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::{Settings, Window};

use crate::support::process::{Tidewatch, done, run};
use crate::support::remote_write::WriteRequest;
use crate::support::{Folder, eventually, stored};

const CONFIG: &str = "windows: [{length: 20s, hop: 2s}, {length: 5m, hop: 10s}]\nidle_timeout: 1s\n";
const DEMO: [&str; 7] = ["demo", "--series", "70", "--hours", "0.5", "--step", "1s"];
const PATIENCE: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    let seconds = |length: i64, hop: i64| Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
    let windows = vec![seconds(20, 2), seconds(300, 10)];
    Settings { windows, idle_timeout_ms: 1_000, ..Settings::default() }.validated().unwrap()
}

fn folder() -> Folder {
    let folder = Folder::new("demo");
    std::fs::write(folder.path().join("tidewatch.yml"), CONFIG).unwrap();
    folder
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Up to when everything was sent, as the demo wrote it down.
fn sent_to(folder: &Path) -> Option<i64> {
    std::fs::read_to_string(folder.join("data/sources/demo")).ok()?.trim().parse().ok()
}

/// What the demo in a folder sends up to a time, by its own description: each sample as often as it is delivered.
fn sent(folder: &Path, to_ms: i64) -> (Samples, u64) {
    let text = std::fs::read_to_string(folder.join("data/demo.json")).unwrap();
    let made: Value = serde_json::from_str(&text).unwrap();
    let whole = |field: &str| made[field].as_i64().unwrap();
    let share = |field: &str| made[field].as_f64().unwrap();
    let start_ms = whole("start_ms");
    let mut generator = Generator::new(GenerateOptions {
        series: made["series"].as_u64().unwrap(),
        seed: made["seed"].as_u64().unwrap(),
        step_ms: whole("step_ms"),
        allowed_lateness_ms: whole("allowed_lateness_ms"),
        late_ratio: share("late_ratio"),
        duplicate_ratio: share("duplicate_ratio"),
        conflict_ratio: share("conflict_ratio"),
        ..GenerateOptions::over(start_ms, start_ms + SPAN_MS_MAX)
    })
    .unwrap();
    let ids: Vec<u64> = generator.series().map(|series| id(&generator.labels(series))).collect();
    let (mut samples, mut conflicts) = (Samples::default(), 0);
    while let Some(point) = generator.next() {
        if generator.delivered_ms() > to_ms {
            return (samples, conflicts);
        }
        samples.push(ids[point.series as usize], point.at_ms, point.value());
        conflicts += u64::from(point.delivery == Delivery::Conflict);
    }
    panic!("ten years are over")
}

fn id(labels: &[(String, String)]) -> u64 {
    let pairs: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    series_id(&pairs).0
}

/// Samples in an order that does not depend on who read them.
fn sorted(samples: &Samples) -> Vec<(u64, i64, u64)> {
    let one = |i: usize| (samples.series[i], samples.at_ms[i], samples.value[i].to_bits());
    let mut all: Vec<_> = (0..samples.len()).map(one).collect();
    all.sort_unstable();
    all
}

/// Asks until there are rows of after `since_ms`.
fn live_rows_after(tidewatch: &Tidewatch, since_ms: i64) {
    eventually("live rows", PATIENCE, || {
        let start = (since_ms / 1_000).to_string();
        let parameters = [("match[]", "node_load1"), ("start", start.as_str())];
        let rows = tidewatch.rows("/api/v1/windows", &parameters);
        if rows.iter().any(|row| row["at_ms"].as_i64() > Some(since_ms)) {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    });
}

/// Ends a demo, and holds what it stored against what it sent; gives both.
fn judge(what: &str, tidewatch: &mut Tidewatch) -> (Vec<Value>, Samples, u64) {
    let status = tidewatch.process().terminate();
    assert_eq!(status.code(), Some(0), "{what}: {}", tidewatch.process().log_tail());
    let (samples, conflicts) = sent(tidewatch.folder(), sent_to(tidewatch.folder()).unwrap());
    let text = done(tidewatch.folder(), &["export"], None);
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut without = rows.clone();
    without.iter_mut().for_each(|row| drop(row.as_object_mut().unwrap().remove("revision")));
    stored::check(what, &settings(), &without, &samples);
    (rows, samples, conflicts)
}

#[test]
fn a_demo_stores_what_its_samples_give_and_goes_on_live() {
    let mut tidewatch = Tidewatch::begin(folder(), &DEMO);
    tidewatch.process().await_ready("/-/ready");
    live_rows_after(&tidewatch, now_ms());
    let status = tidewatch.get("/api/v1/status", &[]).json();
    assert_eq!(status["sources"][0]["source"], "demo", "{status}");
    assert_eq!(status["sources"][0]["state"], "sending", "{status}");
    assert!(status["sources"][0]["behind_seconds"].as_f64().unwrap() < 30.0, "{status}");
    assert!(tidewatch.metric("tidewatch_samples_accepted_total{source=\"demo\"}") > 0.0);
    let rejects = tidewatch.rows("/api/v1/rejects", &[("by", "reason")]);
    let text = tidewatch.process().log();
    for words in [tidewatch.url("/"), "data   data\n".to_owned(), "30m of 70 series: ".to_owned()] {
        assert!(text.contains(&words), "{words} is not in {text}");
    }
    let complaint = text.lines().find(|line| line.contains("WARN") || line.contains("ERROR"));
    assert_eq!(complaint, None);

    let (rows, samples, conflicts) = judge("undisturbed", &mut tidewatch);
    assert!(rows.iter().any(|row| row["revision"].as_i64() > Some(0)), "late samples correct rows");
    assert!(conflicts > 0 && rejects.len() == 1, "{conflicts} conflicts, {rejects:?}");
    assert_eq!(rejects[0]["reason"], "duplicate_timestamp", "{rejects:?}");
    // Nothing was trimmed so soon: each sample was sent just as often as it is delivered.
    let journal = stored::samples(&tidewatch.folder().join("data"));
    assert!(sorted(&journal) == sorted(&samples), "{} sent, {} in the journal", samples.len(), journal.len());
}

#[test]
fn killed_in_either_phase_it_goes_on_without_a_hole() {
    for round in 0..crate::rounds(1) {
        let mut rng = fastrand::Rng::with_seed(round ^ 0xDE30);
        let what = format!("round {round}");
        let mut tidewatch = Tidewatch::begin(folder(), &DEMO);
        eventually("some of the history is sent", PATIENCE, || {
            sent_to(tidewatch.folder()).map(drop).ok_or_else(|| "nothing".to_owned())
        });
        tidewatch.process().kill();
        for _ in 0..2 {
            tidewatch.start_and_kill(Duration::from_millis(rng.u64(0..400)));
        }
        tidewatch.start_again();
        let since_ms = now_ms();
        live_rows_after(&tidewatch, since_ms);
        tidewatch.process().kill();
        // At once: what is missing comes live.
        tidewatch.start_again();
        live_rows_after(&tidewatch, now_ms());
        tidewatch.process().kill();
        // Later: it is a history first.
        let left_ms = sent_to(tidewatch.folder()).unwrap();
        eventually("a gap", PATIENCE, || {
            if now_ms() > left_ms + 5_000 { Ok(()) } else { Err("not yet".to_owned()) }
        });
        tidewatch.start_again();
        live_rows_after(&tidewatch, now_ms());
        // What was sent twice was not too late for anything.
        for row in tidewatch.rows("/api/v1/rejects", &[("by", "reason")]) {
            assert_eq!(row["reason"], "duplicate_timestamp", "{what}: {row}");
        }
        judge(&what, &mut tidewatch);
    }
}

#[test]
fn a_directory_of_others_is_refused_and_left_alone() {
    let folder = folder();
    let path = folder.path().join("data");
    let refused = |more: &[&str], words: &str| {
        let arguments: Vec<&str> =
            DEMO.iter().copied().chain(["--listen", "127.0.0.1:0"]).chain(more.iter().copied()).collect();
        let ended = run(folder.path(), &arguments, None);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains(words), "{words} is not in {ended:?}");
    };
    for (file, words) in [
        (
            "notes.txt",
            "data holds other files and was not made by a demo (there is no demo.json); choose another directory with --data-dir",
        ),
        ("store.sqlite", "data holds the data of a server and was not made by a demo"),
    ] {
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(file), "mine").unwrap();
        refused(&[], words);
        refused(&["--fresh"], words);
        let left: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left == [file], "{left:?}");
        assert_eq!(std::fs::read_to_string(path.join(file)).unwrap(), "mine");
        std::fs::remove_dir_all(&path).unwrap();
    }
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("demo.json"), "{}").unwrap();
    refused(&[], "data/demo.json is not what this program writes; begin anew with --fresh");
}

#[test]
fn flags_are_judged_before_anything_is_there() {
    let folder = folder();
    for (flag, value, words) in [
        ("--series", "0", "--series must be 1 to 10000; got 0"),
        ("--series", "10001", "--series must be 1 to 10000; got 10001"),
        ("--hours", "0", "--hours must be above 0, at most 168; got 0"),
        ("--hours", "NaN", "--hours must be above 0, at most 168; got NaN"),
        ("--step", "10ms", "--step must be a duration from 1s to 5m; got \"10ms\""),
        ("--step", "often", "--step must be a duration from 1s to 5m; got \"often\""),
    ] {
        let ended = run(folder.path(), &["demo", "--listen", "127.0.0.1:0", flag, value], None);
        assert_eq!((ended.code, ended.err.trim()), (Some(1), format!("tidewatch: {words}").as_str()));
    }
    assert!(!folder.path().join("data").exists());
}

#[test]
fn another_demo_or_one_that_is_too_old_is_refused_until_it_begins_anew() {
    let words = ["demo", "--series", "20", "--hours", "0.05", "--step", "1s"];
    let mut tidewatch = Tidewatch::begin(folder(), &words);
    tidewatch.process().await_ready("/-/ready");
    // Whoever likes may send to it.
    let request = WriteRequest::default().series(&[("__name__", "mine")], &[(now_ms(), 1.0)]);
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
    assert!(
        stored::samples(&tidewatch.folder().join("data"))
            .series
            .contains(&series_id(&[("__name__", "mine")]).0)
    );
    let made = || std::fs::read_to_string(tidewatch.folder().join("data/demo.json")).unwrap();
    let before = made();
    let refused = |arguments: &[&str], words: &str| {
        let arguments: Vec<&str> =
            ["demo", "--listen", "127.0.0.1:0"].into_iter().chain(arguments.iter().copied()).collect();
        let ended = run(tidewatch.folder(), &arguments, None);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains(words), "{words} is not in {ended:?}");
    };
    refused(&["--series", "21"], "made with --series 20; got 21: leave it out, or begin anew with --fresh");
    refused(&["--step", "2s"], "made with --step 1s; got 2s");
    let long_ago = now_ms() - 49 * 3_600_000;
    std::fs::write(tidewatch.folder().join("data/sources/demo"), long_ago.to_string()).unwrap();
    refused(&[], "data lacks the last 2d1h, and at most 2d are made up for; begin anew with --fresh");
    assert_eq!(before, made());

    let folder = tidewatch.into_folder();
    let fresh: Vec<&str> = words.into_iter().chain(["--fresh"]).collect();
    let mut tidewatch = Tidewatch::begin(folder, &fresh);
    tidewatch.process().await_ready("/-/ready");
    judge("anew", &mut tidewatch);
    assert_ne!(before, std::fs::read_to_string(tidewatch.folder().join("data/demo.json")).unwrap());
}
