//! Lines, files, configurations and command lines that are wrong in one way each: the exit code and the words that name
//! what is wrong; nothing of it is stored, and what is right beside it is.

use std::io::Write;
use std::path::Path;

use crate::support::Folder;
use crate::support::process::{done, run};

/// 2026-01-01T00:00:00Z
const AT_MS: i64 = 1_767_225_600_000;

/// Two samples, of which the later closes the windows of the earlier.
fn good_prom(name: &str) -> String {
    format!("{name} 1 {AT_MS}\n{name} 1 {}\n", AT_MS + 60_000)
}

/// A line that holds no sample, and what is said of it behind its number.
type Line = (&'static [u8], &'static str);

const PROMETHEUS: [Line; 19] = [
    (b"1bad 1 1767225600000", "column 1: expected a metric name or {; got \"1bad 1 1767225600000\""),
    (b"bad_metric{", "column 12: expected a label name; got the end of the line"),
    (b"bad_metric{a} 1 1767225600000", "column 13: expected = after a label name; got \"} 1 1767225600000\""),
    (
        b"bad_metric{a=1} 1 1767225600000",
        "column 14: expected a label value in quotes; got \"1} 1 1767225600000\"",
    ),
    (
        b"bad_metric{a=\"x} 1 1767225600000",
        "column 14: a quote that is not closed; got \"\\\"x} 1 1767225600000\"",
    ),
    (
        b"bad_metric{a=\"1\" b=\"2\"} 1 1767225600000",
        "column 18: expected , or } after a label; got \"b=\\\"2\\\"} 1 17672256000\"",
    ),
    (b"bad_metric", "column 11: expected a value; got the end of the line"),
    (b"bad_metric one 1767225600000", "the value must be a number, NaN, +Inf or -Inf; got \"one\""),
    (
        b"bad_metric 1",
        "column 13: expected a timestamp in milliseconds (every line needs one); got the end of the line",
    ),
    (b"bad_metric 1 NaN", "the timestamp must be whole milliseconds; got \"NaN\""),
    (
        b"bad_metric 1 1767225600.5",
        "the timestamp must be whole milliseconds (seconds are read with --format openmetrics); got \"1767225600.5\"",
    ),
    (
        b"bad_metric 1 1767225600",
        "timestamp_ms cannot be before the year 2000 (946684800000); got 1767225600, which looks like seconds",
    ),
    (b"bad_metric 1 4102444800000", "timestamp_ms cannot be more than 10 minutes ahead of the clock ("),
    (b"bad_metric 1 1767225600000 7", "column 28: expected the end of the line; got \"7\""),
    (b"bad_metric{a=\"\xff\"} 1 1767225600000", "the line must be UTF-8; byte 15 is not"),
    (
        b"{a=\"bad_metric\"} 1 1767225600000",
        "label __name__ must be present and not empty; got labels {a=\"bad_metric\"}",
    ),
    (
        b"bad_metric{a=\"1\",a=\"2\"} 1 1767225600000",
        "label names must differ; got \"a\" twice, with values \"1\" and \"2\"",
    ),
    (
        b"bad_metric{\"\"=\"x\"} 1 1767225600000",
        "label names must not be empty; got an empty name with value \"x\"",
    ),
    (
        b"tidewatch_window_avg 1 1767225600000",
        "tidewatch_window_avg is a result of tidewatch; taking it in would compute on results",
    ),
];

/// As `promtool tsdb dump` prints, but for what is wrong.
const DUMP: [Line; 3] = [
    (
        b"{__name__=\"bad_metric\", a=\"\\q\"} 1 1767225600000",
        "column 28: an escape that Go does not write; got \"\\\\q\\\"} 1 1767225600000\"",
    ),
    (
        b"{__name__=\"bad_metric\"} {count:2, sum:1, (0,1]} 1767225600000",
        "a histogram must be {count:N, sum:N, (lower,upper]:N, ...}; got \"(0,1]\"",
    ),
    (
        b"{__name__=\"bad_metric\"} {count:2, sum:1, (0,1]:1} 1767225600000",
        "histogram.count must be equal to the sum of its buckets (1); got 2",
    ),
];

