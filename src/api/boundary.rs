//! The browser's boundary: what a page of another site may not do with this server.
//!
//! A server has no users and no passwords, and every page that its user opens can send requests to it. Three things
//! keep such pages out. The name in `Host` must be one that nobody else can point here, or a page whose name is
//! pointed here would count as our own. What changes something must not come from another page, as `Sec-Fetch-Site` and
//! `Origin` say. And questions that cost something are not answered to another page, though it could not read the answer.
//!
//! Programs send none of these headers but `Host`. Not here: who may ask at all; a proxy in front knows that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN, REFERER, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;

use super::error::{Kind, Problem, shown};
use super::health::METRICS;
use super::openapi::OPENAPI;
use super::problems::PROBLEMS;
use crate::metrics::{AnswerLabels, Metrics};

/// How often a refused host is logged.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Which requests are taken.
pub struct Boundary {
    listen: SocketAddr,
    hosts: Vec<String>,
    metrics: Arc<Metrics>,
    warned_at: Mutex<Option<Instant>>,
}

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq)]
enum BoundaryError {
    /// The name that was asked for is none of ours.
    Host(String),
    /// It comes from a page of another site: the header that says so, and its value.
    Site(&'static str, String),
}

impl Boundary {
    /// Takes what names `localhost`, an address or one of `hosts`.
    pub fn new(listen: SocketAddr, hosts: &[String], metrics: Arc<Metrics>) -> Boundary {
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Boundary { listen, hosts, metrics, warned_at: Mutex::default() }
    }

    fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), BoundaryError> {
        let named = headers.get_all(HOST).iter().map(text);
        // A whole address in the first line counts instead of the header, so both have to be ours.
        for host in named.chain(uri.authority().map(|authority| authority.as_str().to_owned())) {
            if !self.is_ours(&host) {
                return Err(BoundaryError::Host(host));
            }
        }
        let changes = ![Method::GET, Method::HEAD].contains(method);
        if changes || is_costly(uri.path()) {
            foreign(headers, changes).map_or(Ok(()), |(name, value)| Err(BoundaryError::Site(name, value)))
        } else {
            Ok(())
        }
    }

    /// Whether a host, with or without a port, is a name of this server that no other site can take.
    fn is_ours(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host();
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        !host.contains('@')
            && (address.is_ok()
                || name.eq_ignore_ascii_case("localhost")
                || host == self.listen.to_string()
                || self.hosts.iter().any(|ours| name.eq_ignore_ascii_case(ours)))
    }

    fn refuse(&self, outside: BoundaryError, method: &Method) -> Response {
        let response = match outside {
            BoundaryError::Host(host) => {
                self.metrics.limit("web.hosts");
                let host = shown(&host);
                let mut warned_at = self.warned_at.lock();
                if warned_at.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
                    *warned_at = Some(Instant::now());
                    tracing::warn!("a request for the host {host} is refused: it is not in web.hosts");
                }
                let bound = "an address, localhost or one of web.hosts";
                Problem::new(Kind::Misdirected, format!("Host must be {bound}; got {host}"))
            }
            BoundaryError::Site(name, value) => {
                self.metrics.limit("http.cross_site");
                let bound = format!("this server's own for a {method} of this path");
                Problem::new(Kind::CrossSite, format!("{name} must be {bound}; got {}", shown(&value)))
            }
        };
        let response = response.into_response();
        let code = response.status().as_u16();
        self.metrics.responses.get_or_create(&AnswerLabels { route: "other", code }).inc();
        response
    }
}

