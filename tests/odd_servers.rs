//! Servers that answer like Prometheus and have a quirk each, asked by a running server: what they give is computed,
//! what they do not is told, and nothing waits for ever.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::process::Tidewatch;

const STEP_MS: i64 = 15_000;
const HOUR_MS: i64 = 3_600_000;

/// What a server does with a selector's text, the end of a range, and the series it has there; an error as (status, text).
type Quirk = fn(&str, i64, Vec<Value>) -> Result<Value, (u16, &'static str)>;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A server with samples of `good` and `bad` of the last hour, every 15 s up to now; its address.
fn serve(quirk: Quirk) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let first_ms = now_ms() - HOUR_MS;
    // Ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.unwrap(), first_ms, quirk));
        }
    });
    address
}

fn answer(mut stream: TcpStream, first_ms: i64, quirk: Quirk) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap_or("").to_owned();
    while line != "\r\n" && !line.is_empty() {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut form = vec![0; length];
    reader.read_exact(&mut form).unwrap();
    let form = String::from_utf8(form).unwrap();
    let value = |name: &str| {
        let pair = form.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).unwrap_or("");
        percent_encoding::percent_decode_str(pair).decode_utf8().unwrap().into_owned()
    };
    let said = if path.contains("/buildinfo") {
        Ok(json!({"status": "success", "data": {"version": "2.53.0"}}))
    } else if path.contains("/label/") {
        quirk("names", 0, vec![]).map(|mut all| {
            all["data"] = json!(["good", "bad"]);
            all
        })
    } else if value("query") == "vector(1)" {
        quirk("vector(1)", 0, vec![]).map(|_| json!({"status": "success", "data": {"result": []}}))
    } else {
        let (query, to_ms) = (value("query"), (value("time").parse::<f64>().unwrap() * 1e3) as i64);
        let (selector, range) = query.strip_suffix("ms]").unwrap().rsplit_once('[').unwrap();
        let after_ms = (to_ms - range.parse::<i64>().unwrap()).max(first_ms);
        let times = || (first_ms..=to_ms.min(now_ms())).step_by(STEP_MS as usize).filter(|at| *at > after_ms);
        let named = |name: &str| {
            let Some((_, matcher)) = selector.split_once("__name__") else { return true };
            let (operator, value) = matcher.split_once('"').unwrap();
            value.trim_end_matches("\"}").split('|').any(|one| one == name) != operator.starts_with('!')
        };
        let series = |name: &str| {
            let values: Vec<Value> = times().map(|at| json!([at as f64 / 1e3, "1"])).collect();
            json!({"metric": {"__name__": name, "job": "x"}, "values": values})
        };
        let none = times().next().is_none();
        let found: Vec<Value> = ["good", "bad"].into_iter().filter(|name| named(name)).map(series).collect();
        quirk(selector, to_ms, if none { vec![] } else { found })
    };
    let (status, body) = match said {
        Ok(body) => (200, body.to_string()),
        Err((status, error)) => {
            (status, json!({"status": "error", "errorType": "execution", "error": error}).to_string())
        }
    };
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // A server that ends does not wait for its answer.
    let _ = stream.write_all((head + &body).as_bytes());
}

fn matrix(result: Vec<Value>) -> Value {
    json!({"status": "success", "data": {"resultType": "matrix", "result": result}})
}

/// A server that asks these servers, each for three hours back.
fn asks(addresses: &[String]) -> Tidewatch {
    let one = |address: &String| {
        format!("{{url: 'http://{address}', match: ['{{job=\"x\"}}'], poll: 1s, bootstrap: 3h, chunk: 1h}}")
    };
    let all: Vec<String> = addresses.iter().map(one).collect();
    Tidewatch::start(&format!(
        "windows: [{{length: 1h, hop: 1m}}]\nsources: {{prometheus: [{}]}}\n",
        all.join(", ")
    ))
}

/// Waits until a source is as `wanted` says.
fn source(tidewatch: &Tidewatch, at: usize, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually("the source is as it should be", Duration::from_secs(60), || {
        let status = tidewatch.get("/api/v1/status", &[]).json();
        let source = status["sources"][at].clone();
        if wanted(&source) { Ok(source) } else { Err(source.to_string()) }
    })
}

/// How many samples of a name are in the window that is open.
fn open_count(tidewatch: &Tidewatch, name: &str) -> u64 {
    let rows = tidewatch.rows("/api/v1/windows", &[("at", "now"), ("match[]", name)]);
    rows.first().and_then(|row| row["count"].as_u64()).unwrap_or(0)
}

fn counted(tidewatch: &Tidewatch, name: &str) {
    eventually("its samples are computed", Duration::from_secs(60), || {
        let count = open_count(tidewatch, name);
        if count > 200 { Ok(()) } else { Err(format!("{name}: {count} samples")) }
    });
}

#[test]
fn null_for_nothing_is_nothing() {
    let address = serve(|_, _, found| {
        let mut all = matrix(found);
        if all["data"]["result"] == json!([]) {
            all["data"]["result"] = Value::Null;
        }
        all["warnings"] = Value::Null;
        Ok(all)
    });
    let tidewatch = asks(&[address]);
    let status = source(&tidewatch, 0, |source| source["state"] == "polling");
    assert_eq!((&status["failing"], &status["last_error"]), (&json!(false), &Value::Null), "{status}");
    counted(&tidewatch, "good");
}

