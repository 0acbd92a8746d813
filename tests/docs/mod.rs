//! The docs are true: every command in README.md and docs/ is run, and prints what is shown; what a page lists is what the
//! program has.
//!
//! A page is one session: a folder, a free port in place of 7464, and the steps of [`blocks`] in order. The address of a
//! Prometheus (9090) is a free port as well. What follows `<!-- live -->` is run where `TEST_PROMETHEUS` names one: `./test.sh`
//! does. `TEST_WRITE_DOCS=1` writes the generated parts of the pages anew ([`reference`]).
//!
//! Needs curl.

mod blocks;
mod likeness;
mod reference;
mod settings;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use self::blocks::{Printed, Step, steps};
use crate::support::process::{Process, free_port};
use crate::support::{Folder, eventually, repository, server};

/// How long a server may take until it has printed what is shown, or answers what is shown.
const PATIENCE: Duration = Duration::from_secs(40);
/// The addresses that pages name: of the server and of a Prometheus.
const PORTS: [&str; 2] = ["7464", "9090"];

/// One page, step by step.
struct Session {
    folder: Folder,
    /// What stands for each of [`PORTS`].
    ports: [u16; 2],
    path: OsString,
    running: Vec<Process>,
    /// How many were started in the background.
    started: usize,
}

impl Session {
    fn new(page: &str) -> Session {
        let folder = Folder::new(&format!("docs-{}", page.replace('/', "-")));
        let programs = folder.path().join(".programs");
        std::fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tidewatch"), programs.join("tidewatch")).unwrap();
        if let Some(prometheus) = std::env::var_os("TEST_PROMETHEUS").filter(|path| !path.is_empty()) {
            std::os::unix::fs::symlink(prometheus, programs.join("prometheus")).unwrap();
        }
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&others))).unwrap();
        Session { folder, ports: [free_port(), free_port()], path, running: Vec::new(), started: 0 }
    }

    /// A text of the page with the ports of this session, and the program in place of what builds it.
    fn here(&self, text: &str) -> String {
        let text = text.replace("cargo run --release --", "tidewatch");
        let text = text.replace("./target/release/tidewatch", "tidewatch");
        PORTS.iter().zip(self.ports).fold(text, |text, (port, ours)| {
            ["localhost", "127.0.0.1"]
                .iter()
                .fold(text, |text, host| text.replace(&format!("{host}:{port}"), &format!("{host}:{ours}")))
        })
    }

    /// What was printed, with the ports of the page.
    fn there(&self, text: &str) -> String {
        PORTS.iter().zip(self.ports).fold(text.to_owned(), |text, (port, ours)| {
            text.replace(&format!(":{ours}"), &format!(":{port}"))
        })
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &self.here(script)]).current_dir(self.folder.path());
        let ours = std::env::vars_os().map(|(name, _)| name);
        ours.filter(|name| name.to_string_lossy().starts_with("TIDEWATCH_")).for_each(|name| {
            command.env_remove(name);
        });
        command.env("PATH", &self.path).env("TIDEWATCH_LISTEN", self.listen());
        command
    }

    fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Runs a step; what is wrong with it.
    fn run(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::File { name, text } => {
                std::fs::write(self.folder.path().join(name), self.here(text)).map_err(|e| e.to_string())
            }
            Step::Command { script, printed, code, until: false } => {
                self.command(script, printed.as_ref(), *code)
            }
            Step::Command { script, printed, code, until: true } => {
                eventually(script, PATIENCE, || self.command(script, printed.as_ref(), *code));
                Ok(())
            }
            Step::Background { script, printed } => self.background(script, printed.as_ref()),
            Step::Stop => {
                let mut process = self.running.pop().ok_or("nothing runs in the background")?;
                let status = process.terminate();
                if status.success() { Ok(()) } else { Err(format!("{status}: {}", process.log_tail())) }
            }
            Step::Live => Ok(()),
        }
    }

    fn command(&self, script: &str, printed: Option<&Printed>, code: i32) -> Result<(), String> {
        let Output { status, stdout, stderr } =
            self.shell(script).output().map_err(|e| format!("bash: {e}"))?;
        let text = |bytes: &[u8]| self.there(&String::from_utf8_lossy(bytes));
        let (out, err) = (text(&stdout), text(&stderr));
        if status.code() != Some(code) {
            return Err(format!("{status}, not {code}\n{out}{err}"));
        }
        // Words of a command that is refused are on standard error.
        let all = if code == 0 { out } else { out + &err };
        match printed {
            None => Ok(()),
            Some(printed) => compare(printed, &all),
        }
    }

    fn background(&mut self, script: &str, printed: Option<&Printed>) -> Result<(), String> {
        let prometheus = script.trim_start().starts_with("prometheus ");
        let port = self.ports[usize::from(prometheus)];
        let variables =
            [format!("PATH={}", self.path.to_string_lossy()), format!("TIDEWATCH_LISTEN={}", self.listen())];
        // The shell gives its place to the program, so that signals reach it. Its log is in a folder of its own.
        let script = format!("cd ..; exec {}", self.here(script));
        let log = self.folder.path().join(format!(".log-{}", self.started));
        std::fs::create_dir(&log).map_err(|e| e.to_string())?;
        self.started += 1;
        let words = ["env".to_owned()].into_iter().chain(variables);
        let words: Vec<String> = words.chain(["bash".to_owned(), "-euc".to_owned(), script]).collect();
        let mut process = Process::begin(&words, &log, port);
        process.await_ready("/-/ready");
        if let Some(printed) = printed {
            eventually("it prints what is shown", PATIENCE, || compare(printed, &self.there(&process.log())));
        }
        self.running.push(process);
        Ok(())
    }
}