const OPENMETRICS: [Line; 6] = [
    (
        b"bad_metric 1",
        "column 13: expected a timestamp in seconds (every line needs one); got the end of the line",
    ),
    (
        b"bad_metric 1 # {} 1",
        "column 14: expected a timestamp in seconds (every line needs one); got \"# {} 1\"",
    ),
    (b"bad_metric 1 NaN", "the timestamp must be a number of seconds; got \"NaN\""),
    (
        b"bad_metric 1 2026-01-01T00:00:00Z",
        "the timestamp must be a number of seconds; got \"2026-01-01T00:00:00Z\"",
    ),
    (
        b"bad_metric 1 1767225600000",
        "got 1767225600000000; 1767225600000 looks like milliseconds where seconds belong",
    ),
    (b"bad_metric 1 -1", "timestamp_ms cannot be before the year 2000 (946684800000); got -1000"),
];

const CSV: [Line; 9] = [
    (b"bad_metric,x,1767225600", "a row has 4 cells as the header; got 3"),
    (b"bad_metric,x,1767225600,one", "value must be a number, NaN, +Inf or -Inf; got \"one\""),
    (b"bad_metric,x,NaN,1", "timestamp must be RFC 3339 with an offset, or Unix seconds; got \"NaN\""),
    (
        b"bad_metric,x,yesterday,1",
        "timestamp must be RFC 3339 with an offset, or Unix seconds; got \"yesterday\"",
    ),
    (b"bad_metric,x,1767225600000,1", "1767225600000 looks like milliseconds where seconds belong"),
    (b"bad_metric,x,4102444800,1", "timestamp_ms cannot be more than 10 minutes ahead of the clock ("),
    (b"bad_metric,\"x\"y,1767225600,1", "cell 2 goes on after its closing quote"),
    (b"bad_metric,\xff,1767225600,1", "the cell of \"job\" is not UTF-8; got "),
    (b",x,1767225600,1", "label __name__ must be present and not empty; got labels {job=\"x\"}"),
];

/// The stored rows of a folder's data, as JSON lines.
fn stored(folder: &Path) -> String {
    done(folder, &["export", "--final"], None)
}

/// Nothing that was called bad is stored or known; `good` is.
fn only_good_is_stored(what: &str, folder: &Path, good: &str) {
    let rows = stored(folder);
    assert!(rows.contains(&format!("\"name\":\"{good}\"")), "{what}: {good} is not stored: {rows}");
    assert!(!rows.contains("bad_metric"), "{what}: {rows}");
}

fn folder(what: &str) -> Folder {
    let folder = Folder::new(what);
    std::fs::write(folder.path().join("tidewatch.yml"), "windows: [{length: 10s, hop: 1s}]\n").unwrap();
    folder
}

