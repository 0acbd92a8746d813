//! Asks a Prometheus server: blocking, one request at a time, every one counted by its outcome and bounded in time and
//! bytes. [`PrometheusClient::get`] asks any other server, and is not counted.
//!
//! Redirects are not followed: credentials would go to a server nobody named. No proxy is taken from the environment.
//! Files with secrets and certificates are read at each request, so that what is replaced while Tidewatch runs is used.
//!
//! Connections are `connections`' matter, whom to trust is `trust`'s. Not here: which questions to ask (chunks, seams,
//! retries).

mod connections;
mod trust;

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Response;
use reqwest::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde::Deserialize;
use tokio::sync::watch;

use self::connections::Connections;
use super::answer::{self, BuildInfo, QueryData, TextList};
pub use super::answer::{QueryAnswer, QueryError, QuerySeries, RangeConvention, ServerVersion};
use crate::config::http::{Credential, HeaderValue as Given, HttpConfig, Url, read_file};
use crate::metrics::{Metrics, OutcomeLabels};

/// Most bytes of an answer, decompressed: about two million samples. What is larger is asked for in parts.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Most bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 16 << 10;
/// Most bytes of a file with a secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;
/// How much longer than the server we wait: it should be the one to say that a question takes too long.
const SERVER_FIRST: Duration = Duration::from_secs(5);
/// How long small questions may take.
const BRIEF: Duration = Duration::from_secs(15);

/// A Prometheus server.
pub struct PrometheusClient {
    connections: Connections,
    url: Url,
    http: HttpConfig,
    metrics: Arc<Metrics>,
    /// Whether nothing is asked any more.
    closed: watch::Sender<bool>,
}

impl fmt::Debug for PrometheusClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusClient").field("url", &self.url).finish_non_exhaustive()
    }
}

impl PrometheusClient {
    /// Judges everything `http` names; connects to nothing.
    ///
    /// # Errors
    /// [`QueryError::Definite`]: a file that cannot be read, a header that cannot be sent, a proxy that is not plain HTTP.
    pub fn new(url: &Url, http: &HttpConfig, metrics: Arc<Metrics>) -> Result<PrometheusClient, QueryError> {
        let definite = |why: String| QueryError::Definite(format!("{url} cannot be asked: {why}"));
        let connections = Connections::new(url, http).map_err(definite)?;
        let closed = watch::Sender::new(false);
        let client = PrometheusClient { connections, url: url.clone(), http: http.clone(), metrics, closed };
        client.headers().map_err(definite)?;
        Ok(client)
    }

    /// Ends what is being asked, in whatever thread, with a transient error; nothing can be asked any more.
    pub fn shut_down(&self) {
        self.closed.send_replace(true);
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
        self.wait(async {
            let mut response = self.send(path, None, BRIEF).await?;
            let status = response.status().as_u16();
            self.body(&mut response, ANSWER_BYTES_MAX).await.map(|body| (status, body))
        })
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
        self.wait(async {
            let mut response = self.send(&format!("/api/v1/{path}"), form, timeout).await?;
            let status = response.status().as_u16();
            if status == 200 {
                return self.body(&mut response, ANSWER_BYTES_MAX).await;
            }
            let retry_after = response.headers().get(RETRY_AFTER);
            let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
            let mut said = Vec::new();
            // What could be read of a refusal is what is shown of it.
            while let Ok(Some(chunk)) = response.chunk().await {
                let room = REFUSAL_BYTES_MAX - said.len();
                said.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if said.len() == REFUSAL_BYTES_MAX {
                    break;
                }
            }
            Err(answer::refusal(status, retry_after.as_deref(), &said))
        })
    }

    /// Waits for what is asked, or until nothing is asked any more.
    fn wait<T>(&self, asked: impl Future<Output = Result<T, QueryError>>) -> Result<T, QueryError> {
        let mut closed = self.closed.subscribe();
        self.connections.block_on(async {
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {
                    Err(QueryError::Transient("the client was shut down".to_owned()))
                }
                done = asked => done,
            }
        })
    }

    /// A POST of `form`, or a GET, of a path below the URL.
    async fn send(
        &self,
        path: &str,
        form: Option<&[(&str, &str)]>,
        timeout: Duration,
    ) -> Result<Response, QueryError> {
        let mut headers = self.headers().map_err(QueryError::Definite)?;
        if let Some(host) = self.connections.host() {
            headers.insert(HOST, host);
        }
        let client = self.connections.client().map_err(|error| QueryError::Definite(error.to_string()))?;
        let url = format!("{}{path}", self.connections.base());
        let request = match form {
            Some(form) => client.post(url).form(form),
            None => client.get(url),
        };
        request.headers(headers).timeout(timeout).send().await.map_err(connections::failed)
    }

    async fn body(&self, response: &mut Response, bytes_max: usize) -> Result<Vec<u8>, QueryError> {
        let mut bytes = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => return Ok(bytes),
                // It has begun to answer, so there is just more than comes through in the time.
                Err(error) if error.is_timeout() => {
                    let why = connections::root(&error);
                    return Err(QueryError::TooMuch(format!("timeout while reading the answer: {why}")));
                }
                Err(error) => return Err(connections::failed(error)),
            }
            if bytes.len() > bytes_max {
                self.metrics.limit("prometheus.answer_bytes");
                return Err(QueryError::TooMuch(format!(
                    "an answer must not exceed {bytes_max} bytes; this one does"
                )));
            }
        }
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

/// A time as the API takes it.
fn seconds(at_ms: i64) -> String {
    let sign = if at_ms < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", at_ms.unsigned_abs() / 1_000, at_ms.unsigned_abs() % 1_000)
}

#[cfg(test)]
pub mod testing {
    //! A client for tests of our own port.

    /// Blocking, without TLS.
    pub fn plain_client() -> reqwest::blocking::Client {
        let tls = super::trust::no_certificates().unwrap();
        reqwest::blocking::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap()
    }
}

#[cfg(test)]
mod tests;
