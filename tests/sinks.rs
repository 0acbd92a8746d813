//! A second sink beside that of the store, in the real server: it writes JSON lines to a file, at least once.
//!
//! The server is this test binary, started again as a process of its own, so that it can be killed. What the sink is to
//! do is told by files in the folder of the server.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tidewatch::config::{Config, ConfigFlags};
use tidewatch::outbox::OutboxBatch;
use tidewatch::segments;
use tidewatch::sinks::sink::{RowCounts, Sink, SinkError, SyncHook};

use crate::support::process::{Process, done, free_port};
use crate::support::remote_write::WriteRequest;
use crate::support::{Folder, eventually, http};

const PATIENCE: Duration = Duration::from_secs(60);
/// Says to this binary that it is the server, and where to listen.
const LISTEN: &str = "TEST_SINKS_LISTEN";
const LINES: &str = "lines.jsonl";
/// While this file is there the sink refuses, and may be asked again.
const REFUSE: &str = "lines.refuse";
/// While this file is there the sink refuses for good.
const REFUSE_FOR_GOOD: &str = "lines.refuse_for_good";
/// The sink removes this file and kills the process when it has written half a batch with rows.
const DIE: &str = "lines.die";
/// While this file is there each batch takes its time.
const SLOW: &str = "lines.slow";

const CONFIG: &str = "
windows: [{length: 10s, hop: 1s}, {length: 1m, hop: 10s}]
idle_timeout: 5s
snapshots: {every: 1s}
";
const START_MS: i64 = 1_767_225_600_000;

/// One line a row; then one that says which epoch is done.
struct LinesSink {
    folder: PathBuf,
    file: File,
    /// The last epoch whose line is in the file, 0 for none.
    done: Arc<AtomicU64>,
}

impl LinesSink {
    /// Goes on behind the last epoch that is done. A line that was cut short is removed; rows behind that epoch stay, and
    /// come again.
    fn open(folder: &Path) -> LinesSink {
        let path = folder.join(LINES);
        let text = std::fs::read(&path).unwrap_or_default();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.set_len(whole as u64).unwrap();
        let done = Arc::new(AtomicU64::new(lines(&path).1.unwrap_or(0)));
        LinesSink { folder: folder.to_owned(), file, done }
    }

    fn told(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }
}

impl Sink for LinesSink {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn written(&self) -> Result<Option<u64>, SinkError> {
        Ok(Some(self.done.load(Ordering::Acquire)).filter(|epoch| *epoch > 0))
    }

    fn sync_hook(&self) -> Option<SyncHook> {
        let (file, done) = (self.file.try_clone().unwrap(), Arc::clone(&self.done));
        Some(Arc::new(move || {
            let epoch = done.load(Ordering::Acquire);
            file.sync_data().map_err(|error| SinkError::Transient(Box::new(error)))?;
            Ok(Some(epoch).filter(|epoch| *epoch > 0))
        }))
    }

    fn write(&mut self, batches: &[OutboxBatch]) -> Result<RowCounts, SinkError> {
        if self.told(REFUSE) {
            return Err(SinkError::Transient("a file says so".into()));
        }
        if self.told(REFUSE_FOR_GOOD) {
            return Err(SinkError::Definite { cause: "a file says so".into(), restart_helps: false });
        }
        let rows: Vec<String> = batches.iter().flat_map(|batch| batch.windows.iter()).map(line).collect();
        let (first, second) = rows.split_at(rows.len() / 2);
        let transient = |error: std::io::Error| SinkError::Transient(Box::new(error));
        self.file.write_all(first.concat().as_bytes()).map_err(transient)?;
        if !first.is_empty() && self.told(DIE) {
            std::fs::remove_file(self.folder.join(DIE)).unwrap();
            std::process::abort();
        }
        if self.told(SLOW) {
            std::thread::sleep(Duration::from_millis(300));
        }
        let last = batches.last().map_or(0, |batch| batch.epoch);
        let mut rest = second.concat();
        rest.push_str(&format!("{}\n", json!({ "done": last })));
        self.file.write_all(rest.as_bytes()).map_err(transient)?;
        self.done.store(last, Ordering::Release);
        Ok(vec![("windows", rows.len() as u64)])
    }
}

fn line(row: &tidewatch_dataflows::rows::WindowStats) -> String {
    let value = json!({ "series": row.series.to_string(), "window_ms": row.window_ms, "at_ms": row.at_ms,
        "revision": row.revision, "count": row.count, "min": row.min, "max": row.max, "avg": row.avg });
    format!("{value}\n")
}

