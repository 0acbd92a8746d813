//! Files through the real program: `generate`, `replay`, `export --final`. The same samples give the same bytes in
//! any order, format, number of commands and of workers, also after a kill; and they are what the samples give from
//! scratch.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::{Settings, Window};

use crate::support::process::{Tidewatch, command, done, run};
use crate::support::remote_write::WriteRequest;
use crate::support::{Folder, eventually, stored};

const CONFIG: &str = "windows: [{length: 5m, hop: 1m}, {length: 3h, hop: 3m}]\n";

fn settings() -> Settings {
    let minutes = |length: i64, hop: i64| Window { length_ms: length * 60_000, hop_ms: hop * 60_000 };
    Settings { windows: vec![minutes(5, 1), minutes(180, 3)], ..Settings::default() }.validated().unwrap()
}

/// A folder with a configuration and no data yet.
pub fn folder() -> Folder {
    let folder = Folder::new("replayed");
    std::fs::write(folder.path().join("tidewatch.yml"), CONFIG).unwrap();
    folder
}

/// Writes seeded samples over two hours to a file.
pub fn generate(folder: &Path, seed: u64, series: u32, more: &[&str], file: &str) {
    let (seed, series) = (seed.to_string(), series.to_string());
    let mut arguments = vec!["generate", "--seed", &seed, "--series", &series, "--hours", "2"];
    arguments.extend(["--start", "2026-01-01T00:00:00Z", "-o", file]);
    arguments.extend(more);
    done(folder, &arguments, None);
}

/// The samples of generated text, read by hand.
pub fn samples_of(text: &str) -> Samples {
    let mut samples = Samples::default();
    for line in text.lines() {
        let (labels, at_ms, value) = parts(line);
        samples.push(series_id(&labels).0, at_ms, value);
    }
    samples
}

/// Labels by name, time and value of a line. Generated values hold no quotes.
pub fn parts(line: &str) -> (Vec<(&str, &str)>, i64, f64) {
    let (name, rest) = line.split_once('{').unwrap();
    let (labels, rest) = rest.split_once("\"} ").unwrap();
    let (value, at_ms) = rest.split_once(' ').unwrap();
    let mut pairs: Vec<(&str, &str)> =
        labels.split("\",").map(|pair| pair.split_once("=\"").unwrap()).collect();
    pairs.push(("__name__", name));
    pairs.sort_unstable();
    (pairs, at_ms.parse().unwrap(), value.parse().unwrap())
}

/// What `export --final` writes.
pub fn export(folder: &Path) -> String {
    done(folder, &["export", "--final"], None)
}

pub fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The exported lines of keys before the newest sample of their series.
pub fn settled(text: &str, samples: &Samples) -> String {
    let newest = stored::newest(samples);
    let after = |line: &str, field: &str| {
        let from = line.find(field).unwrap() + field.len();
        line[from..].split(['"', ',', '}']).next().unwrap().to_owned()
    };
    let mut lines = String::new();
    for line in text.lines() {
        let series = u64::from_str_radix(&after(line, "\"series\":\""), 16).unwrap();
        if after(line, "\"at_ms\":").parse::<i64>().unwrap() < newest[&series] {
            lines += line;
            lines.push('\n');
        }
    }
    lines
}

/// Asserts that two exports are equal, and shows the first line that is not.
pub fn same(what: &str, got: &str, want: &str) {
    if got != want {
        let differs = got.lines().zip(want.lines()).find(|(got, want)| got != want);
        panic!(
            "{what}: {} lines, expected {}; first: {differs:?}",
            got.lines().count(),
            want.lines().count()
        );
    }
}

