//! Connections over the loopback that are slow in every way, beside one that is not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::{get, post};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// More than the buffers between two sockets hold.
const LARGE: usize = 64 << 20;
const OK: &[u8; 15] = b"HTTP/1.1 200 OK";

/// Bounds that nothing passes.
fn wide() -> ConnectionBounds {
    let look = Duration::from_millis(5);
    ConnectionBounds { connections: 64, head: HOUR, idle: HOUR, sent_min: 1 << 10, sending: HOUR, look }
}

struct Served {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    /// Lets `/wait` answer.
    answer: Arc<Notify>,
    /// How often `/wait` was asked.
    asked: Arc<AtomicUsize>,
    runtime: Runtime,
}

fn serve_within(bounds: ConnectionBounds) -> Served {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (answer, asked) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (waits, asks) = (Arc::clone(&answer), Arc::clone(&asked));
    let wait = async move || {
        asks.fetch_add(1, Ordering::Relaxed);
        waits.notified().await;
        "at last"
    };
    let router = Router::new()
        .route("/", get(async || "hello"))
        .route("/large", get(async || vec![b'x'; LARGE]))
        .route("/wait", get(wait))
        .route("/body", post(async |body: Bytes| body.len().to_string()));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, (stop, stopped)) = (Arc::new(Metrics::new()), watch::channel(false));
    let server = runtime.spawn(serve(listener, router, bounds, Arc::clone(&metrics), stopped));
    Served { address, metrics, stop, server, answer, asked, runtime }
}

impl Served {
    fn connect(&self, sent: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(sent.as_bytes()).unwrap();
        socket
    }

    /// Asks on a connection of its own; what came until its end.
    fn get(&self, path: &str) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        // One that is turned away is closed, perhaps before it has asked.
        let _ = write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let _ = socket.read_to_string(&mut text);
        text
    }

    /// Asks for what waits, and waits until that is known.
    fn wait(&self) -> TcpStream {
        let before = self.asked.load(Ordering::Relaxed);
        let socket = self.connect("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
        until("it is asked", || self.asked.load(Ordering::Relaxed) > before);
        socket
    }

    fn await_connections(&self, wanted: i64) {
        until("connections", || self.metrics.connections.get() == wanted);
    }

    fn reached(&self, limit: &str) -> u64 {
        self.metrics.limits_reached().get(limit).copied().unwrap_or(0)
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the other side has closed.
fn await_end(socket: &mut TcpStream) {
    let mut sink = vec![0; 1 << 16];
    loop {
        match socket.read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            // A reset is an end as well.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the connection stays open"),
            Err(_) => return,
        }
    }
}

fn is_answered(socket: &mut TcpStream) {
    let mut answer = [0; OK.len()];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, OK);
}

/// Asks on a connection that goes on.
fn is_greeted(socket: &mut TcpStream) {
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"hello") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        text.extend(byte);
    }
}

#[test]
fn a_head_that_does_not_end_and_a_connection_that_is_idle_are_closed() {
    let served = serve_within(ConnectionBounds { head: Duration::from_millis(50), ..wide() });
    let mut slow = served.connect("GET / HTTP/1.1\r\nHost: x\r\nX: ");
    let mut idle = served.connect("");
    await_end(&mut slow);
    served.await_connections(1);
    assert_eq!(served.reached("http.head_seconds"), 1);
    // After an answer the next head has a time of its own.
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    is_answered(&mut idle);
    idle.write_all(b"GET / HT").unwrap();
    await_end(&mut idle);
    assert_eq!(served.reached("http.head_seconds"), 2);

    let served = serve_within(ConnectionBounds { idle: Duration::from_millis(50), ..wide() });
    let mut waiting = served.wait();
    await_end(&mut served.connect(""));
    served.await_connections(1);
    assert_eq!(served.reached("http.idle_seconds"), 1);
    // Who waits for an answer is not idle.
    served.answer.notify_one();
    is_answered(&mut waiting);
    await_end(&mut waiting);
}

