//! Backfills through the real program: `replay --backfill` beside what was computed already. What it may write is
//! what all samples together give, or is in a range that the summary names; nothing better is ever replaced, and nothing
//! of the live engine is touched.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::{Settings, Window};

use crate::oracle::{from_scratch, same_row};
use crate::replayed::{export, generate, rows, same, samples_of, settled, shuffled};
use crate::support::process::{Tidewatch, command, done, run};
use crate::support::{Folder, eventually, stored};

/// 2026-01-01T00:00:00Z, the first sample.
const START_MS: i64 = 1_767_225_600_000;
const MINUTE_MS: i64 = 60_000;

/// Windows whose hops share a minute, and some that share seven seconds.
const WINDOWS: [&[(i64, i64)]; 2] = [&[(300, 60), (3_600, 180)], &[(63, 7), (1_260, 42), (7_203, 147)]];

fn settings(windows: &[(i64, i64)]) -> Settings {
    let window = |(length, hop): &(i64, i64)| Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
    Settings { windows: windows.iter().map(window).collect(), ..Settings::default() }.validated().unwrap()
}

fn config(windows: &[(i64, i64)]) -> String {
    let windows: Vec<_> =
        windows.iter().map(|(length, hop)| format!("{{length: {length}s, hop: {hop}s}}")).collect();
    format!("windows: [{}]\n", windows.join(", "))
}

fn folder(windows: &[(i64, i64)]) -> Folder {
    let folder = Folder::new("backfill");
    std::fs::write(folder.path().join("tidewatch.yml"), config(windows)).unwrap();
    folder
}

/// Two hours of samples of 30 series, as text.
fn generated(seed: u64, more: &[&str]) -> String {
    let folder = Folder::new("generated");
    generate(folder.path(), seed, 30, more, "all.prom");
    std::fs::read_to_string(folder.path().join("all.prom")).unwrap()
}

fn at_ms(line: &str) -> i64 {
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// The lines of which this holds.
fn lines(text: &str, mut keep: impl FnMut(&str) -> bool) -> String {
    text.lines().filter(|line| keep(line)).fold(String::new(), |mut all, line| {
        writeln!(all, "{line}").unwrap();
        all
    })
}

fn replay(folder: &Path, text: &str) {
    std::fs::write(folder.join("live.prom"), text).unwrap();
    done(folder, &["replay", "live.prom"], None);
}

/// `replay --backfill` of this text; its summary.
fn backfill(folder: &Path, text: &str, more: &[&str]) -> Value {
    std::fs::write(folder.join("backfill.prom"), text).unwrap();
    let mut arguments = vec!["replay", "--backfill", "--json", "backfill.prom"];
    arguments.extend(more);
    let summary = done(folder, &arguments, None);
    assert!(!folder.join("data/backfill").exists(), "the folder of a backfill goes with it");
    serde_json::from_str(summary.trim()).unwrap()
}

fn number(summary: &Value, what: &str) -> u64 {
    summary["rows"][what].as_u64().unwrap_or_else(|| panic!("{what}: {summary}"))
}

fn ms(text: &Value) -> i64 {
    text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// The exported rows that end up to a time.
fn upto(text: &str, to_ms: i64) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        if row["at_ms"].as_i64().unwrap() <= to_ms {
            writeln!(kept, "{line}").unwrap();
        }
    }
    kept
}

/// The bytes of every file of a log.
fn log_bytes(folder: &Path, log: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder.join("data").join(log)).unwrap();
    let read = |file: std::fs::DirEntry| {
        (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
    };
    files.map(|file| read(file.unwrap())).collect()
}

