//! `GET /api/v1/windows/{series}/explain`: why a number is what it is.
//!
//! Three witnesses are asked: the store for the row and its revisions, the workers for the panes they still hold, and the
//! settings for what may still happen. What each of them cannot know any more is said in words.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};
use tidewatch_dataflows::rows::inspect::{Explanation, PaneView};
use tidewatch_dataflows::settings::{Settings, Window, duration};

use super::operation::{AnswerKind, BARE, Operation, Param, SERIES_PROBLEMS};
use super::params::{Params, SERIES, START, WINDOW};
use super::series::{SeriesPath, find, row};
use super::server::SeriesState;
use super::{Api, Problem};
use crate::store::budget::Budget;
use crate::store::record::{ColumnShape, Rfc3339, write_json};
use crate::store::row::{SeriesRow, WindowRow};
use crate::store::{Correction, Store, StoredKey};

pub const EXPLAIN: Operation = Operation {
    id: "explain",
    path: "/api/v1/windows/{series}/explain",
    summary: "Why a number is what it is",
    about: "One row with the panes it is made of, its revisions, and in words what may still happen to it.",
    params: &[
        SERIES,
        Param { required: true, repeated: false, ..WINDOW }
            .says("The length of a window of the configuration."),
        END_OF_KEY,
    ],
    answer: AnswerKind::Json("Explanation"),
    problems: SERIES_PROBLEMS,
    ..BARE
};

const END_OF_KEY: Param = Param { name: "at", ..START }
    .required()
    .says("The end of the window, a multiple of its hop: RFC 3339 or Unix seconds.");

/// Explains one key of one series.
pub async fn show(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(series): SeriesPath,
) -> Result<Response, Problem> {
    let asked = api.clone();
    // The workers answer between their steps, so this may wait: on the same thread as the store.
    api.ask(move |store, budget| explain(&asked, store, budget, &uri, &series).map(Json)).await
}

fn explain(api: &Api, store: &dyn Store, budget: &Budget, uri: &Uri, series: &str) -> Result<Value, Problem> {
    let server = &*api.server;
    let settings = server.settings();
    let (window, at_ms) = Params::read(uri, &EXPLAIN)?.key(&settings.windows)?;
    let series = find(api, store, budget, series)?;
    let stored = store.explain(series, window.length_ms, at_ms)?;
    let state = server.explain(series, window.length_ms, at_ms).map_err(Problem::unavailable)?;
    let row = row(stored.series.clone(), server, series);
    Ok(ExplainedKey { settings: &settings, window, at_ms, stored: &stored, state: &state }.shown(&row))
}

/// One key and everything that is known of it.
struct ExplainedKey<'a> {
    settings: &'a Settings,
    window: Window,
    at_ms: i64,
    stored: &'a StoredKey,
    state: &'a SeriesState,
}

