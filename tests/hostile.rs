//! Strangers do their worst beside an honest sender: connections that send a byte a second, readers that do not read,
//! costly regexes, types that flap. The sender is answered soon, the process stays healthy and small, nothing is lost.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::memory::BESIDE_MAX_MB;
use crate::support::eventually;
use crate::support::http::{self, Client};
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const SLOW: usize = 1_000;
const READERS: usize = 60;
const ASKERS: usize = 4;
const FLAPPERS: usize = 2;
/// Senders beside one another, so that one slow answer does not hold up the next request.
const SENDERS: usize = 8;
const SERIES: u64 = 5_000;
/// 500 samples each: 20,000 samples a second.
const REQUEST_SERIES: u64 = 500;
const REQUEST_EVERY: Duration = Duration::from_millis(25);

const PUSH_P99: Duration = Duration::from_secs(1);
const HEALTHY_P99: Duration = Duration::from_millis(100);

/// What one side saw.
#[derive(Default)]
struct Seen {
    times: Mutex<Vec<Duration>>,
    /// Statuses that were not the one hoped for, and connections that broke.
    others: Mutex<Vec<String>>,
}

impl Seen {
    fn note(&self, took: Duration, status: Result<u16, String>, hoped: u16) {
        self.times.lock().unwrap().push(took);
        match status {
            Ok(status) if status == hoped => {}
            other => self.others.lock().unwrap().push(format!("{other:?}")),
        }
    }

    /// The median, the 99th of a hundred, and the longest.
    fn figures(&self) -> (Duration, Duration, Duration) {
        let mut times = self.times.lock().unwrap();
        times.sort_unstable();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        (at(50), at(99), at(100))
    }
}

