//! Connections: how many there are, and how long each may be of no use.
//!
//! Every connection writes down what it does ([`Activity`]), and once a second all are judged by the same rules: a head
//! has to arrive in time, a connection may be idle for a while, and an answer has to be taken at a least rate. Where there
//! are as many as may be, a new one takes the place of the one that has been idle longest, or whose body has been
//! arriving for as long; one that waits for its answer is never given up for another.
//!
//! Not here: how long a body may take to arrive (its route knows), and what is answered.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::Request;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::metrics::Metrics;

/// Most bytes of a request's head, and of what is read ahead of a body.
const BUFFER_BYTES_MAX: usize = 128 << 10;
/// Connections that may wait until they are taken, as far as the system allows. Of one that finds no room the other side
/// tries again after a second, and honest ones come in the midst of whatever strangers open at once.
const BACKLOG: u32 = 4_096;
/// The pause after the system gave no connection, because the process has too many files.
const NO_FILE_PAUSE: Duration = Duration::from_millis(100);

/// What connections are held to.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionBounds {
    /// Most connections.
    pub connections: usize,
    /// How long a head may take from its first byte.
    pub head: Duration,
    /// How long a connection may wait for a head.
    pub idle: Duration,
    /// Of an answer that waits to be taken at least so many bytes go within `sending`.
    pub sent_min: u64,
    /// See `sent_min`.
    pub sending: Duration,
    /// How often this is looked at.
    pub look: Duration,
}

impl ConnectionBounds {
    /// So many connections, and bounds that people and programs keep.
    pub fn of(connections: usize) -> ConnectionBounds {
        ConnectionBounds {
            connections,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            sent_min: 320 << 10,
            sending: Duration::from_secs(10),
            look: Duration::from_secs(1),
        }
    }
}

/// How many connections there may be where the process has room for so many.
pub fn most(wanted: usize, room: Option<u64>) -> usize {
    let Some(room) = room else { return wanted };
    let most = wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1);
    if most < wanted {
        tracing::warn!(
            "{most} connections are taken at once instead of limits.connections ({wanted}): the process may open too few files (ulimit -n)"
        );
    }
    most
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug)]
struct ConnectionState {
    /// Requests that have come and are not answered whole.
    requests: usize,
    /// Since when the body of a request arrives.
    body_since: Option<Instant>,
    /// When it was opened, or the last answer ended.
    idle_since: Instant,
    /// Whether anything was answered on it.
    answered: bool,
    /// Whether it is about to be closed: it has passed one bound, and counts once.
    closing: bool,
    /// When the first byte of the head came that is not whole.
    head_since: Option<Instant>,
    /// While the other side takes less than there is: since when, and how many bytes it has taken.
    waits: Option<(Instant, u64)>,
}

impl ConnectionState {
    fn new(now: Instant) -> ConnectionState {
        ConnectionState {
            requests: 0,
            body_since: None,
            idle_since: now,
            answered: false,
            closing: false,
            head_since: None,
            waits: None,
        }
    }

    /// The bound that the connection has passed.
    fn judge(&mut self, bounds: &ConnectionBounds, now: Instant) -> Option<&'static str> {
        let passed = self.passed(bounds, now).filter(|_| !self.closing);
        self.closing |= passed.is_some();
        passed
    }

    /// Since when the connection waits for the other side, if it may be given up for another.
    fn useless_since(&self, bounds: &ConnectionBounds) -> Option<Instant> {
        let since = if self.requests > 0 { self.body_since? } else { self.idle_since };
        // One that has been of use is kept for as long as a head may take, whoever comes meanwhile.
        Some(since + if self.answered { bounds.head } else { Duration::ZERO })
    }

    fn passed(&mut self, bounds: &ConnectionBounds, now: Instant) -> Option<&'static str> {
        if let Some((since, bytes)) = self.waits
            && now.duration_since(since) >= bounds.sending
        {
            if bytes < bounds.sent_min {
                return Some("http.answer_rate");
            }
            self.waits = Some((now, 0));
        }
        if self.requests > 0 {
            return None;
        }
        match self.head_since {
            Some(since) if now.duration_since(since) >= bounds.head => Some("http.head_seconds"),
            None if now.duration_since(self.idle_since) >= bounds.idle => Some("http.idle_seconds"),
            _ => None,
        }
    }
}

/// A connection as it is looked at from outside.
struct Activity {
    state: Mutex<ConnectionState>,
    close: Notify,
}

impl Activity {
    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock()
    }
}