/// The lines in an order in which none is further behind the newest of its series than lateness, some of them twice.
pub fn shuffled(rng: &mut fastrand::Rng, text: &str) -> String {
    let allowed_lateness_ms = settings().allowed_lateness_ms;
    let mut lines: Vec<(i64, &str)> = Vec::new();
    for line in text.lines() {
        let at_ms: i64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        lines.push((at_ms + rng.i64(0..allowed_lateness_ms), line));
        if rng.u8(0..5) == 0 {
            lines.push((at_ms + rng.i64(0..allowed_lateness_ms), line));
        }
    }
    lines.sort_by_key(|(when, _)| *when);
    lines.iter().fold(String::new(), |mut all, (_, line)| {
        writeln!(all, "{line}").unwrap();
        all
    })
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Arguments of `replay`, the number of workers, and standard input.
type Case<'a> = (&'a [&'a str], &'a str, Option<Vec<u8>>);

#[test]
fn any_order_format_and_number_of_workers_gives_the_same_bytes() {
    for seed in 0..crate::rounds(1) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xF11E5);
        let base = folder();
        let path = |name: &str| base.path().join(name);
        let read = |name: &str| std::fs::read(path(name)).unwrap();
        // Some epochs of 65,536 samples.
        let series = 350;
        for (more, file) in [
            (&[][..], "time.prom"),
            (&["--order", "series"], "series.prom"),
            (&["--late", "0.3"], "late.csv"),
            (&["--duplicates", "0.2"], "twice.prom.gz"),
            (&["--order", "series", "--late", "0.2", "--duplicates", "0.2"], "all.csv.gz"),
        ] {
            generate(base.path(), seed, series, more, file);
        }
        let text = String::from_utf8(read("time.prom")).unwrap();
        let samples = samples_of(&text);
        assert!(samples.len() > 2 * 65_536, "{}", samples.len());
        std::fs::write(path("shuffled.prom"), shuffled(&mut rng, &text)).unwrap();
        let half = text.match_indices('\n').nth(samples.len() / 2).unwrap().0 + 1;
        std::fs::write(path("first.prom"), &text[..half]).unwrap();
        std::fs::write(path("second.txt.gz"), gz(&text.as_bytes()[half..])).unwrap();

        let mut want = String::new();
        let cases: [Case; 12] = [
            (&["time.prom"], "1", None),
            (&["time.prom"], "4", None),
            (&["series.prom"], "2", None),
            (&["late.csv"], "4", None),
            (&["twice.prom.gz"], "1", None),
            (&["all.csv.gz"], "2", None),
            (&["shuffled.prom"], "4", None),
            (&["first.prom", "second.txt.gz"], "2", None),
            (&["time.prom", "--live-order"], "2", None),
            (&["late.csv", "--live-order"], "1", None),
            (&["-"], "4", Some(gz(&read("series.prom")))),
            (&["-", "--format", "csv"], "1", Some(read("late.csv"))),
        ];
        for (files, workers, input) in cases {
            let what = format!("seed {seed}, {files:?}, {workers} workers");
            // A data directory for each, beside the files.
            let _ = std::fs::remove_dir_all(path("data"));
            let mut arguments = vec!["replay", "--json", "--workers", workers];
            arguments.extend(files);
            let summary: Value =
                serde_json::from_str(done(base.path(), &arguments, input.as_deref()).trim()).unwrap();
            assert_eq!(summary["refused"], serde_json::json!({}), "{what}");
            assert_eq!(summary["samples"], summary["computed"], "{what}");
            assert!(summary["samples"].as_u64().unwrap() >= samples.len() as u64, "{what}");
            let text = export(base.path());
            let got = settled(&text, &samples);
            if want.is_empty() {
                stored::check(&what, &settings(), &rows(&text), &samples);
                want = got;
            } else {
                same(&what, &got, &want);
            }
        }
    }
}

