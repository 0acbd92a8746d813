//! The connections to one server: made anew when the files of `tls_config` have changed, kept for a while otherwise.
//!
//! Not here: what is sent over them, and whom to trust (`trust`).

use std::error::Error;
use std::future::{Future, pending};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::dns::{Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Client, Proxy, redirect};
use rustls::pki_types::ServerName;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::super::answer::QueryError;
use super::trust::{self, TlsError, TlsFiles};
use crate::config::http::{HttpConfig, TlsConfig, Url};

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept: longer than most people poll, shorter than Prometheus keeps it.
const IDLE: Duration = Duration::from_secs(120);

/// The connections to one server.
pub(super) struct Connections {
    runtime: &'static Runtime,
    /// The URL that requests go to.
    base: String,
    /// What the requests call the server, where it is not the host of `base`.
    host: Option<HeaderValue>,
    /// The host to look up, where it is not that of `base`.
    place: Option<String>,
    proxy: Option<Proxy>,
    tls: Option<TlsConfig>,
    /// The client, and the files it was made from.
    cached: Mutex<Option<(Option<TlsFiles>, Client)>>,
}

impl Connections {
    /// Judges everything that `http` names but headers; connects to nothing.
    ///
    /// # Errors
    /// What cannot be used, in a sentence.
    pub(super) fn new(url: &Url, http: &HttpConfig) -> Result<Connections, String> {
        let proxy = http.proxy_url.as_ref().map(proxy).transpose()?;
        let tls = url.is_https().then(|| http.tls.clone());
        let name = tls.as_ref().map(trust::server_name).transpose().map_err(|error| error.to_string())?;
        let name = name.flatten().filter(|_| proxy.is_none());
        let (base, host, place) = match name {
            Some(ServerName::DnsName(name)) => named(url, name.as_ref())?,
            // A handshake names no IP addresses; a proxy is told where the server is. The certificate is judged all the same.
            _ => (url.base().to_owned(), None, None),
        };
        let runtime = runtime().map_err(|error| format!("the thread for HTTP cannot be started: {error}"))?;
        let cached = Mutex::default();
        let connections = Connections { runtime, base, host, place, proxy, tls, cached };
        connections.client().map_err(|error| error.to_string())?;
        Ok(connections)
    }

    /// The URL that requests go to, without a slash at its end.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The header `Host`, where it does not follow from the URL.
    pub(super) fn host(&self) -> Option<HeaderValue> {
        self.host.clone()
    }

    /// Waits for this on the thread of the caller, which must be none of a runtime.
    pub(super) fn block_on<T>(&self, asked: impl Future<Output = T>) -> T {
        self.runtime.handle().block_on(asked)
    }

    /// The client for what the files hold now.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it should, named.
    pub(super) fn client(&self) -> Result<Client, TlsError> {
        let files = self.tls.as_ref().map(TlsFiles::read).transpose()?;
        let mut cached = self.cached.lock();
        if let Some((of, client)) = &*cached
            && *of == files
        {
            return Ok(client.clone());
        }
        let client = self.build(files.as_ref())?;
        *cached = Some((files, client.clone()));
        Ok(client)
    }

    fn build(&self, files: Option<&TlsFiles>) -> Result<Client, TlsError> {
        let accept = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .user_agent(concat!("tidewatch/", env!("CARGO_PKG_VERSION")))
            .default_headers(accept)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .http1_only()
            .dns_resolver(NameResolver { place: self.place.clone() });
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(proxy.clone());
        }
        let config = match (&self.tls, files) {
            (Some(tls), Some(files)) => trust::client_config(tls, files)?,
            _ => trust::no_certificates()?,
        };
        builder.tls_backend_preconfigured(config).build().map_err(|error| TlsError::new(root(&error)))
    }
}

/// Asks for the server by the name that its certificate has to bear, and looks up where the URL says.
fn named(url: &Url, name: &str) -> Result<(String, Option<HeaderValue>, Option<String>), String> {
    let unusable = || format!("{url} cannot be used with tls_config.server_name");
    let mut asked: reqwest::Url = url.base().parse().map_err(|_| unusable())?;
    let place = asked.host_str().ok_or_else(unusable)?.trim_matches(['[', ']']).to_owned();
    asked.set_host(Some(name)).map_err(|_| unusable())?;
    let host = HeaderValue::from_str(url.authority()).map_err(|_| unusable())?;
    Ok((asked.as_str().trim_end_matches('/').to_owned(), Some(host), Some(place)))
}

/// What drives the connections of all clients: one thread, made with the first client. Where the system gives none this is
/// an error; a runtime that makes its thread itself would panic.
fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = Arc::new(Builder::new_current_thread().enable_all().build()?);
    let driven = Arc::clone(&runtime);
    std::thread::Builder::new().name("http".to_owned()).spawn(move || driven.block_on(pending::<()>()))?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

fn proxy(url: &Url) -> Result<Proxy, String> {
    if url.is_https() {
        return Err(format!("proxy_url must be a URL such as http://127.0.0.1:3128; got {url}"));
    }
    let proxy = Proxy::all(url.base()).map_err(|_| format!("proxy_url {url} cannot be used"))?;
    Ok(match url.user() {
        Some((user, password)) => proxy.basic_auth(user, password),
        None => proxy,
    })
}

/// Looks names up on a thread of its own: a look-up that hangs keeps no other from being made, and ends with the time of
/// its request. The usual one panics where the system has no thread to give.
struct NameResolver {
    /// Looked up whatever is asked for.
    place: Option<String>,
}

impl Resolve for NameResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (found, answer) = oneshot::channel();
        let host = self.place.clone().unwrap_or_else(|| name.as_str().to_owned());
        // The connection puts the port in.
        let look_up = move || {
            let addresses = (host.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
            // Who asked may have given up.
            let _ = found.send(addresses);
        };
        let thread = std::thread::Builder::new().name("resolve".to_owned()).spawn(look_up);
        Box::pin(async move {
            thread?;
            let addresses =
                answer.await.map_err(|_| io::Error::other("the look-up of the name panicked"))??;
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// What to make of a request without an answer.
pub(super) fn failed(error: reqwest::Error) -> QueryError {
    if let Some(tls) = causes(&error).find_map(tls_error) {
        return QueryError::Definite(format!("TLS: {tls}; see http_config.tls_config"));
    }
    match error.is_timeout() && error.is_connect() {
        true => QueryError::Transient(format!("no connection within {CONNECT:?}")),
        // Anything else on the way to a server may be otherwise a moment later.
        false => QueryError::Transient(root(&error)),
    }
}

/// The error of a handshake, which may stand in some of the system's: those do not name it as their source.
fn tls_error<'a>(mut cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    while let Some(inner) = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        cause = inner;
    }
    cause.downcast_ref()
}

/// What is at the bottom of an error: those above it only say that a request failed.
pub(super) fn root(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn causes<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error.source(), |error| <dyn Error as Error>::source(*error))
}
