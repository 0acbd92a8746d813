//! The API over a loopback port, on a store of made-up rows.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use serde_json::{Value, json};
use tidewatch_dataflows::rows::inspect::{Explanation, OpenWindows, PaneView, StepsView};
use tidewatch_dataflows::rows::{Reject, WindowStats};
use tidewatch_dataflows::sample::{Reason, SeriesId};
use tidewatch_dataflows::settings::Settings;

use super::error::Kind;
use super::operation::Verb;
use super::server::{
    BackfillOrder, BackfillRefusal, Backfills, OlderError, OlderSamples, RingSamples, SampleSource,
    SeriesState, ServerName, ServerState, Workings,
};
use super::write::WRITE;
use super::{Api, Deps, QUESTIONS_MAX, operations, router};
use crate::labels::{Labels, Limits};
use crate::metrics::Metrics;
use crate::status::{PartialReport, ServerStatus, SinkStatus, SourceReport, UnreadReport, WindowNames};
use crate::store::budget::{Budget, BudgetExceeded};
use crate::store::testing::labels_of;
use crate::store::testing::{HOUR_MS, ModelStore, T0, TempDir, batch_of, series, stats};
use crate::store::{LabelPairs, NoAnswer, OpenWindowSource, STATISTICS, Store, StoreError};

struct Fake {
    ready: Result<(), String>,
    /// How the budgets of questions ended that were never answered.
    over: mpsc::Sender<BudgetExceeded>,
}

/// Windows of this length are never told, those of the other are many.
const NEVER_MS: i64 = 7_000;
const MANY_MS: i64 = 9_000;

impl ServerState for Fake {
    fn ready(&self) -> Result<(), String> {
        self.ready.clone()
    }

    fn status(&self) -> ServerStatus {
        ServerStatus { samples: 5, ..ServerStatus::default() }
    }
}

impl Workings for Fake {
    fn settings(&self) -> Settings {
        Settings::default()
    }

    fn labels(&self, id: SeriesId) -> Option<LabelPairs> {
        (0..2).find(|i| series(*i) == id).and_then(|_| labels_of(id))
    }

    fn explain(&self, id: SeriesId, window_ms: i64, at_ms: i64) -> Result<SeriesState, String> {
        match (0..9).find(|i| series(*i) == id) {
            Some(0) => Ok(SeriesState::Freed { newest_ms: T0 }),
            Some(1) => Ok(SeriesState::Held(Box::new(held(window_ms, at_ms)))),
            Some(2) => Err("not now".to_owned()),
            _ => Ok(SeriesState::Unknown),
        }
    }
}

/// A server's view whose newest sample is a minute after an hour of panes.
fn held(window_ms: i64, at_ms: i64) -> Explanation {
    let pane = |i: i64| PaneView {
        start_ms: at_ms - i * 60_000,
        end_ms: at_ms - (i - 1) * 60_000,
        count: 1,
        min: 1.0,
        max: 2.0,
        avg: 1.5,
        raw: i == 1,
    };
    Explanation {
        epoch: 2,
        newest_ms: T0 + 181 * 60_000,
        last_applied_ms: T0,
        closed_ms: T0 + 180 * 60_000,
        bootstrapping: false,
        withheld_ms: None,
        publish_from_ms: None,
        held_from_ms: T0 + 120 * 60_000 - window_ms,
        panes: (1..=3).rev().map(pane).collect(),
    }
}

/// Ten samples, a minute apart, of which the ring holds the last five; the server has them all, and some more.
impl SampleSource for Fake {
    fn ring_samples(&self, _: SeriesId) -> Result<Option<RingSamples>, String> {
        let samples = (5..10).map(|i| (T0 + i * 60_000, i as f64)).collect();
        Ok(Some(RingSamples { after_ms: T0 + 5 * 60_000, samples }))
    }

    /// Of the first series an hourly season with a gap, of the second none; the third cannot be looked at now.
    fn steps(&self, id: SeriesId) -> Result<Option<StepsView>, String> {
        match (0..9).find(|i| series(*i) == id) {
            Some(1) => Ok(None),
            Some(2) => Err("not now".to_owned()),
            _ => Ok(Some(super::analysis::tests::hourly())),
        }
    }

    fn older(
        &self,
        _: &[(String, String)],
        after_ms: i64,
        to_ms: i64,
        _: Instant,
    ) -> Result<OlderSamples, OlderError> {
        match after_ms {
            5 => Err(OlderError::Late),
            6 => Err(OlderError::TooMany),
            7 => Err(OlderError::Failed("http://p".to_owned(), "it is gone".to_owned())),
            8 => Err(OlderError::NoServer),
            _ => {
                let samples = (-5..10).map(|i| (T0 + i * 60_000, i as f64));
                let samples = samples.filter(|(at_ms, _)| *at_ms <= to_ms).collect();
                Ok(OlderSamples { server: "http://p".to_owned(), samples })
            }
        }
    }
}

/// Every series has an open hour and three, as of epoch 7.
impl OpenWindowSource for Fake {
    fn open(
        &self,
        ids: &[SeriesId],
        lengths_ms: &[i64],
        budget: &Budget,
    ) -> Result<Vec<OpenWindows>, NoAnswer> {
        if lengths_ms == [NEVER_MS] {
            let over = std::iter::repeat_with(|| budget.check()).find_map(Result::err).unwrap();
            self.over.send(over.clone()).unwrap();
            return Err(NoAnswer::Over(over));
        }
        if lengths_ms == [MANY_MS] {
            let rows = |id: &SeriesId| (0..10_000).map(|n| stats(*id, MANY_MS + n, T0, 0, 1.0)).collect();
            return Ok(ids.iter().map(|id| OpenWindows { epoch: 7, rows: rows(id) }).collect());
        }
        let rows = |id: &SeriesId| {
            let lengths = [3 * HOUR_MS, HOUR_MS].into_iter();
            let asked = lengths.filter(|length| lengths_ms.is_empty() || lengths_ms.contains(length));
            asked.map(|window_ms| stats(*id, window_ms, T0, 0, 1.0)).collect()
        };
        self.ready.clone().map_err(NoAnswer::Later)?;
        Ok(ids.iter().map(|id| OpenWindows { epoch: 7, rows: rows(id) }).collect())
    }
}

impl Backfills for Fake {
    fn begin(&self, order: BackfillOrder) -> Result<Value, BackfillRefusal> {
        match order.source {
            Some(ServerName::Place(7)) => Err(BackfillRefusal::Running("7".to_owned())),
            Some(ServerName::Place(8)) => Err(BackfillRefusal::Later("not yet".to_owned())),
            Some(ServerName::Place(9)) => {
                Err(BackfillRefusal::Source("one of these".to_owned(), "9".to_owned()))
            }
            _ => Ok(json!({"id": "1", "order": format!("{order:?}")})),
        }
    }

