//! Asks a Prometheus server: blocking, one request at a time, every one counted by its outcome and bounded in time and
//! bytes. [`Client::get`] asks any other server, and is not counted.
//!
//! Redirects are not followed: credentials would go to a server nobody named. No proxy is taken from the environment.
//! Files with secrets are read at each request, those with certificates at each connection, so that what is replaced
//! while Tidewatch runs is used.
//!
//! Not here: which questions to ask (chunks, seams, retries).

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use ureq::http::Response;
use ureq::http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::Duration as Time;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, NextTimeout, TcpConnector};
use ureq::{Agent, Body, Proxy, ProxyProtocol, Timeout};

use super::answer::{self, BuildInfo, QueryData, TextList};
pub use super::answer::{QueryAnswer, QueryError, QuerySeries, RangeConvention, ServerVersion};
use super::tls::{Tls, TlsError};
use crate::config::http::{Credential, HeaderValue as Given, HttpConfig, Url, read_file};
use crate::metrics::{Metrics, OutcomeLabels};

/// Most bytes of an answer, decompressed: about two million samples. What is larger is asked for in parts.
pub const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: u64 = 16 << 10;
/// Most bytes of a file with a secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// How much longer than the server we wait: it should be the one to say that a question takes too long.
const SERVER_FIRST: Duration = Duration::from_secs(5);
/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// How long small questions may take.
const BRIEF: Duration = Duration::from_secs(15);
/// How long an unused connection is kept: longer than most people poll, shorter than Prometheus keeps it.
const IDLE: Duration = Duration::from_secs(120);

/// A Prometheus server.
pub struct PrometheusClient {
    agent: Agent,
    url: Url,
    http: HttpConfig,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for PrometheusClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

impl PrometheusClient {
    /// Judges everything `http` names; connects to nothing.
    ///
    /// # Errors
    /// [`QueryError::Definite`]: a file that cannot be read, a header that cannot be sent, a proxy that is not plain HTTP.
    pub fn new(url: &Url, http: &HttpConfig, metrics: Arc<Metrics>) -> Result<PrometheusClient, QueryError> {
        let definite = |why: String| QueryError::Definite(format!("{url} cannot be asked: {why}"));
        let tls = match url.is_https() {
            true => Some(Tls::new(http.tls.clone()).map_err(|error| definite(error.to_string()))?),
            false => None,
        };
        let proxy = http.proxy_url.as_ref().map(proxy).transpose().map_err(definite)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .max_idle_age(IDLE)
            .build();
        let plain = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
        let agent = match tls {
            Some(tls) => Agent::with_parts(config, plain.chain(tls), NameResolver),
            None => Agent::with_parts(config, plain, NameResolver),
        };
        let client = PrometheusClient { agent, url: url.clone(), http: http.clone(), metrics };
        client.headers().map_err(definite)?;
        Ok(client)
    }

    /// Ends what is being asked, in whatever thread, with a transient error; nothing can be asked any more.
    pub fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// Where the server is, without secrets.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// An instant query at `at_ms`, which has to answer a vector or (for a range selector) a matrix. `timeout` is how
    /// long the server may compute; the answer has five seconds more. Whoever asks judges what is only partial.
    ///
    /// # Errors
    /// Split by what to do; see [`QueryError`].
    pub fn query(&self, promql: &str, at_ms: i64, timeout: Duration) -> Result<QueryAnswer, QueryError> {
        let (at, limit) = (seconds(at_ms), format!("{}ms", timeout.as_millis().max(1)));
        let form = [("query", promql), ("time", &at), ("timeout", &limit)];
        let (data, partial) = self.ask::<QueryData>("query", Some(&form), timeout)?;
        Ok(QueryAnswer { series: data.series(), partial })
    }

    /// Asks a question that every server of this API can answer, whatever it holds.
    ///
    /// # Errors
    /// Why it, or who we are to it, is not as it should be.
    pub fn alive(&self, at_ms: i64) -> Result<(), QueryError> {
        let (at, limit) = (seconds(at_ms), format!("{}ms", BRIEF.as_millis()));
        let form = [("query", "vector(1)"), ("time", &at), ("timeout", &limit)];
        self.ask::<QueryData>("query", Some(&form), BRIEF).map(drop)
    }

    /// The metric names with samples in `[from_ms, to_ms]` among the series of `selector`, all of them.
    ///
    /// # Errors
    /// Split by what to do; see [`QueryError`]. An answer that may be partial is none.
    pub fn names(&self, selector: &str, from_ms: i64, to_ms: i64) -> Result<Vec<String>, QueryError> {
        let form: Vec<(String, String)> =
            [("match[]", selector.to_owned()), ("start", seconds(from_ms)), ("end", seconds(to_ms))]
                .map(|(key, value)| (key.to_owned(), value))
                .into();
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let query: Vec<String> =
            form.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
        let path = format!("label/__name__/values?{}", query.join("&"));
        match self.ask::<TextList>(&path, None, BRIEF)? {
            (names, None) => Ok(names.given()),
            // The samples of a name that is missing would be.
            (_, Some(why)) => Err(QueryError::Transient(format!(
                "asking {} for names: the answer is partial: {why}",
                self.url
            ))),
        }
    }

