//! How a server is reached over HTTP: its URL, and what Prometheus calls `http_config`, under Prometheus' names.
//!
//! Secrets print as `<secret>` wherever they are printed, and a URL prints without its user and password.
//! Not here: when secret files are read, and talking to servers (`source/query`).

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for whoever sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// A secret, or the file it is read from at each use, so that it can be replaced while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Written in the configuration.
    Text(Secret),
    /// `*_file`.
    File(PathBuf),
}

/// The bytes of a file that a setting names, at most so many.
///
/// # Errors
/// It cannot be read, is longer, or is no regular file: a pipe would be waited for without end.
pub fn read_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "it must be a regular file");
    // Opening a pipe waits already, so it is looked at before, and again in case it was replaced.
    if !std::fs::metadata(path)?.is_file() {
        return Err(no_file());
    }
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(no_file());
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let why = format!("it must not exceed {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// The `http_config` of Prometheus as far as we follow it. Redirects are not followed, and OAuth 2 is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// `basic_auth`
    pub basic_auth: Option<BasicAuth>,
    /// `authorization`
    pub authorization: Option<Authorization>,
    /// `tls_config`
    pub tls: TlsConfig,
    /// `proxy_url`: an HTTP proxy; for `https` it is asked to CONNECT.
    pub proxy_url: Option<Url>,
    /// `http_headers`: name and each of its values.
    pub http_headers: Vec<(String, HeaderValue)>,
}

/// User name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// `username`
    pub username: String,
    /// `password` or `password_file`; empty if neither was given.
    pub password: Option<Credential>,
}

/// The header `Authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// `type`, by default `Bearer`.
    pub scheme: String,
    /// `credentials` or `credentials_file`.
    pub credentials: Credential,
}

/// One value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderValue {
    /// From `values`.
    Plain(String),
    /// From `secrets` or `files`.
    Hidden(Credential),
}

/// `tls_config`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// `ca_file`: who may have signed the server's certificate; by default those whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// `cert_file`: our own certificate, with those that lead to its root.
    pub cert_file: Option<PathBuf>,
    /// `key_file`
    pub key_file: Option<PathBuf>,
    /// `server_name`: the name the certificate has to bear, where it is not that of the URL.
    pub server_name: Option<String>,
    /// `insecure_skip_verify`
    pub insecure_skip_verify: bool,
}

/// An `http` or `https` URL; user and password are kept apart and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    base: String,
    user: Option<(String, Secret)>,
}

impl Url {
    /// Scheme, host, port and path, without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// User and password, if the URL had them.
    pub fn user(&self) -> Option<(&str, &str)> {
        self.user.as_ref().map(|(user, password)| (user.as_str(), password.expose()))
    }

    /// Whether the scheme is `https`.
    pub fn is_https(&self) -> bool {
        self.base.starts_with("https:")
    }

    /// Host, and port if there is one.
    pub fn authority(&self) -> &str {
        let rest = self.base.split_once("://").map_or("", |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.base)
    }
}

/// The text is no URL we can use. Says what one must be, and nothing of the text: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a URL such as http://127.0.0.1:9090: http or https, a host, perhaps a path; no query and no fragment"
)]
pub struct NotAUrl;

impl FromStr for Url {
    type Err = NotAUrl;

    fn from_str(text: &str) -> Result<Url, NotAUrl> {
        let uri: http::Uri = text.parse().map_err(|_| NotAUrl)?;
        let (scheme, authority) =
            (uri.scheme_str().ok_or(NotAUrl)?, uri.authority().ok_or(NotAUrl)?.as_str());
        if !["http", "https"].contains(&scheme) || uri.query().is_some() || text.contains('#') {
            return Err(NotAUrl);
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let port = host.rsplit_once(':').filter(|_| !host.ends_with(']'));
        if uri.host().is_none_or(str::is_empty) || port.is_some_and(|(_, port)| port.parse::<u16>().is_err())
        {
            return Err(NotAUrl);
        }
        let plain = |text: &str| percent_decode_str(text).decode_utf8().map(String::from);
        let user = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            Ok((plain(name)?, Secret::new(plain(password)?)))
        });
        let user = user.transpose().map_err(|_: std::str::Utf8Error| NotAUrl)?;
        Ok(Url { base: format!("{scheme}://{host}{}", uri.path().trim_end_matches('/')), user })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_print_without_password() {
        for (text, base, user) in [
            ("http://127.0.0.1:9090", "http://127.0.0.1:9090", None),
            ("http://h/", "http://h", None),
            ("https://[::1]:9/a/b/", "https://[::1]:9/a/b", None),
            ("HTTPS://h/x", "https://h/x", None),
            ("http://u:p%40ss@h:1/a", "http://h:1/a", Some(("u", "p@ss"))),
            ("http://u@h", "http://h", Some(("u", ""))),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.base(), url.user()), (base, user), "{text}");
            assert!(!format!("{url} {url:?}").contains("p@ss"), "{text}");
        }
        assert_eq!("https://[::1]:9/a".parse::<Url>().unwrap().authority(), "[::1]:9");
        for text in [
            "",
            "h",
            "/a",
            "h:9090",
            "ftp://h",
            "http://",
            "http:///a",
            "http://h:",
            "http://h?x=1",
            "http://h#x",
            "http://h:99999",
            "http://u:%ff@h",
            "http://a b",
            "unix:/x",
        ] {
            assert_eq!(text.parse::<Url>(), Err(NotAUrl), "{text:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = || Credential::Text(Secret::new("hunter2"));
        let config = HttpConfig {
            basic_auth: Some(BasicAuth { username: "u".to_owned(), password: Some(secret()) }),
            authorization: Some(Authorization { scheme: "Bearer".to_owned(), credentials: secret() }),
            proxy_url: Some("http://u:hunter2@proxy:1".parse().unwrap()),
            http_headers: vec![("a".to_owned(), HeaderValue::Hidden(secret()))],
            tls: TlsConfig::default(),
        };
        let text = format!("{config:?} {config:#?}");
        assert!(text.contains("<secret>") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (file, link, pipe) = (dir.join("file"), dir.join("link"), dir.join("pipe"));
        std::fs::write(&file, "secret").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        // As Kubernetes mounts secrets.
        assert_eq!(read_file(&link, 6).unwrap(), b"secret");
        assert_eq!(read_file(&file, 5).unwrap_err().to_string(), "it must not exceed 5 bytes");
        // Nobody writes to it: opening it would wait for ever.
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), dir] {
            assert_eq!(read_file(path, 6).unwrap_err().to_string(), "it must be a regular file");
        }
    }
}
