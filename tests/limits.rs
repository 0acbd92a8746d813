//! Limits reached: each is answered with its status, counted in its metric, half-applies nothing, and the server goes
//! on with what is within them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::{Settings, Window};

use crate::support::http::{self, Answer};
use crate::support::process::{Tidewatch, done, run};
use crate::support::remote_write::{HEADERS, WriteRequest, snappy};
use crate::support::{Folder, eventually, stored};

/// A time long past, so that windows close by the samples alone and by no clock.
const START_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// One short window, so that a few samples make many rows.
const WINDOWS: &str = "windows: [{length: 10s, hop: 1s}]\n";

fn settings() -> Settings {
    Settings { windows: vec![Window { length_ms: 10_000, hop_ms: 1_000 }], ..Settings::default() }
}

fn labels(n: usize) -> [(&'static str, String); 2] {
    [("__name__", "limit".to_owned()), ("n", n.to_string())]
}

fn borrowed<'a>(labels: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    labels.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn sample(second: i64) -> (i64, f64) {
    (START_MS + second * 1_000, (second * second % 37) as f64)
}

/// A request with a sample a second for each of some series, and what is in it.
fn request(series: std::ops::Range<usize>, seconds: std::ops::Range<i64>) -> (WriteRequest, Samples) {
    let (mut request, mut all) = (WriteRequest::default(), Samples::default());
    let samples: Vec<(i64, f64)> = seconds.map(sample).collect();
    for n in series {
        let labels = labels(n);
        request = request.series(&borrowed(&labels), &samples);
        let id = series_id(&borrowed(&labels)).0;
        samples.iter().for_each(|(at, value)| all.push(id, *at, *value));
    }
    (request, all)
}

fn send(tidewatch: &Tidewatch, request: &WriteRequest) -> Answer {
    request.send(&tidewatch.url("/api/v1/write")).unwrap()
}

fn reached(tidewatch: &Tidewatch, limit: &str) -> f64 {
    tidewatch.metric(&format!("tidewatch_limit_reached_total{{limit=\"{limit}\"}}"))
}

fn refused(tidewatch: &Tidewatch, reason: &str) -> f64 {
    let labels = format!("source=\"remote_write\",gate=\"validate\",reason=\"{reason}\"");
    tidewatch.metric(&format!("tidewatch_samples_rejected_total{{{labels}}}"))
}

fn accepted(tidewatch: &Tidewatch) -> f64 {
    tidewatch.metric("tidewatch_samples_accepted_total{source=\"remote_write\"}")
}

/// Labels, and the limit that refuses them.
type Labelled<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);

/// All window rows of a server that has stored every epoch it has.
fn all_rows(tidewatch: &Tidewatch) -> Vec<Value> {
    let (start, end) = ((START_MS / 1_000 - 60).to_string(), (START_MS / 1_000 + 100_000).to_string());
    tidewatch.rows("/api/v1/windows", &[("start", &start), ("end", &end)])
}

/// Waits until the rows are those that `samples` give and no others.
fn settles(what: &str, tidewatch: &Tidewatch, samples: &Samples) {
    let want = crate::oracle::from_scratch(&settings(), samples).len();
    eventually(what, PATIENCE, || {
        let rows = all_rows(tidewatch).len();
        // Whether they are right is judged below.
        if rows >= want { Ok(()) } else { Err(format!("{rows} of {want} rows")) }
    });
    stored::check(what, &settings(), &all_rows(tidewatch), samples);
}