#[test]
fn half_live_and_half_backfill_show_what_all_of_it_live_shows() {
    for seed in 0..crate::rounds(2) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x4157);
        for windows in WINDOWS {
            let text = generated(seed, &["--late", "0.1", "--duplicates", "0.1"]);
            let samples = samples_of(&text);
            let whole = folder(windows);
            replay(whole.path(), &text);
            let want = export(whole.path());
            // By time: the live engine begins in the middle. What comes in any order within lateness comes to the same.
            let middle = START_MS + rng.i64(30..90) * MINUTE_MS + rng.i64(0..MINUTE_MS);
            let (old, new) =
                (lines(&text, |line| at_ms(line) <= middle), lines(&text, |line| at_ms(line) > middle));
            for (order, old) in [("late", old.clone()), ("shuffled", shuffled(&mut rng, &old))] {
                let what = format!("seed {seed}, {windows:?}, {order}, live after {middle}");
                let folder = folder(windows);
                replay(folder.path(), &new);
                let before = (log_bytes(folder.path(), "outbox"), log_bytes(folder.path(), "journal"));
                let summary = backfill(folder.path(), &old, &[]);
                assert!(number(&summary, "written") > 0, "{what}: {summary}");
                let highest = samples_of(&old).at_ms.into_iter().max().unwrap();
                assert_eq!(ms(&summary["to"]), highest, "{what}");
                let exported = export(folder.path());
                // A sparse series may end so soon that some of these keys are still the live engine's.
                let newest = stored::newest(&samples_of(&new));
                let settings = settings(windows);
                let may = |text: &str| {
                    lines(&upto(text, highest), |line| {
                        let (series, _, at_ms) = stored::key(&settings, &serde_json::from_str(line).unwrap());
                        newest
                            .get(&series.0)
                            .is_none_or(|newest| at_ms <= newest - settings.allowed_lateness_ms)
                    })
                };
                same(&what, &may(&exported), &may(&want));
                // A second time there is nothing to write.
                let again = backfill(folder.path(), &old, &[]);
                assert_eq!(number(&again, "written"), 0, "{what}: {again}");
                assert_eq!(number(&again, "unchanged"), number(&summary, "written"), "{what}: {again}");
                same(&what, &export(folder.path()), &exported);
                let after = (log_bytes(folder.path(), "outbox"), log_bytes(folder.path(), "journal"));
                assert!(before == after, "{what}: the live engine's logs are as they were");
            }
            // By series: the live engine does not know the others. Processing time is theirs to end at.
            let ids = samples.series.iter().map(|id| id.is_multiple_of(2)).collect::<Vec<_>>();
            let mut id = ids.iter();
            let even = lines(&text, |_| *id.next().unwrap());
            let mut id = ids.iter();
            let odd = lines(&text, |_| !*id.next().unwrap());
            let folder = folder(windows);
            replay(folder.path(), &even);
            backfill(folder.path(), &odd, &[]);
            let what = format!("seed {seed}, {windows:?}, half of the series");
            let stream = samples_of(&even).at_ms.into_iter().max().unwrap();
            let (got, want) = (settled(&export(folder.path()), &samples), settled(&want, &samples));
            same(&what, &upto(&got, stream), &upto(&want, stream));
        }
    }
}

#[test]
fn a_backfill_of_everything_mends_what_the_live_engine_has_finished_with() {
    for windows in WINDOWS {
        let text = generated(3, &["--late", "0.05"]);
        let samples = samples_of(&text);
        let middle = START_MS + 50 * MINUTE_MS;
        let whole = folder(windows);
        replay(whole.path(), &text);
        let folder = folder(windows);
        replay(folder.path(), &lines(&text, |line| at_ms(line) > middle));
        let summary = backfill(folder.path(), &text, &[]);
        assert!(number(&summary, "replaced") > 0, "{summary}");
        assert_eq!(summary["larger_first"], json!([]), "{summary}");
        let settings = settings(windows);
        // Up to newest - lateness the backfill has said it, after that the live engine has.
        let newest = stored::newest(&samples);
        let limit = newest.values().min().unwrap() - settings.allowed_lateness_ms;
        let all = export(whole.path());
        let mut first = BTreeMap::new();
        for (series, at_ms) in samples.series.iter().zip(&samples.at_ms) {
            let first = first.entry(*series).or_insert(*at_ms);
            *first = (*at_ms).min(*first);
        }
        // Where the samples do not reach back over a window that has a row, that row stays.
        let mended = |text: &str| {
            lines(text, |line| {
                let row: Value = serde_json::from_str(line).unwrap();
                let (series, length_ms, at_ms) = stored::key(&settings, &row);
                at_ms <= limit && (at_ms <= middle || at_ms - length_ms >= first[&series.0])
            })
        };
        same("all of it", &mended(&export(folder.path())), &mended(&all));
        let partial = &summary["windows"][windows.len() - 1]["kept_partial"];
        assert!(ms(&partial["first"]) > middle, "{summary}");
        let look_back = &summary["windows"][windows.len() - 1]["look_back"];
        assert_eq!(ms(&look_back["after"]), limit, "{summary}");
        // With bounds nothing outside is written, and keys after `from` know what is before it.
        let bounded = self::folder(windows);
        replay(bounded.path(), &lines(&text, |line| at_ms(line) > middle));
        let had = export(bounded.path());
        let range = ["--from", "2026-01-01T00:30:00Z", "--to", "2026-01-01T01:10:00Z"];
        let summary = backfill(bounded.path(), &text, &range);
        let (from, to) = (START_MS + 30 * MINUTE_MS, START_MS + 70 * MINUTE_MS);
        assert_eq!((ms(&summary["after"]), ms(&summary["to"])), (from, to));
        assert!(summary["outside_range"].as_u64().unwrap() > 0, "{summary}");
        let got = export(bounded.path());
        let inside = |text: &str| {
            lines(text, |line| {
                let row: Value = serde_json::from_str(line).unwrap();
                let (series, length_ms, at_ms) = stored::key(&settings, &row);
                let whole = at_ms <= middle || at_ms - length_ms >= first[&series.0];
                (from + 1..=to).contains(&at_ms) && whole
            })
        };
        same("inside", &inside(&got), &inside(&all));
        let outside = |text: &str| {
            lines(text, |line| {
                let row: Value = serde_json::from_str(line).unwrap();
                !(from + 1..=to).contains(&row["at_ms"].as_i64().unwrap())
            })
        };
        same("outside", &outside(&got), &outside(&had));
    }
}

