//! Raw samples for whoever asks: from the workers' rings, and from the servers that are configured.

use std::time::Instant;

use tidewatch_dataflows::rows::inspect::{StepsView, Unavailable};
use tidewatch_dataflows::sample::{AT_MS_MIN, SeriesId};

use super::stack::Stack;
use crate::api::server::{OlderError, OlderSamples, RingSamples, SAMPLES_MAX, SampleSource};
use crate::promql;
use crate::source::query::client::{PrometheusClient, QueryAnswer, QueryError};
use std::sync::Arc;

/// A server is asked for so much at once: a day of one series is small to it.
const PIECE_MS: i64 = 86_400_000;

/// Who has samples of a running server.
pub struct RawSource {
    stack: Arc<Stack>,
    clients: Vec<Arc<PrometheusClient>>,
}

impl RawSource {
    /// Of these workers and these servers.
    pub fn new(stack: Arc<Stack>, clients: Vec<Arc<PrometheusClient>>) -> RawSource {
        RawSource { stack, clients }
    }
}

impl SampleSource for RawSource {
    fn ring_samples(&self, series: SeriesId) -> Result<Option<RingSamples>, String> {
        let raw = self.stack.questions.raw(series).map_err(|error| error.to_string())?;
        let raw = held(raw)?.filter(|raw| !raw.bootstrapping);
        Ok(raw.map(|raw| {
            let samples = raw.at_ms.into_iter().zip(raw.value).collect();
            RingSamples { after_ms: raw.whole_after_ms, samples }
        }))
    }

    fn steps(&self, series: SeriesId) -> Result<Option<StepsView>, String> {
        let steps = self.stack.questions.steps(series).map_err(|error| error.to_string())?;
        Ok(held(steps)?.filter(|steps| !steps.bootstrapping))
    }

    fn older(
        &self,
        labels: &[(String, String)],
        after_ms: i64,
        to_ms: i64,
        deadline: Instant,
    ) -> Result<OlderSamples, OlderError> {
        let (mut none, mut failed) = (Err(OlderError::NoServer), None);
        for client in &self.clients {
            let samples = match ask(client, labels, (after_ms, to_ms), deadline) {
                Ok(samples) => samples,
                // Another server may have them; that nobody has them cannot be said then.
                Err(error @ OlderError::Failed(..)) => {
                    failed.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let older = OlderSamples { server: client.url().to_string(), samples };
            if !older.samples.is_empty() {
                return Ok(older);
            }
            none = Ok(older);
        }
        failed.map_or(none, Err)
    }
}

/// What the workers hold of a series; none if they do not know it, or it takes a bootstrap.
fn held<T>(found: Result<T, Unavailable>) -> Result<Option<T>, String> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Unavailable::Unknown | Unavailable::Bootstrapping) => Ok(None),
        Err(Unavailable::Between) => {
            Err("the workers are inside an epoch of this series; try again".to_owned())
        }
    }
}

/// The samples of one series in `(after, to]`, in order.
fn ask(
    client: &PrometheusClient,
    labels: &[(String, String)],
    (after_ms, to_ms): (i64, i64),
    deadline: Instant,
) -> Result<Vec<(i64, f64)>, OlderError> {
    let selector = promql::selector(labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut samples: Vec<(i64, f64)> = Vec::new();
    // Nothing older is ever taken.
    let (mut from_ms, mut piece_ms) = (after_ms.max(AT_MS_MIN - 1), PIECE_MS);
    while from_ms < to_ms {
        let end_ms = to_ms.min(from_ms.saturating_add(piece_ms));
        let left = deadline.checked_duration_since(Instant::now()).ok_or(OlderError::Late)?;
        let answer = client.query(&format!("{selector}[{}ms]", end_ms - from_ms), end_ms, left);
        // A part of the samples would look like all of them.
        let answer = answer.and_then(QueryAnswer::whole);
        if piece_ms > PIECE_MS && matches!(answer, Err(QueryError::TooMuch(_))) {
            piece_ms = PIECE_MS;
            continue;
        }
        let answer = answer.map_err(|error| match error {
            QueryError::TooMuch(_) => OlderError::TooMany,
            other if Instant::now() >= deadline => {
                tracing::debug!("{other}");
                OlderError::Late
            }
            other => OlderError::Failed(client.url().to_string(), other.to_string()),
        })?;
        // Years without samples are passed over in few questions.
        piece_ms = if answer.is_empty() { piece_ms.saturating_mul(2) } else { PIECE_MS };
        for mut series in answer {
            series.labels.sort();
            // A selector takes series with further labels as well.
            if series.labels == labels {
                samples.extend(
                    series.samples.iter().filter(|(at_ms, _)| (from_ms + 1..=end_ms).contains(at_ms)),
                );
            }
        }
        if samples.len() > SAMPLES_MAX {
            return Err(OlderError::TooMany);
        }
        from_ms = end_ms;
    }
    samples.sort_by_key(|(at_ms, _)| *at_ms);
    Ok(samples)
}