    /// What server it is; unknown where it does not say.
    ///
    /// # Errors
    /// Split by what to do; see [`QueryError`].
    pub fn version(&self) -> Result<ServerVersion, QueryError> {
        let text = match self.ask::<BuildInfo>("status/buildinfo", None, BRIEF) {
            Ok((info, _)) => info.version,
            // Servers that only speak the query API.
            Err(QueryError::Definite(why)) if why.contains(": 404") => None,
            Err(error) => return Err(error),
        };
        Ok(ServerVersion { text })
    }

    /// The status and the body of a GET of a path below the URL, whatever server it is.
    ///
    /// # Errors
    /// No answer: [`QueryError::Transient`], or [`QueryError::Definite`] where another try will not help.
    pub fn get(&self, path: &str) -> Result<(u16, Vec<u8>), QueryError> {
        let mut response = self.send(&format!("{}{path}", self.url.base()), None, BRIEF)?;
        let status = response.status().as_u16();
        self.body(response.body_mut(), ANSWER_BYTES_MAX).map(|body| (status, body))
    }

    /// One request, counted and timed: a POST of `form`, or a GET. With the data comes why it may be partial.
    fn ask<D: Default + for<'a> Deserialize<'a>>(
        &self,
        path: &str,
        form: Option<&[(&str, &str)]>,
        timeout: Duration,
    ) -> Result<(D, Option<String>), QueryError> {
        let begin = Instant::now();
        let done = self
            .exchange(path, form, timeout + SERVER_FIRST)
            .and_then(|body| answer::data::<D>(&body).map_err(QueryError::Definite));
        let outcome = done.as_ref().map_or_else(QueryError::outcome, |_| "ok");
        self.metrics.prometheus_requests.get_or_create(&OutcomeLabels { outcome }).inc();
        self.metrics.prometheus_seconds.observe(begin.elapsed().as_secs_f64());
        let place = || format!("asking {}/api/v1/{}", self.url, path.split('?').next().unwrap_or(path));
        match done {
            Ok(answered) => Ok(answered),
            Err(QueryError::Transient(why)) => Err(QueryError::Transient(format!("{}: {why}", place()))),
            Err(QueryError::TooMuch(why)) => Err(QueryError::TooMuch(format!("{}: {why}", place()))),
            Err(QueryError::Definite(why)) => Err(QueryError::Definite(format!("{}: {why}", place()))),
        }
    }

    /// The body of a 200.
    fn exchange(
        &self,
        path: &str,
        form: Option<&[(&str, &str)]>,
        timeout: Duration,
    ) -> Result<Vec<u8>, QueryError> {
        let url = format!("{}/api/v1/{path}", self.url.base());
        let mut response = self.send(&url, form, timeout)?;
        let status = response.status().as_u16();
        if status == 200 {
            return self.body(response.body_mut(), ANSWER_BYTES_MAX);
        }
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut said = Vec::new();
        // What could be read of a refusal is what is shown of it.
        let _ = response.body_mut().as_reader().take(REFUSAL_BYTES_MAX).read_to_end(&mut said);
        Err(answer::refusal(status, retry_after.as_deref(), &said))
    }

    /// A POST of `form`, or a GET.
    fn send(
        &self,
        url: &str,
        form: Option<&[(&str, &str)]>,
        timeout: Duration,
    ) -> Result<Response<Body>, QueryError> {
        let headers = self.headers().map_err(QueryError::Definite)?;
        let sent = match form {
            Some(form) => {
                let mut request = self.agent.post(url);
                if let Some(all) = request.headers_mut() {
                    all.extend(headers);
                }
                let timed =
                    request.config().timeout_global(Some(timeout)).timeout_connect(Some(CONNECT)).build();
                timed.send_form(form.iter().copied())
            }
            None => {
                let mut request = self.agent.get(url);
                if let Some(all) = request.headers_mut() {
                    all.extend(headers);
                }
                let timed =
                    request.config().timeout_global(Some(timeout)).timeout_connect(Some(CONNECT)).build();
                timed.call()
            }
        };
        sent.map_err(failed)
    }

