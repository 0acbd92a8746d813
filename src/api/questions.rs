//! How questions are answered: what the handlers share, and the threads that a question to the store runs on.
//!
//! Questions to the store block, so they run on threads of their own, at most [`QUESTIONS_MAX`] at once; beyond that the answer
//! is 503.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Kind, Problem};
use super::server::{Backfills, SampleSource, ServerState};
use crate::labels::Labels;
use crate::metrics::Metrics;
use crate::store::budget::Budget;
use crate::store::{OpenWindowSource, Store};
use crate::threads::{Pool, TaskError};

/// Longest time an answer may take that is not the store's alone; the store has the same bound of its own.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Most questions to the store that are answered at once.
pub const QUESTIONS_MAX: usize = 16;

/// Most questions about the status that are answered at once; they have a bound of their own, because they matter most when the
/// others are stuck.
const STATUS_QUESTIONS_MAX: usize = 4;

/// Threads that this takes: one for each question, and one that begins backfills.
pub const THREADS: usize = QUESTIONS_MAX + STATUS_QUESTIONS_MAX + 1;

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    pub(super) store: Arc<dyn Store>,
    pub(super) server: Arc<dyn ServerState>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) backfills: Arc<dyn Backfills>,
    pub(super) latest: Arc<dyn OpenWindowSource>,
    pub(super) raw: Arc<dyn SampleSource>,
    pub(super) labels: Arc<Labels>,
    pub(super) questions: Arc<Semaphore>,
    /// Of [`Api::ask_status`].
    pub(super) status_questions: Arc<Semaphore>,
    pub(super) threads: Pool,
    /// One backfill begins at a time.
    pub(super) backfill_start: Arc<Semaphore>,
}

/// What the API is built on.
pub struct Deps {
    /// For what is stored.
    pub store: Arc<dyn Store>,
    /// For what is not closed yet.
    pub latest: Arc<dyn OpenWindowSource>,
    /// For samples.
    pub raw: Arc<dyn SampleSource>,
    /// For series.
    pub labels: Arc<Labels>,
    /// For how the server fares.
    pub server: Arc<dyn ServerState>,
    /// For backfills.
    pub backfills: Arc<dyn Backfills>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Threads that questions run on, [`THREADS`] of them.
    pub threads: Pool,
}

impl Api {
    /// An API that is built on these.
    pub fn new(deps: Deps) -> Api {
        let Deps { store, latest, raw, labels, server, backfills, metrics, threads } = deps;
        let questions = Arc::new(Semaphore::new(QUESTIONS_MAX));
        let status_questions = Arc::new(Semaphore::new(STATUS_QUESTIONS_MAX));
        let backfill_start = Arc::new(Semaphore::new(1));
        Api {
            store,
            server,
            metrics,
            backfills,
            latest,
            raw,
            labels,
            questions,
            status_questions,
            threads,
            backfill_start,
        }
    }

    /// Answers a question to the store on a thread that may block: reading parameters, whose regexes may be costly, and
    /// writing the answer belong to it. It counts as one of [`QUESTIONS_MAX`] until its answer is sent.
    pub async fn ask<T: IntoResponse>(
        &self,
        question: impl FnOnce(&dyn Store, &Budget) -> Result<T, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let written =
            |store: &dyn Store, budget: &Budget| question(store, budget).map(IntoResponse::into_response);
        let (answer, permit) = self.ask_within(&self.questions, QUESTIONS_MAX, written).await?;
        Ok(hold(answer, permit).await)
    }

    /// As [`Api::ask`], for the status: it is answered also while all other questions have to wait.
    pub async fn ask_status<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Store) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let question = |store: &dyn Store, _: &Budget| question(store);
        self.ask_within(&self.status_questions, STATUS_QUESTIONS_MAX, question)
            .await
            .map(|(answer, _)| answer)
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
        // Dropped with the connection.
        let client = ClientWatch::default();
        let budget = Budget::of(DEADLINE).until(Arc::clone(&client.cancelled));
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

/// Cancels a question when it is dropped, as it is with the connection of whoever asked.
#[derive(Default)]
struct ClientWatch {
    cancelled: Arc<AtomicBool>,
}

impl Drop for ClientWatch {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
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