    fn show(&self, id: &str) -> Option<Value> {
        (id == "1").then(|| json!({"id": "1", "state": "running"}))
    }

    fn cancel(&self, id: &str) -> Option<Value> {
        self.show(id)
    }

    fn now_ms(&self) -> i64 {
        T0 + HOUR_MS
    }
}

/// An API being served, and the runtime that serves it.
pub struct Served {
    base: String,
    api: Api,
    agent: reqwest::blocking::Client,
    runtime: tokio::runtime::Runtime,
    labels: Arc<Labels>,
    /// What [`Fake::over`] sends.
    over: mpsc::Receiver<BudgetExceeded>,
}

pub struct Reply {
    pub status: u16,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub fn serve(store: Arc<dyn Store>, ready: Result<(), String>) -> Served {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (over_to, over) = mpsc::channel();
    let fake = Arc::new(Fake { ready, over: over_to });
    let metrics = Arc::new(Metrics::new());
    let folder = TempDir::new();
    let labels = Labels::open(folder.path(), Limits::default(), Arc::clone(&metrics)).unwrap();
    for i in 0..4 {
        let pairs = labels_of(series(i)).unwrap();
        let mut pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
        labels.intern(&mut pairs, None, 1).unwrap();
    }
    let labels = Arc::new(labels);
    let api = Api::new(Deps {
        store,
        latest: Arc::clone(&fake) as Arc<dyn OpenWindowSource>,
        raw: Arc::clone(&fake) as Arc<dyn SampleSource>,
        labels: Arc::clone(&labels),
        server: Arc::clone(&fake) as Arc<dyn ServerState>,
        backfills: fake,
        metrics: Arc::clone(&metrics),
        threads: crate::threads::Pool::start("api", super::THREADS).unwrap(),
    });
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    // As in the program: a connection goes on after an answer that came before the body.
    let routes =
        router(api.clone()).layer(axum::middleware::from_fn_with_state(metrics, super::drain_unread));
    runtime.spawn(async move { axum::serve(listener, routes).await });
    let agent = crate::source::query::client::testing::plain_client();
    Served { base, api, agent, runtime, labels, over }
}

impl Served {
    pub fn get(&self, path: &str) -> Reply {
        self.get_as(path, "*/*")
    }

    fn get_as(&self, path: &str, accept: &str) -> Reply {
        let url = format!("{}{path}", self.base);
        reply(self.agent.get(url).header("accept", accept).send().unwrap())
    }

    /// All rows of a list, page by page.
    fn list(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{separator}limit={limit}{cursor}"));
            assert_eq!(
                (page.status, page.header("content-type")),
                (200, "application/json"),
                "{}",
                page.body
            );
            let page = page.json();
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= limit);
            rows.extend(data.iter().cloned());
            match &page["next"] {
                Value::Null => return rows,
                next => cursor = format!("&cursor={}", next.as_str().unwrap()),
            }
        }
    }

    pub fn problem(&self, path: &str) -> (u16, String) {
        let reply = self.get(path);
        assert_eq!(reply.header("content-type"), "application/problem+json", "{path}: {}", reply.body);
        let problem = reply.json();
        assert_eq!(problem["status"], reply.status, "{path}");
        let kind = Kind::ALL.iter().find(|kind| problem["type"] == kind.uri()).expect("a kind of problem");
        let about = kind.about();
        assert_eq!((about.status.as_u16(), &problem["title"]), (reply.status, &json!(about.title)), "{path}");
        (reply.status, problem["detail"].as_str().unwrap().to_owned())
    }
}

fn reply(response: reqwest::blocking::Response) -> Reply {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Reply { status, headers, body: response.text().unwrap() }
}

/// Four series of four names, over three hours of two windows, with a correction in a later hour of writing.
pub fn filled(dir: &TempDir) -> Arc<dyn Store> {
    let store = dir.store();
    let rows: Vec<_> = (0..4)
        .flat_map(|i| (1..=180).map(move |minute| (i, minute)))
        .flat_map(|(i, minute)| {
            let at_ms = T0 + minute * 60_000;
            let long = (minute % 3 == 0).then(|| stats(series(i), 3 * HOUR_MS, at_ms, 0, minute as f64));
            std::iter::once(stats(series(i), HOUR_MS, at_ms, 0, minute as f64)).chain(long)
        })
        .collect();
    let reject = |i: u64, reason| Reject {
        series: Some(series(i)),
        reason,
        count: i + 1,
        first_at_ms: T0,
        last_at_ms: T0,
    };
    let unlisted = Reject { series: None, ..reject(9, Reason::TooOld) };
    let rejects =
        [reject(0, Reason::TooOld), reject(1, Reason::NotFinite), reject(5, Reason::TooOld), unlisted];
    let written_ms = T0 + 3 * HOUR_MS;
    store.write(&[batch_of(1, written_ms, &rows, &rejects, &[])], &labels_of).unwrap();
    let corrected = [WindowStats { count: 3, ..stats(series(1), HOUR_MS, T0 + 60_000, 1, 1_000.0) }];
    let batch = batch_of(2, written_ms + HOUR_MS, &corrected, &[], &[]);
    store.write(&[batch], &labels_of).unwrap();
    Arc::new(store)
}

