//! Questions to a tidewatch with 100 k series while 100 k samples a second come in: the whole program as a user runs it.
//!
//! Samples and questions are sent at fixed times whether or not earlier ones are answered (open loop), and each is timed
//! from when it was due. A series always has the same value, so that every answer can be judged whenever it comes.
//!
//! `ASKED_SECONDS` (60, over which each series gets a new row at least once) and `ASKED_SERIES` (100,000) may be set.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::rim::Folder;
use crate::wire::bytes_into;

/// Series of one name.
const PER_NAME: usize = 1_000;
/// Series of one request: what a Prometheus sends at once.
const PER_REQUEST: usize = 2_000;
/// Threads that send samples.
const SENDERS: usize = 4;
/// Minutes of samples that are there before anything is asked.
const MINUTES_BEFORE: i64 = 12;
const PATIENCE: Duration = Duration::from_secs(300);

const CONFIG: &str = "
windows: [{length: 1h, hop: 1m}, {length: 3h, hop: 3m}, {length: 12h, hop: 12m}]
idle_timeout: 5s
store: {rows_per_day_max: 1000000000}
";

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Each series another value, in no order of their names.
fn value(i: usize, series: usize) -> f64 {
    (i * 7_919 % series) as f64
}

fn name(i: usize) -> String {
    format!("asked_{:03}", i / PER_NAME)
}

fn pod(i: usize) -> String {
    format!("exporter-{i:06}")
}

/// The tidewatch, ended by its id when the bench is over.
struct Server {
    child: Child,
    base: String,
    series: usize,
    agent: reqwest::blocking::Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(folder: &Folder, series: usize) -> Server {
        std::fs::write(folder.0.join("asked.yml"), CONFIG).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(folder.0.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
            .args(["run", "--config", "asked.yml", "--data-dir", "data", "--listen", &listen])
            .current_dir(&folder.0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        // Nobody is asked by TLS, but the client wants to know how.
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.unwrap().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let agent = reqwest::blocking::Client::builder().no_proxy().timeout(Duration::from_secs(60));
        let agent = agent.tls_backend_preconfigured(tls).build().unwrap();
        let tidewatch = Server { child, base: format!("http://{listen}"), series, agent };
        tidewatch
            .until("it is ready", || tidewatch.try_get("/-/ready").is_some_and(|(status, _)| status == 200));
        tidewatch
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.agent.get(format!("{}{path}", self.base)).send().ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.text().ok()?))
    }

    fn get(&self, path: &str) -> String {
        let (status, text) = self.try_get(path).unwrap_or_else(|| panic!("{path} was not answered"));
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// Sends a request of samples, which has to be taken.
    fn send(&self, body: &[u8]) {
        let request = self
            .agent
            .post(format!("{}/api/v1/write", self.base))
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0");
        let answer = request.body(body.to_vec()).send().unwrap();
        assert!(answer.status().is_success(), "samples were answered {}", answer.status());
    }
}

/// The bodies of one round: every series once. Only the times in them change.
struct Bodies {
    plain: Vec<(Vec<u8>, Vec<usize>)>,
}

/// A time as protobuf has it: six bytes until the year 4000.
fn varint_6(at_ms: i64) -> [u8; 6] {
    let mut rest = at_ms.cast_unsigned();
    std::array::from_fn(|i| {
        let byte = (rest & 0x7f) as u8 | if i < 5 { 0x80 } else { 0 };
        rest >>= 7;
        byte
    })
}

impl Bodies {
    fn new(series: usize) -> Bodies {
        let all: Vec<usize> = (0..series).collect();
        Bodies { plain: all.chunks(PER_REQUEST).map(|part| Bodies::one(part, series)).collect() }
    }

    fn one(part: &[usize], series: usize) -> (Vec<u8>, Vec<usize>) {
        let (mut body, mut times) = (Vec::new(), Vec::new());
        for &i in part {
            let mut one = Vec::new();
            let (name, pod, instance) = (name(i), pod(i), format!("10.0.{}.{}:9100", i / 250 % 250, i % 250));
            let labels = [
                ("__name__", name.as_str()),
                ("cluster", "europe-west-1"),
                ("env", "production"),
                ("instance", &instance),
                ("job", "node"),
                ("namespace", "monitoring"),
                ("pod", &pod),
            ];
            for (name, value) in labels {
                let mut label = Vec::new();
                bytes_into(1, name.as_bytes(), &mut label);
                bytes_into(2, value.as_bytes(), &mut label);
                bytes_into(1, &label, &mut one);
            }
            let mut sample = vec![1 << 3 | 1];
            sample.extend_from_slice(&value(i, series).to_bits().to_le_bytes());
            sample.push(2 << 3);
            sample.extend(varint_6(0));
            bytes_into(2, &sample, &mut one);
            bytes_into(1, &one, &mut body);
            // The time ends its sample, that its series, and that the body so far.
            times.push(body.len() - 6);
        }
        (body, times)
    }

