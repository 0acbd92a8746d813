//! GET and POST over plain HTTP; a status is an answer, never an error.

use std::io::Read;
use std::time::Duration;

use reqwest::blocking::RequestBuilder;

/// Most bytes of an answer: a test that asks for more is wrong.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub retry_after: Option<String>,
    /// The Written headers of remote write 2.0: samples, histograms, exemplars.
    pub written: [Option<u64>; 3],
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Answer {
    /// What the answer says in words: the detail of a problem, else its text.
    pub fn says(&self) -> String {
        if self.content_type != "application/problem+json" {
            return self.text.clone();
        }
        self.json()["detail"].as_str().unwrap_or_else(|| panic!("no detail: {self:?}")).to_owned()
    }

    /// The last part of the type of a problem; its status, too, must be that of the answer.
    pub fn problem(&self) -> String {
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        assert!(!self.text.contains('\n') && self.text.starts_with("{\"detail\":"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{self:?}");
        let slug = problem["type"].as_str().and_then(|kind| kind.strip_prefix("/api/v1/problems/"));
        slug.unwrap_or_else(|| panic!("no type: {self:?}")).to_owned()
    }
}

/// Longest wait for an answer. It decides nothing: whoever answers too late for its purpose says so itself.
const ANSWER_PATIENCE: Duration = Duration::from_secs(180);

/// A client; one that keeps no connection asks anew each time, as most who ask do.
fn client(idle_max: usize) -> Client {
    let client = reqwest::blocking::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_PATIENCE)
        .pool_max_idle_per_host(idle_max)
        .tls_backend_preconfigured(tls())
        .build();
    Client(client.unwrap())
}

/// Nobody is asked by TLS, but the client wants to know how.
fn tls() -> rustls::ClientConfig {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.unwrap().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

/// The client of all who ask once.
fn once() -> &'static Client {
    static CLIENT: std::sync::OnceLock<Client> = std::sync::OnceLock::new();
    CLIENT.get_or_init(|| client(0))
}

fn answer(request: RequestBuilder) -> Result<Answer, String> {
    let response = request.send().map_err(|e| format!("{e:?}"))?;
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let (content_type, retry_after) = (header("content-type").unwrap_or_default(), header("retry-after"));
    let written = ["samples", "histograms", "exemplars"]
        .map(|what| header(&format!("x-prometheus-remote-write-{what}-written")).map(|n| n.parse().unwrap()));
    let status = response.status().as_u16();
    let mut body = Vec::new();
    response.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut body).map_err(|e| format!("{e:?}"))?;
    assert!(body.len() as u64 <= ANSWER_BYTES_MAX, "an answer of more than {ANSWER_BYTES_MAX} bytes");
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status, content_type, retry_after, written, text })
}

/// GET with these parameters (escaped here).
///
/// # Errors
/// No answer came: nobody listens, or the connection broke.
pub fn get(url: &str, parameters: &[(&str, &str)]) -> Result<Answer, String> {
    let request = once().0.get(url);
    answer(if parameters.is_empty() { request } else { request.query(parameters) })
}

/// DELETE.
///
/// # Errors
/// No answer came.
pub fn delete(url: &str) -> Result<Answer, String> {
    answer(once().0.delete(url))
}

/// Keeps its connections, as a sender does that sends again and again.
#[derive(Debug)]
pub struct Client(reqwest::blocking::Client);

impl Client {
    pub fn new() -> Client {
        client(usize::MAX)
    }

    /// [`post`] on a connection that is open already, if there is one.
    ///
    /// # Errors
    /// As there.
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
        let request =
            headers.iter().fold(self.0.post(url), |request, (name, value)| request.header(*name, *value));
        answer(request.body(body.to_vec()))
    }
}

/// POST with these headers.
///
/// # Errors
/// No answer came: nobody listens, or the connection broke.
pub fn post(url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
    once().post(url, headers, body)
}