/// The rows in a file of lines, and the last epoch that is done.
fn lines(path: &Path) -> (Vec<Value>, Option<u64>) {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (mut rows, mut done) = (Vec::new(), None);
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        match value["done"].as_u64() {
            Some(epoch) => done = Some(epoch),
            None => rows.push(value),
        }
    }
    (rows, done)
}

/// What this binary is in the other process.
fn serve(listen: String) {
    let flags = ConfigFlags { data_dir: Some("data".into()), listen: Some(listen), ..ConfigFlags::default() };
    let file = Path::new("tidewatch.yml");
    let (config, _) = Config::load(Some(file), std::iter::empty(), flags).unwrap();
    let sink = LinesSink::open(&std::env::current_dir().unwrap());
    assert_eq!(tidewatch::app::serve(config, vec![Box::new(sink)]).unwrap(), ExitCode::SUCCESS);
}

/// The server with both sinks.
struct Server {
    folder: Folder,
    test: &'static str,
    process: Process,
}

impl Server {
    /// Starts it; `test` is the test that calls [`serve`] when it is the server.
    fn start(test: &'static str, config: &str, told: &[&str]) -> Server {
        let folder = Folder::new("sinks");
        std::fs::write(folder.path().join("tidewatch.yml"), config).unwrap();
        told.iter().for_each(|name| tell(&folder, name));
        let process = Server::spawn(&folder, test);
        let mut server = Server { folder, test, process };
        server.process.await_ready("/-/ready");
        server
    }

    fn spawn(folder: &Folder, test: &str) -> Process {
        let port = free_port();
        let program = std::env::current_exe().unwrap().display().to_string();
        let words = [&program, "--exact", test, "--nocapture"].map(str::to_owned);
        Process::begin_with(&words, folder.path(), port, &[(LISTEN, &format!("127.0.0.1:{port}"))])
    }

    fn start_again(&mut self) {
        self.process = Server::spawn(&self.folder, self.test);
        self.process.await_ready("/-/ready");
    }

    fn get(&self, path: &str) -> Value {
        let answer = http::get(&self.process.url(path), &[]).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The sink of this name in the status.
    fn sink(&self, name: &str) -> Value {
        let status = self.get("/api/v1/status");
        let sinks = status["sinks"].as_array().unwrap();
        assert_eq!(sinks.len(), 2, "{status}");
        sinks.iter().find(|sink| sink["name"] == name).unwrap_or_else(|| panic!("{status}")).clone()
    }

    fn until(&self, what: &str, holds: impl Fn(&Server) -> Result<(), String>) {
        eventually(what, PATIENCE, || holds(self));
    }

    /// Sends the samples of five series from second `from` to `to`; the status of the answer.
    fn send(&self, from: i64, to: i64) -> u16 {
        let mut request = WriteRequest::default();
        for n in 0..5 {
            let samples: Vec<(i64, f64)> =
                (from..to).map(|i| (START_MS + i * 1_000, (i * (n + 3) % 41) as f64)).collect();
            request = request.series(&[("__name__", "test"), ("n", &n.to_string())], &samples);
        }
        request.send(&self.process.url("/api/v1/write")).unwrap().status
    }

    /// Waits until the store holds what was answered until now.
    fn stored(&self) {
        let last = self.get("/api/v1/status")["epoch"]["journal"].as_u64().unwrap_or(0);
        self.until("all of it is stored", |server| match server.sink("store")["epoch"].as_u64() {
            Some(stored) if stored > last => Ok(()),
            stored => Err(format!("{stored:?}, not above {last}")),
        });
    }

    /// Waits until this is so of the second sink.
    fn lines_are(&self, state: &str) -> Value {
        self.until(state, |server| {
            let lines = server.sink("lines");
            if lines["state"] == state { Ok(()) } else { Err(lines.to_string()) }
        });
        self.sink("lines")
    }

    /// Ends the server in order, and holds the lines against the rows of the store: how many lines came twice.
    fn compare(&mut self) -> usize {
        assert_eq!(self.process.terminate().code(), Some(0), "{}", self.process.log_tail());
        let (rows, _) = lines(&self.folder.path().join(LINES));
        let (mut held, mut twice) = (BTreeMap::new(), 0);
        for row in rows {
            let key = (row["series"].to_string(), row["window_ms"].as_i64(), row["at_ms"].as_i64());
            let revision = row["revision"].as_u64();
            match held.get(&key) {
                Some((seen, before)) if *seen == revision => {
                    assert_eq!(before, &row, "the same revision with other numbers");
                    twice += 1;
                }
                Some((seen, _)) if *seen > revision => twice += 1,
                _ => drop(held.insert(key, (revision, row))),
            }
        }
        let text = done(self.folder.path(), &["export", "--kind", "windows"], None);
        let mut stored = 0;
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let window = tidewatch_dataflows::settings::parse_duration(row["window"].as_str().unwrap());
            let key = (row["series"].to_string(), window, row["at_ms"].as_i64());
            let (_, ours) = held.get(&key).unwrap_or_else(|| panic!("the lines lack {row}"));
            for field in ["revision", "count", "min", "max", "avg"] {
                assert_eq!(ours[field], row[field], "{field}: {ours} and {row}");
            }
            stored += 1;
        }
        assert_eq!(held.len(), stored, "rows that the store lacks");
        assert!(stored > 1_000, "{stored}");
        twice
    }
}