/// Nothing went wrong that should not have.
fn is_well(tidewatch: &mut Tidewatch) {
    for path in ["/-/healthy", "/api/v1/windows", "/api/v1/names", "/api/v1/catalog", "/api/v1/rejects"] {
        tidewatch.get(path, &[]);
    }
    let log = tidewatch.process().log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn labels_and_series_beyond_their_limits_are_refused_alone() {
    let limits = "limits: {series: 256, series_per_name: 200, labels: 4, label_bytes: 64}\n";
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}{limits}"));
    let mut expected = Samples::default();

    // 200 series of one name are taken, 3 refused; their samples are counted one by one.
    let (write, _) = request(0..203, 0..2);
    let (_, mut taken) = request(0..200, 0..2);
    expected.append(&mut taken);
    let answer = send(&tidewatch, &write);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text.contains("400 of 406 samples"), "{answer:?}");
    assert!(answer.text.contains("limits.series_per_name"), "{answer:?}");
    assert_eq!(reached(&tidewatch, "limits.series_per_name"), 3.0);
    assert_eq!(refused(&tidewatch, "series_per_name_limit"), 6.0);

    // One label more, one byte more; exactly at the bound is fine.
    let one = [sample(0), sample(1)];
    let exact = "x".repeat(64 - "__name__".len() - "long".len() - "a".len());
    let longer = format!("{exact}x");
    let sets: [Labelled; 4] = [
        (&[("__name__", "wide"), ("a", "1"), ("b", "1"), ("c", "1")], None),
        (&[("__name__", "wide"), ("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")], Some("limits.labels")),
        (&[("__name__", "long"), ("a", &exact)], None),
        (&[("__name__", "long"), ("a", &longer)], Some("limits.label_bytes")),
    ];
    for (labels, limit) in sets {
        let answer = send(&tidewatch, &WriteRequest::default().series(labels, &one));
        match limit {
            None => {
                assert_eq!(answer.status, 204, "{labels:?}: {answer:?}");
                one.iter().for_each(|(at, value)| expected.push(series_id(labels).0, *at, *value));
            }
            Some(limit) => {
                assert_eq!(answer.status, 400, "{labels:?}: {answer:?}");
                assert!(answer.text.contains(limit), "{answer:?}");
                assert_eq!(reached(&tidewatch, limit), 1.0);
            }
        }
    }
    assert_eq!((refused(&tidewatch, "too_many_labels"), refused(&tidewatch, "labels_too_long")), (2.0, 2.0));

    // 202 series are known: 54 more fit.
    let name = |n: usize| format!("name_{n}");
    let many =
        (0..60).fold(WriteRequest::default(), |write, n| write.series(&[("__name__", &name(n))], &one));
    let answer = send(&tidewatch, &many);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text.contains("limits.series"), "{answer:?}");
    assert_eq!((reached(&tidewatch, "limits.series"), refused(&tidewatch, "series_limit")), (6.0, 12.0));
    for n in 0..54 {
        one.iter().for_each(|(at, v)| expected.push(series_id(&[("__name__", &name(n))]).0, *at, *v));
    }
    assert_eq!(accepted(&tidewatch), expected.len() as f64);

    // Known series go on as if nothing had been; exactly what was taken is computed.
    let (write, mut more) = request(0..200, 2..5);
    assert_eq!(send(&tidewatch, &write).status, 204);
    expected.append(&mut more);
    settles("within the limits", &tidewatch, &expected);
    // The limits judge new series: what is known is there again after a restart.
    tidewatch.process().kill();
    tidewatch.start_again();
    // Until the journal is read back a limit on series is no reason to refuse for good.
    eventually("the limit refuses for good", PATIENCE, || match send(&tidewatch, &many).status {
        400 => Ok(()),
        status => Err(status.to_string()),
    });
    settles("after a restart", &tidewatch, &expected);
    is_well(&mut tidewatch);
}

#[test]
fn bodies_beyond_their_limit_are_refused_before_they_take_room() {
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}limits: {{body_bytes: 4KiB}}\n"));
    let url = tidewatch.url("/api/v1/write");
    // Noise does not compress: its body is beyond the limit.
    let mut rng = fastrand::Rng::with_seed(7);
    let noise: Vec<(i64, f64)> = (0..500).map(|i| (sample(i).0, f64::from_bits(rng.u64(..) >> 2))).collect();
    let noise = WriteRequest::default().series(&[("__name__", "limit")], &noise);
    assert!(snappy(noise.message()).len() > 4_096);
    let answer = noise.send(&url).unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.text.contains("limits.body_bytes (4096)"), "{answer:?}");
    assert_eq!(reached(&tidewatch, "limits.body_bytes"), 1.0);
    // One that would only be too large once decompressed.
    let same: Vec<(i64, f64)> = (0..1_000).map(|_| sample(0)).collect();
    let same = WriteRequest::default().series(&[("__name__", "limit")], &same);
    assert!(same.message().len() > 4_096 && snappy(same.message()).len() < 4_096);
    let answer = same.send(&url).unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text.contains("limits.body_bytes (4096)"), "{answer:?}");
    assert_eq!(reached(&tidewatch, "limits.body_bytes"), 2.0);
    // One that does not say how long it is.
    let mut stream = TcpStream::connect(tidewatch.address()).unwrap();
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{}\r\n",
        HEADERS.map(|(name, value)| format!("{name}: {value}\r\n")).concat()
    );
    stream.write_all(format!("{head}1400\r\n{}\r\n0\r\n\r\n", "x".repeat(0x1400)).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(reached(&tidewatch, "limits.body_bytes"), 3.0);
    assert_eq!(accepted(&tidewatch), 0.0);

    let (write, samples) = request(0..3, 0..50);
    assert_eq!(send(&tidewatch, &write).status, 204);
    assert_eq!(accepted(&tidewatch), samples.len() as f64);
    settles("within the limits", &tidewatch, &samples);
    is_well(&mut tidewatch);
}

