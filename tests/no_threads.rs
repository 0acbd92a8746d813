//! A server to which the system gives no thread more: answers, pushes and the stop need none, what needs one is told to come
//! again, and a start says how many it needs.

use std::time::{Duration, Instant};

use crate::support::http::{self, Answer};
use crate::support::process::{Process, Tidewatch, free_port};
use crate::support::remote_write::WriteRequest;
use crate::support::thread_limit::ThreadLimit;
use crate::support::{Folder, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// A time long past, so that windows close by the samples alone and by no clock.
const START_MS: i64 = 1_767_225_600_000;
const SERIES: usize = 2_000;
/// More questions at once than are answered at once.
const QUESTIONS: usize = 40;
/// What costs long enough to match that all of them meet.
const COSTLY: &str = "{__name__=\"threads\",n!~\"(.*[a-z0-9-]{1,400}){2}Z\"}";
/// What the system says who has no thread to give.
const NO_THREAD: &str = "Resource temporarily unavailable (os error 11)";

/// A server that asks another one, which is not there, by its name.
fn config() -> String {
    format!(
        "windows: [{{length: 10s, hop: 5s}}]\nsources: {{prometheus: [{{url: 'http://localhost:{}', match: ['up'], poll: 1s}}]}}\n",
        free_port()
    )
}

fn start(limit: &ThreadLimit, environment: &[&str]) -> Tidewatch {
    let words = limit.words(None);
    let words: Vec<&str> =
        ["env"].iter().chain(environment).copied().chain(words.iter().map(String::as_str)).collect();
    Tidewatch::start_under(limit.folder(&config()), &words)
}

/// Sends a sample of every series.
fn push(tidewatch: &Tidewatch, second: i64) {
    let request = (0..SERIES).fold(WriteRequest::default(), |request, n| {
        let labels = [("__name__", "threads"), ("n", &n.to_string())];
        request.series(&labels, &[(START_MS + second * 1_000, second as f64)])
    });
    let answer = request.send(&tidewatch.url("/api/v1/write")).unwrap();
    assert_eq!(answer.status, 204, "{answer:?}");
}

fn begin_backfill(tidewatch: &Tidewatch) -> Answer {
    let body = format!("{{\"start\": {}, \"end\": {}}}", START_MS / 1_000, START_MS / 1_000 + 60);
    let json = [("content-type", "application/json")];
    http::post(&tidewatch.url("/api/v1/backfill"), &json, body.as_bytes()).unwrap()
}

/// It is to come again, and says why.
fn is_refused_for_now(answer: &Answer, why: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (503, "unavailable"), "{answer:?}");
    assert!(answer.says().contains(why), "{answer:?}");
    assert!(answer.retry_after.is_some(), "{answer:?}");
}

/// Asks many costly questions at once; how many were refused, each in words.
fn ask_at_once(tidewatch: &Tidewatch) -> usize {
    let (url, costly) = (tidewatch.url("/api/v1/catalog"), [("match[]", COSTLY)]);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let ask = || http::get(&url, &costly).unwrap();
        let asking: Vec<_> = (0..QUESTIONS).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let (answered, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status != 503);
    assert!(!answered.is_empty());
    // The time or the work of a costly one may be over.
    assert!(answered.iter().all(|answer| [200, 422, 504].contains(&answer.status)), "{answered:?}");
    for answer in &refused {
        is_refused_for_now(answer, "questions are answered at once; try again");
    }
    refused.len()
}

fn is_healthy(tidewatch: &Tidewatch) {
    let asked = Instant::now();
    tidewatch.get("/-/healthy", &[]);
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
}

/// Waits until the last error of the source contains this.
fn await_source(tidewatch: &Tidewatch, words: &str) {
    eventually(&format!("the source says {words:?}"), PATIENCE, || {
        let source = tidewatch.get("/api/v1/status", &[]).json()["sources"][0].clone();
        let said = source["last_error"].as_str().is_some_and(|error| error.contains(words));
        if said { Ok(()) } else { Err(source.to_string()) }
    });
}

/// Ends it while nothing may be started: everything is stored, and nothing has panicked, but for so many that the test put in.
fn stops(mut tidewatch: Tidewatch, panics: usize) -> Folder {
    let ended = tidewatch.process().terminate();
    let log = tidewatch.process().log();
    assert_eq!(ended.code(), Some(0), "{log}");
    assert!(log.contains("everything taken is stored"), "{log}");
    assert_eq!(log.matches("panicked at").count(), panics, "{log}");
    tidewatch.into_folder()
}