/// All connections.
struct Connections {
    bounds: ConnectionBounds,
    metrics: Arc<Metrics>,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.open.lock()
    }

    /// Takes a new connection in; `None` if all there may be wait for answers.
    fn enter(self: &Arc<Self>, number: u64) -> Option<ConnectionEntry> {
        let activity = Arc::new(Activity {
            state: Mutex::new(ConnectionState::new(Instant::now())),
            close: Notify::new(),
        });
        if self.open().len() >= self.bounds.connections {
            self.metrics.limit("limits.connections");
            if !self.give_up_one() {
                return None;
            }
        }
        let mut open = self.open();
        open.insert(number, Arc::clone(&activity));
        self.metrics.connections.set(open.len() as i64);
        drop(open);
        Some(ConnectionEntry { connections: Arc::clone(self), number, activity })
    }

    /// Closes the connection that has been of no use longest; whether there was one.
    fn give_up_one(&self) -> bool {
        let mut open = self.open();
        let idle = open
            .iter()
            .filter_map(|(number, activity)| Some((activity.state().useless_since(&self.bounds)?, *number)));
        let Some((_, number)) = idle.min() else { return false };
        // Not counted from now on, whenever its task sees it.
        open.remove(&number).inspect(|activity| activity.close.notify_one());
        true
    }

    /// Closes what has passed its bounds; all that is idle if nothing more is taken.
    fn sweep(&self, stopping: bool) {
        let now = Instant::now();
        for activity in self.open().values() {
            let mut state = activity.state();
            if let Some(limit) = state.judge(&self.bounds, now) {
                self.metrics.limit(limit);
                activity.close.notify_one();
            } else if stopping && state.requests == 0 {
                activity.close.notify_one();
            }
        }
    }
}

/// A connection's place among all.
struct ConnectionEntry {
    connections: Arc<Connections>,
    number: u64,
    activity: Arc<Activity>,
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.remove(&self.number);
        self.connections.metrics.connections.set(open.len() as i64);
    }
}

/// Takes this address.
///
/// # Errors
/// It cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that ended a moment ago does not keep its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` has changed or is gone, and then until every request that has come is answered.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: ConnectionBounds,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) {
    let connections = Arc::new(Connections { bounds, metrics, open: Mutex::default() });
    let mut tasks = JoinSet::new();
    let mut look = tokio::time::interval(bounds.look);
    for number in 0.. {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break Some(accepted),
                _ = look.tick() => connections.sweep(false),
                Some(_) = tasks.join_next() => {}
                _ = stop.changed() => break None,
            }
        };
        match accepted {
            None => break,
            Some(Ok((stream, peer))) => {
                if let Some(entry) = connections.enter(number) {
                    tasks.spawn(converse((stream, peer), entry, router.clone(), stop.clone()));
                }
            }
            // The other side has left already, or there is no file for it.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Some(Err(error)) => {
                tracing::debug!("no connection is taken: {error}");
                connections.metrics.limit("http.files");
                connections.give_up_one();
                tokio::time::sleep(NO_FILE_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.sweep(true);
    while !tasks.is_empty() {
        tokio::select! {
            _ = look.tick() => connections.sweep(true),
            _ = tasks.join_next() => {}
        }
    }
}

/// One connection from its first request to its end.
async fn converse(
    (stream, peer): (TcpStream, SocketAddr),
    entry: ConnectionEntry,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let activity = Arc::clone(&entry.activity);
    let of_request = Arc::clone(&activity);
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let request = request.map(|body| Body::new(RequestStream::new(body, &of_request)));
        let begun = OpenRequest::new(&of_request);
        let answer = routes.call(request);
        async move {
            answer.await.map(|answer| answer.map(|body| Body::new(AnswerStream { body, _begun: begun })))
        }
    });
    let watched = TokioIo::new(MeteredSocket { stream, activity: Arc::clone(&activity) });
    let mut http = http1::Builder::new();
    // Without a timer of its own: heads are timed here.
    http.header_read_timeout(None).max_buf_size(BUFFER_BYTES_MAX);
    let mut conversation = std::pin::pin!(http.serve_connection(watched, service));
    tokio::select! {
        // How it ended concerns the other side alone.
        _ = conversation.as_mut() => return,
        () = activity.close.notified() => return,
        _ = stop.changed() => conversation.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = conversation.as_mut() => {}
        () = activity.close.notified() => {}
    }
    drop(entry);
}

/// A request that is not answered whole.
struct OpenRequest(Arc<Activity>);

impl OpenRequest {
    fn new(activity: &Arc<Activity>) -> OpenRequest {
        let mut state = activity.state();
        state.requests += 1;
        state.head_since = None;
        drop(state);
        OpenRequest(Arc::clone(activity))
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        state.answered = true;
        state.idle_since = Instant::now();
    }
}

/// The body of a request; until its end its connection waits for the other side.
struct RequestStream {
    body: Incoming,
    activity: Arc<Activity>,
}

impl RequestStream {
    fn new(body: Incoming, activity: &Arc<Activity>) -> RequestStream {
        activity.state().body_since = (!body.is_end_stream()).then(Instant::now);
        RequestStream { body, activity: Arc::clone(activity) }
    }
}

impl HttpBody for RequestStream {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.activity.state().body_since = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        self.activity.state().body_since = None;
    }
}

/// The body of an answer, whose end is that of its request.
struct AnswerStream {
    body: Body,
    _begun: OpenRequest,
}

impl HttpBody for AnswerStream {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that writes down what comes and goes.
struct MeteredSocket {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl MeteredSocket {
    /// Notes what became of a write.
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let mut state = self.activity.state();
        match &written {
            Poll::Pending => {
                state.waits.get_or_insert((Instant::now(), 0));
            }
            Poll::Ready(Ok(bytes)) => {
                if let Some((_, sent)) = &mut state.waits {
                    *sent += *bytes as u64;
                }
            }
            Poll::Ready(Err(_)) => {}
        }
        drop(state);
        written
    }
}

impl AsyncRead for MeteredSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            let mut state = self.activity.state();
            if state.requests == 0 {
                state.head_since.get_or_insert_with(Instant::now);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when all there is has been written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity.state().waits = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