#[test]
fn windows_are_latest_without_a_range_and_complete_with_one() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let latest = served.list("/api/v1/windows", 3);
    let shown: Vec<_> =
        latest.iter().map(|row| (row["name"].as_str().unwrap(), row["window"].as_str().unwrap())).collect();
    assert_eq!(
        shown,
        [
            ("http_requests_total", "1h"),
            ("http_requests_total", "3h"),
            ("node_load1", "1h"),
            ("node_load1", "3h"),
            ("rpc_seconds_bucket", "1h"),
            ("rpc_seconds_bucket", "3h"),
            ("up", "1h"),
            ("up", "3h"),
        ]
    );
    assert!(
        latest.iter().all(|row| row["at_ms"] == T0 + 180 * 60_000 && row["at"] == "2023-11-14T03:00:00Z")
    );
    assert_eq!(latest[7]["labels"], json!({"instance": "host1", "job": "job \"1\""}));

    let all = served.list("/api/v1/windows?start=0", 97);
    assert_eq!(all.len(), 4 * (180 + 60));
    let keys: Vec<_> =
        all.iter().map(|r| (r["name"].as_str(), r["window"].as_str(), r["at_ms"].as_i64())).collect();
    assert!(keys.is_sorted());
    let start = T0 / 1_000 + 60;
    let up = served.list(&format!("/api/v1/windows?match[]=up&window=1h&start={start}&end={start}"), 10);
    assert_eq!(up.len(), 1);
    assert_eq!((&up[0]["revision"], &up[0]["avg"]), (&json!(1), &json!(1_000.0)));
    let ends = "start=2023-11-14T00:01:00Z&end=2023-11-14T01%3A01%3A00%2B01%3A00";
    assert_eq!(served.list(&format!("/api/v1/windows?match[]=up&window=1h&{ends}"), 10), up);
    let filtered = served.list("/api/v1/windows?start=0&window=3h&min_avg=100&max_avg=110.5", 10);
    assert_eq!(filtered.len(), 4 * 3);
    let rates =
        served.list("/api/v1/windows?start=0&window=1h&min_rate=0&match[]=%7Bjob%3D~%22.%2B%22%7D", 500);
    let counters: BTreeSet<_> = rates.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(
        counters,
        BTreeSet::from(["http_requests_total", "rpc_seconds_bucket"]),
        "gauges show no rate"
    );
    assert!(served.list("/api/v1/windows?window=7m", 10).is_empty());
}

#[test]
fn windows_are_searched_and_sorted_page_by_page() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let names = |path: &str, limit| -> Vec<String> {
        served.list(path, limit).iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    for (path, wanted) in [
        ("search=NODE", ["node_load1", "node_load1"].as_slice()),
        ("search=host1&window=1h", &["up"]),
        (
            "search=instance%3DHOST+job%3D&window=1h",
            &["http_requests_total", "node_load1", "rpc_seconds_bucket", "up"],
        ),
        ("search=up+host0", &[]),
        ("search=host&match[]=up&window=3h&sort=-max", &["up"]),
        // All numbers are the same, so names decide, whichever way the numbers fall.
        ("window=1h&sort=avg", &["http_requests_total", "node_load1", "rpc_seconds_bucket", "up"]),
        ("window=1h&sort=-avg", &["http_requests_total", "node_load1", "rpc_seconds_bucket", "up"]),
        ("window=1h&sort=-name", &["up", "rpc_seconds_bucket", "node_load1", "http_requests_total"]),
        // Of one sample nobody shows a rate.
        ("window=1h&sort=-rate", &["http_requests_total", "node_load1", "rpc_seconds_bucket", "up"]),
        ("window=7m&sort=at", &[]),
    ] {
        for limit in [1, 2, 3, 10] {
            assert_eq!(names(&format!("/api/v1/windows?{path}"), limit), wanted, "{path}, {limit} at a time");
        }
    }
    let cursor =
        served.get("/api/v1/windows?window=1h&sort=avg&limit=1").json()["next"].as_str().unwrap().to_owned();
    let (status, detail) = served.problem(&format!("/api/v1/windows?window=1h&sort=-avg&cursor={cursor}"));
    assert!(status == 400 && detail.starts_with("cursor must be"), "{detail}");
}

#[test]
fn the_page_is_served_with_its_policy_and_known_by_its_tag() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/?view=one&series=0", "text/html; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/views/one.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/vendor/uplot/LICENSE", "text/plain; charset=utf-8"),
    ] {
        let reply = served.get(path);
        assert_eq!((reply.status, reply.header("content-type")), (200, kind), "{path}");
        let policy = reply.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("cache-control"), "no-cache");
        assert!(reply.header("etag").starts_with('"'), "{path}");
    }
    assert_eq!(served.problem("/page/none.js").0, 404);
    assert_eq!(served.problem("/page/../Cargo.toml").0, 404);
    let posted = reply(served.agent.post(format!("{}/", served.base)).send().unwrap());
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD"));
    assert!(
        served
            .get("/metrics")
            .body
            .contains("tidewatch_http_responses_total{route=\"/page\",code=\"200\"} 4")
    );
}

#[test]
fn csv_has_the_same_rows_and_its_cursor_in_a_header() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let reply = served.get("/api/v1/windows?format=csv&limit=5");
    assert_eq!((reply.status, reply.header("content-type")), (200, "text/csv; charset=utf-8"));
    let mut reader = csv::Reader::from_reader(reply.body.as_bytes());
    let statistics = STATISTICS[..STATISTICS.len() - 1].iter().map(|statistic| statistic.name());
    let key = ["series", "name", "labels", "window", "at", "at_ms"];
    let columns = key.into_iter().chain(statistics).chain(["partial", "revision"]);
    assert!(reader.headers().unwrap().iter().eq(columns));
    assert_eq!(reader.records().count(), 5);
    let rest = served.get(&format!("/api/v1/windows?format=csv&cursor={}", reply.header("x-next-cursor")));
    assert_eq!((rest.body.lines().count(), rest.header("x-next-cursor")), (1 + 3, ""));
}

#[test]
fn names_catalog_rejects_and_status_show_the_store() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let names = served.list("/api/v1/names", 1);
    assert_eq!(names[3], json!({"name": "up", "series": 2}), "a series that has only rejects is known too");
    assert_eq!(served.list("/api/v1/names?match[]=up", 1).len(), 1);
    let catalog = served.list("/api/v1/catalog?match[]=%7Binstance%3D%22host1%22%7D", 1);
    let wanted = json!({"series": series(1).to_string(), "name": "up", "labels": {"instance": "host1", "job": "job \"1\""}, "type": null});
    assert_eq!(catalog, [wanted]);
    assert_eq!(served.list("/api/v1/catalog", 2).len(), 5);

    let by = |by: &str| served.list(&format!("/api/v1/rejects{by}"), 1);
    assert_eq!(by("").len(), 4);
    assert_eq!(
        by("?by=reason").iter().map(|row| row["count"].as_u64().unwrap()).collect::<Vec<_>>(),
        [17, 2]
    );
    assert_eq!(
        by("?by=reason").iter().map(|row| row["reason"].as_str().unwrap()).collect::<Vec<_>>(),
        ["too_old", "not_finite"]
    );
    let both = by("?by=reason,name");
    assert_eq!(both, by("?by=name&by=reason"));
    assert_eq!(
        both[0],
        json!({"name": "node_load1", "reason": "too_old", "count": 1, "first_at_ms": T0, "last_at_ms": T0})
    );
    assert_eq!(both[3]["name"], Value::Null);
    assert_eq!(by("?match[]=up").len(), 2);
    assert!(by("?start=1700000000").is_empty());

    let status = served.get("/api/v1/status").json();
    assert_eq!(status["samples"], 5);
    assert_eq!((&status["store"]["epoch"], &status["store"]["window_rows"]), (&json!(2), &json!(961)));
    assert_eq!(status["store"]["last_at"], "2023-11-14T03:00:00Z");
}