/// The head of a push whose body has this length, or comes in chunks.
fn head(declared: Option<usize>) -> String {
    let length = declared.map_or("Transfer-Encoding: chunked".to_owned(), |n| format!("Content-Length: {n}"));
    let headers = HEADERS.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    format!(
        "POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n{headers}\r\n"
    )
}

#[test]
fn bodies_that_wait_for_their_bytes_hold_up_nobody() {
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}limits: {{body_bytes: 1MiB}}\n"));
    let open = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(tidewatch.address()).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    // More than 256 of them, each with as much declared as there may be, and of it two bytes.
    let never: Vec<TcpStream> =
        (0..200).map(|_| open(format!("{}ab", head(Some(1 << 20))).as_bytes())).collect();
    // And more than 8 x limits.body_bytes, of unknown length; these are good.
    let (mut expected, mut slow) = (Samples::default(), Vec::new());
    for n in 0..100 {
        let (write, mut samples) = request(n..n + 1, 0..20);
        let (first, last) = (snappy(write.message()), b"\r\n0\r\n\r\n");
        let (first, second) = first.split_at(5);
        let begun = [format!("{}5\r\n", head(None)).as_bytes(), first, b"\r\n"].concat();
        let rest = [format!("{:x}\r\n", second.len()).as_bytes(), second, last].concat();
        slow.push((open(&begun), rest));
        expected.append(&mut samples);
    }
    for n in 100..120 {
        let (write, mut samples) = request(n..n + 1, 0..20);
        let answer = send(&tidewatch, &write);
        assert_eq!(answer.status, 204, "{n}: {answer:?}");
        expected.append(&mut samples);
    }
    for (mut stream, rest) in slow {
        stream.write_all(&rest).unwrap();
        let answer = std::io::read_to_string(stream).unwrap();
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    }
    assert_eq!((reached(&tidewatch, "write.body_room"), reached(&tidewatch, "write.requests")), (0.0, 0.0));
    drop(never);
    settles("taken from all", &tidewatch, &expected);
    is_well(&mut tidewatch);
}

/// Connections that have sent all of a body but its last byte, which never comes.
struct Slow<'a> {
    tidewatch: &'a Tidewatch,
    begun: Vec<u8>,
    open: Vec<TcpStream>,
}

impl Slow<'_> {
    fn new(tidewatch: &Tidewatch, length: usize) -> Slow<'_> {
        let begun = [head(Some(length)).as_bytes(), &vec![0; length - 1]].concat();
        Slow { tidewatch, begun, open: Vec::new() }
    }

    /// Opens one more; one that is refused may not take all of it.
    fn open_one(&mut self) {
        let mut stream = TcpStream::connect(self.tidewatch.address()).unwrap();
        let _ = stream.write_all(&self.begun);
        self.open.push(stream);
    }
}

/// A request whose body is about as long as this, and what is in it: noise does not compress.
fn noise(name: &str, bytes: usize) -> (WriteRequest, Samples) {
    let labels = [("__name__", name)];
    let id = series_id(&labels).0;
    let (mut rng, mut all) = (fastrand::Rng::with_seed(7), Samples::default());
    let samples: Vec<(i64, f64)> = (0..bytes as i64 / 12).map(|i| (sample(i).0, rng.f64())).collect();
    samples.iter().for_each(|(at, value)| all.push(id, *at, *value));
    (WriteRequest::default().series(&labels, &samples), all)
}

