//! Programs under test: the server, a Prometheus, a node exporter. Each is waited for until it says it is ready.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidewatch_dataflows::pipeline::STAGES;
use tidewatch_dataflows::stage::StageSpec;

use super::{Folder, eventually, http, server};

/// How long a program may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ports below those that the system gives to whoever asks for any: between the choice and the use nobody gets one.
const PORTS: Range<u16> = 20_000..32_000;

/// A port of the loopback that is free and that nobody else of this process was given; other test processes look
/// elsewhere first.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let (first, all) = (std::process::id().wrapping_mul(997), u32::from(PORTS.end - PORTS.start));
    let free = (0..all).find_map(|_| {
        let place = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % all;
        let port = PORTS.start + u16::try_from(place).unwrap();
        TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    });
    free.unwrap_or_else(|| panic!("no port of {PORTS:?} is free"))
}

/// A program that listens on a port; killed by its id when the handle goes.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: &'static str,
    port: u16,
    log: PathBuf,
}

impl Process {
    fn start(name: &'static str, program: &Path, folder: &Path, port: u16, arguments: &[&OsStr]) -> Process {
        Process::start_with(name, program, folder, port, arguments, &[])
    }

    /// Starts the server as these words say, in this folder; it is to listen on this port.
    pub fn begin(words: &[String], folder: &Path, port: u16) -> Process {
        Process::begin_with(words, folder, port, &[])
    }

    /// [`Process::begin`] with these variables.
    pub fn begin_with(words: &[String], folder: &Path, port: u16, environment: &[(&str, &str)]) -> Process {
        let arguments: Vec<&OsStr> = words[1..].iter().map(OsStr::new).collect();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Process::start_with("tidewatch", Path::new(&words[0]), folder, port, &arguments, &environment)
    }

    fn start_with(
        name: &'static str,
        program: &Path,
        folder: &Path,
        port: u16,
        arguments: &[&OsStr],
        environment: &[(String, String)],
    ) -> Process {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", program.display()));
        Process { child, name, port, log }
    }

    /// [`Process::await_ready`], by value.
    fn ready(mut self, path: &str) -> Process {
        self.await_ready(path);
        self
    }

    /// Waits until this path answers 200.
    pub fn await_ready(&mut self, path: &str) {
        let url = self.url(path);
        eventually(&format!("{} ready", self.name), PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            match http::get(&url, &[]) {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// Waits until the program has printed this.
    fn await_said(&mut self, words: &str) {
        eventually(&format!("{} says {words:?}", self.name), PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            if self.log().contains(words) { Ok(()) } else { Err(self.log_tail()) }
        });
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Everything the program printed, in all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines the program printed.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Asks the program to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        eventually(&format!("{} ends after SIGTERM", self.name), PATIENCE, || {
            self.child.try_wait().unwrap().ok_or_else(|| self.log_tail())
        })
    }

    /// Waits until the program has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        eventually(&format!("{} ends", self.name), PATIENCE, || {
            self.child.try_wait().unwrap().ok_or_else(|| self.log_tail())
        })
    }

    /// Whether the program has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends the program as a power cut does (SIGKILL).
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- {} printed last:\n{}", self.name, self.log_tail());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The built program with these arguments, in this folder; what is configured is in `tidewatch.yml` and `data` there.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    if !matches!(arguments.first(), None | Some(&"generate")) {
        command.args(["--config", "tidewatch.yml", "--data-dir", "data"]);
    }
    command
}