/// Both texts, where they differ.
fn compare(shown: &Printed, printed: &str) -> Result<(), String> {
    let Printed { text, json, numbers_differ } = shown;
    let like = match json {
        true => likeness::json_is_like(text, printed, *numbers_differ)?,
        false => likeness::lines_are_like(text, printed, *numbers_differ),
    };
    if like { Ok(()) } else { Err(format!("shown:\n{text}\nprinted:\n{printed}")) }
}

/// The text of a page.
fn read(page: &str) -> String {
    let path = repository().join(page);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs the steps of a page: those before `live`, or with them those after it.
fn follow(page: &str, live: bool) {
    let mut session = Session::new(page);
    let steps = steps(&read(page));
    let end = steps.iter().position(|(_, step)| *step == Step::Live).unwrap_or(steps.len());
    assert!(!live || end < steps.len(), "{page} has nothing that is live");
    for (line, step) in &steps[..if live { steps.len() } else { end }] {
        if let Err(why) = session.run(step) {
            panic!("{page}, line {line}: {step:?}\n{why}");
        }
    }
    println!("{page}: {} steps", steps.len());
}

#[test]
fn the_readme_is_followed_word_by_word() {
    follow("README.md", false);
}

#[test]
fn the_tutorial_is_followed_word_by_word() {
    follow("docs/tutorial.md", false);
}

#[test]
fn the_other_pages_are_followed_word_by_word() {
    let folder = std::fs::read_dir(repository().join("docs")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> =
        names.filter(|name| name.ends_with(".md") && name != "tutorial.md").collect();
    pages.sort();
    assert!(pages.len() >= 10, "{pages:?}");
    for page in pages {
        follow(&format!("docs/{page}"), false);
    }
}

#[test]
fn with_a_real_prometheus_the_tutorial_goes_on() {
    if server("TEST_PROMETHEUS").is_some() {
        follow("docs/tutorial.md", true);
    }
}

/// Links between the pages lead somewhere, and to a heading that is there.
#[test]
fn links_lead_somewhere() {
    let pages = ["README.md", "ARCHITECTURE.md", "STYLE.md"].map(str::to_owned).into_iter();
    let docs = std::fs::read_dir(repository().join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    for page in pages.chain(docs.filter(|name| name.ends_with(".md"))) {
        let text = read(&page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                Path::new(&page).with_file_name(file).display().to_string()
            };
            assert!(repository().join(&target).exists(), "{page}: {link} leads nowhere");
            let found = heading.is_empty() || read(&target).lines().any(|line| anchor(line) == heading);
            assert!(found, "{page}: {link}: there is no such heading");
        }
    }
}

/// Paths that are named to developers are there: a file that is renamed takes its mention with it.
#[test]
fn paths_that_are_named_exist() {
    for page in ["ARCHITECTURE.md", "STYLE.md", "docs/internals.md", "docs/formats.md", "docs/semantics.md"] {
        let text = read(page);
        for name in text.split('`').skip(1).step_by(2) {
            let rooted = ["src/", "dataflows/", "tests/", "benches/", "deploy/", "docs/", "fuzz/"];
            if rooted.iter().any(|root| name.starts_with(root)) && !name.contains([' ', '<', '*']) {
                assert!(repository().join(name).exists(), "{page}: there is no {name}");
            }
        }
    }
}

/// The anchor of a heading, as web pages of repositories make it.
fn anchor(line: &str) -> String {
    let Some(heading) = line.starts_with('#').then(|| line.trim_start_matches('#').trim()) else {
        return String::new();
    };
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .collect::<String>();
    kept.replace(' ', "-")
}

#[test]
fn the_pages_are_short() {
    for (page, most) in [("README.md", 120), ("ARCHITECTURE.md", 249)] {
        let lines = read(page).lines().count();
        assert!(lines <= most, "{page} has {lines} lines; at most {most}");
    }
}