#[test]
fn two_commands_and_then_a_server_on_one_directory_show_the_same_rows() {
    for seed in 0..crate::rounds(1) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x2A1F);
        let folder = folder();
        generate(folder.path(), seed, 60, &["--late", "0.1"], "all.prom");
        let text = std::fs::read_to_string(folder.path().join("all.prom")).unwrap();
        let samples = samples_of(&text);
        let cut = rng.usize(samples.len() / 4..3 * samples.len() / 4);
        let what = format!("seed {seed}, {cut} of {} samples first", samples.len());
        let half = text.match_indices('\n').nth(cut).unwrap().0 + 1;
        for (half, workers) in [(&text[..half], "1"), (&text[half..], "4")] {
            std::fs::write(folder.path().join("half.prom"), half).unwrap();
            done(folder.path(), &["replay", "half.prom", "--workers", workers], None);
        }
        let exported = export(folder.path());
        stored::check(&what, &settings(), &rows(&exported), &samples);

        let mut tidewatch = Tidewatch::start_in(folder);
        let (start, end) = ("2025-12-31T00:00:00Z", "2026-01-02T00:00:00Z");
        let mut shown = tidewatch.rows("/api/v1/windows", &[("start", start), ("end", end)]);
        for row in &mut shown {
            row.as_object_mut().unwrap().remove("revision").unwrap();
        }
        let mut exported_rows = rows(&exported);
        let order = |row: &Value| {
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            (text("name"), text("series"), row["window"] == "3h", row["at_ms"].as_i64().unwrap())
        };
        assert!(shown.is_sorted_by_key(order), "{what}: pages come by (name, series, window, at)");
        exported_rows.sort_by_key(order);
        assert_eq!(shown.len(), exported_rows.len(), "{what}");
        for (shown, exported) in shown.iter().zip(&exported_rows) {
            assert_eq!(shown, exported, "{what}");
        }
        let in_use = run(tidewatch.folder(), &["replay", "all.prom"], None);
        assert_eq!(in_use.code, Some(1), "{in_use:?}");
        assert!(in_use.err.contains("in use"), "{in_use:?}");
        assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
        same(&what, &export(tidewatch.folder()), &exported);
    }
}

/// The samples of generated text as requests of remote write, in the order of the text.
fn requests(text: &str, samples_max: usize) -> Vec<WriteRequest> {
    let mut requests = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if n % samples_max == 0 {
            requests.push(WriteRequest::default());
        }
        let (labels, at_ms, value) = parts(line);
        let request = requests.pop().unwrap();
        requests.push(request.series(&labels, &[(at_ms, value)]));
    }
    requests
}

#[test]
fn what_is_written_to_a_server_gives_the_bytes_of_a_file() {
    for seed in 0..crate::rounds(1) {
        let file = folder();
        generate(file.path(), seed, 40, &["--late", "0.2", "--duplicates", "0.1"], "all.prom");
        done(file.path(), &["replay", "all.prom"], None);
        let text = std::fs::read_to_string(file.path().join("all.prom")).unwrap();
        let samples = samples_of(&text);
        let mut tidewatch = Tidewatch::start(CONFIG);
        for request in requests(&text, 2_000) {
            let answer = request.send(&tidewatch.url("/api/v1/write")).unwrap();
            assert_eq!(answer.status, 204, "{answer:?}");
        }
        // Beside the server, and after it.
        // None before the first epoch is cut.
        let last = tidewatch.get("/api/v1/status", &[]).json()["epoch"]["journal"].as_u64().unwrap_or(0);
        eventually("all of it is stored", Duration::from_secs(60), || {
            // The epoch after the last answer is whole, and so is everything that was answered.
            match tidewatch.get("/api/v1/status", &[]).json()["store"]["epoch"].as_u64() {
                Some(stored) if stored > last => Ok(()),
                stored => Err(format!("{stored:?}, not above {last}")),
            }
        });
        let what = format!("seed {seed}");
        let want = settled(&export(file.path()), &samples);
        same(&what, &settled(&export(tidewatch.folder()), &samples), &want);
        assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
        same(&what, &settled(&export(tidewatch.folder()), &samples), &want);
    }
}