/// What a command that has ended left.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end; `input` is its standard input.
pub fn run(folder: &Path, arguments: &[&str], input: Option<&[u8]>) -> Ended {
    let mut command = command(folder, arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        if let (Some(input), Some(mut stdin)) = (input, stdin) {
            // A command that does not read to the end breaks the pipe.
            scope.spawn(move || drop(stdin.write_all(input)));
        }
        child.wait_with_output().unwrap()
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ended = Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
    assert!(!ended.err.contains("panicked"), "{arguments:?}: {ended:?}");
    ended
}

/// [`run`] of a command that has to succeed; what it printed.
pub fn done(folder: &Path, arguments: &[&str], input: Option<&[u8]>) -> String {
    let ended = run(folder, arguments, input);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    ended.out
}

/// The built server on a data directory of its own.
#[derive(Debug)]
pub struct Tidewatch {
    folder: Folder,
    process: Process,
    /// The command, and its flags of every start.
    words: Vec<String>,
    /// Of every start, beside that of the test.
    environment: Vec<(String, String)>,
    /// Of the next start.
    flags: Vec<String>,
}

impl Tidewatch {
    /// Starts `tidewatch run` with this configuration file (YAML, without `data_dir` and `listen`).
    pub fn start(config: &str) -> Tidewatch {
        Tidewatch::start_with(config, &[])
    }

    /// [`Tidewatch::start`] with these variables.
    pub fn start_with(config: &str, environment: &[(&str, &str)]) -> Tidewatch {
        let folder = Folder::new("tidewatch");
        std::fs::write(folder.path().join("tidewatch.yml"), config).unwrap();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let words = vec!["run".to_owned()];
        let process = Tidewatch::spawn(&folder, &words, &environment, &[]).ready("/-/ready");
        Tidewatch { folder, process, words, environment, flags: Vec::new() }
    }

    /// Starts another command that serves in a folder with a `tidewatch.yml`, on the `data` there; it may not be ready yet.
    pub fn begin(folder: Folder, words: &[&str]) -> Tidewatch {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let process = Tidewatch::spawn(&folder, &words, &[], &[]);
        Tidewatch { folder, process, words, environment: Vec::new(), flags: Vec::new() }
    }

    /// Starts `tidewatch run` in a folder with a `tidewatch.yml`, on the `data` there.
    pub fn start_in(folder: Folder) -> Tidewatch {
        let words = vec!["run".to_owned()];
        let process = Tidewatch::spawn(&folder, &words, &[], &[]).ready("/-/ready");
        Tidewatch { folder, process, words, environment: Vec::new(), flags: Vec::new() }
    }

    /// [`Tidewatch::start_in`] as the child of another program, whose words come first.
    pub fn start_under(folder: Folder, wrap: &[&str]) -> Tidewatch {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let own = [env!("CARGO_BIN_EXE_tidewatch"), "run", "--config", "tidewatch.yml", "--data-dir", "data"];
        let arguments: Vec<&OsStr> =
            wrap[1..].iter().copied().chain(own).chain(["--listen", &listen]).map(OsStr::new).collect();
        let process = Process::start("tidewatch", Path::new(wrap[0]), folder.path(), port, &arguments);
        let (process, words) = (process.ready("/-/ready"), vec!["run".to_owned()]);
        Tidewatch { folder, process, words, environment: Vec::new(), flags: Vec::new() }
    }

    /// Asks the child of that other program to end, and waits until both have.
    pub fn terminate_inner(&mut self) {
        let pid = self.process.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let kill = format!("kill -TERM {children}");
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let status = self.process.ended();
        assert_eq!(status.code(), Some(0), "{}", self.process.log_tail());
    }

    /// Variables of the starts from now on, and flags of the next one.
    #[cfg(feature = "faults")]
    pub fn next_with(&mut self, environment: &[(&str, &str)], flags: &[&str]) {
        self.environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    fn spawn_again(&mut self) -> Process {
        let flags = std::mem::take(&mut self.flags);
        Tidewatch::spawn(&self.folder, &self.words, &self.environment, &flags)
    }

    fn spawn(
        folder: &Folder,
        words: &[String],
        environment: &[(String, String)],
        flags: &[String],
    ) -> Process {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let arguments = ["--config", "tidewatch.yml", "--data-dir", "data", "--listen", &listen];
        let program = Path::new(env!("CARGO_BIN_EXE_tidewatch"));
        let all = words.iter().map(String::as_str).chain(arguments).chain(flags.iter().map(String::as_str));
        let arguments: Vec<&OsStr> = all.map(OsStr::new).collect();
        Process::start_with("tidewatch", program, folder.path(), port, &arguments, environment)
    }

    /// Starts again on the same data after [`Process::kill`] or [`Process::terminate`].
    pub fn start_again(&mut self) {
        self.process = self.spawn_again().ready("/-/ready");
    }

    /// Starts again and goes on once the server answers at all, ready or not.
    pub fn start_again_alive(&mut self) {
        self.process = self.spawn_again().ready("/-/healthy");
    }

    /// Starts again and kills so soon that the start may not be over.
    pub fn start_and_kill(&mut self, after: Duration) {
        self.process = self.spawn_again();
        std::thread::sleep(after);
        self.process.kill();
    }

    /// What the next start is configured with.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.folder.path().join("tidewatch.yml"), config).unwrap();
    }

    /// The folder with `tidewatch.yml` and `data`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder, once the server has ended.
    pub fn into_folder(self) -> Folder {
        self.folder
    }

    /// The value of one metric, labels as written; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics", &[]).text;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Megabytes of state that the operators say they hold.
    pub fn state_megabytes(&self) -> f64 {
        let of = |stage: &StageSpec| {
            self.metric(&format!("tidewatch_stage_state_bytes{{stage=\"{}\"}}", stage.name))
        };
        STAGES.iter().map(of).sum::<f64>() / 1e6
    }

    /// Megabytes of the process.
    pub fn resident_megabytes(&self) -> f64 {
        self.metric("process_resident_memory_bytes") / 1e6
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn url(&self, path: &str) -> String {
        self.process.url(path)
    }

    pub fn address(&self) -> String {
        self.process.address()
    }

    /// GET of a path of the API, which has to answer 200.
    pub fn get(&self, path: &str, parameters: &[(&str, &str)]) -> http::Answer {
        let answer = http::get(&self.url(path), parameters).unwrap();
        assert_eq!(answer.status, 200, "{path} {parameters:?}: {answer:?}");
        answer
    }

    /// All rows of a list of the API, page by page.
    pub fn rows(&self, path: &str, parameters: &[(&str, &str)]) -> Vec<serde_json::Value> {
        let mut rows = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut parameters = parameters.to_vec();
            parameters.push(("limit", "10000"));
            parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let mut page = self.get(path, &parameters).json();
            let data = page["data"].as_array_mut().unwrap_or_else(|| panic!("{path}: no data"));
            let before = rows.len();
            rows.append(data);
            match page["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return rows,
            }
            assert!(rows.len() > before, "{path}: an empty page with a cursor to a next one");
        }
    }
}

/// A real Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    _folder: Folder,
}