/// Each part of the status is in the description, with all of its figures and no other.
#[test]
fn the_status_is_as_it_is_described() {
    let status = ServerStatus {
        sinks: vec![SinkStatus::default()],
        sources: vec![SourceReport {
            partial: Some(PartialReport::default()),
            not_read: vec![UnreadReport::default()],
            ..SourceReport::default()
        }],
        windows: vec![WindowNames::default()],
        ..ServerStatus::default()
    };
    let schemas = Value::Object(super::openapi::document::schemas(&operations::ALL));
    described(
        &serde_json::to_value(status).unwrap(),
        &json!({"$ref": "#/components/schemas/Status"}),
        &schemas,
        "status",
    );
}

fn described(value: &Value, schema: &Value, schemas: &Value, path: &str) {
    let schema = schema["$ref"].as_str().map_or(schema, |name| &schemas[name.rsplit_once('/').unwrap().1]);
    let schema = schema["anyOf"].as_array().or(schema["oneOf"].as_array()).map_or(schema, |any| &any[0]);
    match value {
        Value::Object(fields) if schema.get("properties").is_some() => {
            let names: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
            let required = schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
            assert_eq!(names, required.collect(), "{path}");
            assert_eq!(
                names,
                schema["properties"].as_object().unwrap().keys().map(String::as_str).collect(),
                "{path}"
            );
            fields.iter().for_each(|(name, value)| {
                described(value, &schema["properties"][name], schemas, &format!("{path}.{name}"))
            });
        }
        Value::Array(items) => items.iter().for_each(|item| described(item, &schema["items"], schemas, path)),
        _ => {}
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn a_bad_parameter_is_named_with_its_value_and_bound() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let cursor = served.get("/api/v1/windows?limit=1").json()["next"].as_str().unwrap().to_owned();
    let deep = format!("/api/v1/catalog?match[]={}", "(".repeat(3_000));
    let many = format!("/api/v1/windows?{}", "window=1h&".repeat(300));
    let other = format!("/api/v1/windows?match[]=up&cursor={cursor}");
    let long = format!("/api/v1/windows?search={}", "x".repeat(257));
    for (path, wanted) in [
        ("/api/v1/windows?limit=0", "limit must be 1 to 10000; got \"0\""),
        ("/api/v1/windows?limit=10001", "limit must be 1 to 10000; got \"10001\""),
        ("/api/v1/names?limit=-1", "limit must be 1 to 10000; got \"-1\""),
        ("/api/v1/catalog?limit=", "limit must be 1 to 10000; got \"\""),
        ("/api/v1/windows?limit=1&limit=2", "limit must be given once; got it twice"),
        ("/api/v1/windows?format=xml", "format must be json or csv; got \"xml\""),
        ("/api/v1/windows?window=x", "window must be a duration from 1s to 30d, such as 1h30m; got \"x\""),
        (
            "/api/v1/windows?window=31d",
            "window must be a duration from 1s to 30d, such as 1h30m; got \"31d\"",
        ),
        (
            "/api/v1/windows?start=yesterday",
            "start must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"yesterday\"",
        ),
        (
            "/api/v1/windows?end=1700000000000",
            "end must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"1700000000000\"",
        ),
        (
            "/api/v1/windows?end=NaN",
            "end must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799; got \"NaN\"",
        ),
        (
            "/api/v1/windows?end=2023-11-14T00:01:00+01:00",
            "end must be RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to 253402300799 (a plus sign is written %2B); \
             got \"2023-11-14T00:01:00 01:00\"",
        ),
        ("/api/v1/rejects?start=2&end=1", "start must be at most end (\"1\"); got \"2\""),
        ("/api/v1/windows?min_avg=high", "min_avg must be a finite number; got \"high\""),
        ("/api/v1/windows?max_std=inf", "max_std must be a finite number; got \"inf\""),
        ("/api/v1/rejects?by=reason,colour", "by must be a list of series, name and reason; got \"colour\""),
        (
            "/api/v1/windows?cursor=zz",
            "cursor must be the next of an answer to the same question; got \"zz\"",
        ),
        (&other, "cursor must be the next of an answer to the same question; got "),
        (
            "/api/v1/windows?min_mood=1",
            "/api/v1/windows takes match[], search, sort, window, start, end, at, limit, cursor, format, min_<statistic>, \
             max_<statistic>; got \"min_mood\"",
        ),
        (
            "/api/v1/windows?window=1h&sort=-mood",
            "sort must be name, at, count, min, max, avg, std, std_sample, first, last, sum, changes, increase, rate, resets, \
             p5, p25, p50, p75, p90, p95, p99, p999, revision, \
             or one of them behind a minus; got \"-mood\"",
        ),
        ("/api/v1/windows?sort=avg", "any sort but name takes the latest rows of one window: "),
        (
            "/api/v1/windows?sort=-name&window=1h&window=3h",
            "any sort but name takes the latest rows of one window: ",
        ),
        (
            "/api/v1/windows?sort=max&window=1h&start=0",
            "any sort but name takes the latest rows of one window: ",
        ),
        (&long, "search must be at most 256 bytes; got \"xxx"),
        ("/api/v1/names?at=now", "/api/v1/names takes match[], limit, cursor, format; got \"at\""),
        ("/api/v1/status?x=1", "/api/v1/status takes no parameters; got \"x\""),
        ("/api/v1/windows?match[]=up%7B", "match[]: \"up{\" is not a selector: "),
        (&deep, "match[]: \"(((("),
        (&many, "at most 256 parameters are taken; got 300"),
    ] {
        let (status, detail) = served.problem(path);
        assert_eq!(status, 400, "{path}: {detail}");
        assert!(detail.starts_with(wanted) && detail.len() < 600, "{path}\n got {detail}\nnot {wanted}");
    }
    let slow = "/api/v1/windows?window=1h&min_avg=1&min_avg=2";
    assert_eq!(served.problem(slow).1, "min_avg must be given once; got it twice");
}

#[test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn a_backfill_is_ordered_followed_and_ended() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let url = format!("{}/api/v1/backfill", served.base);
    let post = |body: &str| {
        let request = served.agent.post(&url).header("content-type", "Application/JSON; charset=utf-8");
        reply(request.body(body.to_owned()).send().unwrap())
    };
    for declared in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let got = reply(served.agent.post(&url).header("content-type", declared).body("{}").send().unwrap());
        let says = format!("Content-Type must be application/json; got {declared:?}");
        assert_eq!((got.status, &got.json()["detail"]), (415, &json!(says)));
    }
    let mut half = std::net::TcpStream::connect(served.base.trim_start_matches("http://")).unwrap();
    half.write_all(
        b"POST /api/v1/backfill HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
    )
    .unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    half.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400 ") && said.contains("the body broke off: "), "{said}");
    // T0 is 2023-11-14T00:00:00Z, and it is one hour later.
    let day = "\"start\":\"2023-11-13T00:00:00Z\",\"end\":1699920000";
    let cases = [
        (String::new(), 400, "the body must be a JSON object"),
        ("[1]".to_owned(), 400, "the body must be a JSON object; got \"[1]\""),
        ("{}".to_owned(), 400, "start must be RFC 3339 or Unix seconds; got \"nothing\""),
        (
            format!("{{{day},\"query\":1}}"),
            400,
            "a field must be one of source, match, start and end; got \"query\"",
        ),
        ("{\"start\":\"yesterday\",\"end\":1}".to_owned(), 400, "start must be RFC 3339"),
        ("{\"start\":[],\"end\":1}".to_owned(), 400, "start must be RFC 3339 or Unix seconds; got \"[]\""),
        ("{\"start\":5,\"end\":6}".to_owned(), 400, "start must be in the year 2000 or later; got \"5\""),
        ("{\"start\":1699920000,\"end\":1699920000}".to_owned(), 400, "end must be after start (1699920000)"),
        (
            "{\"start\":1699920000,\"end\":1699930000}".to_owned(),
            400,
            "end must be not in the future; got \"1699930000\"",
        ),
        (
            "{\"start\":1599920000,\"end\":1699920000}".to_owned(),
            400,
            "end must be at most 400 days after start",
        ),
        (format!("{{{day},\"source\":-1}}"), 400, "source must be the URL of an entry of sources.prometheus"),
        (format!("{{{day},\"source\":9}}"), 400, "source must be one of these; got 9"),
        (format!("{{{day},\"source\":7}}"), 409, "backfill 7 is running"),
        (format!("{{{day},\"source\":8}}"), 503, "not yet"),
        (format!("{{{day},\"match\":\"up\"}}"), 400, "match must be a list of 1 to 64 selectors"),
        (format!("{{{day},\"match\":[]}}"), 400, "match must be a list of 1 to 64 selectors"),
        (format!("{{{day},\"match\":[\"up{{\"]}}"), 400, "match: "),
        (
            format!("{{{day},\"match\":[\"{}\"]}}", "a".repeat(70_000)),
            413,
            "the body must be at most 65536 bytes",
        ),
    ];
    for (body, status, detail) in cases {
        let got = post(&body);
        let shown = &body[..body.len().min(200)];
        assert_eq!((got.status, got.header("content-type")), (status, "application/problem+json"), "{shown}");
        let got = got.json()["detail"].as_str().unwrap().to_owned();
        assert!(got.starts_with(detail), "{shown}\n got {got}\nnot {detail}");
    }
    let good = post(&format!("{{{day},\"source\":\"http://a:1\",\"match\":[\"up\"]}}"));
    assert_eq!((good.status, good.header("location")), (202, "backfill/1"), "{}", good.body);
    let order = "BackfillOrder { source: Some(Url(\"http://a:1\")), matching: Some([\"up\"]), start_ms: 1699833600000, end_ms: 1699920000000 }";
    assert_eq!(good.json()["order"], order);
    assert_eq!(served.get("/api/v1/backfill/1").json()["state"], "running");
    let ended = reply(served.agent.delete(format!("{url}/1")).send().unwrap());
    assert_eq!((ended.status, &ended.json()["id"]), (200, &json!("1")));
    let (status, detail) = served.problem("/api/v1/backfill/2");
    assert_eq!((status, &detail[..29]), (404, "there is no backfill \"2\"; the"));
    let refused = reply(served.agent.get(&url).send().unwrap());
    assert_eq!((refused.status, refused.header("allow")), (405, "POST"));
    assert!(
        served.get("/metrics").body.contains("tidewatch_limit_reached_total{limit=\"backfill.running\"} 1")
    );
}