/// The ranges of one window that a summary names, inclusive.
fn named(summary: &Value, window: &Value) -> Vec<(i64, i64)> {
    let of = summary["windows"].as_array().unwrap().iter().find(|of| of["window"] == *window);
    let of = of.unwrap_or_else(|| panic!("{window}: {summary}"));
    let spreads = ["replaced", "kept_larger", "kept_partial"].map(|what| &of[what]);
    let mut ranges: Vec<_> = spreads
        .into_iter()
        .filter(|spread| spread["rows"] != 0)
        .map(|spread| (ms(&spread["first"]), ms(&spread["last"])))
        .collect();
    if !of["look_back"].is_null() {
        ranges.push((ms(&of["look_back"]["after"]) + 1, ms(&of["look_back"]["before"]) - 1));
    }
    ranges
}

#[test]
fn where_each_side_lacks_samples_every_row_is_right_or_in_a_range_that_is_named() {
    for seed in 0..crate::rounds(3) {
        for windows in WINDOWS {
            let mut rng = fastrand::Rng::with_seed(seed ^ 0x9A7C);
            let text = generated(seed, &["--duplicates", "0.05"]);
            let samples = samples_of(&text);
            // Each side misses a quarter of an hour, at a place of its own, of some series; and a sample now and then.
            let (mut live, mut old) = (Vec::new(), Vec::new());
            for missing in [&mut live, &mut old] {
                let from = START_MS + rng.i64(20..50) * MINUTE_MS;
                let of = rng.u64(0..4);
                missing.extend((0..samples.len()).map(|i| {
                    let gap = (from..from + 15 * MINUTE_MS).contains(&samples.at_ms[i]);
                    gap && (samples.series[i] % 4 == of || rng.u8(0..40) == 0)
                }));
            }
            let without = |missing: &[bool]| {
                let mut missing = missing.iter();
                lines(&text, |_| !*missing.next().unwrap())
            };
            let what = format!("seed {seed}, {windows:?}");
            let folder = folder(windows);
            replay(folder.path(), &without(&live));
            let summary = backfill(folder.path(), &without(&old), &[]);
            // What one side lacks and the other has; a sample that both lack is in neither.
            let mut union = Samples::default();
            for i in (0..samples.len()).filter(|i| !live[*i] || !old[*i]) {
                union.push(samples.series[i], samples.at_ms[i], samples.value[i]);
            }
            let settings = settings(windows);
            let want = from_scratch(&settings, &union);
            let newest = stored::newest(&union);
            let (mut right, mut wrong) = (0, 0);
            let exported = rows(&export(folder.path()));
            for row in exported {
                let key = stored::key(&settings, &row);
                if key.2 >= newest[&key.0.0] {
                    continue;
                }
                let want = want.get(&key).unwrap_or_else(|| panic!("{what}: nobody has samples for {row}"));
                if same_row(&stored::stats(&row, want), want) {
                    right += 1;
                    continue;
                }
                wrong += 1;
                let ranges = named(&summary, &row["window"]);
                let is_named = ranges.iter().any(|(first, last)| (*first..=*last).contains(&key.2));
                assert!(is_named, "{what}: {row}\nwant {want:?}\n{summary}");
            }
            assert!(right > wrong && wrong > 0, "{what}: {right} right, {wrong} named");
            assert!(number(&summary, "kept") > 0 && number(&summary, "replaced") > 0, "{what}: {summary}");
            assert!(!summary["larger_first"].as_array().unwrap().is_empty(), "{what}: {summary}");
        }
    }
}

#[test]
fn a_live_row_of_fewer_samples_never_replaces_one_of_a_backfill() {
    let windows = WINDOWS[0];
    let text = generated(9, &[]);
    let samples = samples_of(&text);
    let mut ids = samples.series.iter();
    let known = lines(&text, |_| ids.next().unwrap().is_multiple_of(2));
    let folder = folder(windows);
    // Of the others the live engine knows nothing yet, and then every third sample.
    replay(folder.path(), &known);
    backfill(folder.path(), &text, &[]);
    let before = export(folder.path());
    let (mut n, mut ids) = (0, samples.series.iter());
    let thin = lines(&text, |_| {
        n += 1;
        !ids.next().unwrap().is_multiple_of(2) && n % 3 == 0
    });
    let until =
        |text: &str| upto(&settled(text, &samples), samples_of(&known).at_ms.into_iter().max().unwrap());
    replay(folder.path(), &thin);
    same("after live rows of fewer samples", &until(&export(folder.path())), &until(&before));
    // And of more: the live engine gets the rest of them, all within lateness of nothing it has heard.
    let whole = self::folder(windows);
    replay(whole.path(), &text);
    same("what the backfill wrote", &until(&before), &until(&export(whole.path())));
}