fn tell(folder: &Folder, name: &str) {
    std::fs::write(folder.path().join(name), "").unwrap();
}

fn untell(folder: &Folder, name: &str) {
    std::fs::remove_file(folder.path().join(name)).unwrap();
}

#[test]
fn a_second_sink_gets_the_rows_of_the_store_whatever_becomes_of_it() {
    if let Ok(listen) = std::env::var(LISTEN) {
        return serve(listen);
    }
    let test = "sinks::a_second_sink_gets_the_rows_of_the_store_whatever_becomes_of_it";
    let mut server = Server::start(test, CONFIG, &[]);
    assert_eq!(server.send(0, 200), 204);
    server.stored();
    assert_eq!(server.lines_are("running")["last_error"], Value::Null);
    server.process.kill();

    // It refuses for a while: neither intake nor the store waits for it.
    server.start_again();
    tell(&server.folder, REFUSE);
    assert_eq!(server.send(200, 400), 204);
    assert!(server.lines_are("retrying")["last_error"].as_str().unwrap().contains("a file says so"));
    // Late samples, whose rows have revisions.
    assert_eq!(server.send(150, 390), 204);
    server.stored();
    assert!(server.sink("lines")["epoch"].as_u64() < server.sink("store")["epoch"].as_u64());
    server.process.kill();
    server.start_again();
    server.lines_are("retrying");
    untell(&server.folder, REFUSE);
    server.lines_are("running");

    // The process ends with half a batch written.
    tell(&server.folder, DIE);
    assert_eq!(server.send(400, 600), 204);
    assert_eq!(server.process.ended().code(), None, "a signal");
    server.start_again();

    // It ends for good, and is begun again with the next start.
    tell(&server.folder, REFUSE_FOR_GOOD);
    assert_eq!(server.send(600, 700), 204);
    server.lines_are("failed");
    assert_eq!(server.send(700, 800), 204);
    server.stored();
    assert_eq!(server.process.terminate().code(), Some(0), "{}", server.process.log_tail());
    untell(&server.folder, REFUSE_FOR_GOOD);

    // A slow one is drained at the end.
    tell(&server.folder, SLOW);
    server.start_again();
    assert_eq!(server.send(800, 1_000), 204);
    let twice = server.compare();
    assert!(twice > 0, "half a batch came twice");
}

#[test]
fn a_sink_that_lags_holds_up_intake_at_the_bound_of_the_outbox_and_loses_nothing() {
    if let Ok(listen) = std::env::var(LISTEN) {
        return serve(listen);
    }
    let test = "sinks::a_sink_that_lags_holds_up_intake_at_the_bound_of_the_outbox_and_loses_nothing";
    let mut server = Server::start(test, &format!("{CONFIG}outbox: {{bytes_max: 1MiB}}\n"), &[REFUSE]);
    let first = |server: &Server| segments::list(server.folder.path().join("data/outbox")).unwrap()[0];
    let sent = Cell::new(0);
    server.until("intake is refused", |server| {
        let to = sent.get() + 200;
        match server.send(sent.get(), to) {
            204 => {
                sent.set(to);
                Err(format!("sent {to}"))
            }
            status => {
                assert_eq!(status, 503);
                Ok(())
            }
        }
    });
    let ready = http::get(&server.process.url("/-/ready"), &[]).unwrap();
    let why = ready.says();
    assert!(ready.status == 503 && why.contains("the sink lines holds it up: it has epoch 0"), "{why}");
    server.until("the store has all that is in the outbox", |server| {
        let status = server.get("/api/v1/status");
        let same = status["epoch"]["outbox"] == status["store"]["epoch"];
        if same { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(first(&server), 0, "nothing is trimmed that the second sink lacks");
    untell(&server.folder, REFUSE);
    server.until("the outbox is trimmed", |server| match first(server) {
        0 => Err(server.sink("lines").to_string()),
        _ => Ok(()),
    });
    server.until("intake goes on", |server| match server.send(sent.get(), sent.get() + 10) {
        204 => Ok(()),
        status => Err(status.to_string()),
    });
    server.compare();
}