#[test]
fn unknown_paths_and_methods_are_problems_too() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    assert_eq!(
        served.problem("/api/v2/windows"),
        (404, "there is nothing at \"/api/v2/windows\"".to_owned())
    );
    let refused = reply(served.agent.post(format!("{}/api/v1/windows", served.base)).send().unwrap());
    assert_eq!((refused.status, refused.header("content-type")), (405, "application/problem+json"));
    assert_eq!(refused.header("allow"), "GET, HEAD");
    assert_eq!(refused.json()["detail"], "\"/api/v1/windows\" does not take \"POST\"");
    let counted = "tidewatch_http_responses_total{route=\"/api/v1/windows\",code=\"405\"} 1";
    assert!(served.get("/metrics").body.contains(counted));
    let posted = reply(served.agent.post(format!("{}/nowhere", served.base)).send().unwrap());
    assert_eq!(posted.status, 404);
    let head = reply(served.agent.head(format!("{}/api/v1/windows", served.base)).send().unwrap());
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn every_operation_of_the_table_is_there_with_its_methods_and_no_other() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    // Remote write is the source room's.
    for operation in operations::ALL.iter().filter(|one| one.id != WRITE.id) {
        let path =
            operation.path.replace("{series}", "up").replace("{id}", "1").replace("{slug}", "internal");
        let url = format!("{}{path}?window=1h&at=0", served.base);
        let refused = reply(served.agent.patch(&url).send().unwrap());
        let allowed = operations::allowed(operation.path);
        assert_eq!((refused.status, refused.header("allow")), (405, allowed.as_str()), "{path}");
        let taken = match operation.verb {
            Verb::Get => served.agent.get(&url).send(),
            Verb::Post => served.agent.post(&url).send(),
            Verb::Delete => served.agent.delete(&url).send(),
        };
        let taken = reply(taken.unwrap());
        assert!(![404, 405].contains(&taken.status), "{path}: {} {}", taken.status, taken.body);
        let described = &served.get("/api/v1/openapi.json").json()["paths"][operation.path];
        assert_eq!(described.as_object().unwrap().len(), allowed.replace(", HEAD", "").split(", ").count());
    }
}