#[test]
fn a_killed_replay_run_again_gives_the_same_bytes() {
    let whole = folder();
    generate(whole.path(), 5, 350, &["--late", "0.1", "--duplicates", "0.1"], "all.prom");
    done(whole.path(), &["replay", "all.prom"], None);
    let text = std::fs::read_to_string(whole.path().join("all.prom")).unwrap();
    let samples = samples_of(&text);
    let want = settled(&export(whole.path()), &samples);
    for round in 0..crate::rounds(4) {
        let mut rng = fastrand::Rng::with_seed(round ^ 0x4B11);
        let folder = folder();
        let part = rng.usize(0..samples.len());
        let half = text.match_indices('\n').nth(part).unwrap().0 + 1;
        let what = format!("round {round}, killed after {part} of {} samples", samples.len());
        // It cannot be done: its standard input stays open.
        let workers = ["1", "2", "4"][rng.usize(0..3)];
        let mut child = command(folder.path(), &["replay", "-", "--workers", workers]);
        let mut child =
            child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&text.as_bytes()[..half]).unwrap();
        if rng.bool() {
            let journal = folder.path().join("data/journal");
            // What is in the journal was read; where the others are is up to chance.
            let least = part as u64 / 2 * 20;
            eventually("half of it is in the journal", Duration::from_secs(60), || {
                let files = std::fs::read_dir(&journal).map_err(|e| e.to_string())?;
                let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
                if bytes >= least { Ok(()) } else { Err(format!("{bytes} of {least} bytes")) }
            });
        } else {
            std::thread::sleep(Duration::from_millis(rng.u64(0..100)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(stdin);
        std::fs::write(folder.path().join("all.prom"), &text).unwrap();
        done(folder.path(), &["replay", "all.prom", "--workers", ["1", "2", "4"][rng.usize(0..3)]], None);
        let exported = export(folder.path());
        same(&what, &settled(&exported, &samples), &want);
        if round == 0 {
            stored::check(&what, &settings(), &rows(&exported), &samples);
        }
    }
}

/// A file whose line `bad` holds no sample.
fn broken(text: &str, bad: usize, line: &str) -> String {
    let lines = text.lines().enumerate().map(|(n, good)| if n + 1 == bad { line } else { good });
    lines.fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn a_strict_replay_stops_at_the_first_bad_line_and_everything_before_it_is_in() {
    let csv_head = "name,job,timestamp_ms,value\n";
    for (seed, bad) in [(1, 1), (2, 701), (3, 9_300)] {
        let folder = folder();
        generate(folder.path(), seed, 25, &[], "good.prom");
        let good = std::fs::read_to_string(folder.path().join("good.prom")).unwrap();
        let what = format!("line {bad} of {}", good.lines().count());
        std::fs::write(folder.path().join("bad.prom"), broken(&good, bad, "node_load1{ 5 oops")).unwrap();
        let ended = run(folder.path(), &["replay", "--strict", "bad.prom"], None);
        assert_eq!(ended.code, Some(1), "{what}: {ended:?}");
        assert!(ended.err.contains(&format!("bad.prom line {bad}: ")), "{what}: {ended:?}");
        // All of it up to the bad line, and nothing after it.
        let before: String = good.split_inclusive('\n').take(bad - 1).collect();
        let held = stored::samples(&folder.path().join("data"));
        assert_eq!(held.len(), bad - 1, "{what}");
        assert_eq!(held, samples_of(&before), "{what}");
        stored::check(&what, &settings(), &rows(&export(folder.path())), &held);
        // The line is mended and the file replayed again, over what is there.
        done(folder.path(), &["replay", "--strict", "good.prom"], None);
        stored::check(&what, &settings(), &rows(&export(folder.path())), &samples_of(&good));
    }
    let folder = folder();
    let row = |n: i64| format!("up,a,{},1\n", 1_767_225_600_000 + n * 1_000);
    let table =
        (0..10).fold(csv_head.to_owned(), |all, n| all + if n == 7 { "up,a,soon,1\n" } else { "" } + &row(n));
    std::fs::write(folder.path().join("bad.csv.gz"), gz(table.as_bytes())).unwrap();
    let ended = run(folder.path(), &["replay", "--strict", "bad.csv.gz"], None);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("bad.csv.gz line 9: "), "{ended:?}");
    assert_eq!(stored::samples(&folder.path().join("data")).len(), 7);
}

#[test]
fn bad_lines_are_counted_and_shown_and_the_rest_is_taken() {
    let folder = folder();
    generate(folder.path(), 4, 25, &[], "good.prom");
    let good = std::fs::read_to_string(folder.path().join("good.prom")).unwrap();
    let mut bad = broken(&good, 3, "{} 1");
    bad = broken(&bad, 500, "node_load1 five 1767225600000");
    bad = broken(&bad, 501, "node_load1 5 1767225600");
    bad = broken(&bad, 900, "node_load1 5");
    std::fs::write(folder.path().join("bad.prom"), &bad).unwrap();
    let taken = samples_of(
        &good
            .lines()
            .enumerate()
            .filter(|(n, _)| ![2, 499, 500, 899].contains(n))
            .fold(String::new(), |all, (_, line)| all + line + "\n"),
    );
    let ended = run(folder.path(), &["replay", "bad.prom"], None);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("4 lines refused"), "{ended:?}");
    for (line, what) in [(3, ""), (500, "five"), (501, "seconds"), (900, "timestamp")] {
        let shown = ended.err.lines().find(|text| text.starts_with(&format!("bad.prom line {line}: ")));
        assert!(shown.is_some_and(|text| text.contains(what)), "line {line}: {ended:?}");
    }
    stored::check("bad lines", &settings(), &rows(&export(folder.path())), &taken);
    // Again, for programs: only the same lines are refused, and nothing changes.
    let before = export(folder.path());
    let out = done(folder.path(), &["replay", "--json", "bad.prom"], None);
    let summary: Value = serde_json::from_str(out.trim()).unwrap();
    let refused: u64 = summary["refused"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((refused, &summary["samples"]), (4, &taken.len().into()), "{summary}");
    assert_eq!(summary["lines"], good.lines().count(), "{summary}");
    assert!(summary["first_refused"][1].as_str().unwrap().contains("line 500"), "{summary}");
    same("replayed twice", &export(folder.path()), &before);
}

#[test]
fn exit_codes_tell_done_from_failed_from_misused() {
    let folder = folder();
    generate(folder.path(), 6, 5, &[], "good.prom");
    let good = std::fs::read(folder.path().join("good.prom")).unwrap();
    let packed = gz(&good);
    std::fs::write(folder.path().join("torn.prom.gz"), &packed[..packed.len() / 2]).unwrap();
    std::fs::write(folder.path().join("head.csv"), "name,value\nup,1\n").unwrap();
    std::fs::write(folder.path().join("samples.dat"), &good).unwrap();
    let cases: [(&[&str], i32, &str); 22] = [
        (&["version"], 0, ""),
        (&["check"], 0, ""),
        (&["--help"], 0, ""),
        (&["export"], 1, "store"),
        (&["replay", "none.prom"], 1, "none.prom"),
        (&["replay", "good.prom", "none.prom"], 1, "none.prom"),
        (&["replay", "samples.dat"], 1, "--format"),
        (&["replay", "head.csv"], 1, "line 1"),
        (&["replay", "torn.prom.gz"], 1, "torn.prom.gz"),
        (&["replay", "."], 1, ""),
        (&["check", "--workers", "many"], 1, "many"),
        (&["generate", "--series", "0"], 1, "series"),
        (&[], 2, "Usage"),
        (&["replay"], 2, "FILE"),
        (&["replay", "good.prom", "--lenient"], 2, "--lenient"),
        (&["replay", "good.prom", "--format", "xml"], 2, "xml"),
        (&["export", "--kind", "colours"], 2, "colours"),
        (&["export", "--format", "xml"], 2, "xml"),
        (&["generate", "--format", "xml"], 2, "xml"),
        (&["generate", "--order", "none"], 2, "none"),
        (&["serve"], 2, "serve"),
        (&["replay", "samples.dat", "--format", "prometheus"], 0, ""),
    ];
    for (arguments, code, word) in cases {
        let ended = run(folder.path(), arguments, None);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains(word), "{arguments:?} does not say {word}: {ended:?}");
        if arguments == ["replay", "good.prom", "none.prom"] {
            assert!(!folder.path().join("data").exists(), "inputs are judged before anything is made");
        }
    }
    let samples = samples_of(std::str::from_utf8(&good).unwrap());
    stored::check("after all", &settings(), &rows(&export(folder.path())), &samples);
}

/// Makes the bytes of a file damaged, or what is behind them odd.
type Damage = fn(&[u8]) -> Vec<u8>;

/// What a damaged file held before the damage is computed and stored as a file of its own, and so are the others.
#[test]
fn a_damaged_file_is_stored_up_to_its_damage_and_the_others_whole() {
    let half: Damage = |bytes| bytes[..bytes.len() / 2].to_vec();
    let sum: Damage = |bytes| {
        let mut bytes = bytes.to_vec();
        let at = bytes.len() - 8;
        bytes[at] ^= 1;
        bytes
    };
    let padded: Damage = |bytes| [bytes, &[0; 512]].concat();
    let tail: Damage = |bytes| [bytes, b"tail"].concat();
    let source = folder();
    generate(source.path(), 7, 30, &[], "all.prom");
    let text = std::fs::read_to_string(source.path().join("all.prom")).unwrap();
    let other: String = text.lines().map(|line| format!("other_{line}\n")).collect();
    let zstd = |text: &str| {
        ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
    };
    let cases: [(&str, Damage, i32, &str); 7] = [
        ("cut.prom.gz", half, 1, "reading cut.prom.gz: it is cut off: it ends within a gzip member; "),
        ("cut.prom.zst", half, 1, "reading cut.prom.zst: it is damaged, or no Zstandard: "),
        ("sum.prom.gz", sum, 1, "a matching checksum; "),
        ("padded.prom.gz", padded, 0, ""),
        ("padded.prom.zst", padded, 0, ""),
        ("tail.prom.gz", tail, 0, "warning: tail.prom.gz: 4 bytes behind its last compressed part"),
        ("tail.prom.zst", tail, 0, "warning: tail.prom.zst: 4 bytes behind its last compressed part"),
    ];
    for (file, damage, code, says) in cases {
        let packed = if file.ends_with("gz") { gz(text.as_bytes()) } else { zstd(&text) };
        let (damaged, want) = (folder(), folder());
        std::fs::write(damaged.path().join(file), damage(&packed)).unwrap();
        std::fs::write(damaged.path().join("other.prom"), &other).unwrap();
        let ended = run(damaged.path(), &["replay", file, "other.prom"], None);
        assert_eq!(ended.code, Some(code), "{file}: {ended:?}");
        assert!(ended.err.contains(says), "{file}: {ended:?}");
        assert!(says.is_empty() == ended.err.is_empty(), "{file}: {ended:?}");
        let held = stored::samples(&damaged.path().join("data")).len();
        let read = held - text.lines().count();
        assert!(read > text.lines().count() / 4, "{file}: {read} of {} lines", text.lines().count());
        assert!(read == text.lines().count() || says.contains("cut"), "{file}: {read} lines");
        let part: String = text.split_inclusive('\n').take(read).collect();
        std::fs::write(want.path().join("part.prom"), part).unwrap();
        std::fs::write(want.path().join("other.prom"), &other).unwrap();
        done(want.path(), &["replay", "part.prom", "other.prom"], None);
        same(file, &export(damaged.path()), &export(want.path()));
        // The whole file mends it.
        if file == "cut.prom.gz" {
            let (again, whole) = (["replay", "all.prom"], ["replay", "all.prom", "other.prom"]);
            for (folder, arguments) in [(&damaged, &again[..]), (&source, &whole)] {
                std::fs::write(folder.path().join("all.prom"), &text).unwrap();
                std::fs::write(folder.path().join("other.prom"), &other).unwrap();
                done(folder.path(), arguments, None);
            }
            let samples = samples_of(&format!("{text}{other}"));
            let mended = settled(&export(damaged.path()), &samples);
            same("mended", &mended, &settled(&export(source.path()), &samples));
        }
    }
}

/// A backfill out of a damaged file is written as far as it was read.
#[test]
fn a_backfill_is_written_up_to_the_damage_of_its_file() {
    let source = folder();
    generate(source.path(), 8, 20, &[], "all.prom");
    let text = std::fs::read_to_string(source.path().join("all.prom")).unwrap();
    // The same series a day later: what is old is past to them.
    let live: String = text
        .lines()
        .map(|line| {
            let (rest, at_ms) = line.rsplit_once(' ').unwrap();
            format!("{rest} {}\n", at_ms.parse::<i64>().unwrap() + 86_400_000)
        })
        .collect();
    let packed = gz(text.as_bytes());
    let (damaged, want) = (folder(), folder());
    for folder in [&damaged, &want] {
        std::fs::write(folder.path().join("live.prom"), &live).unwrap();
        done(folder.path(), &["replay", "live.prom"], None);
    }
    std::fs::write(damaged.path().join("cut.prom.gz"), &packed[..packed.len() / 2]).unwrap();
    let before = export(damaged.path());
    let ended = run(damaged.path(), &["replay", "--backfill", "--json", "cut.prom.gz"], None);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("reading cut.prom.gz: it is cut off: "), "{ended:?}");
    let summary: Value = serde_json::from_str(ended.out.trim()).unwrap();
    let read = summary["samples"].as_u64().unwrap() as usize;
    assert!(read > text.lines().count() / 4, "{summary}");
    let part: String = text.split_inclusive('\n').take(read).collect();
    std::fs::write(want.path().join("part.prom"), part).unwrap();
    done(want.path(), &["replay", "--backfill", "part.prom"], None);
    let got = export(damaged.path());
    same("backfill", &got, &export(want.path()));
    assert!(got.len() > before.len(), "rows of the backfill are written");
}