/// Refuses what does not belong here, and says of every answer that it is what its type says.
pub async fn guard(State(boundary): State<Arc<Boundary>>, request: Request, next: Next) -> Response {
    let judged = boundary.judge(request.method(), request.uri(), request.headers());
    let mut response = match judged {
        Ok(()) => next.run(request).await,
        Err(outside) => boundary.refuse(outside, request.method()),
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Whether answers of this path cost more than reading them: not the page, whether we are well, and what never changes.
pub(super) fn is_costly(path: &str) -> bool {
    let free = [PROBLEMS.path, OPENAPI.path];
    let is_free = free.iter().any(|free| path.strip_prefix(free).is_some_and(|rest| !rest.contains("..")));
    (path.starts_with("/api/") && !is_free) || path == METRICS.path
}

/// The header that says that a page of another site asks. A link that its user follows is no such page, as long as it
/// changes nothing.
fn foreign(headers: &HeaderMap, changes: bool) -> Option<(&'static str, String)> {
    let get = |name: &str| headers.get(name).map(text);
    if let Some(site) = get("sec-fetch-site") {
        let followed = !changes
            && get("sec-fetch-mode").as_deref() == Some("navigate")
            && get("sec-fetch-user").as_deref() == Some("?1");
        if !["same-origin", "none"].contains(&site.as_str()) && !followed {
            return Some(("Sec-Fetch-Site", site));
        }
    }
    let host = headers.get(HOST).map(text).unwrap_or_default();
    // All of them: the first could be our own.
    if let Some(other) = headers.get_all(ORIGIN).iter().map(text).find(|origin| !is_of(origin, &host)) {
        return Some(("Origin", other));
    }
    // Browsers that send no Sec-Fetch-Site, as to a plain address of the local network, still say where they come from.
    let asks = !headers.contains_key("sec-fetch-site") && !headers.contains_key(ORIGIN);
    let referer = headers.get(REFERER).map(text).filter(|referer| asks && !is_of(referer, &host));
    referer.map(|referer| ("Referer", referer))
}

/// Whether an address is one of this host, as the header `Host` writes it.
fn is_of(address: &str, host: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let plain = |host: &str| host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
    plain(authority.as_str()) == plain(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundary() -> Boundary {
        let hosts = ["Tide.example.org".to_owned()];
        Boundary::new("[fe80::1]:7464".parse().unwrap(), &hosts, Arc::new(Metrics::new()))
    }

    fn judge(request: &str, headers: &[(&str, &str)]) -> Result<(), BoundaryError> {
        let (method, uri) = request.split_once(' ').unwrap();
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(name.parse::<axum::http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        boundary().judge(&method.parse().unwrap(), &uri.parse().unwrap(), &all)
    }

    #[test]
    fn only_names_that_nobody_can_point_here_are_ours() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:7464",
            "10.0.0.7:80",
            "[::1]:7464",
            "[fe80::1]:7464",
            "localhost",
            "LOCALHOST:7464",
            "tide.example.org",
            "TIDE.example.org:443",
        ] {
            assert_eq!(judge("GET /api/v1/names", &[("host", host)]), Ok(()), "{host}");
            assert_eq!(judge(&format!("GET http://{host}/"), &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.test:7464",
            "localhost.evil.test",
            "x.tide.example.org",
            "127.0.0.1.evil.test",
            "127.0.0.1@evil.test",
            "evil.test@127.0.0.1",
            "1234",
            "",
            "é",
        ] {
            for request in ["GET /", "GET /-/healthy", "POST /api/v1/write", "GET /api/v1/names"] {
                let refused = Err(BoundaryError::Host(host.to_owned()));
                assert_eq!(judge(request, &[("host", host)]), refused, "{host}");
                assert_eq!(judge(request, &[("host", "localhost"), ("host", host)]), refused, "{host}");
            }
        }
        let whole = judge("GET http://evil.test/api/v1/names", &[("host", "localhost")]);
        assert_eq!(whole, Err(BoundaryError::Host("evil.test".to_owned())));
        // Old programs send none; a browser always does.
        assert_eq!(judge("GET /-/healthy", &[]), Ok(()));
    }

    #[test]
    fn pages_of_other_sites_change_nothing_and_get_nothing_that_costs() {
        let host = ("host", "10.0.0.7:7464");
        let from = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "http://evil.test"),
            ("origin", "http://10.0.0.7"),
            ("origin", "http://10.0.0.7:9090"),
            ("origin", "null"),
            ("origin", "file://"),
            ("referer", "http://evil.test/page"),
        ];
        for one in from {
            for request in [
                "POST /api/v1/write",
                "POST /api/v1/backfill",
                "DELETE /api/v1/backfill/1",
                "GET /api/v1/windows?at=now",
                "GET /api/v1/problems/../windows",
                "GET /metrics",
                "OPTIONS /api/v1/write",
            ] {
                assert!(
                    matches!(judge(request, &[host, one]), Err(BoundaryError::Site(..))),
                    "{request} {one:?}"
                );
            }
            for request in ["GET /", "GET /docs", "GET /-/healthy", "GET /api/v1/problems/too-much"] {
                assert_eq!(judge(request, &[host, one]), Ok(()), "{request} {one:?}");
            }
        }
        // Our own page, a user's bookmark, and programs.
        for own in [
            &[("sec-fetch-site", "same-origin"), ("origin", "http://10.0.0.7:7464")][..],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://10.0.0.7:7464")],
            &[("referer", "http://10.0.0.7:7464/?x=1")],
            &[],
        ] {
            let headers: Vec<_> = std::iter::once(host).chain(own.iter().copied()).collect();
            for request in ["POST /api/v1/backfill", "GET /api/v1/windows", "GET /metrics"] {
                assert_eq!(judge(request, &headers), Ok(()), "{request} {own:?}");
            }
        }
        // Behind a proxy with TLS, on the port of its scheme.
        let proxied = [("host", "tide.example.org"), ("origin", "https://tide.example.org")];
        assert_eq!(judge("POST /api/v1/backfill", &proxied), Ok(()));
        // A link that is followed shows what it is of, and changes nothing.
        let followed = [host, from[0], ("sec-fetch-mode", "navigate"), ("sec-fetch-user", "?1")];
        assert_eq!(judge("GET /api/v1/windows", &followed), Ok(()));
        assert!(judge("POST /api/v1/backfill", &followed).is_err());
        assert!(judge("GET /api/v1/windows", &followed[..3]).is_err());
        // Two origins are one too many.
        let two = [host, ("origin", "http://10.0.0.7:7464"), ("origin", "http://evil.test")];
        assert!(judge("POST /api/v1/backfill", &two).is_err());
    }
}
