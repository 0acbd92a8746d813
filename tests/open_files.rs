//! A server that may open few files: it says so or does not start, and no segment's end is the end of intake.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::process::{Process, free_port};
use crate::support::remote_write::{HEADERS, WriteRequest, snappy};
use crate::support::{Folder, eventually, http};

const START_MS: i64 = 1_767_225_600_000;
const CONFIG: &str = "journal: {bytes_max: 16MiB}\nsnapshots: {every: 5s}\n";
/// A segment of the journal is an eighth of its bound: so many samples of some 20 bytes bootstrap several.
const SAMPLES: i64 = 1_000;
const ROUNDS: i64 = 20;

/// A shell that lets the program have so many files open.
fn limited(files: u32, port: u16) -> [String; 3] {
    let program = env!("CARGO_BIN_EXE_tidewatch");
    let run = format!("run --config tidewatch.yml --data-dir data --listen 127.0.0.1:{port}");
    ["sh".to_owned(), "-c".to_owned(), format!("ulimit -n {files} && exec {program} {run}")]
}

fn folder() -> Folder {
    let folder = Folder::new("files");
    std::fs::write(folder.path().join("tidewatch.yml"), CONFIG).unwrap();
    folder
}

#[test]
fn too_few_files_are_refused_with_both_numbers() {
    let (folder, words) = (folder(), limited(100, free_port()));
    let output = Command::new(&words[0]).args(&words[1..]).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("may have 100 files open (ulimit -n) and needs 160"), "{said}");
    assert!(!folder.path().join("data").exists(), "nothing is touched");
}

/// Sends a push on a connection that stays, and gives the status of its answer.
fn push(sender: &mut TcpStream, round: i64) -> u16 {
    let samples: Vec<(i64, f64)> =
        (0..SAMPLES).map(|i| (START_MS + (round * SAMPLES + i) * 1_000, i as f64)).collect();
    let write = (0..20).fold(WriteRequest::default(), |write, n| {
        write.series(&[("__name__", "files"), ("n", &n.to_string())], &samples)
    });
    let body = snappy(write.message());
    let mut head =
        format!("POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
    HEADERS.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    sender.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    sender.write_all(&body).unwrap();
    let mut answer = Vec::new();
    let mut some = [0; 4_096];
    loop {
        let n = sender.read(&mut some).unwrap();
        assert!(n > 0, "the server ended the connection: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..n]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return head.split(' ').nth(1).unwrap().parse().unwrap();
        }
    }
}

/// Idle connections take every descriptor there is, while segments end.
#[test]
fn a_server_without_descriptors_goes_on_taking() {
    let (folder, port) = (folder(), free_port());
    let words = limited(170, port);
    let mut tidewatch = Process::begin(&words, folder.path(), port);
    tidewatch.await_ready("/-/ready");
    assert!(tidewatch.log().contains("170 files open (ulimit -n): 128 are for logs"), "{}", tidewatch.log());
    let mut sender = TcpStream::connect(tidewatch.address()).unwrap();
    assert_eq!(push(&mut sender, 0), 204);
    // The server may end idle ones, or take no more: what counts is that its descriptors are gone for a while.
    let idle: Vec<TcpStream> =
        (0..250).filter_map(|_| TcpStream::connect(tidewatch.address()).ok()).collect();
    let segments = || std::fs::read_dir(folder.path().join("data/journal")).unwrap().count();
    let begun = Instant::now();
    for round in 1..ROUNDS {
        // Its readers wait half a minute for one; several segments are full long before.
        if round > 8 && begun.elapsed() > Duration::from_secs(10) {
            break;
        }
        eventually("it is taken", Duration::from_secs(60), || match push(&mut sender, round) {
            204 => Ok(()),
            // For a moment the computation may wait for a descriptor as well.
            status => Err(status.to_string()),
        });
    }
    drop(idle);
    let mut round = ROUNDS;
    eventually("segments end again", Duration::from_secs(60), || {
        round += 1;
        assert_eq!(push(&mut sender, round), 204);
        if segments() > 3 { Ok(()) } else { Err(format!("{} segments", segments())) }
    });
    drop(sender);
    tidewatch.await_ready("/-/ready");
    let answer = http::get(&tidewatch.url("/-/healthy"), &[]).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(tidewatch.terminate().code(), Some(0), "{}", tidewatch.log_tail());
}
