//! The client against a server of a few lines that answers as told and keeps what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::config::http::{Authorization, BasicAuth, Secret, TlsConfig};
use crate::source::support::Folder;

/// Answers each connection with the next of `answers` as it stands, and gives out what was asked.
fn server(answers: Vec<String>) -> (Url, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/prefix/", listener.local_addr().unwrap()).parse().unwrap();
    let (asked_to, asked) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let request = request(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
            drop(stream);
            if asked_to.send(request).is_err() {
                return;
            }
        }
    });
    (url, asked)
}

fn request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        text.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    text + std::str::from_utf8(&body).unwrap()
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

const EMPTY: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;

fn client(url: &Url, http: &HttpConfig) -> (PrometheusClient, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    (PrometheusClient::new(url, http, Arc::clone(&metrics)).unwrap(), metrics)
}

fn ask(client: &PrometheusClient) -> Result<QueryAnswer, QueryError> {
    client.query("up{a=\"b&c\"}[1h]", 1_435_781_430_081, Duration::from_secs(2))
}

#[test]
fn a_question_is_a_form_with_time_and_timeout() {
    let (url, asked) = server(vec![answer("200 OK", EMPTY)]);
    let (client, metrics) = client(&url, &HttpConfig::default());
    assert_eq!(ask(&client), Ok(QueryAnswer::default()));
    let request = asked.recv().unwrap();
    assert!(request.starts_with("POST /prefix/api/v1/query HTTP/1.1\r\n"), "{request}");
    assert!(
        request.ends_with("\r\nquery=up%7Ba%3D%22b%26c%22%7D%5B1h%5D&time=1435781430.081&timeout=2000ms"),
        "{request}"
    );
    assert!(request.contains("user-agent: tidewatch/") && !request.contains("authorization"), "{request}");
    let text = metrics.text();
    assert!(text.contains("tidewatch_prometheus_requests_total{outcome=\"ok\"} 1"), "{text}");
    assert!(text.contains("tidewatch_prometheus_request_duration_seconds_count 1"), "{text}");
}

#[test]
fn outcomes_are_split_and_counted() {
    for (given, outcome, says) in [
        (answer("503 Service Unavailable", "starting"), "transient", "503: starting"),
        (
            answer("422 x", r#"{"status":"error","errorType":"execution","error":"too many samples"}"#),
            "too_much",
            "422: too many",
        ),
        (answer("401 Unauthorized", "who are you"), "definite", "401: who are you; see http_config"),
        (answer("302 Found", ""), "definite", "302; redirects are not followed"),
        (answer("200 OK", "<html>"), "definite", "the answer is not Prometheus'"),
        (answer("200 OK", &EMPTY[..20]), "definite", "the answer is not Prometheus'"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(), "transient", ""),
        ("nonsense\r\n\r\n".to_owned(), "transient", ""),
        (String::new(), "transient", ""),
    ] {
        let (url, asked) = server(vec![given.clone()]);
        let (client, metrics) = client(&url, &HttpConfig::default());
        let error = ask(&client).unwrap_err();
        assert_eq!(error.outcome(), outcome, "{given:?}: {error}");
        let start = format!("asking {url}/api/v1/query: {says}");
        assert!(error.to_string().starts_with(&start), "{given:?}: {error}");
        let counted = format!("tidewatch_prometheus_requests_total{{outcome=\"{outcome}\"}} 1");
        assert!(metrics.text().contains(&counted));
        asked.recv().unwrap();
    }
    let gone = "http://127.0.0.1:1".parse().unwrap();
    assert_eq!(ask(&client(&gone, &HttpConfig::default()).0).unwrap_err().outcome(), "transient");
}

#[test]
fn an_answer_beyond_the_bound_asks_for_less() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let spaces = vec![b' '; 1 << 20];
        // Ends when the client has had enough.
        while stream.write_all(&spaces).is_ok() {}
    });
    let (client, metrics) = client(&url, &HttpConfig::default());
    let error = client.query("up", 0, Duration::from_secs(60)).unwrap_err();
    assert_eq!(error.outcome(), "too_much", "{error}");
    assert!(metrics.text().contains("tidewatch_limit_reached_total{limit=\"prometheus.answer_bytes\"} 1"));
}

#[test]
fn the_version_is_unknown_where_nobody_knows_the_question() {
    let build = r#"{"status":"success","data":{"version":"2.42.0+ds","goVersion":"go1.19"}}"#;
    let (url, asked) = server(vec![answer("200 OK", build), answer("404 Not Found", "404 page not found")]);
    let (client, _) = client(&url, &HttpConfig::default());
    assert_eq!(client.version().unwrap().range(), Some(RangeConvention::Closed));
    assert_eq!(client.version(), Ok(ServerVersion::default()));
    assert!(asked.recv().unwrap().starts_with("GET /prefix/api/v1/status/buildinfo HTTP/1.1\r\n"));
}

