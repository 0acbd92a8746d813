//! GET and POST over plain HTTP; a status is an answer, never an error.

use std::time::Duration;

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

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    config.timeout_global(Some(ANSWER_PATIENCE)).build().new_agent()
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, String> {
    let mut response = result.map_err(|e| e.to_string())?;
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let (content_type, retry_after) = (header("content-type").unwrap_or_default(), header("retry-after"));
    let written = ["samples", "histograms", "exemplars"]
        .map(|what| header(&format!("x-prometheus-remote-write-{what}-written")).map(|n| n.parse().unwrap()));
    let body =
        response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status: response.status().as_u16(), content_type, retry_after, written, text })
}

/// GET with these parameters (escaped here).
///
/// # Errors
/// No answer came: nobody listens, or the connection broke.
pub fn get(url: &str, parameters: &[(&str, &str)]) -> Result<Answer, String> {
    let request =
        parameters.iter().fold(agent().get(url), |request, (name, value)| request.query(name, value));
    answer(request.call())
}

/// DELETE.
///
/// # Errors
/// No answer came.
pub fn delete(url: &str) -> Result<Answer, String> {
    answer(agent().delete(url).call())
}

/// Keeps its connections, as a sender does that sends again and again.
#[derive(Debug)]
pub struct Client(ureq::Agent);

impl Client {
    pub fn new() -> Client {
        Client(agent())
    }

    /// [`post`] on a connection that is open already, if there is one.
    ///
    /// # Errors
    /// As there.
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
        post_by(&self.0, url, headers, body)
    }
}

/// POST with these headers.
///
/// # Errors
/// No answer came: nobody listens, or the connection broke.
pub fn post(url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
    post_by(&agent(), url, headers, body)
}

fn post_by(agent: &ureq::Agent, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
    let request =
        headers.iter().fold(agent.post(url), |request, (name, value)| request.header(*name, *value));
    answer(request.send(body))
}