#[test]
fn large_bodies_that_stop_short_leave_room_for_ordinary_pushes() {
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}limits: {{body_bytes: 1MiB}}\n"));
    let mut slow = Slow::new(&tidewatch, 1 << 20);
    (0..8).for_each(|_| slow.open_one());
    // A large one comes in many pieces. It finds half of the room taken by those that wait for their last byte.
    let (large, mut samples) = noise("large", 600_000);
    assert!(snappy(large.message()).len() > 400_000);
    let answer = eventually("half of the room is taken", PATIENCE, || {
        slow.open_one();
        match send(&tidewatch, &large) {
            answer if answer.status == 503 => Ok(answer),
            answer => Err(format!("{answer:?}")),
        }
    });
    assert!(answer.text.contains("still arriving bootstrap half of the room"), "{answer:?}");
    assert!(answer.retry_after.is_some_and(|seconds| seconds.parse::<u64>().is_ok()));
    assert!(reached(&tidewatch, "write.body_room") >= 4.0);
    // Ordinary pushes are taken.
    let mut expected = Samples::default();
    for n in 0..50 {
        let (write, mut samples) = request(n..n + 1, 0..20);
        assert_eq!(send(&tidewatch, &write).status, 204, "{n}");
        expected.append(&mut samples);
    }
    drop(slow);
    eventually("there is room again", PATIENCE, || match send(&tidewatch, &large) {
        answer if answer.status == 204 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    expected.append(&mut samples);
    settles("taken from all", &tidewatch, &expected);
    is_well(&mut tidewatch);
}

#[test]
fn bodies_that_bootstrap_their_room_leave_others_a_503_and_no_more() {
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}limits: {{body_bytes: 4KiB}}\n"));
    let (write, samples) = request(0..2, 0..50);
    // Each of these holds what it has sent until its last byte comes, which is never. Short ones are no larger than the
    // begin of a body, so they may bootstrap all of the room. One that finds our own request in its place is refused and holds
    // nothing, so there comes another with each question.
    let mut slow = Slow::new(&tidewatch, 1_024);
    (0..32).for_each(|_| slow.open_one());
    let answer = eventually("no room is left", PATIENCE, || {
        slow.open_one();
        match send(&tidewatch, &write) {
            answer if answer.status == 503 => Ok(answer),
            answer => Err(format!("{answer:?}")),
        }
    });
    assert!(answer.retry_after.is_some_and(|seconds| seconds.parse::<u64>().is_ok()));
    assert!(reached(&tidewatch, "write.body_room") >= 1.0);
    tidewatch.get("/-/healthy", &[]);
    tidewatch.get("/api/v1/windows", &[]);
    drop(slow);
    eventually("there is room again", PATIENCE, || match send(&tidewatch, &write) {
        answer if answer.status == 204 => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    settles("taken in the end", &tidewatch, &samples);
    is_well(&mut tidewatch);
}

/// Sends one series after the other until the server has no room; what was taken, and the request that was not.
fn bootstrap(tidewatch: &Tidewatch, series: usize, seconds: i64, why: &str) -> (Samples, usize) {
    let mut taken = Samples::default();
    for n in 0..series {
        let (write, mut samples) = request(n..n + 1, 0..seconds);
        let answer = send(tidewatch, &write);
        match answer.status {
            204 => taken.append(&mut samples),
            503 => {
                assert!(answer.text.contains(why), "{answer:?}");
                assert!(answer.retry_after.is_some_and(|seconds| seconds.parse::<u64>().is_ok()));
                return (taken, n);
            }
            _ => panic!("{answer:?}"),
        }
    }
    panic!("{series} series did not reach {why}");
}

#[test]
fn a_full_journal_refuses_writes_answers_reads_and_goes_on_with_more_room() {
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}journal: {{bytes_max: 1MiB}}\n"));
    // 20 bytes a sample.
    let (mut taken, next) = bootstrap(&tidewatch, 100, 1_000, "journal.bytes_max");
    assert!(taken.len() > 40_000 && taken.len() < 55_000, "{}", taken.len());
    assert!(reached(&tidewatch, "journal.bytes_max") >= 1.0);
    assert_eq!(accepted(&tidewatch), taken.len() as f64);
    // What was taken is computed and can be read, and it stays so.
    settles("a full journal", &tidewatch, &taken);
    tidewatch.get("/-/ready", &[]);
    is_well(&mut tidewatch);
    let (write, mut more) = request(next..next + 1, 0..1_000);
    assert_eq!(send(&tidewatch, &write).status, 503);
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
    // The same bound again: what is there is there, still nothing is taken.
    tidewatch.start_again();
    assert_eq!(send(&tidewatch, &write).status, 503);
    tidewatch.process().kill();
    tidewatch.configure(&format!("{WINDOWS}journal: {{bytes_max: 4MiB}}\n"));
    tidewatch.start_again();
    assert_eq!(send(&tidewatch, &write).status, 204);
    taken.append(&mut more);
    settles("more room", &tidewatch, &taken);
    is_well(&mut tidewatch);
}

#[test]
fn a_full_outbox_holds_everything_back_and_goes_on_with_more_room() {
    // Trimming would make room again and again.
    let keep = "journal: {trim: off}\n";
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}{keep}outbox: {{bytes_max: 1MiB}}\n"));
    // 92 bytes a row: the outbox is full long before the journal.
    let (mut taken, mut next) = (Samples::default(), 0);
    eventually("the outbox is full", PATIENCE, || {
        let (write, mut samples) = request(next..next + 1, 0..1_000);
        let answer = send(&tidewatch, &write);
        match answer.status {
            204 => {
                taken.append(&mut samples);
                next += 1;
                Err(format!("{next} series taken"))
            }
            503 => {
                assert!(answer.text.contains("outbox.bytes_max"), "{answer:?}");
                assert!(answer.retry_after.as_deref().is_some_and(|s| s.parse::<u64>().is_ok()));
                Ok(())
            }
            _ => panic!("{answer:?}"),
        }
    });
    assert_eq!(reached(&tidewatch, "outbox.bytes_max"), 1.0, "it was reached once and is waited for since");
    let ready = http::get(&tidewatch.url("/-/ready"), &[]).unwrap();
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.text.contains("outbox.bytes_max"), "{ready:?}");
    is_well(&mut tidewatch);
    let size = |tidewatch: &Tidewatch| -> u64 {
        let files = std::fs::read_dir(tidewatch.folder().join("data/outbox")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let full = size(&tidewatch);
    // It can be stopped and started; that alone makes no room.
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
    tidewatch.start_again_alive();
    let (write, mut more) = request(next..next + 1, 0..1_000);
    eventually("full again", PATIENCE, || match send(&tidewatch, &write) {
        answer if answer.status == 503 => Ok(()),
        answer => {
            // What is taken before the engine has come so far again is taken.
            taken.append(&mut more.clone());
            Err(format!("{answer:?}"))
        }
    });
    is_well(&mut tidewatch);
    tidewatch.process().kill();
    assert_eq!(size(&tidewatch), full, "a full outbox does not grow");
    tidewatch.configure(&format!("{WINDOWS}{keep}outbox: {{bytes_max: 64MiB}}\n"));
    tidewatch.start_again();
    assert_eq!(send(&tidewatch, &write).status, 204);
    taken.append(&mut more);
    settles("more room", &tidewatch, &taken);
    is_well(&mut tidewatch);
}

#[test]
fn a_replay_into_a_full_log_fails_and_goes_on_with_more_room() {
    let folder = Folder::new("limits");
    let config = |limit: &str| {
        std::fs::write(folder.path().join("tidewatch.yml"), format!("{WINDOWS}{limit}\n")).unwrap()
    };
    let (mut text, mut samples) = (String::new(), Samples::default());
    // More than one epoch of 65,536 samples: the outbox is looked at before each.
    for n in 0..70 {
        let (_, mut more) = request(n..n + 1, 0..1_000);
        (0..1_000).map(sample).for_each(|(at, v)| text += &format!("limit{{n=\"{n}\"}} {v} {at}\n"));
        samples.append(&mut more);
    }
    std::fs::write(folder.path().join("all.prom"), text).unwrap();
    // An outbox that is trimmed has room again.
    for limit in ["journal: {bytes_max: 1MiB}", "journal: {trim: off}\noutbox: {bytes_max: 1MiB}"] {
        let _ = std::fs::remove_dir_all(folder.path().join("data"));
        config(limit);
        let name = if limit.contains("outbox") { "outbox.bytes_max" } else { "journal.bytes_max" };
        for _ in 0..2 {
            let ended = run(folder.path(), &["replay", "all.prom"], None);
            assert_eq!(ended.code, Some(1), "{ended:?}");
            assert!(ended.err.contains(name), "{ended:?}");
        }
        config("");
        done(folder.path(), &["replay", "all.prom"], None);
        let rows = done(folder.path(), &["export", "--final"], None);
        let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        stored::check(limit, &settings(), &rows, &samples);
    }
}

/// One epoch makes more rows than the outbox may hold: it is written whole, and gone when the store has it.
#[test]
fn an_outbox_goes_on_when_the_store_has_what_is_in_it() {
    let outbox = "outbox: {bytes_max: 1MiB}\n";
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}{outbox}"));
    let mut taken = Samples::default();
    for round in 0..3 {
        let (write, mut samples) = request(30 * round..30 * round + 30, 0..1_000);
        // It may be at its bound for a moment, and the sender comes again.
        eventually("it is taken", PATIENCE, || match send(&tidewatch, &write) {
            answer if answer.status == 204 => Ok(()),
            answer => Err(format!("{answer:?}")),
        });
        taken.append(&mut samples);
        if round == 1 {
            // No restart is needed, and none is in the way.
            tidewatch.process().kill();
            tidewatch.start_again_alive();
        }
    }
    settles("the outbox is at its bound", &tidewatch, &taken);
    eventually("what is stored is gone", PATIENCE, || {
        let files = std::fs::read_dir(tidewatch.folder().join("data/outbox")).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        if bytes < 2 << 20 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
    is_well(&mut tidewatch);
    drop(tidewatch);
    let folder = Folder::new("limits");
    std::fs::write(folder.path().join("tidewatch.yml"), format!("{WINDOWS}{outbox}")).unwrap();
    let (mut text, mut samples) = (String::new(), Samples::default());
    for n in 0..70 {
        let (_, mut more) = request(n..n + 1, 0..1_000);
        (0..1_000).map(sample).for_each(|(at, v)| text += &format!("limit{{n=\"{n}\"}} {v} {at}\n"));
        samples.append(&mut more);
    }
    std::fs::write(folder.path().join("all.prom"), text).unwrap();
    done(folder.path(), &["replay", "all.prom"], None);
    let rows = done(folder.path(), &["export", "--final"], None);
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    stored::check("replay", &settings(), &rows, &samples);
}

#[test]
fn a_full_late_ring_is_a_reject_with_its_reason() {
    let limits = "limits: {late_samples: 16}\n";
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}{limits}"));
    let series = [("__name__", "limit")];
    let id = series_id(&series).0;
    let mut expected = Samples::default();
    // Every second sample of 100 seconds, then those between: the ring holds the newest 16 only, 32 s of them.
    let even: Vec<(i64, f64)> = (0..50).map(|i| sample(2 * i)).collect();
    let odd: Vec<(i64, f64)> = (0..49).map(|i| sample(2 * i + 1)).collect();
    assert_eq!(send(&tidewatch, &WriteRequest::default().series(&series, &even)).status, 204);
    even.iter().for_each(|(at, value)| expected.push(id, *at, *value));
    // Samples of one epoch are sorted before they are judged, and none would be late.
    eventually("they are applied", PATIENCE, || match tidewatch.metric("tidewatch_samples_applied_total") {
        50.0 => Ok(()),
        n => Err(format!("{n} of 50")),
    });
    // One at a time, newest first; what does not fit is 204 as well: it is judged after the answer.
    for late in odd.iter().rev() {
        assert_eq!(send(&tidewatch, &WriteRequest::default().series(&series, &[*late])).status, 204);
    }
    let counted =
        "tidewatch_samples_rejected_total{source=\"journal\",gate=\"admit\",reason=\"late_ring_full\"}";
    let judged = || tidewatch.metric("tidewatch_samples_applied_total") + tidewatch.metric(counted);
    eventually("all are judged", PATIENCE, || match judged() {
        99.0 => Ok(()),
        n => Err(format!("{n} of 99")),
    });
    let full = tidewatch.metric(counted);
    assert!(full >= 30.0, "{full} late samples found no room");
    assert!(reached(&tidewatch, "limits.late_samples") >= 1.0);
    is_well(&mut tidewatch);
    // The same in a file says so in rows: a file's rejects are told at its end.
    let folder = Folder::new("limits");
    std::fs::write(folder.path().join("tidewatch.yml"), format!("{WINDOWS}{limits}")).unwrap();
    let line = |(at, value): &(i64, f64)| format!("limit {value} {at}\n");
    let (even, odd): (String, String) = (even.iter().map(line).collect(), odd.iter().map(line).collect());
    for part in [even, odd] {
        std::fs::write(folder.path().join("part.prom"), part).unwrap();
        done(folder.path(), &["replay", "part.prom"], None);
    }
    let rejects = done(folder.path(), &["export", "--kind", "rejects"], None);
    let rejects: Vec<Value> = rejects.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rejects.len(), 1, "{rejects:?}");
    assert_eq!(
        (rejects[0]["reason"].as_str(), rejects[0]["name"].as_str()),
        (Some("late_ring_full"), Some("limit"))
    );
    assert!(rejects[0]["count"].as_u64().unwrap() >= 30, "{rejects:?}");
    // What is stored is what was applied: a pane without its raw samples is never refolded from half of them.
    let newest = expected.at_ms[expected.len() - 1];
    for row in all_rows(&tidewatch).iter().filter(|row| row["at_ms"].as_i64().unwrap() < newest - 40_000) {
        assert!(row["count"].as_u64().unwrap() <= 5, "{row}");
    }
}