#[test]
fn health_readiness_and_metrics_are_as_prometheus_has_them() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Err("the store holds epoch 5 of 9".to_owned()));
    assert_eq!(
        (served.get("/-/healthy").status, served.get("/-/healthy").body.as_str()),
        (200, "Tidewatch is healthy.\n")
    );
    assert_eq!(served.problem("/-/ready"), (503, "the store holds epoch 5 of 9".to_owned()));
    assert_eq!(served.get("/-/ready").header("retry-after"), "1");
    served.get("/nowhere");
    let text = served.get("/metrics");
    assert_eq!(text.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "tidewatch_http_responses_total{route=\"/-/ready\",code=\"503\"} 2",
        "tidewatch_http_responses_total{route=\"other\",code=\"404\"} 1",
        "tidewatch_http_request_duration_seconds_count{route=\"/-/healthy\"} 2",
    ] {
        assert!(text.body.lines().any(|l| l == line), "no line {line} in\n{}", text.body);
    }
    let open = served.get_as("/metrics", "application/openmetrics-text;version=1.0.0");
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.body.ends_with("# EOF\n"));
    let served = serve(filled(&TempDir::new()), Ok(()));
    assert_eq!(served.get("/-/ready").status, 200);
}

#[test]
fn questions_beyond_the_bound_are_answered_503_and_health_goes_on() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let (enough, wait) = mpsc::channel::<()>();
    let wait = Arc::new(std::sync::Mutex::new(wait));
    let (started, starts) = mpsc::channel();
    for _ in 0..QUESTIONS_MAX {
        let (api, wait, started) = (served.api.clone(), wait.clone(), started.clone());
        served.runtime.spawn(async move {
            api.ask(move |_, _| {
                started.send(()).unwrap();
                // Ends when the other end of the channel is dropped.
                let _ = wait.lock().unwrap().recv();
                Ok(())
            })
            .await
        });
    }
    starts.iter().take(QUESTIONS_MAX).for_each(drop);
    let refused = served.get("/api/v1/names");
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert_eq!(refused.json()["detail"], "at most 16 questions are answered at once; try again");
    assert_eq!(served.get("/-/healthy").status, 200);
    assert!(served.get("/metrics").body.contains("tidewatch_limit_reached_total{limit=\"api.questions\"} 1"));
    drop(enough);
    // The permits come back as the questions end.
    let all = served.runtime.block_on(served.api.questions.acquire_many(QUESTIONS_MAX as u32));
    drop(all.unwrap());
    assert_eq!(served.get("/api/v1/names").status, 200);
}

#[test]
fn a_store_that_fails_is_500_without_its_path() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let conn = rusqlite::Connection::open(dir.file()).unwrap();
    conn.execute_batch("DROP TABLE catalog").unwrap();
    let (status, detail) = served.problem("/api/v1/names");
    assert_eq!((status, detail.as_str()), (500, "the server failed to answer; its log says why"));
}

#[test]
fn a_question_beyond_its_time_is_504_and_counted() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let late = served.runtime.block_on(served.api.ask(|_, _| {
        let late: Result<(), StoreError> = Err(StoreError::Deadline { limit_ms: 9 });
        Ok(late?)
    }));
    let late = late.unwrap_err();
    assert_eq!((late.kind(), late.kind().about().status.as_u16()), (Kind::Deadline, 504));
    let counted = "tidewatch_limit_reached_total{limit=\"api.deadline\"} 1";
    assert!(served.get("/metrics").body.contains(counted));
}

#[test]
fn what_a_problem_means_is_told_where_its_type_points() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let all = served.get("/api/v1/problems").json();
    let all = all["data"].as_array().unwrap();
    assert_eq!(all.len(), Kind::ALL.len());
    for told in all {
        assert_eq!(&served.get(told["type"].as_str().unwrap()).json(), told);
    }
    assert_eq!(served.problem("/api/v1/problems/none").0, 404);
}

#[test]
fn one_series_is_asked_for_by_id_or_by_a_name_that_it_alone_bears() {
    let dir = TempDir::new();
    let store = dir.store();
    // Two of a name, with the same labels but one; both have rows at the same times.
    let rows: Vec<_> = [1, 5, 0]
        .into_iter()
        .flat_map(|i| (1..=9).map(move |minute| stats(series(i), HOUR_MS, T0 + minute * 60_000, 0, i as f64)))
        .collect();
    let batch = batch_of(1, T0, &rows, &[], &[]);
    store.write(&[batch], &labels_of).unwrap();
    let served = serve(Arc::new(store), Ok(()));
    for i in [1, 5, 0] {
        let path = format!("/api/v1/windows/{}", series(i));
        let latest = served.list(&path, 10);
        assert_eq!((latest.len(), &latest[0]["series"]), (1, &json!(series(i).to_string())));
        assert_eq!(latest[0]["at_ms"], T0 + 9 * 60_000);
        for limit in [1, 4, 20] {
            let rows = served.list(&format!("{path}?start=0&window=1h&min_avg=0"), limit);
            assert_eq!(rows.len(), 9);
            assert!(rows.iter().all(|row| row["series"] == series(i).to_string()));
            assert!(rows.is_sorted_by_key(|row| row["at_ms"].as_i64()));
        }
    }
    assert_eq!(served.list("/api/v1/windows/node_load1?start=0", 4).len(), 9);
    let (status, detail) = served.problem("/api/v1/windows/up");
    assert!(status == 409 && detail.contains(&series(5).to_string()), "{detail}");
    // Nobody knows it.
    assert_eq!(served.problem(&format!("/api/v1/windows/{}", series(9))).0, 404);
    let csv = served.get(&format!("/api/v1/windows/{}?format=csv&start=0", series(5)));
    assert_eq!(csv.body.lines().count(), 10);
}