#[test]
fn names_are_asked_with_a_selector() {
    let (url, asked) = server(vec![answer("200 OK", r#"{"status":"success","data":["a","b"]}"#)]);
    let (client, _) = client(&url, &HttpConfig::default());
    assert_eq!(client.names("{a=\"b&\"}", 1_000, 2_500), Ok(vec!["a".to_owned(), "b".to_owned()]));
    let line = "GET /prefix/api/v1/label/__name__/values?match%5B%5D=%7Ba%3D%22b%26%22%7D&start=1%2E000&end=2%2E500 HTTP/1.1\r\n";
    assert!(asked.recv().unwrap().starts_with(line));
}

#[test]
fn names_of_which_some_may_be_missing_are_asked_for_again() {
    for more in [r#""warnings":["a store is away"]"#, r#""isPartial":true"#] {
        let body = format!(r#"{{"status":"success","data":["a"],{more}}}"#);
        let (url, _asked) = server(vec![answer("200 OK", &body)]);
        let (client, _) = client(&url, &HttpConfig::default());
        let error = client.names("{}", 1_000, 2_500).unwrap_err();
        assert!(error.outcome() == "transient" && error.to_string().contains("is partial"), "{error}");
    }
}

#[test]
fn secrets_are_sent_from_text_url_and_file_as_it_is_now() {
    let folder = Folder::new();
    let file = folder.path.join("token");
    std::fs::write(&file, "first\n").unwrap();
    let (url, asked) = server(vec![answer("200 OK", EMPTY); 3]);
    let http = HttpConfig {
        authorization: Some(Authorization {
            scheme: "Bearer".to_owned(),
            credentials: Credential::File(file.clone()),
        }),
        http_headers: vec![
            ("X-Scope-OrgID".to_owned(), Given::Plain("a".to_owned())),
            ("x-scope-orgid".to_owned(), Given::Hidden(Credential::Text(Secret::new("b")))),
        ],
        ..HttpConfig::default()
    };
    let (bearer, _) = client(&url, &http);
    ask(&bearer).unwrap();
    let request = asked.recv().unwrap();
    assert!(request.contains("authorization: Bearer first\r\n"), "{request}");
    assert!(
        request.contains("x-scope-orgid: a\r\n") && request.contains("x-scope-orgid: b\r\n"),
        "{request}"
    );
    std::fs::write(&file, "second").unwrap();
    ask(&bearer).unwrap();
    assert!(asked.recv().unwrap().contains("authorization: Bearer second\r\n"));
    std::fs::remove_file(&file).unwrap();
    let error = ask(&bearer).unwrap_err();
    assert!(error.outcome() == "definite" && error.to_string().contains("token"), "{error}");
    let user = url.base().replace("http://", "http://u:p%40@").parse().unwrap();
    ask(&client(&user, &HttpConfig::default()).0).unwrap();
    assert!(asked.recv().unwrap().contains("authorization: Basic dTpwQA==\r\n"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn what_cannot_be_used_is_refused_before_anything_is_asked() {
    let folder = Folder::new();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path.join(name), text).unwrap();
        Some(folder.path.join(name))
    };
    let tls = |tls: TlsConfig| HttpConfig { tls, ..HttpConfig::default() };
    let password = Some(Credential::Text(Secret::new("hunter2\n")));
    for (http, says) in [
        (
            tls(TlsConfig { ca_file: Some("/nowhere".into()), ..TlsConfig::default() }),
            "tls_config.ca_file /nowhere: No such file",
        ),
        (
            tls(TlsConfig { ca_file: write("ca", "not PEM"), ..TlsConfig::default() }),
            "tls_config.ca_file holds no certificate",
        ),
        (tls(TlsConfig { cert_file: write("c", ""), ..TlsConfig::default() }), "both cert_file and key_file"),
        (
            tls(TlsConfig { cert_file: write("c", ""), key_file: write("k", ""), ..TlsConfig::default() }),
            "tls_config.cert_file holds no certificate",
        ),
        (
            tls(TlsConfig { server_name: Some("a b".to_owned()), ..TlsConfig::default() }),
            "must be a DNS name or an IP address",
        ),
        (
            HttpConfig {
                http_headers: vec![("a b".to_owned(), Given::Plain(String::new()))],
                ..HttpConfig::default()
            },
            "http_headers must be names of headers",
        ),
        (
            HttpConfig {
                http_headers: vec![(
                    "a".to_owned(),
                    Given::Hidden(Credential::Text(Secret::new("hunter2\n"))),
                )],
                ..HttpConfig::default()
            },
            "http_headers.a holds what cannot be sent",
        ),
        (
            HttpConfig { proxy_url: Some("https://u:hunter2@p".parse().unwrap()), ..HttpConfig::default() },
            "proxy_url must be a URL such as http://127.0.0.1:3128; got https://p",
        ),
        (
            HttpConfig {
                authorization: Some(Authorization {
                    scheme: "a\n".to_owned(),
                    credentials: password.clone().unwrap(),
                }),
                ..HttpConfig::default()
            },
            "authorization holds what cannot be sent",
        ),
        (
            HttpConfig {
                basic_auth: Some(BasicAuth {
                    username: "u".to_owned(),
                    password: Some(Credential::File("/nowhere".into())),
                }),
                ..HttpConfig::default()
            },
            "reading the secret in /nowhere",
        ),
    ] {
        let url = "https://127.0.0.1:1".parse().unwrap();
        let with_roots = match http.tls == TlsConfig::default() {
            true => {
                HttpConfig { tls: TlsConfig { insecure_skip_verify: true, ..TlsConfig::default() }, ..http }
            }
            false => http,
        };
        let error = PrometheusClient::new(&url, &with_roots, Arc::new(Metrics::new())).unwrap_err();
        assert!(error.outcome() == "definite" && error.to_string().contains(says), "{says}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn times_are_written_in_seconds() {
    for (ms, text) in
        [(0, "0.000"), (1_435_781_430_081, "1435781430.081"), (-1, "-0.001"), (-61_001, "-61.001")]
    {
        assert_eq!(seconds(ms), text);
    }
}
