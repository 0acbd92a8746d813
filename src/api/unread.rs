//! Answers that are given before the body of their request was read: 403, 404, 405, 413, 415, 503.
//!
//! A connection that is closed while bytes still come is reset, and then senders report a broken connection where they were
//! told what is wrong. So the rest is read and thrown away first, and the connection goes on. What is too much for that is
//! answered at once with `Connection: close`, and read on for a while, so that the answer is there before the end.
//!
//! Not here: bodies that are wanted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, EXPECT};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::metrics::Metrics;

/// Most bytes that are thrown away for a connection to go on.
const UNREAD_BYTES_MAX: u64 = 64 << 20;
/// How long an answer waits for them.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection that is to be closed is read on.
const LINGER: Duration = Duration::from_secs(5);

/// What a handler has left of a body.
struct Remainder {
    body: Body,
    /// Whether the handler has read any of it.
    read_from: bool,
}

/// A body that is lent to a handler: what is left of it comes back when the handler lets go.
struct BodyLease {
    body: Body,
    read_from: bool,
    back: Option<oneshot::Sender<Remainder>>,
}

impl HttpBody for BodyLease {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.read_from = true;
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            // It has ended or broken off: nothing is left.
            self.back = None;
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

impl Drop for BodyLease {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            let remainder = Remainder { body: std::mem::take(&mut self.body), read_from: self.read_from };
            // Who has gone wants no answer.
            drop(back.send(remainder));
        }
    }
}

/// Reads what a handler has left of a body before its answer goes out.
pub async fn drain_unread(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let asks_first = request.headers().contains_key(EXPECT);
    let (back, mut remainder) = oneshot::channel();
    let lease = |body| Body::new(BodyLease { body, read_from: false, back: Some(back) });
    let mut response = next.run(request.map(lease)).await;
    let Ok(Remainder { mut body, read_from }) = remainder.try_recv() else { return response };
    if asks_first && !read_from {
        // The sender waits for leave to send, and gets none.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    // A route that has waited for a body in vain says so itself.
    let given_up = response.headers().get(CONNECTION).is_some_and(|value| value == "close");
    if !given_up {
        if let Ok(true) = timeout(UNREAD_TIME_MAX, discard(&mut body, UNREAD_BYTES_MAX)).await {
            return response;
        }
        metrics.limit("http.unread_body");
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    tokio::spawn(async move { timeout(LINGER, discard(&mut body, u64::MAX)).await });
    response
}

/// Reads a body to its end, or until it breaks off. False if that is more than so many bytes.
async fn discard(body: &mut Body, bytes_max: u64) -> bool {
    let mut left = bytes_max;
    // What is declared need not be tried.
    while body.size_hint().lower() <= left {
        let Some(Ok(frame)) = body.frame().await else { return true };
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        match left.checked_sub(length) {
            Some(less) => left = less,
            None => return false,
        }
    }
    false
}