#[test]
fn corrections_of_a_series_come_newest_first_page_by_page() {
    let dir = TempDir::new();
    let store = dir.store();
    let row = |window_ms: i64, minute: i64, revision: u32| WindowStats {
        count: revision + 2,
        ..stats(series(0), window_ms, T0 + minute * 60_000, revision, 1.0)
    };
    let writes = [
        vec![row(HOUR_MS, 1, 0), row(HOUR_MS, 2, 0), row(3 * HOUR_MS, 3, 0)],
        vec![row(HOUR_MS, 1, 1), stats(series(1), HOUR_MS, T0 + 60_000, 0, 1.0)],
        vec![
            row(3 * HOUR_MS, 3, 1),
            WindowStats { count: 9, ..stats(series(1), HOUR_MS, T0 + 60_000, 1, 1.0) },
        ],
        vec![row(HOUR_MS, 1, 2)],
    ];
    for (i, windows) in writes.iter().enumerate() {
        let (epoch, written_ms) = (i as u64 + 1, T0 + i as i64 * 1_000);
        store.write(&[batch_of(epoch, written_ms, windows, &[], &[])], &labels_of).unwrap();
    }
    let served = serve(Arc::new(store), Ok(()));
    let path = format!("/api/v1/windows/{}/corrections", series(0));
    let told = |row: &Value| {
        (row["window"].clone(), row["at_ms"].as_i64().unwrap(), row["revision"].as_u64().unwrap())
    };
    for limit in [1, 2, 3, 9] {
        let rows = served.list(&path, limit);
        let (hour, three) = (json!("1h"), json!("3h"));
        let wanted = [(&hour, 1, 2), (&three, 3, 1), (&three, 3, 0), (&hour, 1, 1), (&hour, 1, 0)]
            .map(|(window, minute, revision)| (window.clone(), T0 + minute * 60_000, revision));
        assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), wanted, "pages of {limit}");
        let newest = json!({
            "window": "1h", "at": "2023-11-14T00:01:00Z", "at_ms": T0 + 60_000, "revision": 2, "epoch": 4,
            "written": "2023-11-14T00:00:03Z", "written_ms": T0 + 3_000, "count": 4,
        });
        assert_eq!((&rows[0], &rows[2]["epoch"]), (&newest, &Value::Null));
    }
    assert_eq!(served.list(&format!("{path}?window=3h"), 1).len(), 2);
    assert!(served.list(&format!("{path}?window=7m"), 1).is_empty());
    let unknown = format!("/api/v1/windows/{}/corrections", series(2));
    assert_eq!(served.problem(&unknown).0, 404);
}

#[test]
fn pages_of_a_random_store_are_those_of_the_model() {
    for seed in 400..403 {
        let dir = TempDir::new();
        let (store, mut model) = (dir.store(), ModelStore::default());
        let mut random = fastrand::Rng::with_seed(seed);
        for hour in 0..5 {
            model.write_random(&store, &mut random, T0 + (8 + hour) * HOUR_MS, 7);
        }
        let served = serve(Arc::new(store), Ok(()));
        let rows = served.list("/api/v1/windows?start=0", random.usize(1..60));
        let read: Vec<_> = rows
            .iter()
            .map(|r| (r["series"].as_str().unwrap().to_owned(), r["at_ms"].as_i64(), r["avg"].as_f64()))
            .collect();
        let wanted: Vec<_> = model
            .last_words()
            .into_values()
            .map(|s| (s.series.to_string(), Some(s.at_ms), Some(s.avg)))
            .collect();
        assert_eq!(read, wanted, "seed {seed}");
    }
}

#[test]
fn a_row_is_explained_by_what_store_and_worker_know() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let of = |i: u64, at: i64| format!("/api/v1/windows/{}/explain?window=1h&at={}", series(i), at / 1_000);
    let why = |told: &Value| {
        let lines = told["why"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned());
        lines.collect::<Vec<_>>().join("; ")
    };

    // Corrected: what it was before, what was added, and that too much time has passed.
    let told = served.get(&of(1, T0 + 60_000)).json();
    assert_eq!((&told["row"]["count"], &told["row"]["revision"]), (&json!(3), &json!(1)), "{told}");
    assert_eq!((&told["name"], &told["window"], &told["hop"]), (&json!("up"), &json!("1h"), &json!("1m")));
    let revisions = told["revisions"].as_array().unwrap();
    assert_eq!(revisions[0]["written_in_hour_of"], "2023-11-14T03:00:00Z", "{told}");
    assert_eq!((&revisions[0]["revision"], &revisions[0]["count"]), (&json!(0), &json!(2)));
    assert_eq!((&revisions[1]["epoch"], &revisions[1]["added"]), (&json!(2), &json!(1)));
    assert_eq!((&told["samples_added"], &told["correctable"]), (&json!(1), &json!(false)));
    assert_eq!((told["panes"].as_array().unwrap().len(), &told["samples_in_panes"]), (3, &json!(3)));
    assert_eq!(told["panes"][2]["raw"], true);
    assert!(why(&told).contains("no longer held"), "{told}");

    // Not closed, and still correctable.
    let told = served.get(&of(1, T0 + 240 * 60_000)).json();
    assert_eq!(
        (&told["row"], &told["closed"], &told["correctable"]),
        (&Value::Null, &json!(false), &json!(true))
    );
    assert!(why(&told).contains("the key is not closed"), "{told}");
    // Freed, by its only name; unknown to the workers.
    let told = served.get("/api/v1/windows/node_load1/explain?window=1h&at=1699930800").json();
    assert!(why(&told).contains("silent for so long"), "{told}");
    assert_eq!((&told["panes"], &told["row"]["revision"]), (&Value::Null, &json!(0)));
    let told = served.get(&of(3, T0 + 60_000)).json();
    assert!(why(&told).contains("hold no sample of this series"), "{told}");

    assert_eq!(served.problem(&of(2, T0 + 60_000)), (503, "not now".to_owned()));
    assert_eq!(served.problem(&of(8, T0)).0, 404);
    let (status, detail) = served.problem("/api/v1/windows/nothing/explain?window=1h&at=60");
    assert_eq!(status, 404, "{detail}");
    assert!(detail.starts_with("there is no series \"nothing\""), "{detail}");

    let store = dir.store();
    let row = [stats(series(5), HOUR_MS, T0, 0, 1.0)];
    let batch = batch_of(9, T0, &row, &[], &[]);
    store.write(&[batch], &labels_of).unwrap();
    let (status, detail) = served.problem("/api/v1/windows/up/explain?window=1h&at=60");
    assert_eq!(status, 409, "{detail}");
    for i in [1, 5] {
        assert!(detail.contains(&format!("{} {{\"instance\":\"host{i}\"", series(i))), "{detail}");
    }
}