#[test]
fn each_wrong_line_is_shown_with_its_number_and_the_others_are_taken() {
    let folder = folder("lines");
    let om = |line: &str| format!("{line}\n# EOF\n");
    let csv_good = "good_csv,x,1767225600,1\ngood_csv,x,1767225660,1\n".to_owned();
    for (name, head, lines, last, good) in [
        ("lines.prom", "", &PROMETHEUS[..], good_prom("good_prom"), "good_prom"),
        ("dump.txt", "", &DUMP, good_prom("good_dump"), "good_dump"),
        ("lines.om", "", &OPENMETRICS, om("good_om 1 1767225600\ngood_om 1 1767225660"), "good_om"),
        ("lines.csv", "name,job,timestamp,value\n", &CSV, csv_good, "good_csv"),
    ] {
        let mut text = head.as_bytes().to_vec();
        lines.iter().for_each(|(line, _)| text.extend([line, &b"\n"[..]].concat()));
        text.extend(last.as_bytes());
        std::fs::write(folder.path().join(name), text).unwrap();
        let ended = run(folder.path(), &["replay", name], None);
        assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
        assert!(ended.out.contains(&format!("{} lines refused", lines.len())), "{name}: {ended:?}");
        let first = head.lines().count() + 1;
        for (at, (line, says)) in lines.iter().enumerate() {
            let number = format!("{name} line {}: ", first + at);
            let shown = ended.err.lines().find_map(|shown| shown.strip_prefix(&number));
            let told = shown.is_some_and(|shown| shown.contains(says));
            assert!(told, "{number}{}: {shown:?} is not {says:?}", line.escape_ascii());
        }
        only_good_is_stored(name, folder.path(), good);
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(text).unwrap();
    gz.finish().unwrap()
}

/// A frame of Zstandard that holds `text` as it stands, and claims it is `claimed` bytes long.
fn zstd(text: &[u8], claimed: u32) -> Vec<u8> {
    let header = u32::try_from(text.len()).unwrap() << 3 | 1;
    let magic = [0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    [&magic[..], &claimed.to_le_bytes(), &header.to_le_bytes()[..3], text].concat()
}

/// A file, what it holds, further arguments, and what is said of it. All of them end with 1.
type Input = (&'static str, Vec<u8>, &'static [&'static str], &'static str);

#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn inputs() -> Vec<Input> {
    let line = format!("bad_metric 1 {AT_MS}\n");
    let text = line.as_bytes();
    let packed = gzip(&text.repeat(1_000));
    // Its last eight bytes are a checksum and the length.
    let mut wrong_sum = gzip(b"# nothing\n");
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    let frame = zstd(b"# nothing\n", 10);
    let header = |text: &str| format!("{text}\nbad_metric,1,{AT_MS}\n").into_bytes();
    vec![
        (
            "samples.dat",
            text.to_vec(),
            &[],
            "the format of samples.dat cannot be guessed from its name (.prom, .txt, .om, .csv, each also with .gz or .zst); give --format prometheus, openmetrics or csv",
        ),
        ("samples.parquet.gz", text.to_vec(), &[], "the format of samples.parquet.gz cannot be guessed"),
        (
            "strict.prom",
            [b"oops\n", text].concat(),
            &["--strict"],
            "strict.prom line 1: column 5: expected a value; got the end of the line",
        ),
        (
            "cut.om",
            b"# TYPE bad_metric gauge\n".to_vec(),
            &[],
            "cut.om is cut off: it ends after line 1 without the line # EOF; what came before is taken",
        ),
        (
            "after.om",
            b"# EOF\nbad_metric 1 1767225600\n".to_vec(),
            &["--strict"],
            "after.om line 2: nothing may follow the line # EOF",
        ),
        ("plain.gz", text.to_vec(), &["--format", "prometheus"], "reading plain.gz: invalid gzip header"),
        ("cut.prom.gz", packed[..12].to_vec(), &[], "reading cut.prom.gz: "),
        (
            "sum.prom.gz",
            wrong_sum,
            &[],
            "reading sum.prom.gz: corrupt gzip stream does not have a matching checksum",
        ),
        (
            "plain.zst",
            text.to_vec(),
            &["--format", "prometheus"],
            "reading plain.zst: it is damaged, or no Zstandard: ",
        ),
        ("cut.prom.zst", frame[..frame.len() - 3].to_vec(), &[], "reading cut.prom.zst: "),
        (
            "long.prom.zst",
            zstd(b"# nothing\n", 11),
            &[],
            "reading long.prom.zst: it is damaged, or no Zstandard: a frame of 11 bytes gave 10",
        ),
        (
            "huge.prom.zst",
            zstd(b"# nothing\n", u32::MAX),
            &[],
            "reading huge.prom.zst: a frame asks for 4294967295 bytes of memory; at most 134217728 are given",
        ),
        (
            "page.prom",
            b"<html>\n<body>bad_metric</body>\n".to_vec(),
            &[],
            "nothing of page.prom can be taken: 2 of 2 lines are refused; page.prom line 1: column 1: expected a metric name or {; got \"<html>\"",
        ),
        (
            "answer.prom",
            b"{\"status\":\"success\"}\n".to_vec(),
            &["--backfill"],
            "nothing of answer.prom can be taken: 1 of 1 lines are refused; answer.prom line 1: ",
        ),
        (
            "seconds.prom",
            b"bad_metric 1 1767225600\n".to_vec(),
            &["--json"],
            "got 1767225600, which looks like seconds",
        ),
        (
            "scrape.txt",
            b"# TYPE bad_metric gauge\nbad_metric 1\n".to_vec(),
            &[],
            "nothing of scrape.txt can be taken: 1 of 1 lines are refused; scrape.txt line 2: ",
        ),
        (
            "packed.prom",
            b"\xfd7zXZ\0\0\x04".to_vec(),
            &[],
            "reading packed.prom: it is compressed by xz, which is not read; gzip (.gz) and Zstandard (.zst) are",
        ),
        (
            "wide.csv",
            b"\0\0\xfe\xff\0\0\0n".to_vec(),
            &[],
            "reading wide.csv: it is UTF-32, which is not read; UTF-8 and UTF-16 are",
        ),
        (
            "half.prom",
            b"\xff\xfeb".to_vec(),
            &[],
            "reading half.prom: it is cut off: it is UTF-16 and ends within a character",
        ),
        (
            "pipes.csv",
            header("name|value|timestamp_ms"),
            &[],
            "pipes.csv line 1: the header needs a column name; got \"name|value|timestamp_ms\"; columns must be separated by , or ; or tab",
        ),
        (
            "sep.csv",
            header("sep=|\nname|value|timestamp_ms"),
            &[],
            "sep.csv line 1: sep= must be followed by , or ; or a tab; got \"|\"",
        ),
        (
            "second.csv",
            header("sep=;\nname;value"),
            &[],
            "second.csv line 2: the header needs one of the columns timestamp and timestamp_ms; got \"name;value\"",
        ),
        ("empty.csv", b"\n".to_vec(), &[], "empty.csv line 1: column 1 of the header has no name"),
        (
            "time.csv",
            header("name,value"),
            &[],
            "time.csv line 1: the header needs one of the columns timestamp and timestamp_ms; got \"name,value\"",
        ),
        (
            "name.csv",
            header("metric,value,timestamp_ms"),
            &[],
            "name.csv line 1: the header needs a column name; got \"metric,value,timestamp_ms\"",
        ),
        (
            "value.csv",
            header("name,val,timestamp_ms"),
            &[],
            "value.csv line 1: the header needs a column value; got \"name,val,timestamp_ms\"",
        ),
        (
            "twice.csv",
            header("name,value,timestamp_ms,name"),
            &[],
            "twice.csv line 1: the header has the column \"name\" twice",
        ),
        (
            "text.csv",
            text.to_vec(),
            &[],
            "text.csv line 1: the header needs a column name; got \"bad_metric 1 1767225600000\"",
        ),
    ]
}

#[test]
fn each_wrong_file_ends_with_1_and_its_name_and_nothing_of_it_is_stored() {
    let folder = folder("inputs");
    for (name, bytes, arguments, says) in inputs() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let ended = run(folder.path(), &[&["replay", name], arguments].concat(), None);
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        assert!(ended.err.contains(says), "{name}: {ended:?} is not {says:?}");
    }
    std::fs::write(folder.path().join("good.prom"), good_prom("good")).unwrap();
    done(folder.path(), &["replay", "good.prom"], None);
    only_good_is_stored("after all", folder.path(), "good");
}

/// A configuration, and what `check` says of it.
const CONFIGURATIONS: [(&str, &str); 31] = [
    ("workers: [1", "file tidewatch.yml is not valid YAML: "),
    ("workers: 1\nworkers: 2", "file tidewatch.yml is not valid YAML: "),
    ("worker: 2", "there is no setting worker (file tidewatch.yml); at the top there are "),
    ("limits: {serie: 2}", "there is no setting limits.serie (file tidewatch.yml); at limits there are "),
    ("workers: 0", "workers must be a whole number from 1 to 256; got 0 (file tidewatch.yml)"),
    ("listen: localhost", "listen must be an IP address and port such as 127.0.0.1:7464; got \"localhost\""),
    ("idle_timeout: 30", "idle_timeout must be a duration such as 30s or 1h30m; got 30 (file tidewatch.yml)"),
    ("idle_timeout: 2h", "idle_timeout must be 1s to 1h; got 2h (file tidewatch.yml)"),
    (
        "allowed_lateness: -1m",
        "allowed_lateness must be a duration such as 30s or 1h30m; got \"-1m\" (file tidewatch.yml)",
    ),
    ("windows: []", "windows must be a list of 1 to 16 windows such as [{length: 1h, hop: 1m}]; got []"),
    (
        "windows: [{length: 1h, hop: 7m}]",
        "windows[0].hop must be whole seconds that divide the length 1h; got 7m",
    ),
    (
        "windows: [{length: 1h, hop: 1m}, {length: 1h, hop: 2m}]",
        "windows must be windows of different lengths",
    ),
    (
        "limits: {body_bytes: 2GB}",
        "limits.body_bytes must be a size from 1KiB to 1GiB in B, KiB, MiB, GiB or TiB; got \"2GB\"",
    ),
    (
        "journal: {sync: 5ms}",
        "journal.sync must be commit, never, or an interval from 10ms to 1m; got \"5ms\" (file tidewatch.yml)",
    ),
    ("journal: {trim: 1}", "journal.trim must be on or off; got 1 (file tidewatch.yml)"),
    ("store: {kind: clickhouse}", "store.kind must be embedded; got \"clickhouse\" (file tidewatch.yml)"),
    (
        "SOURCE",
        "sources.prometheus[0].url must be a URL such as http://127.0.0.1:9090: http or https, a host, perhaps a path; no query and no fragment; got null",
    ),
    (
        "SOURCE url: 'ftp://h', match: [up]",
        "sources.prometheus[0].url must be a URL such as http://127.0.0.1:9090",
    ),
    (
        "SOURCE url: 'http://h?a=b', match: [up]",
        "sources.prometheus[0].url must be a URL such as http://127.0.0.1:9090",
    ),
    (
        "SOURCE url: 'http://h'",
        "sources.prometheus[0].match must be a list of 1 to 64 selectors such as ['{job=\"node\"}']; got null",
    ),
    ("SOURCE url: 'http://h', match: ['{']", "sources.prometheus[0].match[0]: \"{\" is not a selector: "),
    (
        "SOURCE url: 'http://h', match: [up, 'up{a=~\"(\"}']",
        "sources.prometheus[0].match[1]: \"up{a=~\\\"(\\\"}\" is not a selector: ",
    ),
    (
        "SOURCE url: 'http://h', match: [up], poll: 100ms",
        "sources.prometheus[0].poll must be 0s, or a duration from 1s to 1h; got \"100ms\"",
    ),
    (
        "SOURCE url: 'http://h', match: [up], bootstrap: soon",
        "sources.prometheus[0].bootstrap must be a duration from 0s to 30d; got \"soon\"",
    ),
    (
        "SOURCE url: 'http://h', match: [up], http_config: {basic_auth: {username: u}, authorization: {credentials: t}}",
        "sources.prometheus[0].http_config must be one of basic_auth and authorization; got both",
    ),
    (
        "SOURCE url: 'http://h', match: [up], http_config: {basic_auth: {password: hunter2, password_file: f}}",
        "sources.prometheus[0].http_config.basic_auth must be one of password and password_file; got both",
    ),
    (
        "SOURCE url: 'http://h', match: [up], http_config: {bearer_token: hunter2}",
        "there is no setting sources.prometheus[0].http_config.bearer_token (file tidewatch.yml); at sources.prometheus[0].http_config there are ",
    ),
    (
        "SOURCE url: 'https://h', match: [up], http_config: {tls_config: {ca_file: no-such-file}}",
        "sources.prometheus[0]: https://h cannot be asked: ",
    ),
    (
        "SOURCE url: 'https://h', match: [up], http_config: {tls_config: {cert_file: tidewatch.yml}}",
        "sources.prometheus[0]",
    ),
    (
        "SOURCE url: 'http://h', match: [up], http_config: {http_headers: {X-A: {values: [\"a\\nb\"]}}}",
        "sources.prometheus[0]",
    ),
    ("select: [{match: 'rate(up[5m])'}]", "select[0].match: \"rate(up[5m])\" is not a selector: "),
];

#[test]
fn each_wrong_configuration_is_refused_by_its_path_and_starts_nothing() {
    let folder = Folder::new("configurations");
    for (text, says) in CONFIGURATIONS {
        let written = match text.strip_prefix("SOURCE") {
            Some(source) => format!("sources: {{prometheus: [{{{source}}}]}}\n"),
            None => format!("{text}\n"),
        };
        std::fs::write(folder.path().join("tidewatch.yml"), written).unwrap();
        for command in ["check", "run"] {
            let ended = run(folder.path(), &[command], None);
            assert_eq!(ended.code, Some(1), "{command} with {text}: {ended:?}");
            assert!(ended.err.contains(says), "{command} with {text}: {ended:?} is not {says:?}");
            assert!(!ended.err.contains("hunter2"), "{text}: {ended:?}");
        }
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "something was left beside tidewatch.yml");
}

/// A command line, its exit code, and what is said of it.
type Misused = (&'static [&'static str], i32, &'static str);

const MISUSED: [Misused; 14] = [
    (
        &["verify", "--prometheus", "ftp://127.0.0.1"],
        1,
        "--prometheus must be a URL such as http://127.0.0.1:9090: http or https, a host, perhaps a path; no query and no fragment",
    ),
    (&["verify", "--prometheus", ""], 1, "--prometheus must be a URL such as "),
    (
        &["verify", "--prometheus", "http://127.0.0.1:9", "--at", "1767225600000"],
        1,
        "--at must be RFC 3339 or Unix seconds, from the year 2000 to 9999; got \"1767225600000\"",
    ),
    (
        &["verify", "--prometheus", "http://127.0.0.1:9", "--match", "up[5m]"],
        1,
        "--match: \"up[5m]\" is not a selector: ",
    ),
    (
        &["verify", "--prometheus", "http://127.0.0.1:9", "--tolerance", "1"],
        2,
        "unexpected argument '--tolerance'",
    ),
    (&["verify", "--prometheus", "http://127.0.0.1:9"], 1, "there is no store at data/store.sqlite"),
    (
        &["export", "--start", "NaN"],
        1,
        "--start must be RFC 3339 or Unix seconds, from the year 2000 to 9999; got \"NaN\"",
    ),
    (
        &["export", "--end", "1999-01-01T00:00:00Z"],
        1,
        "--end must be RFC 3339 or Unix seconds, from the year 2000 to 9999; got \"1999-01-01T00:00:00Z\"",
    ),
    (&["export", "--match", ""], 1, "--match: \"\" is not a selector: "),
    (&["replay", "--live-order"], 2, "<FILE>"),
    (
        &["run", "--listen", "7464"],
        1,
        "listen must be an IP address and port such as 127.0.0.1:7464; got \"7464\" (flag --listen)",
    ),
    (&["run", "--workers", "-1"], 2, "'-1'"),
    (
        &["check", "--workers", "257"],
        1,
        "workers must be a whole number from 1 to 256; got \"257\" (flag --workers)",
    ),
    (&["generate", "--step", "15"], 1, "--step must be a duration such as 15s; got \"15\""),
];

#[test]
fn each_wrong_command_line_says_which_flag_and_leaves_nothing_behind() {
    let folder = folder("misused");
    for (arguments, code, says) in MISUSED {
        let ended = run(folder.path(), arguments, None);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains(says), "{arguments:?}: {ended:?} is not {says:?}");
        assert_eq!(ended.out, "", "{arguments:?}");
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "something was left beside tidewatch.yml");
}