#[test]
fn pages_and_cursors_are_bounded_and_pages_of_any_size_are_one_list() {
    let mut tidewatch = Tidewatch::start(WINDOWS);
    let (write, samples) = request(0..3, 0..40);
    assert_eq!(send(&tidewatch, &write).status, 204);
    settles("written", &tidewatch, &samples);
    let range = [("start", "1767225000"), ("end", "1767230000")];
    let whole = tidewatch.rows("/api/v1/windows", &range);
    let page = |parameters: &[(&str, &str)]| {
        http::get(&tidewatch.url("/api/v1/windows"), &[&range[..], parameters].concat()).unwrap()
    };
    for limit in [1, 7, 10_000] {
        let limit_text = limit.to_string();
        let (mut rows, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut parameters = vec![("limit", limit_text.as_str())];
            parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let mut answer = page(&parameters).json();
            let data = answer["data"].as_array_mut().unwrap();
            assert!(!data.is_empty() && data.len() <= limit, "{limit}: {} rows", data.len());
            rows.append(data);
            let Some(next) = answer["next"].as_str() else { break };
            cursor = Some(next.to_owned());
        }
        assert!(rows == whole, "pages of {limit} rows are not the list");
    }
    let first = page(&[("limit", "5")]).json()["next"].as_str().unwrap().to_owned();
    let mut changed = first.clone();
    changed.replace_range(60..61, if &first[60..61] == "0" { "1" } else { "0" });
    let long = "0".repeat(60_000);
    for (what, path, parameters, status) in [
        ("no rows", "/api/v1/windows", vec![("limit", "0")], 400),
        ("too many rows", "/api/v1/windows", vec![("limit", "10001")], 400),
        ("more than any number", "/api/v1/windows", vec![("limit", "99999999999999999999")], 400),
        ("a cursor of another question", "/api/v1/windows", vec![("cursor", first.as_str())], 400),
        ("a cursor of another list", "/api/v1/catalog", vec![("cursor", first.as_str())], 400),
        (
            "a cursor changed by hand",
            "/api/v1/windows",
            vec![("cursor", changed.as_str()), range[0], range[1]],
            400,
        ),
        ("a cursor beyond any sense", "/api/v1/windows", vec![("cursor", long.as_str())], 400),
        ("parameters without end", "/api/v1/windows", vec![("window", "10s"); 257], 400),
    ] {
        let answer = http::get(&tidewatch.url(path), &parameters).unwrap();
        assert_eq!(answer.status, status, "{what}: {answer:?}");
    }
    let mut stream = TcpStream::connect(tidewatch.address()).unwrap();
    let endless =
        format!("GET /api/v1/windows?cursor={} HTTP/1.1\r\nHost: localhost\r\n\r\n", "0".repeat(70_000));
    stream.write_all(endless.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 414");
    is_well(&mut tidewatch);
}

#[test]
fn what_is_counted_once_happened_once() {
    let mut tidewatch = Tidewatch::start(WINDOWS);
    let (write, samples) = request(0..3, 0..40);
    assert_eq!(send(&tidewatch, &write).status, 204);
    assert_eq!(send(&tidewatch, &write).status, 204);
    settles("written", &tidewatch, &samples);
    let received = tidewatch.metric("tidewatch_samples_received_total{source=\"remote_write\"}");
    assert_eq!((received, accepted(&tidewatch)), (240.0, 240.0));
    let duplicates =
        "tidewatch_samples_rejected_total{source=\"journal\",gate=\"admit\",reason=\"duplicate\"}";
    eventually("both are judged", PATIENCE, || {
        let judged = (tidewatch.metric("tidewatch_samples_applied_total"), tidewatch.metric(duplicates));
        if judged == (120.0, 120.0) { Ok(()) } else { Err(format!("{judged:?}")) }
    });
    let epochs = eventually("some epochs", PATIENCE, || match tidewatch.metric("tidewatch_epochs_total") {
        few if few < 6.0 => Err(format!("{few}")),
        epochs => Ok(epochs as usize),
    });
    tidewatch.process().kill();
    let cut = stored::epochs(&tidewatch.folder().join("data")).0.len();
    assert!(epochs <= cut, "{epochs} epochs counted, {cut} cut");
}

/// Rows a day are a warning: a server that ran must run again, whatever its series come to.
#[test]
fn a_server_with_more_rows_a_day_than_it_is_meant_for_starts_again_and_says_so() {
    const SAID: &str = "the store gets more rows than it is meant for: ";
    let arithmetic = "20 series x 86,400 rows = 1,728,000 rows a day; store.rows_per_day_max is 1,000,000, enough for 11 series";
    let mut tidewatch = Tidewatch::start(&format!("{WINDOWS}store: {{rows_per_day_max: 1000000}}\n"));
    let (pushed, _) = request(0..20, 0..5);
    assert_eq!(send(&tidewatch, &pushed).status, 204);
    let stored = |tidewatch: &Tidewatch| {
        eventually("20 series are stored", PATIENCE, || {
            let status = tidewatch.get("/api/v1/status", &[]).json();
            let all = status["store"]["series"] == 20 && status["series"] == 20;
            if all { Ok(status) } else { Err(status.to_string()) }
        })
    };
    assert_eq!(stored(&tidewatch)["rows_per_day"]["exceeded"], true);
    tidewatch.process().kill();
    tidewatch.start_again();

    let log = tidewatch.process().log();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains(SAID)).collect();
    assert_eq!(warned.len(), 1, "{log}");
    assert!(warned[0].contains("WARN") && warned[0].contains(arithmetic), "{warned:?}");
    let rows = stored(&tidewatch)["rows_per_day"].clone();
    assert_eq!((&rows["series"], &rows["estimate"]), (&20.into(), &1_728_000.into()), "{rows}");
    assert_eq!((&rows["max"], &rows["exceeded"]), (&1_000_000.into(), &true.into()), "{rows}");
    let days = rows["days_that_fit"].as_f64().unwrap();
    assert_eq!(
        (&rows["retention"], &rows["retention_fits"]),
        (&"30d".into(), &(days >= 30.0).into()),
        "{rows}"
    );
    assert!(days > 0.0, "{rows}");
    assert_eq!(tidewatch.metric("tidewatch_store_rows_per_day"), 1_728_000.0);
    assert_eq!(tidewatch.metric("tidewatch_store_rows_per_day_max"), 1_000_000.0);
    assert_eq!(reached(&tidewatch, "store.rows_per_day_max"), 1.0);
    let text = done(tidewatch.folder(), &["status", "--url", &tidewatch.url("")], None);
    assert!(text.contains("rows a day   1,728,000 of 1,000,000, exceeded\n"), "{text}");
    // It is taken as before.
    let (pushed, _) = request(0..20, 5..7);
    assert_eq!(send(&tidewatch, &pushed).status, 204);

    let text = done(tidewatch.folder(), &["check"], None);
    assert!(text.contains(&format!("stored: {arithmetic}; about ")), "{text}");
    assert!(text.contains(" of the store and ") && text.contains(" free "), "{text}");
    assert!(text.contains("run starts all the same and warns"), "{text}");
    let value: Value = serde_json::from_str(&done(tidewatch.folder(), &["check", "--json"], None)).unwrap();
    assert_eq!((&value["rows_per_day"]["exceeded"], &value["series_that_fit"]), (&true.into(), &11.into()));
    check_without_a_server(&mut tidewatch);
}