#[test]
fn what_is_open_is_listed_page_by_page_in_the_order_of_rows() {
    let dir = TempDir::new();
    let served = serve(Arc::new(dir.store()), Ok(()));
    let whole = served.get("/api/v1/windows?at=now").json();
    let rows = whole["data"].as_array().unwrap();
    assert_eq!((rows.len(), &whole["next"]), (8, &Value::Null));
    let key = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        (text("name"), text("series"), text("window").len(), text("window"))
    };
    assert!(rows.is_sorted_by_key(key), "{rows:#?}");
    assert_eq!(
        (&rows[0]["open"], &rows[0]["epoch"], &rows[0]["at_ms"]),
        (&json!(true), &json!(7), &json!(T0))
    );
    assert!(rows[0].get("revision").is_none(), "a row that is never published has none");
    for limit in 1..=8 {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = served.get(&format!("/api/v1/windows?at=now&limit={limit}{cursor}")).json();
            all.extend_from_slice(page["data"].as_array().unwrap());
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(all, *rows, "pages of {limit}");
    }
    let one = served.get("/api/v1/windows?at=now&window=3h&match%5B%5D=%7Binstance%3D%22host1%22%7D").json();
    assert_eq!(one["data"].as_array().unwrap().len(), 1);
    assert_eq!(served.get("/api/v1/windows?at=now&min_avg=1.5").json()["data"], json!([]));
    assert_eq!(served.get("/api/v1/windows?at=now&window=3h&search=INSTANCE%3Dhost1").json(), one);
    // The same of one series, by a name that no stored series bears, page by page.
    assert_eq!(served.get("/api/v1/windows/up?at=now&window=3h").json(), one);
    let first = served.get("/api/v1/windows/up?at=now&limit=1").json();
    let next = first["next"].as_str().unwrap();
    let rest = served.get(&format!("/api/v1/windows/up?at=now&cursor={next}")).json();
    assert_eq!((&first["data"][0]["window"], rest), (&json!("1h"), one));
    for bad in [
        "at=1700000000",
        "at=now&max_revision=5",
        "at=now&window=3h&sort=avg",
        "at=now&start=0",
        "at=now&end=0",
        "at=now&at=now",
    ] {
        assert_eq!(served.get(&format!("/api/v1/windows?{bad}")).status, 400, "{bad}");
    }
    let busy = serve(Arc::new(dir.store()), Err("computing".to_owned()));
    assert_eq!(busy.get("/api/v1/windows?at=now").status, 503);
}

#[test]
fn the_samples_of_a_series_are_put_together_of_ring_and_server() {
    let dir = TempDir::new();
    let served = serve(Arc::new(dir.store()), Ok(()));
    let path = format!("/api/v1/samples/{}", series(1));
    let of = |query: String| served.get(&format!("{path}?{query}"));
    let (start, end) = (T0 / 1_000, T0 / 1_000 + 540);
    let answer = of(format!("start={start}&end={end}")).json();
    let values: Vec<f64> =
        answer["data"].as_array().unwrap().iter().map(|point| point["value"].as_f64().unwrap()).collect();
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], "{answer}");
    assert_eq!((&answer["source"], &answer["missing"]), (&json!("prometheus+ring"), &Value::Null));
    assert_eq!((&answer["parts"][0]["samples"], &answer["parts"][1]["samples"]), (&json!(6), &json!(4)));
    let answer = of(format!("start={start}&end={}&resample=5m&aggregate=count", start + 240)).json();
    assert_eq!(answer["source"], "prometheus");
    assert_eq!((&answer["resample"], &answer["aggregate"]), (&json!("5m"), &json!("count")));
    let late = of(format!("start={}&end={end}", start + 360)).json();
    assert_eq!((&late["source"], late["data"].as_array().unwrap().len()), (&json!("ring"), 4));
    for (start, status) in [("0.006", 504), ("0.007", 422), ("0.008", 502), ("0.009", 200)] {
        let reply = of(format!("start={start}&end={end}"));
        assert_eq!(reply.status, status, "{start}: {}", reply.body);
    }
    let text = served.get("/metrics").body;
    for limit in ["api.deadline", "api.rows"] {
        assert!(text.contains(&format!("tidewatch_limit_reached_total{{limit=\"{limit}\"}} 1\n")), "{limit}");
    }
    let alone = of(format!("start=0.009&end={end}")).json();
    assert_eq!(alone["source"], "ring");
    assert_eq!(alone["missing"]["why"], "no server is configured under sources.prometheus", "{alone}");
}

/// A connection on which this was asked.
fn ask(served: &Served, path: &str) -> std::net::TcpStream {
    let mut socket = std::net::TcpStream::connect(served.base.trim_start_matches("http://")).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    socket
}

/// Waits until so many questions may be asked.
fn await_free(served: &Served, free: usize) {
    let begun = Instant::now();
    while served.api.questions.available_permits() != free {
        assert!(begun.elapsed().as_secs() < 60, "{} are free", served.api.questions.available_permits());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_question_ends_when_its_client_has_gone() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let begun = Instant::now();
    let over = std::iter::repeat_with(|| {
        let socket = ask(&served, "/api/v1/windows?at=now&window=7s");
        await_free(&served, QUESTIONS_MAX - 1);
        drop(socket);
        await_free(&served, QUESTIONS_MAX);
        // One that is cancelled before it comes to the windows tells nothing here.
        served.over.try_recv().ok()
    });
    let over = over.take_while(|_| begun.elapsed().as_secs() < 60).find_map(|over| over);
    assert_eq!(over, Some(BudgetExceeded::Cancelled));
}

#[test]
fn an_answer_that_nobody_reads_is_bounded_and_counts_as_a_question() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let long = "x".repeat(4_000);
    served.labels.intern(&mut vec![("__name__", "long"), ("x", &long)], None, 1).unwrap();
    let path = "/api/v1/windows?at=now&window=9s&match[]=long&limit=10000";
    let page = served.get(path);
    let rows = page.json()["data"].as_array().unwrap().len();
    assert!((15 << 20..18 << 20).contains(&page.body.len()) && rows < 5_000, "{} {rows}", page.body.len());
    assert!(page.json()["next"].is_string());
    let mut socket = ask(&served, path);
    // Its first byte is there, and the rest does not fit between the two.
    socket.read_exact(&mut [0]).unwrap();
    await_free(&served, QUESTIONS_MAX - 1);
    std::io::copy(&mut socket.try_clone().unwrap().take(page.body.len() as u64), &mut std::io::sink())
        .unwrap();
    await_free(&served, QUESTIONS_MAX);
}

#[test]
fn a_regex_that_takes_too_much_work_is_refused_and_counted() {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    let mut random = fastrand::Rng::with_seed(3);
    for i in 0..256 {
        let value: String = (0..4_000).map(|_| if random.bool() { 'a' } else { 'b' }).collect();
        let i = i.to_string();
        served.labels.intern(&mut vec![("__name__", "n"), ("i", &i), ("x", &value)], None, 1).unwrap();
    }
    let hungry = "%7Bx=~%22[ab]*a[ab]%7B900%7D[ab]%7B900%7D[ab]%7B900%7Dc%22%7D";
    let begun = Instant::now();
    let reply = served.get(&format!("/api/v1/windows?at=now&match[]={hungry}"));
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    // On a slow machine its time is over before.
    assert!([422, 504].contains(&reply.status), "{}", reply.body);
    let metrics = served.get("/metrics").body;
    let limit = if reply.status == 422 { "api.regex_work" } else { "api.deadline" };
    assert!(metrics.contains(&format!("tidewatch_limit_reached_total{{limit=\"{limit}\"}} 1")), "{metrics}");
}