#[test]
fn without_a_thread_to_be_had_it_answers_refuses_and_stops() {
    for limit in ThreadLimit::ways() {
        let mut tidewatch = start(&limit, &[]);
        let process = tidewatch.process().id();
        push(&tidewatch, 0);
        limit.set(process, 0);
        is_refused_for_now(&begin_backfill(&tidewatch), &format!("no thread can be started: {NO_THREAD}"));
        await_source(&tidewatch, NO_THREAD);
        let mut second = 0;
        eventually("questions are refused", PATIENCE, || {
            second += 1;
            let refused = std::thread::scope(|scope| {
                let asking = scope.spawn(|| ask_at_once(&tidewatch));
                push(&tidewatch, second);
                is_healthy(&tidewatch);
                asking.join().unwrap()
            });
            if refused > 0 { Ok(()) } else { Err("none was".to_owned()) }
        });
        is_refused_for_now(&begin_backfill(&tidewatch), NO_THREAD);

        limit.lift(process);
        await_source(&tidewatch, "Connection refused");
        let begun = begin_backfill(&tidewatch);
        assert_eq!(begun.status, 202, "{begun:?}");
        let path = format!("/api/v1/backfill/{}", begun.json()["id"].as_str().unwrap());
        http::delete(&tidewatch.url(&path)).unwrap();
        eventually("the backfill has ended", PATIENCE, || match tidewatch.get(&path, &[]).json() {
            job if job["state"] == "running" => Err(job.to_string()),
            _ => Ok(()),
        });

        limit.set(process, 0);
        push(&tidewatch, second + 1);
        let again = Tidewatch::start_in(stops(tidewatch, 0));
        let series = again.rows("/api/v1/catalog", &[("match[]", "threads")]).len();
        // Those whose windows have closed.
        assert!(series == SERIES || second < 10, "{series} of {SERIES}");
        println!("{limit:?}: refused and recovered, {series} series");
    }
}

#[test]
fn a_start_without_threads_is_refused_in_words() {
    for limit in ThreadLimit::ways() {
        let mut needed = None;
        for threads in [1, 2, 3, 5, 10, 20, 40] {
            let folder = limit.folder(&config());
            let mut process = begin(&limit, &folder, threads);
            let (status, log) = (process.ended(), process.log());
            assert_eq!(status.code(), Some(1), "{threads} threads: {log}");
            assert!(!log.contains("panicked"), "{threads} threads: {log}");
            // One of them is there.
            assert!(log.contains(&format!("gives the process {} threads", threads - 1)), "{log}");
            assert!(!folder.path().join("data").exists(), "nothing is touched");
            needed = log.trim_end().rsplit(' ').next().and_then(|number| number.parse::<u64>().ok());
        }
        let needed = needed.expect("it says how many it needs");
        let folder = limit.folder(&config());
        let mut process = begin(&limit, &folder, needed + 1);
        process.await_ready("/-/ready");
        let few = format!("gives the process {needed} threads");
        assert!(process.log().contains(&few), "{}", process.log());
        assert_eq!(process.terminate().code(), Some(0), "{}", process.log());
    }
}

/// Begins a server that has so many threads from its start.
fn begin(limit: &ThreadLimit, folder: &Folder, threads: u64) -> Process {
    let port = free_port();
    let mut words = limit.words(Some(threads));
    let listen = format!("127.0.0.1:{port}");
    let own = [env!("CARGO_BIN_EXE_tidewatch"), "run", "--config", "tidewatch.yml", "--data-dir", "data"];
    words.extend(own.into_iter().chain(["--listen", &listen]).map(str::to_owned));
    Process::begin(&words, folder.path(), port)
}

/// A panic of the computation takes its threads along, and what others have left is enough to build it anew.
#[cfg(feature = "faults")]
#[test]
fn the_engine_is_built_anew_with_the_threads_that_there_are() {
    let labels = [("__name__", "threads"), ("n", "7")];
    let fault = tidewatch::labels::series_id(&labels);
    let fault = format!("TIDEWATCH_FAULT=panic-once:{fault}@{}", START_MS + 50_000);
    for limit in ThreadLimit::ways() {
        let mut tidewatch = start(&limit, &[&fault]);
        let process = tidewatch.process().id();
        push(&tidewatch, 0);
        // A look-up, and a thread that gives its place to a new one, may take a place for a moment.
        limit.set(process, 2);
        push(&tidewatch, 60);
        eventually("the engine is built anew", PATIENCE, || {
            let ready = http::get(&tidewatch.url("/-/ready"), &[])?;
            let restarts = tidewatch.metric("tidewatch_engine_restarts_total{cause=\"worker\"}");
            if restarts == 1.0 && ready.status == 200 {
                Ok(())
            } else {
                Err(format!("{restarts}: {ready:?}"))
            }
        });
        stops(tidewatch, 1);
        // Where its threads were given to others meanwhile, the process ends, and is started again.
        let mut tidewatch = start(&limit, &[&fault]);
        let process = tidewatch.process().id();
        push(&tidewatch, 0);
        limit.take(process);
        push(&tidewatch, 60);
        let (ended, log) = (tidewatch.process().ended(), tidewatch.process().log());
        assert_eq!(ended.code(), Some(75), "{log}");
        assert!(log.contains(NO_THREAD), "{log}");
        assert_eq!(log.matches("panicked at").count(), 1, "{log}");
    }
}