/// Standard input is told by its first bytes as a file is, also where a pipe gives them one by one.
#[test]
fn standard_input_is_known_by_its_first_bytes() {
    let source = folder();
    generate(source.path(), 9, 3, &[], "all.prom");
    let text = std::fs::read(source.path().join("all.prom")).unwrap();
    done(source.path(), &["replay", "all.prom"], None);
    let want = export(source.path());
    let wide = |unit: fn(u16) -> [u8; 2], mark: &[u8]| {
        let units = std::str::from_utf8(&text).unwrap().encode_utf16().flat_map(unit);
        mark.iter().copied().chain(units).collect::<Vec<u8>>()
    };
    let frame = ruzstd::encoding::compress_to_vec(&text[..], ruzstd::encoding::CompressionLevel::Fastest);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"pzst", &frame].concat();
    let little = wide(u16::to_le_bytes, &[0xff, 0xfe]);
    for (what, bytes) in [
        ("gzip", gz(&text)),
        ("a frame to skip", skipped),
        ("UTF-16", little.clone()),
        ("UTF-16, the other order", wide(u16::to_be_bytes, &[0xfe, 0xff])),
        ("UTF-16 in gzip", gz(&little)),
        ("UTF-8 with a mark", [b"\xef\xbb\xbf", &text[..]].concat()),
    ] {
        let folder = folder();
        let mut child = command(folder.path(), &["replay", "-"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for byte in &bytes[..8] {
            stdin.write_all(&[*byte]).unwrap();
            stdin.flush().unwrap();
            std::thread::yield_now();
        }
        stdin.write_all(&bytes[8..]).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{what}");
        same(what, &export(folder.path()), &want);
    }
}