/// One of many requests of 500 samples, each series four times a second.
fn request(n: u64, at_ms: i64) -> WriteRequest {
    let from = n * REQUEST_SERIES % SERIES;
    (from..from + REQUEST_SERIES).fold(WriteRequest::default(), |request, i| {
        let (name, instance) = (format!("flapping_{}", i % 3), format!("host-{i}"));
        request.series(&[("__name__", &name), ("instance", &instance)], &[(at_ms, (i + n) as f64)])
    })
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Sends so many requests at their times on a connection of its own, as Prometheus does; latencies count from when each
/// was due.
fn send(url: &str, begun: Instant, next: &AtomicU64, all: u64, seen: &Seen) {
    let client = Client::new();
    let begun_ms = now_ms() - begun.elapsed().as_millis() as i64;
    loop {
        let n = next.fetch_add(1, Relaxed);
        if n >= all {
            return;
        }
        let after = REQUEST_EVERY * u32::try_from(n).unwrap();
        let due = begun + after;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let status =
            request(n, begun_ms + after.as_millis() as i64).send_by(&client, url).map(|answer| answer.status);
        seen.note(due.elapsed(), status, 204);
    }
}

fn ask_health(url: &str, stop: &AtomicBool, seen: &Seen) {
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        let status = http::get(url, &[]).map(|answer| answer.status);
        seen.note(begun.elapsed(), status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A connection that goes on a byte at a time: half of them never end their headers, half of them their body.
struct Slow {
    stream: Option<TcpStream>,
    body: bool,
}

impl Slow {
    fn step(&mut self, address: &str) -> bool {
        let sent = self.stream.as_mut().map(|stream| stream.write(b"a").and_then(|_| closed(stream)));
        if matches!(sent, Some(Ok(false))) {
            return false;
        }
        self.stream = TcpStream::connect(address).ok();
        if let Some(stream) = &mut self.stream {
            let begin: &[u8] = if self.body {
                b"POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\nContent-Length: 4000000\r\n\r\n"
            } else {
                b"GET /api/v1/windows HTTP/1.1\r\nX-Slow: "
            };
            let _ = stream.write_all(begin);
            stream.set_nonblocking(true).unwrap();
        }
        true
    }
}

/// Whether the other side has closed, without waiting.
fn closed(stream: &mut TcpStream) -> std::io::Result<bool> {
    match stream.read(&mut [0; 512]) {
        Ok(0) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keeps a thousand slow connections open; how many were opened again.
fn be_slow(address: &str, stop: &AtomicBool) -> u64 {
    let mut slow: Vec<Slow> = (0..SLOW).map(|i| Slow { stream: None, body: i % 2 == 0 }).collect();
    let mut opened = 0;
    while !stop.load(Relaxed) {
        for slow in slow.iter_mut().take_while(|_| !stop.load(Relaxed)) {
            opened += u64::from(slow.step(address));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    opened
}

/// Asks for large pages and reads nothing of them; every ten seconds on a new connection.
fn do_not_read(address: &str, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let mut streams = Vec::new();
        for _ in 0..READERS {
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            let _ = stream
                .write_all(b"GET /api/v1/windows?limit=10000&start=0 HTTP/1.1\r\nHost: localhost\r\n\r\n");
            streams.push(stream);
        }
        for _ in 0..100 {
            if !stop.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Asks for what costs most to match; what was answered.
fn ask_regexes(tidewatch: &Tidewatch, n: usize, stop: &AtomicBool) {
    let repeat = [150, 400, 800, 900][n % 4];
    let matching = format!("{{__name__=~\"flap.*\",instance!~\"(.*[a-z0-9-]{{1,{repeat}}}){{2}}Z\"}}");
    while !stop.load(Relaxed) {
        let (path, more) = match n % 3 {
            0 => ("/api/v1/catalog", None),
            1 => ("/api/v1/windows", Some(("at", "now"))),
            _ => ("/api/v1/windows", None),
        };
        let parameters: Vec<(&str, &str)> =
            std::iter::once(("match[]", matching.as_str())).chain(more).collect();
        let _ = http::get(&tidewatch.url(path), &parameters);
    }
}

/// Tells one family's type anew with every request.
fn flap(url: &str, stop: &AtomicBool) {
    let mut kind = 1;
    while !stop.load(Relaxed) {
        let _ = WriteRequest::default().metadata(kind, "flapping_0").send(url);
        kind = 3 - kind;
    }
}

#[test]
fn all_at_once_hold_up_no_honest_sender() {
    let seconds = 20 * crate::rounds(1);
    let all = seconds * 1_000 / REQUEST_EVERY.as_millis() as u64;
    let tidewatch = Tidewatch::start("windows: [{length: 10m, hop: 1m}, {length: 1h, hop: 1m}]\n");
    let (url, address) = (tidewatch.url("/api/v1/write"), tidewatch.address());
    // All series are known before it begins.
    let first: Vec<u16> =
        (0..SERIES / REQUEST_SERIES).map(|n| request(n, now_ms()).send(&url).unwrap().status).collect();
    assert!(first.iter().all(|status| *status == 204), "{first:?}");
    let (pushes, health, stop, next) =
        (Seen::default(), Seen::default(), AtomicBool::new(false), AtomicU64::new(0));
    let opened = std::thread::scope(|scope| {
        let (url, address, stop, health, tidewatch) = (&url, &address, &stop, &health, &tidewatch);
        let (next, pushes) = (&next, &pushes);
        let slow = scope.spawn(|| be_slow(address, stop));
        scope.spawn(|| do_not_read(address, stop));
        (0..ASKERS).for_each(|n| drop(scope.spawn(move || ask_regexes(tidewatch, n, stop))));
        (0..FLAPPERS).for_each(|_| drop(scope.spawn(|| flap(url, stop))));
        let healthy = tidewatch.url("/-/healthy");
        scope.spawn(move || ask_health(&healthy, stop, health));
        // The strangers come first.
        std::thread::sleep(Duration::from_secs(2));
        let begun = Instant::now();
        let senders: Vec<_> =
            (0..SENDERS).map(|_| scope.spawn(move || send(url, begun, next, all, pushes))).collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        stop.store(true, Relaxed);
        slow.join().unwrap()
    });
    let beside_state = || tidewatch.resident_megabytes() - tidewatch.state_megabytes();
    let (peak, ended) = (beside_state(), Instant::now());
    let beside = eventually("little is left", Duration::from_secs(60), || {
        let beside = beside_state();
        if beside <= BESIDE_MAX_MB { Ok(beside) } else { Err(format!("{beside:.0} MB beside state")) }
    });
    let after = ended.elapsed();
    let (push, healthy) = (pushes.figures(), health.figures());
    println!(
        "{seconds} s: pushes p50 {:?}, p99 {:?}, max {:?}; /-/healthy p50 {:?}, p99 {:?}, max {:?}; \
         {opened} slow connections opened, {peak:.0} MB beside state, {beside:.0} MB after {after:.0?}",
        push.0, push.1, push.2, healthy.0, healthy.1, healthy.2
    );
    let refused = pushes.others.lock().unwrap();
    assert!(refused.is_empty(), "{} pushes were not taken: {refused:?}", refused.len());
    let unhealthy = health.others.lock().unwrap();
    assert!(unhealthy.is_empty(), "{} times not healthy: {:?}", unhealthy.len(), unhealthy.first());
    assert!(push.1 < PUSH_P99, "pushes: p99 {:?}", push.1);
    assert!(healthy.1 < HEALTHY_P99, "/-/healthy: p99 {:?}", healthy.1);
    let sent = ((all + SERIES / REQUEST_SERIES) * REQUEST_SERIES) as f64;
    eventually("all samples are applied", Duration::from_secs(60), || {
        match tidewatch.metric("tidewatch_samples_applied_total") {
            applied if applied == sent => Ok(()),
            applied => Err(format!("{applied} of {sent}")),
        }
    });
}