#[test]
fn a_backfill_that_is_killed_leaves_nothing_behind() {
    let windows = WINDOWS[0];
    let text = generated(11, &[]);
    let middle = START_MS + 60 * MINUTE_MS;
    let (old, new) = (lines(&text, |line| at_ms(line) <= middle), lines(&text, |line| at_ms(line) > middle));
    let folder = folder(windows);
    replay(folder.path(), &new);
    let before = export(folder.path());
    let left = folder.path().join("data/backfill");
    for round in 0..crate::rounds(2) {
        let mut child = command(folder.path(), &["replay", "--backfill", "-"]);
        let mut child =
            child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&old.as_bytes()[..old.len() / 2]).unwrap();
        eventually("it reads", Duration::from_secs(60), || match left.join("journal").is_dir() {
            true => Ok(()),
            false => Err("there is no journal yet".to_owned()),
        });
        child.kill().unwrap();
        child.wait().unwrap();
        drop(stdin);
        assert!(left.exists(), "it was killed before its end");
        same("nothing was written", &export(folder.path()), &before);
        if round % 2 == 0 {
            replay(folder.path(), "");
            assert!(!left.exists(), "the next start removes it");
        }
    }
    backfill(folder.path(), &old, &[]);
    let mut tidewatch = Tidewatch::start_in(folder);
    assert!(!tidewatch.folder().join("data/backfill").exists());
    let refused = run(tidewatch.folder(), &["replay", "--backfill", "backfill.prom"], None);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("POST /api/v1/backfill"), "{refused:?}");
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
}

#[test]
fn flags_that_cannot_be_are_refused_before_anything_is_written() {
    let text = lines(&generated(1, &[]), |line| at_ms(line) < START_MS + 20 * MINUTE_MS);
    let folder = folder(WINDOWS[0]);
    std::fs::write(folder.path().join("backfill.prom"), &text).unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--backfill", "--live-order"], 2, "cannot be used with"),
        (&["--from", "yesterday"], 1, "--from must be RFC 3339 or Unix seconds"),
        (&["--backfill", "--to", "1999-01-01T00:00:00Z"], 1, "got \"1999-01-01T00:00:00Z\""),
        (&["--backfill", "--to", ""], 1, "--to must be RFC 3339"),
        (&["--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], 1, "--to must be after --from"),
        (&["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], 1, "--to must be after --from"),
        (&["--backfill", "missing.prom"], 1, "missing.prom"),
        (&["--backfill"], 1, "use replay without --backfill"),
    ];
    for (arguments, code, says) in cases {
        let mut all = vec!["replay", "backfill.prom"];
        all.extend(arguments);
        let ended = run(folder.path(), &all, None);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains(says), "{arguments:?}: {ended:?}");
        assert!(!folder.path().join("data/backfill").exists(), "{arguments:?}");
    }
    // Without --backfill the bounds are inclusive, and say how much was outside.
    let samples = samples_of(&text);
    let (from, to) = (START_MS + 5 * MINUTE_MS, START_MS + 10 * MINUTE_MS);
    let inside = samples.at_ms.iter().filter(|at| (from..=to).contains(at)).count();
    let range = ["--from", "2026-01-01T00:05:00Z", "--to", "2026-01-01T00:10:00Z"];
    let summary = done(folder.path(), &[&["replay", "--json", "backfill.prom"][..], &range].concat(), None);
    let summary: Value = serde_json::from_str(summary.trim()).unwrap();
    assert_eq!(summary["samples"], inside, "{summary}");
    assert_eq!(summary["outside_range"], samples.len() - inside, "{summary}");
    let stored = stored::samples(&folder.path().join("data"));
    assert_eq!(stored.len(), inside);
    assert!(stored.at_ms.iter().all(|at| (from..=to).contains(at)));
    // A backfill of nothing is one.
    let summary = backfill(folder.path(), "", &[]);
    assert_eq!((number(&summary, "written"), &summary["samples"]), (0, &json!(0)));
    // The words for people name what the JSON does.
    std::fs::write(folder.path().join("backfill.prom"), &text).unwrap();
    let said = done(folder.path(), &["replay", "--backfill", "backfill.prom"], None);
    assert!(said.contains("rows written") && said.contains("does not know them"), "{said}");
}