impl Prometheus {
    /// Starts this program in a folder, on the `data` there, with the configuration that `config` gives for its own
    /// address.
    pub fn start_in(folder: Folder, program: &Path, config: impl FnOnce(&str) -> String) -> Prometheus {
        Prometheus::start_with(folder, program, &[], config)
    }

    /// [`Prometheus::start_in`] with these flags more.
    pub fn start_with(
        folder: Folder,
        program: &Path,
        flags: &[&str],
        config: impl FnOnce(&str) -> String,
    ) -> Prometheus {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        std::fs::write(folder.path().join("prometheus.yml"), config(&address)).unwrap();
        let listen = format!("--web.listen-address={address}");
        let arguments = [
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            // Samples of fixed times are old ones.
            "--storage.tsdb.retention.time=100y",
            "--log.level=warn",
            &listen,
        ];
        let arguments: Vec<&OsStr> = arguments.iter().chain(flags).map(OsStr::new).collect();
        let process =
            Process::start("prometheus", program, folder.path(), port, &arguments).ready("/-/ready");
        Prometheus { process, _folder: folder }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        self.process.url("")
    }

    /// The result of an instant query at the newest time.
    ///
    /// # Errors
    /// What Prometheus says of it.
    pub fn query(&self, query: &str) -> Result<Vec<serde_json::Value>, String> {
        let answer = http::get(&self.process.url("/api/v1/query"), &[("query", query)])?;
        match answer.json()["data"]["result"].take() {
            serde_json::Value::Array(result) => Ok(result),
            _ => Err(answer.text),
        }
    }

    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// A real Prometheus over blocks made from a file, which scrapes nothing.
#[derive(Debug)]
pub struct Blocks {
    process: Process,
    folder: Folder,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Blocks {
    /// Makes the blocks and starts it in `folder` with these arguments more.
    pub fn start(folder: Folder, program: &Path, promtool: &Path, text: &str, more: &[&str]) -> Blocks {
        std::fs::write(folder.path().join("data.txt"), text).unwrap();
        let made = Command::new(promtool)
            .args(["tsdb", "create-blocks-from", "openmetrics", "--quiet", "data.txt", "data"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::write(folder.path().join("prometheus.yml"), "global: {scrape_interval: 1h}\n").unwrap();
        let port = free_port();
        let mut arguments = vec![
            "--config.file=prometheus.yml".to_owned(),
            "--storage.tsdb.path=data".to_owned(),
            // It says when it is ready.
            "--log.level=info".to_owned(),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        arguments.extend(more.iter().map(|one| (*one).to_owned()));
        let process = Blocks::spawn(program, &folder, port, &arguments);
        Blocks { process, folder, program: program.to_owned(), arguments }
    }

    fn spawn(program: &Path, folder: &Folder, port: u16, arguments: &[String]) -> Process {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let mut process = Process::start("prometheus", program, folder.path(), port, &arguments);
        // It listens before that and answers 503. It may want TLS and a password, so it is not asked.
        process.await_said("Server is ready to receive web requests.");
        process
    }

    /// Ends it, and starts it again a moment later, in a thread of its own: whoever asks meanwhile is not answered.
    pub fn restart_slowly(&mut self) {
        self.process.terminate();
        let child = Command::new("sh")
            .args(["-c", "sleep 1; exec \"$0\" \"$@\""])
            .arg(&self.program)
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process.child = child;
    }

    pub fn url(&self, path: &str) -> String {
        self.process.url(path)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A node exporter of this machine.
#[derive(Debug)]
pub struct NodeExporter {
    process: Process,
    _folder: Folder,
}

impl NodeExporter {
    /// Starts it. None where `./test.sh` is not at work.
    pub fn start() -> Option<NodeExporter> {
        let program = server("TEST_NODE_EXPORTER")?;
        let folder = Folder::new("node-exporter");
        let port = free_port();
        let listen = format!("--web.listen-address=127.0.0.1:{port}");
        let process = Process::start("node-exporter", &program, folder.path(), port, &[OsStr::new(&listen)]);
        Some(NodeExporter { process: process.ready("/metrics"), _folder: folder })
    }

    pub fn address(&self) -> String {
        self.process.address()
    }
}