#[test]
fn an_answer_that_is_not_taken_ends_its_connection_and_a_slow_reader_gets_all() {
    let served = serve_within(ConnectionBounds { sending: Duration::from_millis(500), ..wide() });
    let unread = served.connect("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
    served.await_connections(1);
    served.await_connections(0);
    assert_eq!(served.reached("http.answer_rate"), 1);
    drop(unread);
    // It pauses, but takes more than the least in each look.
    let mut slow = served.connect("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let (mut buffer, mut read, mut pause) = (vec![0; 1 << 20], 0, 0);
    loop {
        match slow.read(&mut buffer).unwrap() {
            0 => break,
            bytes => read += bytes,
        }
        if read / (4 << 20) > pause {
            pause = read / (4 << 20);
            std::thread::sleep(Duration::from_millis(60));
        }
    }
    assert!(read > LARGE, "{read}");
    assert_eq!(served.reached("http.answer_rate"), 1);
}

#[test]
fn a_new_connection_takes_the_place_of_the_one_that_is_idle_longest() {
    let served = serve_within(ConnectionBounds { connections: 8, ..wide() });
    let mut waiting = served.wait();
    // It was of use a moment ago.
    let mut known = served.connect("");
    is_greeted(&mut known);
    // Far more than there may be, of both kinds.
    let mut slow = Vec::new();
    for i in 0..100 {
        let sent = ["", "GET / HTTP/1.1\r\nX: "][i % 2];
        slow.push(served.connect(sent));
        if i % 10 == 0 {
            assert!(served.get("/").ends_with("hello"), "beside {i} slow ones");
        }
        assert!(served.metrics.connections.get() <= 8);
    }
    is_greeted(&mut known);
    until("all are seen", || served.reached("limits.connections") >= 90);
    served.answer.notify_one();
    is_answered(&mut waiting);
    // Where all wait for answers, a new one is turned away and they stay.
    let mut all: Vec<TcpStream> = (0..8).map(|_| served.wait()).collect();
    assert_eq!(served.get("/"), "");
    served.answer.notify_waiters();
    all.iter_mut().for_each(is_answered);
    assert!(served.get("/").ends_with("hello"));
}

#[test]
fn hundreds_of_connections_may_wait_to_be_taken() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody takes them. One that found no room would be tried again until its time is over.
    let waiting: Vec<TcpStream> =
        (0..500).map(|_| TcpStream::connect_timeout(&address, PATIENCE).unwrap()).collect();
    assert_eq!(waiting.len(), 500);
}

#[test]
fn stopping_closes_what_is_idle_at_once_and_answers_what_was_asked() {
    let served = serve_within(wide());
    let mut idle = [served.connect(""), served.connect("GET / HTTP/1.1\r\nX")];
    let mut waiting = served.wait();
    served.await_connections(3);
    served.stop.send(true).unwrap();
    idle.iter_mut().for_each(await_end);
    assert!(!served.server.is_finished());
    served.answer.notify_one();
    let mut text = String::new();
    waiting.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("at last"), "{text}");
    served.runtime.block_on(served.server).unwrap();
}

#[test]
fn no_more_connections_are_taken_than_files_are_left_for() {
    assert_eq!([most(512, None), most(512, Some(1 << 20)), most(512, Some(128))], [512, 512, 128]);
}

#[test]
fn one_whose_body_does_not_come_gives_its_place_to_others() {
    let served = serve_within(ConnectionBounds { connections: 2, ..wide() });
    let begin = "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab";
    let mut slow: Vec<TcpStream> = (0..2).map(|_| served.connect(begin)).collect();
    served.await_connections(2);
    assert!(served.get("/").contains("hello"));
    until("one is closed", || {
        slow.retain_mut(|socket| {
            socket.set_nonblocking(true).unwrap();
            let open = matches!(socket.read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock);
            socket.set_nonblocking(false).unwrap();
            open
        });
        slow.len() == 1
    });
    let mut left = slow.pop().unwrap();
    left.write_all(b"cdefghi").unwrap();
    is_answered(&mut left);
}
