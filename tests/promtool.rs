//! Samples through the real tools of Prometheus and back: `generate` as OpenMetrics, blocks, a dump, `replay`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::support::process::done;
use crate::support::{Folder, server};

const CONFIG: &str = "windows: [{length: 5m, hop: 1m}, {length: 3h, hop: 3m}]\n";

/// The rows that a file comes to, in a data directory of its own.
fn rows(folder: &Path, file: &str) -> String {
    let _ = std::fs::remove_dir_all(folder.join("data"));
    let summary = done(folder, &["replay", file, "--strict"], None);
    assert!(!summary.contains("refused"), "{file}: {summary}");
    done(folder, &["export", "--final"], None)
}

fn promtool(program: &Path, folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Three hours, more than a block of two; timestamps with milliseconds.
#[test]
fn what_went_through_blocks_and_a_dump_gives_the_same_rows() {
    let Some(program) = server("TEST_PROMTOOL") else { return };
    let folder = Folder::new("promtool");
    let folder = folder.path();
    std::fs::write(folder.join("tidewatch.yml"), CONFIG).unwrap();
    let options = ["--series", "60", "--hours", "3", "--start", "2026-01-01T00:00:00Z", "--seed", "9"];
    for file in ["all.prom", "all.om", "all.om.gz"] {
        done(folder, &[&["generate", "-o", file], &options[..]].concat(), None);
    }
    promtool(&program, folder, &["tsdb", "create-blocks-from", "openmetrics", "all.om", "blocks"]);
    // promtool asks for the log of a running server beside its blocks.
    std::fs::create_dir(folder.join("blocks/wal")).unwrap();
    let dump = promtool(&program, folder, &["tsdb", "dump", "blocks"]);
    std::fs::write(folder.join("dump.txt"), dump).unwrap();
    let want = rows(folder, "all.prom");
    assert!(want.lines().count() > 5_000, "{} rows", want.lines().count());
    for file in ["all.om", "all.om.gz", "dump.txt"] {
        let got = rows(folder, file);
        let differs = got.lines().zip(want.lines()).find(|(got, want)| got != want);
        assert!(got == want, "{file}: {} of {} rows, {differs:?}", got.lines().count(), want.lines().count());
    }
}

/// Label values as they stand in a file, and as Prometheus reads them.
const ESCAPED: [(&str, &str); 10] = [
    (r"C:\Windows", r"C:\Windows"),
    (r"C:\temp", r"C:\temp"),
    (r"E:\apps\u00e9", r"E:\apps\u00e9"),
    (r"D:\\data", r"D:\data"),
    (r"\\n", r"\n"),
    (r"a\nb", "a\nb"),
    (r#"say \"x\""#, r#"say "x""#),
    ("tab\tbell\u{7}", "tab\tbell\u{7}"),
    ("\u{ad}\u{202e}é😀", "\u{ad}\u{202e}é😀"),
    (r"end\\", r"end\"),
];

/// Prometheus reads OpenMetrics into blocks, and prints them with other escapes: both are the series it knows.
#[test]
fn escapes_are_those_of_prometheus_in_files_and_in_its_dump() {
    let Some(program) = server("TEST_PROMTOOL") else { return };
    let folder = Folder::new("escapes");
    let folder = folder.path();
    std::fs::write(folder.join("tidewatch.yml"), CONFIG).unwrap();
    let (mut open, mut text) = ("# TYPE disk gauge\n".to_owned(), String::new());
    for (written, _) in ESCAPED {
        for second in [1_767_225_600_i64, 1_767_225_720] {
            writeln!(open, "disk{{volume=\"{written}\"}} 1 {second}").unwrap();
            writeln!(text, "disk{{volume=\"{written}\"}} 1 {second}000").unwrap();
        }
    }
    std::fs::write(folder.join("all.om"), open + "# EOF\n").unwrap();
    std::fs::write(folder.join("all.prom"), text).unwrap();
    promtool(&program, folder, &["tsdb", "create-blocks-from", "openmetrics", "all.om", "blocks"]);
    std::fs::create_dir(folder.join("blocks/wal")).unwrap();
    let dump = promtool(&program, folder, &["tsdb", "dump", "blocks"]);
    std::fs::write(folder.join("dump.txt"), dump).unwrap();
    let want = rows(folder, "dump.txt");
    for (written, volume) in ESCAPED {
        let label = serde_json::json!({"volume": volume}).to_string();
        assert!(want.contains(&label), "{written} is not read as {label}: {want}");
    }
    for file in ["all.om", "all.prom"] {
        assert_eq!(rows(folder, file), want, "{file}");
    }
}
