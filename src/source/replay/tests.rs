//! Tables of lines and files, and the law that formats and compression do not matter.

use std::io::Write;
use std::sync::atomic::Ordering;

use flate2::write::GzEncoder;

use super::*;
use crate::labels::{Limits, series_id};
use crate::source::support::Folder;

const NOW: i64 = 1_714_521_600_000;
const OPTIONS: ReplayOptions =
    ReplayOptions { format: None, strict: false, allow_future: false, clock: || NOW };

struct Rig {
    folder: Folder,
    labels: Arc<Labels>,
    metrics: Arc<Metrics>,
}

fn rig() -> Rig {
    let (folder, metrics) = (Folder::new(), Arc::new(Metrics::new()));
    let limits = Limits { series: 100, ..Limits::default() };
    let labels = Labels::open(folder.path.join("labels"), limits, metrics.clone()).unwrap();
    Rig { folder, labels: Arc::new(labels), metrics }
}

impl Rig {
    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.folder.path.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn open(&self, inputs: &[String], options: ReplayOptions) -> Result<ReplayReader, ReplayError> {
        ReplayReader::open(inputs, options, self.labels.clone(), self.metrics.clone())
    }

    /// All samples of the inputs, the replay at its end, and the inputs that failed.
    fn read(&self, inputs: &[String], options: ReplayOptions) -> (Samples, ReplayReader, Vec<ReplayError>) {
        let mut replay = self.open(inputs, options).unwrap();
        let (mut all, mut batch, mut failed) = (Samples::default(), Samples::default(), Vec::new());
        loop {
            let more = replay.next_batch(&mut batch, 1);
            assert!(batch.len() <= BATCH_SAMPLES_MAX + usize::from(replay.summary().histograms > 0));
            all.append(&mut batch);
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => failed.push(error),
            }
        }
        let summary = replay.summary();
        let lines = all.len() as u64 - summary.histograms;
        assert_eq!(summary.received, lines + summary.refusals.total());
        (all, replay, failed)
    }

    /// As [`Rig::read`], for inputs of which one fails at most.
    fn all(&self, inputs: &[String], options: ReplayOptions) -> Result<(Samples, ReplayReader), ReplayError> {
        let (all, replay, mut failed) = self.read(inputs, options);
        assert!(failed.len() <= 1, "{failed:?}");
        failed.pop().map_or(Ok((all, replay)), Err)
    }

    /// The one refusal of a file with this content.
    fn refusal(&self, name: &str, content: &[u8]) -> (u64, &'static str, String) {
        let input = self.file(name, content);
        let (all, replay, failed) = self.read(std::slice::from_ref(&input), OPTIONS);
        assert_eq!(replay.summary().refusals.total(), 1, "{:?}", replay.summary());
        let bad = replay.summary().first[0].clone();
        let nothing = format!("nothing of {input} can be taken: 1 of 1 lines are refused; {bad}");
        let want = if all.is_empty() { vec![nothing] } else { vec![] };
        assert_eq!(failed.iter().map(ToString::to_string).collect::<Vec<_>>(), want);
        (bad.line, bad.reason, bad.message)
    }
}