/// `check` counts the series as a start does, and a store that cannot be read makes no configuration a bad one.
fn check_without_a_server(tidewatch: &mut Tidewatch) {
    let (pushed, _) = request(20..300, 7..9);
    assert_eq!(send(tidewatch, &pushed).status, 204);
    eventually("300 series are stored", PATIENCE, || {
        match tidewatch.get("/api/v1/status", &[]).json()["store"]["series"].clone() {
            all if all == 300 => Ok(()),
            few => Err(few.to_string()),
        }
    });
    tidewatch.process().kill();
    let limits = "limits: {series: 256, series_per_name: 256}\nselect: [{match: up}, {match: '{a=\"b\"}', quantiles: [0.5]}]\n";
    tidewatch.configure(&format!("{WINDOWS}store: {{rows_per_day_max: 1000000}}\n{limits}"));
    let text = done(tidewatch.folder(), &["check"], None);
    assert!(text.contains("stored: 256 series x 86,400 rows = 22,118,400 rows a day;"), "{text}");
    let quantiles = "\nselect[1].quantiles: each series that {a=\"b\"} means takes up to ";
    assert!(text.contains(quantiles), "{text}");
    let store = tidewatch.folder().join("data/store.sqlite");
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(tidewatch.folder().join(format!("data/store.sqlite{end}")));
    }
    std::fs::write(&store, "no database ".repeat(1_000)).unwrap();
    let text = done(tidewatch.folder(), &["check"], None);
    assert!(text.starts_with("the configuration is good: "), "{text}");
    assert!(text.contains("\nstored: not known, opening ") && text.contains("store.sqlite"), "{text}");
    assert!(text.ends_with("store.rows_per_day_max is enough for 11 series\n"), "{text}");
    let value: Value = serde_json::from_str(&done(tidewatch.folder(), &["check", "--json"], None)).unwrap();
    assert_eq!((&value["ok"], &value["rows_per_day"]), (&true.into(), &Value::Null), "{value}");
    let [cost] = value["quantiles"].as_array().unwrap().as_slice() else { panic!("{value}") };
    assert_eq!((&cost["select"], &cost["match"]), (&1.into(), &"{a=\"b\"}".into()), "{value}");
    assert!(cost["bytes_per_series"].as_u64().is_some_and(|bytes| bytes > 1_000), "{value}");
    assert!(value["store_error"].as_str().unwrap().contains("store.sqlite"), "{value}");
}
