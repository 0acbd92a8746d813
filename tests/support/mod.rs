//! What tests against running programs share: processes, HTTP, and a sender of remote write.
//!
//! Every process is killed by its own id when its handle goes; ports are free ones of the loopback; files live in a
//! folder of the test that goes with it.

pub mod filled;
pub mod http;
pub mod process;
pub mod protobuf;
pub mod remote_write;
pub mod stored;
pub mod thread_limit;
pub mod windows;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The path of a real server, from the variable that `./test.sh` sets; says who runs the test when it is not set.
pub fn server(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    if path.is_none() {
        println!(
            "not run: needs a real server ({variable} is not set); ./test.sh installs it and runs this test"
        );
    }
    path
}

/// The folder of the sources, as cargo says when it runs the tests: what another clone built was told another one.
pub fn repository() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

/// A folder of one test, removed with everything in it.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// A new, empty folder.
    pub fn new(name: &str) -> Folder {
        Folder(tempfile::Builder::new().prefix(&format!("tidewatch-{name}-")).tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A panicking test keeps its folder: it holds the logs.
        self.0.disable_cleanup(std::thread::panicking());
    }
}

/// How much longer than on an idle machine everything may take: tests run beside builds, and beside one another.
const LOADED: u32 = 5;

/// Asks until there is an answer. Waiting for another process cannot be done without asking again; the pause between
/// two questions decides nothing, and the deadline only ends a test that has failed. `within` is for an idle machine.
pub fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let within = within * LOADED;
    let deadline = Instant::now() + within;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(Instant::now() < deadline, "not within {within:?}: {what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