fn zstd(content: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A frame of Zstandard that is to be skipped.
fn skippable(begin: u8) -> Vec<u8> {
    [&[begin, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat()
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

/// The text of CSV whose only quoted cells are of `a,N"`, with another separator and a line before.
fn separated(csv: &str, separator: char, begin: &str) -> String {
    let parts: Vec<String> = csv
        .split("\"a,")
        .enumerate()
        .map(|(n, part)| match n {
            0 => part.replace(',', &separator.to_string()),
            _ => {
                let (label, rest) = part.split_once("\"\"\"").unwrap();
                format!("{label}\"\"\"{}", rest.replace(',', &separator.to_string()))
            }
        })
        .collect();
    format!("{begin}{}", parts.join("\"a,"))
}

/// The same samples in every format give the same batches, cold and warm.
#[test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn formats_and_compression_do_not_matter() {
    let rig = rig();
    let (mut text, mut csv) = (String::from("# HELP m x\n\n"), String::from("name,timestamp,l,value\n"));
    let mut open = String::from("# HELP m x\n# TYPE m unknown\n# UNIT m seconds\n");
    let mut dump = String::new();
    let mut want = Samples::default();
    for n in 0..10_000_i64 {
        let (at, value, label) = (NOW - 1_000 * n, n as f64 / 3.0, format!("a,{}\"", n % 7));
        text.push_str(&format!("m{{l=\"{}\"}} {value} {at}\n", label.replace('"', "\\\"")));
        let label_escaped = label.replace('"', "\\\"");
        let exemplar = if n % 3 == 0 { " # {trace_id=\"x y\"} 1 5.5" } else { "" };
        let seconds = format!("{}.{:03}", at / 1_000, at % 1_000);
        open.push_str(&match n % 2 {
            0 => format!("m{{l=\"{label_escaped}\"}} {value} {seconds}{exemplar}\n"),
            _ => format!("{{\"m\",l=\"{label_escaped}\"}} {value} {:e}{exemplar}\n", at as f64 / 1_000.0),
        });
        dump.push_str(&format!("{{__name__=\"m\", l=\"{label_escaped}\"}} {value} {at}\n"));
        csv.push_str(&format!("m,{},\"{}\",{value}\n", at / 1_000, label.replace('"', "\"\"")));
        want.push(series_id(&[("__name__", "m"), ("l", &label)]).0, at, value);
    }
    open.push_str("# EOF\n");
    let two_frames = |text: &str| {
        let middle = text.len() / 2;
        [zstd(&text.as_bytes()[..middle]), zstd(&text.as_bytes()[middle..])].concat()
    };
    let two_members = |text: &str| {
        let middle = text.len() / 2;
        [gzip(&text.as_bytes()[..middle]), gzip(&text.as_bytes()[middle..])].concat()
    };
    let last_line_open = text.trim_end().to_owned();
    let inputs = [
        rig.file("a.prom", text.as_bytes()),
        rig.file("a.prom.gz", &gzip(text.as_bytes())),
        rig.file("two.txt.gz", &two_members(&text)),
        rig.file("unnamed_gzip.txt", &two_members(&text)),
        rig.file("a.csv", csv.as_bytes()),
        rig.file("a.CSV.gz", &two_members(&csv)),
        rig.file("crlf.csv", csv.replace('\n', "\r\n").as_bytes()),
        rig.file("crlf.prom", text.replace('\n', "\r\n").as_bytes()),
        rig.file("bom.csv", format!("\u{feff}{csv}").as_bytes()),
        rig.file("open.prom", last_line_open.as_bytes()),
        rig.file("a.prom.zst", &zstd(text.as_bytes())),
        rig.file("two.csv.ZST", &two_frames(&csv)),
        rig.file("unnamed_zstd.prom", &two_frames(&text)),
        rig.file("dump.txt.zst", &zstd(dump.as_bytes())),
        rig.file("a.om", open.as_bytes()),
        rig.file("crlf.openmetrics", open.replace('\n', "\r\n").as_bytes()),
        rig.file("open.om", open.trim_end().as_bytes()),
        rig.file("a.om.gz", &two_members(&open)),
        rig.file("a.openmetrics.zst", &two_frames(&open)),
        rig.file("semicolons.csv", separated(&csv, ';', "").as_bytes()),
        rig.file("tabs.csv", separated(&csv, '\t', "").as_bytes()),
        rig.file("said.csv", separated(&csv, ';', "sep=;\r\n").as_bytes()),
        rig.file("said_comma.csv", format!("\u{feff}SEP=,\n{csv}").as_bytes()),
        rig.file("bom.prom", format!("\u{feff}{text}").as_bytes()),
        rig.file("bom.om", format!("\u{feff}{open}").as_bytes()),
        rig.file("little.prom", &utf16(&format!("\u{feff}{text}"), u16::to_le_bytes)),
        rig.file("big.om", &utf16(&format!("\u{feff}{open}"), u16::to_be_bytes)),
        rig.file("unmarked.csv", &utf16(&csv, u16::to_le_bytes)),
        rig.file("excel.csv", &utf16(&separated(&csv, '\t', "\u{feff}"), u16::to_le_bytes)),
        rig.file("little.csv.gz", &gzip(&utf16(&format!("\u{feff}{csv}"), u16::to_le_bytes))),
        rig.file("big.prom.zst", &zstd(&utf16(&format!("\u{feff}{text}"), u16::to_be_bytes))),
        rig.file("padded.prom.gz", &[gzip(text.as_bytes()), vec![0; 70_000]].concat()),
        rig.file("padded.prom.zst", &[zstd(text.as_bytes()), vec![0; 513]].concat()),
        rig.file("skippable.prom", &[skippable(0x50), zstd(text.as_bytes())].concat()),
        rig.file("skippable.csv", &[skippable(0x5f), two_frames(&csv), skippable(0x55)].concat()),
        rig.file("gzip_in.prom.zst", &gzip(text.as_bytes())),
    ];
    for input in &inputs {
        let (got, replay) = rig.all(std::slice::from_ref(input), OPTIONS).unwrap();
        assert!(got == want, "{input}");
        assert_eq!(Some(replay.bytes_counter().load(Ordering::Relaxed)), replay.bytes_total(), "{input}");
    }
    let (all, replay) = rig.all(&inputs, OPTIONS).unwrap();
    assert_eq!((all.len(), rig.labels.len()), (want.len() * inputs.len(), 7));
    assert_eq!(Some(replay.bytes_counter().load(Ordering::Relaxed)), replay.bytes_total());
    let received = 2 * inputs.len() * want.len();
    let line = format!("tidewatch_samples_received_total{{source=\"replay\"}} {received}\n");
    assert!(rig.metrics.text().contains(&line));
}

#[test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn bad_lines_are_refused_with_number_and_reason_and_the_rest_kept() {
    let rig = rig();
    let row = |text: &str| [b"name,job,timestamp,value\n", text.as_bytes()].concat();
    let long = [b"up 1 ", "5".repeat(LINE_BYTES_MAX).as_bytes(), b"\nup 1 1714521600000\n"].concat();
    let table: Vec<(&str, Vec<u8>, u64, &str, &str)> = vec![
        (
            "a.prom",
            b"# c\n\nup 1\nup 1 1714521600000\n".to_vec(),
            3,
            MALFORMED,
            "column 5: expected a timestamp in milliseconds (every line needs one); got the end of the line",
        ),
        (
            "a.prom",
            b"up 1 1714521600\n".to_vec(),
            1,
            "before_2000",
            "timestamp_ms cannot be before the year 2000 (946684800000); got 1714521600, which looks like seconds",
        ),
        (
            "a.prom",
            b"up 1 1714522200001".to_vec(),
            1,
            "too_far_ahead",
            "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 1714522200001",
        ),
        (
            "a.prom",
            b"up{a=\"\xff\"} 1 1714521600000\n".to_vec(),
            1,
            MALFORMED,
            "the line must be UTF-8; byte 7 is not",
        ),
        (
            "a.prom",
            b"{a=\"b\"} 1 1714521600000\n".to_vec(),
            1,
            "missing_name",
            "label __name__ must be present and not empty; got labels {a=\"b\"}",
        ),
        (
            "a.prom",
            b"tidewatch_window_avg 1 1714521600000\n".to_vec(),
            1,
            "own_result",
            "tidewatch_window_avg is a result of tidewatch; taking it in would compute on results",
        ),
        ("a.prom", long, 1, MALFORMED, "a line cannot exceed 1048576 bytes"),
        (
            "a.om",
            b"# TYPE up gauge\nup 1\nup 1 1714521600\n# EOF\n".to_vec(),
            2,
            MALFORMED,
            "column 5: expected a timestamp in seconds (every line needs one); got the end of the line",
        ),
        (
            "a.om",
            b"up 1 1714521600\n# EOF\n\nup 1 1714521601\n".to_vec(),
            4,
            MALFORMED,
            "nothing may follow the line # EOF",
        ),
        (
            "a.om",
            b"up 1 1714521600000\n# EOF".to_vec(),
            1,
            "too_far_ahead",
            "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 1714521600000000; 1714521600000 looks like milliseconds where seconds belong",
        ),
        ("a.csv", row("up,x,1714521600\n"), 2, MALFORMED, "a row has 4 cells as the header; got 3"),
        (
            "a.csv",
            row("\nup,x,1714521600000,1\nup,x,1714521600,1"),
            3,
            "too_far_ahead",
            "timestamp_ms cannot be more than 10 minutes ahead of the clock (1714521600000); got 1714521600000000; 1714521600000 looks like milliseconds where seconds belong",
        ),
        (
            "a.csv",
            row("up,\"x,1714521600,1\n\n"),
            2,
            MALFORMED,
            "a quoted cell that begins here is not closed within 64 lines, 1048576 bytes and the file",
        ),
        (
            "a.csv",
            row(",x,1714521600,1\n"),
            2,
            "missing_name",
            "label __name__ must be present and not empty; got labels {job=\"x\"}",
        ),
        (
            "a.csv",
            [&row("")[..], b"up,\xff,1714521600,1\n"].concat(),
            2,
            MALFORMED,
            "the cell of \"job\" is not UTF-8; got \"\u{fffd}\"",
        ),
    ];
    for (name, content, line, reason, message) in table {
        let got = rig.refusal(name, &content);
        assert_eq!((got.0, got.1, got.2.as_str()), (line, reason, message));
    }
    let open = format!(
        "{}up,\"x\ny\",1714521600,1\nup,\"x{}up,z,1714521600,1\n",
        "name,job,timestamp,value\n",
        "\n".repeat(100)
    );
    let input = rig.file("open.csv", open.as_bytes());
    let (got, replay) = rig.all(&[input], OPTIONS).unwrap();
    assert_eq!((got.len(), replay.summary().refusals.total(), replay.summary().first[0].line), (2, 1, 4));
    assert_eq!(got.series[0], series_id(&[("__name__", "up"), ("job", "x\ny")]).0);
}

#[test]
fn the_first_bad_lines_are_kept_and_strict_stops_at_the_first() {
    let rig = rig();
    let mut text = String::from("up 1 1714521600000\n");
    for n in 0..50 {
        text.push_str(&format!("bad {n}\nup 1 {}\n", NOW - n));
    }
    let input = rig.file("a.prom", text.as_bytes());
    let (got, replay) = rig.all(std::slice::from_ref(&input), OPTIONS).unwrap();
    let summary = replay.summary();
    assert_eq!((got.len(), summary.refusals.count(MALFORMED), summary.lines), (51, 50, 101));
    let numbers: Vec<u64> = summary.first.iter().map(|bad| bad.line).collect();
    assert_eq!(numbers, (1..=BAD_LINES_SHOWN as u64).map(|n| 2 * n).collect::<Vec<_>>());
    let mut strict =
        rig.open(std::slice::from_ref(&input), ReplayOptions { strict: true, ..OPTIONS }).unwrap();
    let mut batch = Samples::default();
    let error = strict.next_batch(&mut batch, 1).unwrap_err();
    let want = format!(
        "{input} line 2: column 6: expected a timestamp in milliseconds (every line needs one); got the end of the line"
    );
    assert_eq!((error.to_string(), batch.len()), (want, 1));
    let text = rig.metrics.text();
    assert!(text.contains(
        "tidewatch_samples_rejected_total{source=\"replay\",gate=\"validate\",reason=\"malformed\"} 51"
    ));
}

#[test]
fn the_future_is_taken_when_allowed() {
    let rig = rig();
    let input = rig.file("a.prom", b"up 1 4102444800000\nup 1 253402300800000\n");
    let open = ReplayOptions { allow_future: true, ..OPTIONS };
    let (got, replay) = rig.all(&[input], open).unwrap();
    assert_eq!((got.at_ms, replay.summary().refusals.count("too_far_ahead")), (vec![4_102_444_800_000], 1));
}

#[test]
fn inputs_that_cannot_be_read_are_named() {
    let rig = rig();
    let missing = rig.folder.path.join("none.prom").to_str().unwrap().to_owned();
    let folder = rig.folder.path.join("labels").to_str().unwrap().to_owned();
    let odd = rig.file("a.json", b"");
    let bare = rig.file("csv", b"");
    let guessing = "cannot be guessed from its name (.prom, .txt, .om, .csv, each also with .gz or .zst); give --format prometheus, openmetrics or csv";
    let with_format = ReplayOptions { format: Some(FileFormat::Csv), ..OPTIONS };
    let table = [
        (vec![], OPTIONS, "there is no input; name files, or - for standard input".to_owned()),
        (
            vec![missing.clone()],
            OPTIONS,
            format!("reading {missing}: No such file or directory (os error 2)"),
        ),
        (vec![folder.clone()], with_format, format!("reading {folder}: it is a directory")),
        (vec![odd.clone()], OPTIONS, format!("the format of {odd} {guessing}")),
        (vec![bare.clone()], OPTIONS, format!("the format of {bare} {guessing}")),
    ];
    for (inputs, options, message) in table {
        let error = rig.open(&inputs, options).err().expect("the inputs are refused before reading");
        assert_eq!(error.to_string(), message);
    }
    assert_eq!(
        "json".parse::<FileFormat>(),
        Err("format must be prometheus, openmetrics or csv; got \"json\"".to_owned())
    );
    assert_eq!(("csv".parse(), "prometheus".parse()), (Ok(FileFormat::Csv), Ok(FileFormat::Prometheus)));
    assert_eq!("openmetrics".parse(), Ok(FileFormat::OpenMetrics));
}

#[test]
fn damaged_files_end_with_an_error_that_names_them() {
    let rig = rig();
    let text = "up 1 1714521600000\n".repeat(10_000);
    let whole = gzip(text.as_bytes());
    let mut torn = whole.clone();
    torn.truncate(whole.len() / 2);
    let files = [
        rig.file("torn.prom.gz", &torn),
        rig.file("plain.prom.gz", text.as_bytes()),
        rig.file("empty.prom.gz", b""),
        rig.file("torn.prom.zst", &zstd(text.as_bytes())[..40]),
        rig.file("plain.csv.zst", text.as_bytes()),
        rig.file("empty.om.zst", b""),
    ];
    for input in files {
        let message =
            rig.all(std::slice::from_ref(&input), OPTIONS).err().expect("it is damaged").to_string();
        assert!(message.starts_with(&format!("reading {input}: ")), "{message}");
    }
    for (name, bytes) in [("a.prom.xz", &b"\xfd7zXZ\0\0\x04"[..]), ("wide.prom", b"\xff\xfe\0\0u\0\0\0")] {
        let input = rig.file(name, bytes);
        let with_format = ReplayOptions { format: Some(FileFormat::Prometheus), ..OPTIONS };
        let message = rig.all(&[input], with_format).err().expect("it is not read").to_string();
        assert!(message.contains("xz, which is not read") || message.contains("UTF-32, which"), "{message}");
    }
    let header = rig.file("a.csv", b"name,value\n");
    let message =
        rig.all(std::slice::from_ref(&header), OPTIONS).err().expect("there is no time").to_string();
    let want = "the header needs one of the columns timestamp and timestamp_ms; got \"name,value\"";
    assert_eq!(message, format!("{header} line 1: {want}"));
    let empty = rig.file("empty.prom", b"");
    assert_eq!(rig.all(&[empty], OPTIONS).unwrap().0.len(), 0);
}

/// What a file without its last line held is taken; that it is not whole is an error, also after other files.
#[test]
fn openmetrics_without_its_end_is_cut_off() {
    let rig = rig();
    let whole = rig.file("whole.om", b"up 1 1714521599\n# EOF\n");
    for (content, lines, taken) in
        [("up 1 1714521600\nup 2 1714521601\n", 2, 2), ("", 0, 0), ("up 1 17145", 1, 0)]
    {
        let cut = rig.file("cut.om", content.as_bytes());
        let mut replay = rig.open(&[whole.clone(), cut.clone()], OPTIONS).unwrap();
        let mut batch = Samples::default();
        let error = replay.next_batch(&mut batch, 1).unwrap_err().to_string();
        let want = format!(
            "{cut} is cut off: it ends after line {lines} without the line # EOF; what came before is taken"
        );
        assert_eq!((error, batch.len()), (want, 1 + taken));
    }
}

#[test]
fn created_samples_are_left_out_and_counted() {
    let rig = rig();
    let file = "# TYPE a counter\na_total{l=\"x\"} 5 1714521600\na_created{l=\"x\"} 1714521000.5 1714521600\n\
        a_created{l=\"y\"} 1714521000.5 1714521600 # {}\n# TYPE pod_created gauge\npod_created 7 1714521600\n# EOF\n";
    // The same name as an ordinary one, so that its text is known.
    let known = rig.file("known.prom", b"a_created{l=\"x\"} 1 1714521600000\n");
    rig.all(&[known], OPTIONS).unwrap();
    let input = rig.file("a.om", file.as_bytes());
    let (got, replay) = rig.all(&[input], OPTIONS).unwrap();
    assert_eq!((got.value, replay.summary().created, replay.summary().received), (vec![5.0, 7.0], 2, 2));
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let rig = rig();
    let lines =
        b"up{a=\"b\\n\"} 1 1714521600000\n# TYPE u counter\n# EOF\nname,job,timestamp,value\nup,\"x\",2024-05-01T00:00:00Z,1\n";
    let seed = 11;
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..3_000 {
        let mut content = b"name,job,timestamp,value\n".to_vec();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..lines.len());
            content.extend_from_slice(&lines[at..random.usize(at..=lines.len())]);
            let place = random.usize(25..=content.len());
            content.insert(place, random.u8(..));
        }
        let input = rig.file("any", &content);
        for format in [FileFormat::Csv, FileFormat::Prometheus, FileFormat::OpenMetrics] {
            let options = ReplayOptions { format: Some(format), ..OPTIONS };
            match rig.all(std::slice::from_ref(&input), options) {
                Ok(_) => {}
                Err(ReplayError::CutOff { .. } | ReplayError::NothingTaken { .. }) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
    }
}

#[test]
fn histograms_of_a_dump_are_kept_as_count_and_sum() {
    let rig = rig();
    let lines = [
        ("rpc", "{count:12, sum:18.4, [-0.001,0.001]:2, (0.5,1]:4, (1,2]:6}"),
        ("rpc", "{count:13, sum:19, [-0.001,0.001]:3, (0.5,1]:4, (1,2]:6}"),
        ("bad", "{count:12, sum:18.4, (1,2]:6}"),
        ("odd", "{count:12}"),
        ("rpc", "{count:0, sum:NaN}"),
        ("rpc", "5"),
    ];
    let text = lines.map(|(name, value)| format!("{{__name__=\"{name}\", job=\"a\\tb\"}} {value} {NOW}\n"));
    let input = rig.file("dump.txt", text.concat().as_bytes());
    for _ in 0..2 {
        let (got, replay) = rig.all(std::slice::from_ref(&input), OPTIONS).unwrap();
        let id = |name: &str| series_id(&[("__name__", name), ("job", "a\tb")]).0;
        let (count, sum) = (id("rpc_count"), id("rpc_sum"));
        assert_eq!(got.series, [count, sum, count, sum, count, sum, id("rpc")]);
        assert_eq!((&got.value[..4], got.value[6]), (&[12.0, 18.4, 13.0, 19.0][..], 5.0));
        let stale = tidewatch_dataflows::sample::STALE_NAN_BITS;
        assert!(got.value[4..6].iter().all(|value| value.to_bits() == stale));
        let summary = replay.summary();
        assert_eq!((summary.received, summary.histograms), (6, 3));
        let reasons: Vec<_> =
            summary.refusals.iter().map(|refusal| (refusal.reason, refusal.count)).collect();
        assert_eq!(reasons, [("bad_histogram", 1), (MALFORMED, 1)]);
    }
    assert_eq!(rig.labels.len(), 3);
    let line = "tidewatch_native_histograms_reduced_total{source=\"replay\"} 6\n";
    assert!(rig.metrics.text().contains(line));
    // The last line of a batch is one sample too long for it.
    let one = format!("up 1 {NOW}\n");
    let many = (0..BATCH_SAMPLES_MAX)
        .map(|n| format!("{{__name__=\"rpc\"}} {{count:{n}, sum:1, (0,1]:{n}}} {NOW}\n"));
    let input = rig.file("many.txt", (one + &many.collect::<String>()).as_bytes());
    assert_eq!(rig.all(&[input], OPTIONS).unwrap().0.len(), 1 + 2 * BATCH_SAMPLES_MAX);
}

/// What a damaged input held before the damage is taken, the error names it, and the other inputs are read.
#[test]
fn damage_loses_nothing_before_it_and_no_other_input() {
    let rig = rig();
    let text: String = (0..50_000).map(|n| format!("up{{n=\"{}\"}} {n} {}\n", n % 7, NOW - n)).collect();
    let lines = |input: &str| {
        let (got, _, failed) = rig.read(
            &[
                rig.file("first.prom", b"up 1 1714521600000\n"),
                input.to_owned(),
                rig.file("last.csv", b"name,timestamp,value\nup,1714521600,1\n"),
            ],
            OPTIONS,
        );
        (got, failed.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (gz, zst) = (gzip(text.as_bytes()), zstd(text.as_bytes()));
    let mut sum = gz.clone();
    let at = sum.len() - 8;
    sum[at] ^= 1;
    let half = text.len() / 2;
    let wide = utf16(&text, u16::to_le_bytes);
    for (name, bytes, least, why) in [
        ("cut.prom.gz", gz[..gz.len() / 2].to_vec(), 10_000, "it is cut off: it ends within a gzip member"),
        ("sum.prom.gz", sum, 50_000, "corrupt gzip stream does not have a matching checksum"),
        ("cut.prom.zst", zst[..zst.len() / 2].to_vec(), 10_000, "it is damaged, or no Zstandard: "),
        (
            "next.prom.zst",
            [zstd(&text.as_bytes()[..half]), zst[..9].to_vec()].concat(),
            24_000,
            "it is damaged",
        ),
        ("wide.prom", wide[..wide.len() - 1].to_vec(), 49_999, "it is UTF-16 and ends within a character"),
    ] {
        let input = rig.file(name, &bytes);
        let (got, failed) = lines(&input);
        let taken = got.len() - 2;
        assert!(taken >= least, "{name}: {taken} lines");
        assert!(got.value[1..=taken].iter().enumerate().all(|(n, value)| *value == n as f64), "{name}");
        let [message] = &failed[..] else { panic!("{name}: {failed:?}") };
        assert!(message.starts_with(&format!("reading {input}: ")) && message.contains(why), "{message}");
        assert!(message.ends_with(&format!("; {taken} lines before it were read")), "{message}");
    }
    // Bytes behind the last part are a warning.
    for (name, bytes) in [("tail.prom.gz", gz), ("tail.prom.zst", zst)] {
        let input = rig.file(name, &[&bytes[..], b"\0\0tail"].concat());
        let (got, replay) = rig.all(std::slice::from_ref(&input), OPTIONS).unwrap();
        let end = "4 bytes behind its last compressed part belong to none and are left out";
        assert_eq!((got.len(), &replay.summary().warnings), (50_000, &vec![format!("{input}: {end}")]));
        assert_eq!(Some(replay.bytes_counter().load(Ordering::Relaxed)), replay.bytes_total());
    }
}

#[test]
fn an_input_of_which_nothing_can_be_taken_is_an_error() {
    let rig = rig();
    let good = rig.file("good.prom", b"up 1 1714521600000\n");
    for (name, content) in [
        ("page.prom", "<html>\n<body>502</body>\n"),
        ("answer.prom", "{\"status\":\"success\",\"data\":{}}\n\n}\n"),
        ("scrape.txt", "# TYPE up gauge\nup 1\ngo_threads 8\n"),
        ("seconds.om", "up 1 1714521600000\nup 2 1714521600000\n# EOF\n"),
        ("none.csv", "name,timestamp,value\nup,soon,1\nup,late,1\n"),
    ] {
        let bad = rig.file(name, content.as_bytes());
        let (got, replay, failed) = rig.read(&[good.clone(), bad.clone(), good.clone()], OPTIONS);
        assert_eq!((got.len(), failed.len()), (2, 1), "{name}: {failed:?}");
        let want = format!("nothing of {bad} can be taken: 2 of 2 lines are refused; {bad} line ");
        assert!(failed[0].to_string().starts_with(&want), "{failed:?}");
        assert_eq!(replay.summary().refusals.total(), 2);
    }
    // Where there was nothing to take, nothing was refused.
    for (name, content) in
        [("a.prom", "# HELP up x\n"), ("a.om", "# EOF\n"), ("a.csv", "name,timestamp,value\n")]
    {
        let empty = rig.file(name, content.as_bytes());
        assert_eq!(rig.all(&[empty], OPTIONS).unwrap().0.len(), 0);
    }
}
