//! The HTTP API: what the store holds and how the server fares, for people, scripts and Prometheus.
//!
//! What can be asked for is the table in [`operations`]; `/` and `/docs` are pages ([`page`]).
//!
//! A list is `{"data":[...],"next":cursor|null}`, or CSV with the cursor in the header `x-next-cursor`. Every error is
//! `application/problem+json`. Questions to the store block, so they run on threads of their own, at most
//! [`QUESTIONS_MAX`] at once; beyond that the answer is 503.
//!
//! Not here: `POST /api/v1/write`, whose router is merged with this one; what a backfill is ([`backfill::Backfills`] is asked for it).

pub mod backfill;
pub mod boundary;
mod catalog;
mod corrections;
mod cursor;
mod error;
pub mod explain;
mod health;
mod list;
mod names;
mod now;
mod openapi;
pub mod operations;
mod page;
mod params;
mod problems;
mod rejects;
pub mod samples;
mod series;
mod status;
#[cfg(test)]
mod tests;
mod unread;
mod windows;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::labels::Labels;
use crate::metrics::{AnswerLabels, Metrics, RouteLabels};
use crate::status::ServerStatus;
use crate::store::budget::Budget;
use crate::store::{OpenWindowSource, Store};
use crate::threads::{Pool, TaskError};
use backfill::Backfills;
use error::Kind;
pub use error::{Problem, shown};
pub use unread::drain_unread;

/// Longest time an answer may take that is not the store's alone; the store has the same bound of its own.
const DEADLINE: Duration = Duration::from_secs(10);

/// Most questions to the store that are answered at once.
pub const QUESTIONS_MAX: usize = 16;

/// Most of those that ask how everything is, which have to be answered when it is not well.
const BESIDE_MAX: usize = 4;

/// Threads that this takes: one for each question, and one that begins backfills.
pub const THREADS: usize = QUESTIONS_MAX + BESIDE_MAX + 1;

/// What the API asks the rest of the server.
pub trait ServerState: explain::Workings {
    /// Whether the store holds every epoch that was found at start.
    ///
    /// # Errors
    /// A sentence saying what is still to come.
    fn ready(&self) -> Result<(), String>;

    /// How far everything is; the store's figures are added.
    fn status(&self) -> ServerStatus;

    /// Called before metrics are read, to bring up to date those that nobody pushes.
    fn before_scrape(&self) {}
}

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    store: Arc<dyn Store>,
    server: Arc<dyn ServerState>,
    metrics: Arc<Metrics>,
    backfills: Arc<dyn Backfills>,
    latest: Arc<dyn OpenWindowSource>,
    raw: Arc<dyn samples::SampleSource>,
    labels: Arc<Labels>,
    questions: Arc<Semaphore>,
    /// Of [`Api::ask_beside`].
    beside: Arc<Semaphore>,
    threads: Pool,
    /// Backfills that begin.
    beginning: Arc<Semaphore>,
}

/// Whom the API asks.
pub struct Deps {
    /// For what is stored.
    pub store: Arc<dyn Store>,
    /// For what is not closed yet.
    pub latest: Arc<dyn OpenWindowSource>,
    /// For samples.
    pub raw: Arc<dyn samples::SampleSource>,
    /// For series.
    pub labels: Arc<Labels>,
    /// For how the server fares.
    pub server: Arc<dyn ServerState>,
    /// For backfills.
    pub backfills: Arc<dyn Backfills>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Which answer: [`THREADS`] of them.
    pub threads: Pool,
}

impl Api {
    /// An API over those who know.
    pub fn new(asked: Deps) -> Api {
        let Deps { store, latest, raw, labels, server, backfills, metrics, threads } = asked;
        let questions = Arc::new(Semaphore::new(QUESTIONS_MAX));
        let beside = Arc::new(Semaphore::new(BESIDE_MAX));
        let beginning = Arc::new(Semaphore::new(1));
        Api { store, server, metrics, backfills, latest, raw, labels, questions, beside, threads, beginning }
    }

    /// Answers a question to the store on a thread that may block: reading parameters, whose regexes may be costly, and
    /// writing the answer belong to it. It counts as one of [`QUESTIONS_MAX`] until its answer is sent.
    async fn ask<T: IntoResponse>(
        &self,
        question: impl FnOnce(&dyn Store, &Budget) -> Result<T, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let written =
            |store: &dyn Store, budget: &Budget| question(store, budget).map(IntoResponse::into_response);
        let (answer, permit) = self.ask_within(&self.questions, QUESTIONS_MAX, written).await?;
        Ok(hold(answer, permit).await)
    }