    /// A request, compressed.
    fn at(&self, request: usize, at_ms: i64) -> Vec<u8> {
        let (plain, times) = &self.plain[request];
        let mut plain = plain.clone();
        for place in times {
            plain[*place..place + 6].copy_from_slice(&varint_6(at_ms));
        }
        snap::raw::Encoder::new().compress_vec(&plain).unwrap()
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Calls `each` with 0, 1, 2... at fixed times from `threads` threads until it is over; how long after its time each was
/// done. What it was answered is judged after that.
fn open_loop(
    threads: usize,
    per_second: f64,
    over: Duration,
    each: impl Fn(usize) -> Judge + Sync,
) -> Vec<Duration> {
    let (begin, next) = (Instant::now(), AtomicU64::new(0));
    let turns = || {
        let mut taken = Vec::new();
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let due = begin + Duration::from_secs_f64(turn as f64 / per_second);
            if due >= begin + over {
                return taken;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let judge = each(turn as usize);
            taken.push(due.elapsed());
            judge();
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(turns)).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn tell(what: &str, mut taken: Vec<Duration>, goal_ms: Option<u64>) {
    taken.sort();
    let ms = |share: f64| taken[((taken.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    let goal = goal_ms.map_or_else(String::new, |ms| format!("  (goal: p99 under {ms} ms)"));
    println!("{what:<34} {:>5} x  p50 {:>7.1} ms  p99 {:>7.1} ms{goal}", taken.len(), ms(0.5), ms(0.99));
}

/// The rows of an answer.
fn rows(text: &str) -> Vec<Value> {
    let mut answer: Value = serde_json::from_str(text).unwrap();
    match answer["data"].take() {
        Value::Array(rows) => rows,
        other => panic!("no rows: {other}"),
    }
}

/// All rows are of series that are meant, each once, and show its one value.
fn judge(rows: &[Value], series: usize) -> BTreeSet<usize> {
    let seen: BTreeSet<usize> = rows
        .iter()
        .map(|row| {
            let i =
                row["labels"]["pod"].as_str().unwrap().strip_prefix("exporter-").unwrap().parse().unwrap();
            assert_eq!(row["name"].as_str(), Some(name(i).as_str()), "{row}");
            for stat in ["min", "max", "avg", "first", "last"] {
                assert_eq!(row[stat].as_f64(), Some(value(i, series)), "{stat} of {row}");
            }
            i
        })
        .collect();
    assert_eq!(seen.len(), rows.len(), "a series comes twice");
    seen
}

fn one_name(tidewatch: &Server, turn: usize) -> Judge {
    let (series, names) = (tidewatch.series, tidewatch.series / PER_NAME);
    let asked = turn * 37 % names;
    let text = tidewatch.get(&format!("/api/v1/windows?window=1h&limit=1000&match[]=asked_{asked:03}"));
    Box::new(move || {
        let seen = judge(&rows(&text), series);
        assert!(
            seen.into_iter().eq(asked * PER_NAME..(asked + 1) * PER_NAME),
            "all series of asked_{asked:03}"
        );
    })
}

/// In turn a word that one series has, two of which each is found often, and one that is nowhere.
fn search(tidewatch: &Server, turn: usize) -> Judge {
    let i = turn * 7_717 % tidewatch.series;
    let (words, wanted) = match turn % 3 {
        0 => (pod(i).to_uppercase(), BTreeSet::from([i])),
        1 => {
            let from = i / PER_NAME * PER_NAME;
            let prefix = format!("{}+pod%3D{}", name(i), &pod(i)[..14]);
            (prefix, (i / 10 * 10..i / 10 * 10 + 10).filter(|i| *i >= from).collect())
        }
        _ => ("monitoring+nowhere".to_owned(), BTreeSet::new()),
    };
    let series = tidewatch.series;
    let text = tidewatch.get(&format!("/api/v1/windows?window=1h&limit=100&search={words}"));
    Box::new(move || assert_eq!(judge(&rows(&text), series), wanted, "{words}"))
}

fn sort(tidewatch: &Server, turn: usize) -> Judge {
    let (column, falling) = [("avg", true), ("last", false), ("max", true)][turn % 3];
    let minus = if falling { "-" } else { "" };
    let (series, last) = (tidewatch.series, tidewatch.series - 1);
    let text = tidewatch.get(&format!("/api/v1/windows?window=1h&limit=100&sort={minus}{column}"));
    Box::new(move || {
        let rows = rows(&text);
        judge(&rows, series);
        let values: Vec<usize> = rows.iter().map(|row| row[column].as_f64().unwrap() as usize).collect();
        assert!(
            values.into_iter().eq((0..100).map(|k| if falling { last - k } else { k })),
            "sorted by {column}"
        );
    })
}

/// What a browser asks for before the first rows are shown, one after the other.
fn first_view(tidewatch: &Server, _: usize) -> Judge {
    let html = tidewatch.get("/");
    let files = html.split("=\"page/").skip(1).filter_map(|rest| rest.split('"').next());
    assert!(files.clone().any(|file| file == "app.js"));
    for file in files {
        tidewatch.get(&format!("/page/{file}"));
    }
    let (series, status) = (tidewatch.series, tidewatch.get("/api/v1/status"));
    let text = tidewatch.get("/api/v1/windows?window=1h&limit=100");
    Box::new(move || {
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["series"], series);
        let seen = judge(&rows(&text), series);
        assert!(seen.len() == 100 && seen.into_iter().all(|i| i < PER_NAME), "the first of the first name");
    })
}

/// Fills the store with what the last minutes would have left, and waits until every series has its rows.
fn fill(tidewatch: &Server, bodies: &Bodies) {
    let began = Instant::now();
    let from_ms = now_ms() - MINUTES_BEFORE * 60_000;
    for minute in 0..MINUTES_BEFORE {
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| {
                    loop {
                        let request = next.fetch_add(1, Ordering::Relaxed) as usize;
                        if request >= bodies.plain.len() {
                            return;
                        }
                        tidewatch.send(&bodies.at(request, from_ms + minute * 60_000));
                    }
                });
            }
        });
    }
    let wanted = (tidewatch.series as i64 * (MINUTES_BEFORE - 2)).cast_unsigned();
    tidewatch.until("every series has its rows", || {
        let status: Value = serde_json::from_str(&tidewatch.get("/api/v1/status")).unwrap();
        let store = &status["store"];
        store["series"] == tidewatch.series
            && store["window_rows"].as_u64() >= Some(wanted)
            && status["store"]["epoch"] == status["epoch"]["outbox"]
    });
    let status: Value = serde_json::from_str(&tidewatch.get("/api/v1/status")).unwrap();
    let (rows, mib) = (&status["store"]["window_rows"], status["store"]["bytes"].as_u64().unwrap_or(0) >> 20);
    println!(
        "{} series, {rows} rows in the store ({mib} MiB) after {:.0} s",
        tidewatch.series,
        began.elapsed().as_secs_f64()
    );
}

/// Holds an answer to what it must be.
type Judge = Box<dyn FnOnce()>;

/// Asks once; told how often it was asked before.
type Ask = fn(&Server, usize) -> Judge;

/// What is sent at fixed times.
#[derive(Clone, Copy)]
enum Load {
    Samples,
    Question(Ask),
}

/// Samples and questions at once.
pub fn asked() {
    let (series, seconds) = (setting("ASKED_SERIES", 100_000), setting("ASKED_SECONDS", 60));
    assert!(series.is_multiple_of(PER_REQUEST) && (PER_REQUEST..=1_000_000).contains(&series));
    let folder = Folder::new("asked");
    let (tidewatch, bodies) = (Server::start(&folder, series), Bodies::new(series));
    fill(&tidewatch, &bodies);
    let (over, requests) = (Duration::from_secs(seconds as u64), bodies.plain.len());
    let tidewatch = &tidewatch;
    for (what, ask) in
        [("one name", one_name as Ask), ("search", search), ("sort", sort), ("first view", first_view)]
    {
        let begin = Instant::now();
        let judge = ask(tidewatch, 0);
        println!("{what:<34} {:>7.1} ms alone, the first time", begin.elapsed().as_secs_f64() * 1e3);
        judge();
    }
    std::thread::scope(|scope| {
        let running = [
            ("samples of 2,000 series", Load::Samples, SENDERS, series as f64 / PER_REQUEST as f64, None),
            ("latest of a name of 1,000 series", Load::Question(one_name), 4, 5.0, Some(50)),
            ("search", Load::Question(search), 4, 2.0, Some(200)),
            ("sort by a statistic", Load::Question(sort), 2, 0.5, None),
            ("first view: page and answers", Load::Question(first_view), 2, 1.0, Some(1_000)),
        ]
        .map(|(what, load, threads, per_second, goal)| {
            let bodies = &bodies;
            let each = move |turn: usize| match load {
                Load::Samples => {
                    tidewatch.send(&bodies.at(turn % requests, now_ms()));
                    Box::new(|| {})
                }
                Load::Question(ask) => ask(tidewatch, turn),
            };
            (what, scope.spawn(move || open_loop(threads, per_second, over, each)), goal)
        });
        for (what, thread, goal) in running {
            let taken = thread.join().unwrap();
            if what.starts_with("samples") {
                println!("{:.0} samples/s sent", (taken.len() * PER_REQUEST) as f64 / seconds as f64);
            }
            tell(what, taken, goal);
        }
    });
}