impl ExplainedKey<'_> {
    fn shown(&self, series: &SeriesRow) -> Value {
        let held = self.explanation();
        let labels: Value = serde_json::from_str(&series.labels).unwrap_or_default();
        let row = self.stored.row.map(|stats| {
            let (row, mut text) = (WindowRow { series: series.clone().into(), stats }, Vec::new());
            // Writing to memory cannot fail, and what is written is JSON.
            let written = write_json(&row, ColumnShape::default(), &mut text).ok();
            written.and_then(|()| serde_json::from_slice(&text).ok()).unwrap_or(Value::Null)
        });
        let panes: Option<Vec<Value>> = held.map(|held| held.panes.iter().map(pane).collect());
        let newest_ms = match self.state {
            SeriesState::Held(held) => Some(held.newest_ms),
            SeriesState::Freed { newest_ms } => Some(*newest_ms),
            SeriesState::Unknown => None,
        };
        json!({
            "series": series.series.to_string(),
            "name": series.name,
            "labels": labels,
            "window": duration(self.window.length_ms),
            "hop": duration(self.window.hop_ms),
            "start": time(self.start_ms()),
            "at": time(self.at_ms),
            "at_ms": self.at_ms,
            "row": row,
            "revisions": revisions(&self.stored.corrections),
            "samples_added": self.added(),
            "newest": newest_ms.map(time),
            "closed": held.map(|held| self.at_ms <= held.closed_ms),
            "correctable": self.correctable(),
            "samples_in_panes": held.map(samples),
            "panes": panes,
            "worker_epoch": held.map(|held| held.epoch),
            "store_epoch": self.stored.epoch,
            "why": self.why(),
        })
    }

    fn explanation(&self) -> Option<&Explanation> {
        match self.state {
            SeriesState::Held(held) => Some(held),
            _ => None,
        }
    }

    fn start_ms(&self) -> i64 {
        self.at_ms - self.window.length_ms
    }

    /// Samples that came after the first answer.
    fn added(&self) -> Option<u32> {
        let row = self.stored.row?;
        match self.stored.corrections.first() {
            Some(first) if first.revision == 0 => Some(row.count.saturating_sub(first.count)),
            None if row.revision == 0 => Some(0),
            _ => None,
        }
    }

    /// Whether a sample may still change it.
    fn correctable(&self) -> bool {
        self.explanation().is_some_and(|held| {
            held.newest_ms.saturating_sub(self.at_ms) <= self.settings.allowed_lateness_ms
        })
    }

    /// In words: why it is as it is, and what is missing.
    fn why(&self) -> Vec<String> {
        let mut why = Vec::new();
        match self.state {
            SeriesState::Held(held) => self.why_held(held, &mut why),
            SeriesState::Freed { newest_ms } => why.push(format!(
                "the series was silent for so long that its state is gone; its newest sample was at {}, and no key up to it changes",
                time(*newest_ms)
            )),
            SeriesState::Unknown => why.push("the workers hold no sample of this series".to_owned()),
        }
        if let Some(row) = &self.stored.row {
            match (row.revision, self.stored.corrections.as_slice()) {
                (0, _) => why.push("the row is the first answer to this key".to_owned()),
                (_, []) => why.push(
                    "its earlier revisions are no longer kept, or a backfill wrote it where no row was"
                        .to_owned(),
                ),
                (_, [first, ..]) if first.revision > 0 => {
                    why.push(
                        "its first revisions are no longer kept, so samples_added is not known".to_owned(),
                    );
                }
                _ => {}
            }
        }
        why
    }

    fn why_held(&self, held: &Explanation, why: &mut Vec<String>) {
        let (lateness, idle_timeout) =
            (duration(self.settings.allowed_lateness_ms), duration(self.settings.idle_timeout_ms));
        if held.bootstrapping {
            why.push(
                "the series takes a bootstrap now; its keys are answered when that has ended".to_owned(),
            );
        } else if self.at_ms > held.closed_ms {
            why.push(format!(
                "the key is not closed: it closes when a sample newer than it comes, or after {idle_timeout} of silence"
            ));
        }
        if held.newest_ms <= self.start_ms() {
            why.push(format!("no sample of the window has come: the newest is at {}", time(held.newest_ms)));
        }
        if let Some(from) = held.withheld_ms.filter(|from| self.start_ms() < *from) {
            why.push(format!(
                "withheld by the workers: the window begins before {}, up to where samples of the series were forgotten",
                time(from)
            ));
        }
        if let Some(from) = held.publish_from_ms.filter(|from| self.at_ms < *from) {
            why.push(format!(
                "before {}, from where on keys are published that a bootstrap bootstrapped; only keys published before it are",
                time(from)
            ));
        }
        let gone = self.start_ms() < held.held_from_ms;
        if gone {
            why.push(format!("panes that begin before {} are no longer held", time(held.held_from_ms)));
        } else if held.panes.is_empty() && held.newest_ms > self.start_ms() {
            why.push("the panes of the window hold no sample".to_owned());
        }
        let closed = self.at_ms <= held.closed_ms && !held.bootstrapping && !gone;
        match &self.stored.row {
            Some(row) if closed && u64::from(row.count) != samples(held) => why.push(format!(
                "the row has {} samples and the panes {}: the store is behind the workers, or a backfill wrote the row",
                row.count,
                samples(held)
            )),
            None if closed && !held.panes.is_empty() && self.stored.epoch.is_none_or(|e| e < held.epoch) => {
                why.push("the store is behind the workers; the row may be on its way".to_owned());
            }
            None => why.push("the store holds no row of this key".to_owned()),
            Some(_) => {}
        }
        match self.correctable() {
            // Said above.
            true if self.at_ms > held.closed_ms => {}
            true => why.push(format!(
                "a late sample may still change it: it ends at most {lateness} before the newest"
            )),
            false => why.push(format!(
                "no sample changes it any more: it ends more than {lateness} before the newest"
            )),
        }
    }
}

fn samples(held: &Explanation) -> u64 {
    held.panes.iter().map(|pane| u64::from(pane.count)).sum()
}

fn pane(pane: &PaneView) -> Value {
    json!({
        "start": time(pane.start_ms),
        "end": time(pane.end_ms),
        "count": pane.count,
        "min": pane.min,
        "max": pane.max,
        "avg": pane.avg,
        "raw": pane.raw,
    })
}

/// Revisions with what each added to the one before.
fn revisions(corrections: &[Correction]) -> Vec<Value> {
    let mut before: Option<&Correction> = None;
    let shown = corrections.iter().map(|one| {
        let added = before.filter(|before| before.revision + 1 == one.revision);
        let added = added.map(|before| i64::from(one.count) - i64::from(before.count));
        before = Some(one);
        // Without an epoch it may be that only the hour is known.
        let hour = one.epoch.is_none() && one.written_ms % 3_600_000 == 0;
        json!({
            "revision": one.revision,
            "epoch": one.epoch,
            "written_at": (!hour).then(|| time(one.written_ms)),
            "written_in_hour_of": hour.then(|| time(one.written_ms)),
            "count": one.count,
            "added": added,
        })
    });
    shown.collect()
}

fn time(ms: i64) -> String {
    Rfc3339::from_ms(ms).map_or_else(|| ms.to_string(), |time| time.to_string())
}