    /// The same for what is asked when all the others have to wait.
    async fn ask_beside<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Store) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let question = |store: &dyn Store, _: &Budget| question(store);
        self.ask_within(&self.beside, BESIDE_MAX, question).await.map(|(answer, _)| answer)
    }

    /// An answer, and what has to be held until it is sent.
    async fn ask_within<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        most: usize,
        question: impl FnOnce(&dyn Store, &Budget) -> Result<T, Problem> + Send + 'static,
    ) -> Result<(T, OwnedSemaphorePermit), Problem> {
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            self.metrics.limit("api.questions");
            let detail = format!("at most {most} questions are answered at once; try again");
            return Err(Problem::unavailable(detail));
        };
        let store = self.store.clone();
        // Who waits here is dropped with the connection.
        let waiting = ClientWatch::default();
        let budget = Budget::of(DEADLINE).until(Arc::clone(&waiting.gone));
        // The permit is held until the store is done, also if the client has gone.
        let answer = self.threads.run(move || (question(store.as_ref(), &budget), permit)).await;
        let (answer, permit) = answer.map_err(|error| match error {
            TaskError::Busy => {
                self.metrics.limit("api.questions");
                Problem::unavailable("no thread is free; try again".to_owned())
            }
            TaskError::Panicked => Problem::internal("a question to the store panicked".to_owned()),
        })?;
        let answer = answer.inspect_err(|problem| match (problem.limit(), problem.kind()) {
            (Some(limit), _) => self.metrics.limit(limit),
            (None, Kind::Deadline) => self.metrics.limit("api.deadline"),
            (None, Kind::TooMuch) => self.metrics.limit("api.rows"),
            _ => {}
        })?;
        Ok((answer, permit))
    }
}

/// Whoever waits for an answer; without him it is not needed any more.
#[derive(Default)]
struct ClientWatch {
    gone: Arc<AtomicBool>,
}

impl Drop for ClientWatch {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

/// The bytes of an answer, and what is held until the last of them is sent.
struct AnswerBody {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for AnswerBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer that holds a permit for as long as its bytes are in memory.
async fn hold(answer: Response, permit: OwnedSemaphorePermit) -> Response {
    let (head, body) = answer.into_parts();
    // It is whole already, so nothing is waited for and nothing copied.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return Problem::internal("an answer is not whole".to_owned()).into_response();
    };
    Response::from_parts(head, Body::from(Bytes::from_owner(AnswerBody { bytes, _permit: permit })))
}

/// The routes of this API. It has the fallback for unknown paths: merge routers without one into it.
pub fn router(api: Api) -> Router {
    let mut router = Router::new();
    for (operation, handler) in [
        (&operations::HEALTHY, get(health::healthy)),
        (&operations::READY, get(health::ready)),
        (&operations::METRICS, get(health::metrics)),
        (&operations::NAMES, get(names::list)),
        (&operations::CATALOG, get(catalog::list)),
        (&operations::WINDOWS, get(windows::list)),
        (&operations::WINDOWS_OF_SERIES, get(windows::of_series)),
        (&operations::CORRECTIONS, get(corrections::show)),
        (&operations::EXPLAIN, get(explain::show)),
        (&operations::SAMPLES, get(samples::show)),
        (&operations::REJECTS, get(rejects::list)),
        (&operations::BEGIN_BACKFILL, post(backfill::begin)),
        (&operations::BACKFILL_SHOWN, get(backfill::show).delete(backfill::cancel)),
        (&operations::STATUS, get(status::show)),
        (&operations::PROBLEMS, get(problems::list)),
        (&operations::PROBLEM, get(problems::show)),
        (&operations::OPENAPI, get(openapi::show)),
    ] {
        let path = operation.path;
        let measured = from_fn_with_state((api.metrics.clone(), path), measure);
        let others =
            async move |method: Method, uri: Uri| error::only(&operations::allowed(path), &method, &uri);
        router = router.route(path, handler.fallback(others).layer(measured));
    }
    let page = page::router(&api.metrics);
    let other = from_fn_with_state((api.metrics.clone(), "other"), measure);
    let unknown = get(error::no_such_path).fallback(error::no_such_path).layer(other);
    router.fallback_service(unknown.with_state(api.clone())).with_state(api).merge(page)
}

/// Counts and times the answers of one route.
async fn measure(
    State((metrics, route)): State<(Arc<Metrics>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let begin = Instant::now();
    let response = next.run(request).await.into_response();
    metrics.request_seconds.get_or_create(&RouteLabels { route }).observe(begin.elapsed().as_secs_f64());
    metrics.responses.get_or_create(&AnswerLabels { route, code: response.status().as_u16() }).inc();
    response
}