#[test]
fn what_is_refused_for_good_is_told_and_the_rest_goes_on() {
    let bad_name = serve(|selector, _, found| match selector {
        _ if found.iter().any(|series| series["metric"]["__name__"] == "bad") => {
            Err((422, "expanding series: corrupt block"))
        }
        _ => Ok(matrix(found)),
    });
    // A range that no question may touch, two to three hours ago.
    let bad_range = serve(|_, to_ms, found| {
        let old = (now_ms() - 3 * HOUR_MS..now_ms() - 2 * HOUR_MS).contains(&to_ms);
        if old { Err((422, "no such block")) } else { Ok(matrix(found)) }
    });
    let bad_server = serve(|_, _, _| Err((401, "who are you")));
    let tidewatch = asks(&[bad_name, bad_range, bad_server]);
    let named = source(&tidewatch, 0, |source| source["state"] == "polling");
    let left_out = named["not_read"].as_array().unwrap();
    assert!(!left_out.is_empty() && named["not_read_total"].as_u64() >= Some(1), "{named}");
    for part in left_out {
        assert_eq!(part["match"], "{job=\"x\",__name__=\"bad\"}", "{named}");
        assert!(part["error"].as_str().unwrap().contains("422: expanding series: corrupt block"), "{named}");
    }
    counted(&tidewatch, "good");
    // The second server has that name.
    counted(&tidewatch, "bad");
    let ranged = source(&tidewatch, 1, |source| source["state"] == "polling");
    let parts = ranged["not_read"].as_array().unwrap();
    assert!(parts.iter().any(|part| part["error"].as_str().unwrap().contains("no such block")), "{ranged}");
    assert!(parts.iter().all(|part| part["to"].as_str() < ranged["read_to"].as_str()), "{ranged}");
    // Who we are is for a human to mend: nothing is passed over.
    let refused = source(&tidewatch, 2, |source| source["failing"] == true);
    assert_eq!((&refused["state"], &refused["not_read"]), (&json!("bootstrapping"), &json!([])), "{refused}");
    assert!(refused["last_error"].as_str().unwrap().contains("401: who are you"), "{refused}");
}

#[test]
fn an_answer_that_is_partial_is_told_and_asked_again() {
    let quirks: [Quirk; 2] = [
        |_, _, found| {
            let mut all = matrix(found);
            all["isPartial"] = json!(true);
            Ok(all)
        },
        |_, _, found| {
            let mut all = matrix(found);
            all["warnings"] = json!(["store 10.0.0.7:10901 is away", "and another"]);
            Ok(all)
        },
    ];
    let tidewatch = asks(&quirks.map(serve));
    for (at, why) in [(0, "isPartial is true"), (1, "store 10.0.0.7:10901 is away (and 1 more warnings)")] {
        let status = source(&tidewatch, at, |source| source["partial"]["why"] == why);
        assert_eq!((&status["failing"], &status["read_to"]), (&json!(true), &Value::Null), "{status}");
        assert!(status["last_error"].as_str().unwrap().contains("asked again in"), "{status}");
    }
    eventually("they are asked again", Duration::from_secs(30), || {
        let met = tidewatch.metric("tidewatch_limit_reached_total{limit=\"prometheus.partial\"}");
        if met >= 4.0 { Ok(()) } else { Err(met.to_string()) }
    });
    let mut tidewatch = tidewatch;
    let log = tidewatch.process().log();
    assert_eq!(log.matches("the answer is partial").count(), 2, "once each: {log}");
}

#[test]
fn names_that_cannot_be_listed_for_a_while_cost_no_sample() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static LISTED: AtomicUsize = AtomicUsize::new(0);
    let address = serve(|selector, _, found| match selector {
        "names" => match LISTED.fetch_add(1, SeqCst) {
            0 => Err((503, "busy")),
            1 => Ok(json!({"status": "success", "warnings": ["a store is away"]})),
            _ => Ok(matrix(found)),
        },
        _ if found.iter().any(|series| series["metric"]["__name__"] == "bad") => Err((422, "corrupt block")),
        _ => Ok(matrix(found)),
    });
    let mut tidewatch = asks(&[address]);
    let status = source(&tidewatch, 0, |source| source["state"] == "polling");
    counted(&tidewatch, "good");
    let left_out = status["not_read"].as_array().unwrap();
    assert!(!left_out.is_empty(), "{status}");
    for part in left_out {
        assert_eq!(part["match"], "{job=\"x\",__name__=\"bad\"}", "{status}");
    }
    // Some polls later: the bad name is known, and the log says so once.
    let polls = || tidewatch.metric("tidewatch_limit_reached_total{limit=\"prometheus.piece\"}");
    let before = polls();
    eventually("it polls on", Duration::from_secs(60), || {
        if polls() >= before + 3.0 { Ok(()) } else { Err(polls().to_string()) }
    });
    assert!(LISTED.load(SeqCst) < 12, "{LISTED:?}");
    let log = tidewatch.process().log();
    assert_eq!(log.matches("is left out").count(), 1, "{log}");
    assert!(log.matches("answers again").count() <= 2, "{log}");
}