    fn body(&self, body: &mut Body, bytes_max: u64) -> Result<Vec<u8>, QueryError> {
        let mut bytes = Vec::new();
        let read = body.as_reader().take(bytes_max + 1).read_to_end(&mut bytes);
        read.map_err(|error| match ureq::Error::from(error) {
            // It has begun to answer, so there is just more than comes through in the time.
            ureq::Error::Timeout(timeout) => {
                QueryError::TooMuch(format!("timeout while reading the answer: {timeout}"))
            }
            other => failed(other),
        })?;
        if bytes.len() as u64 > bytes_max {
            self.metrics.limit("prometheus.answer_bytes");
            return Err(QueryError::TooMuch(format!(
                "an answer must not exceed {bytes_max} bytes; this one does"
            )));
        }
        Ok(bytes)
    }

    /// Headers with what the files say now. An error says which file or name is wrong, never a secret.
    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        if let Some(authorization) = self.authorization()? {
            headers.insert(AUTHORIZATION, authorization);
        }
        for (name, given) in &self.http.http_headers {
            let key: HeaderName =
                name.parse().map_err(|_| format!("http_headers must be names of headers; got {name:?}"))?;
            let value = match given {
                Given::Plain(text) => HeaderValue::from_str(text),
                Given::Hidden(credential) => HeaderValue::from_str(&secret(credential)?),
            };
            let mut value =
                value.map_err(|_| format!("http_headers.{name} holds what cannot be sent in a header"))?;
            value.set_sensitive(true);
            headers.append(key, value);
        }
        Ok(headers)
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let basic = |user: &str, password: &str| {
            format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
        };
        let text = match (&self.http.basic_auth, &self.http.authorization, self.url.user()) {
            (Some(auth), ..) => {
                let password = auth.password.as_ref().map(secret).transpose()?.unwrap_or_default();
                basic(&auth.username, &password)
            }
            (None, Some(auth), _) => format!("{} {}", auth.scheme, secret(&auth.credentials)?),
            (None, None, Some((user, password))) => basic(user, password),
            (None, None, None) => return Ok(None),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| "authorization holds what cannot be sent in a header".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn proxy(url: &Url) -> Result<Proxy, String> {
    let place: ureq::http::uri::Authority =
        url.authority().parse().map_err(|_| format!("proxy_url {url} is no address"))?;
    if url.is_https() {
        return Err(format!("proxy_url must be a URL such as http://127.0.0.1:3128; got {url}"));
    }
    let mut proxy = Proxy::builder(ProxyProtocol::Http)
        .host(place.host())
        .port(place.port_u16().unwrap_or(80))
        .resolve_target(false);
    if let Some((user, password)) = url.user() {
        proxy = proxy.username(user).password(password);
    }
    proxy.build().map_err(|_| format!("proxy_url {url} cannot be used"))
}

/// Looks names up on a thread of its own, so that it can take no longer than it may. The usual one panics where the system
/// has no thread to give.
#[derive(Debug)]
struct NameResolver;

impl Resolver for NameResolver {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
        if host.parse::<std::net::IpAddr>().is_ok() {
            return DefaultResolver::default().resolve(uri, config, timeout);
        }
        let (found, answer) = std::sync::mpsc::sync_channel(1);
        let (uri, config) = (uri.clone(), config.clone());
        let without = NextTimeout { after: Time::NotHappening, ..timeout };
        // Who asked may have given up.
        let look = move || drop(found.send(DefaultResolver::default().resolve(&uri, &config, without)));
        std::thread::Builder::new().name("resolve".to_owned()).spawn(look)?;
        let late = |_| Err(ureq::Error::Timeout(timeout.reason));
        answer.recv_timeout(*timeout.after).unwrap_or_else(late)
    }
}

/// A secret as it is now.
fn secret(credential: &Credential) -> Result<String, String> {
    match credential {
        Credential::Text(secret) => Ok(secret.expose().to_owned()),
        Credential::File(path) => {
            read(path).map_err(|error| format!("reading the secret in {}: {error}", path.display()))
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read_file(path, SECRET_BYTES_MAX)?);
    let text = text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(text.trim().to_owned())
}

/// What to make of a request without an answer.
fn failed(error: ureq::Error) -> QueryError {
    match &error {
        ureq::Error::Io(io) => match io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => QueryError::Definite(format!("TLS: {tls}; see http_config.tls_config")),
            None => QueryError::Transient(io.to_string()),
        },
        ureq::Error::Other(other) => match other.downcast_ref::<TlsError>() {
            Some(tls) => QueryError::Definite(tls.to_string()),
            None => QueryError::Transient(error.to_string()),
        },
        ureq::Error::Timeout(Timeout::Connect) => {
            QueryError::Transient(format!("no connection within {CONNECT:?}"))
        }
        // Anything else on the way to a server may be otherwise a moment later.
        _ => QueryError::Transient(error.to_string()),
    }
}

/// A time as the API takes it.
fn seconds(at_ms: i64) -> String {
    let sign = if at_ms < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", at_ms.unsigned_abs() / 1_000, at_ms.unsigned_abs() % 1_000)
}

#[cfg(test)]
mod tests;
