//! A bound on the threads of one process, set and lifted while it runs: beyond it the system really has none to give.
//!
//! There are two ways, and both need root: a cgroup with the controller `pids`, of version 1 or 2, and `RLIMIT_NPROC` of a
//! user who has no other process. Neither bounds anyone else.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::geteuid;

use super::Folder;

/// A number that no other limit of this process has.
fn number() -> u32 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    GIVEN.fetch_add(1, Ordering::Relaxed)
}

/// What `setpriv` is told, so that the command behind it is this user's.
fn as_user(user: u32) -> [String; 3] {
    [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]
}

/// More threads than any process of a test has.
const MANY: u64 = 10_000;

/// A way to bound the threads of a process.
#[derive(Debug)]
pub enum ThreadLimit {
    /// The folder of a cgroup of its own.
    Cgroup(PathBuf),
    /// A user of its own.
    User(u32),
}

impl ThreadLimit {
    /// The ways there are here. Those that are not are printed with the reason.
    pub fn ways() -> Vec<ThreadLimit> {
        let ways = match geteuid().is_root() {
            true => vec![ThreadLimit::cgroup(), ThreadLimit::user()],
            false => vec![Err("a bound on threads needs root".to_owned())],
        };
        let told = |way: Result<_, String>| way.inspect_err(|why| println!("not run: {why}")).ok();
        ways.into_iter().filter_map(told).collect()
    }

    fn cgroup() -> Result<ThreadLimit, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let mut why = "no cgroup with the controller pids is mounted".to_owned();
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(root), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let root = Path::new(root);
            let unified = kind == "cgroup2";
            if !unified && (kind != "cgroup" || !options.split(',').any(|option| option == "pids")) {
                continue;
            }
            if unified {
                // It may be on already; whether the new group has it is looked at below.
                let _ = fs::write(root.join("cgroup.subtree_control"), "+pids");
            }
            let group = root.join(format!("tidewatch-test-{}-{}", std::process::id(), number()));
            match fs::create_dir(&group) {
                Ok(()) if group.join("pids.max").exists() => return Ok(ThreadLimit::Cgroup(group)),
                Ok(()) => drop(fs::remove_dir(&group)),
                Err(error) => why = format!("{}: {error}", group.display()),
            }
        }
        Err(why)
    }

    fn user() -> Result<ThreadLimit, String> {
        // Above whatever a machine gives to people and programs, and another one for each process of tests.
        let user = 2_000_000_000 + std::process::id() % 1_000_000 * 100 + number() % 100;
        let limit = ThreadLimit::User(user);
        let words = limit.words(None);
        let program = env!("CARGO_BIN_EXE_tidewatch");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args([program, "version"]).stdout(Stdio::null());
        match command.output() {
            Ok(output) if output.status.success() => Ok(limit),
            Ok(output) => Err(format!("another user: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => Err(format!("another user: {}: {error}", words[0])),
        }
    }

    /// The words before those of a program that is bound, from its start if it is to have so few threads.
    pub fn words(&self, threads: Option<u64>) -> Vec<String> {
        let threads = threads.unwrap_or(MANY);
        let words = match self {
            ThreadLimit::Cgroup(group) => {
                fs::write(group.join("pids.max"), threads.to_string()).unwrap();
                format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", group.display())
            }
            ThreadLimit::User(user) => {
                let user = as_user(*user).join(" ");
                format!("exec prlimit --nproc={threads}:{MANY} setpriv {user} \"$0\" \"$@\"")
            }
        };
        vec!["sh".to_owned(), "-c".to_owned(), words]
    }

    /// A folder that a bound program may write to, with this configuration.
    pub fn folder(&self, config: &str) -> Folder {
        let folder = Folder::new("threads");
        fs::write(folder.path().join("tidewatch.yml"), config).unwrap();
        if let ThreadLimit::User(user) = self {
            chown(folder.path(), Some(*user), Some(*user)).unwrap();
        }
        folder
    }

    /// The process gets so many threads more than it has, until [`ThreadLimit::lift`].
    pub fn set(&self, process: u32, spare: u64) {
        let threads = || fs::read_dir(format!("/proc/{process}/task")).unwrap().count() as u64;
        // Some live for a moment only, and their places are not to be had either.
        let least = (0..20).map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            threads()
        });
        self.bound(process, least.min().unwrap() + spare);
    }

    /// The process gets no thread, also for one that ends.
    #[cfg(feature = "faults")]
    pub fn take(&self, process: u32) {
        self.bound(process, 1);
    }

    /// The process gets as many threads as it wants.
    pub fn lift(&self, process: u32) {
        self.bound(process, MANY);
    }

    fn bound(&self, process: u32, threads: u64) {
        match self {
            ThreadLimit::Cgroup(group) => fs::write(group.join("pids.max"), threads.to_string()).unwrap(),
            // As that user: root may set the limits of others only with a capability that containers often lack.
            ThreadLimit::User(user) => {
                let (process, soft) = (process.to_string(), format!("--nproc={threads}:"));
                let mut command = Command::new("setpriv");
                command.args(as_user(*user)).args(["prlimit", "--pid", &process, &soft]);
                assert!(command.status().unwrap().success(), "{command:?}");
            }
        }
    }
}

impl Drop for ThreadLimit {
    fn drop(&mut self) {
        if let ThreadLimit::Cgroup(group) = self {
            // The kernel forgets a process a moment after its parent knows of its end; what is left is an empty group.
            let _ = (0..100).find(|_| {
                std::thread::sleep(Duration::from_millis(10));
                fs::remove_dir(&*group).is_ok()
            });
        }
    }
}
