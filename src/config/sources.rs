//! `sources` and `select`: which Prometheus servers are asked, for what, and what is left out.
//!
//! What is below `sources` may be secret, so a message shows a refused value only where that cannot be.
//! Not here: the syntax of selectors. Whoever composes the server judges that by the parser of the store.

use std::path::PathBuf;

use serde_json::Value;
use tidewatch_dataflows::settings::{Model, QUANTILES, QuantileSet, SELECT_MAX, SeriesOptions, Transform};

use super::ConfigError;
use super::http::{Authorization, BasicAuth, Credential, HeaderValue, HttpConfig, Secret, TlsConfig, Url};
use super::reader::{ConfigReader, ConfigValue};

/// What is done with the series that a selector means; the first entry that means a series holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectConfig {
    /// `match`: a Prometheus selector.
    pub matching: String,
    /// Whether series that do not change are left out, of sources that are asked for samples.
    pub drop_constant: bool,
    /// How many of them are taken, of sources that are asked for samples; 0 for all.
    pub sample: usize,
    /// What changes the results of them, from whatever source.
    pub options: SeriesOptions,
}

/// Most servers of one kind.
pub const SOURCES_MAX: usize = 16;
/// Most selectors of one source.
pub const SELECTORS_MAX: usize = 64;
/// Most bytes of a selector.
const SELECTOR_BYTES_MAX: usize = 8_192;
/// Most headers, and most values of one.
const HEADERS_MAX: usize = 32;
/// What `period` must be.
const PERIOD: &str = "a duration with its unit such as 6h or 1d";
/// Most series a sample may have.
const SAMPLE_MAX: u64 = 100_000_000;

const DAY_MS: i64 = 86_400_000;

/// A Prometheus server that is asked for samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusSource {
    /// Where it is.
    pub url: Url,
    /// `match`: selectors of the series that are asked for.
    pub matching: Vec<String>,
    /// How far back is asked for once, as a bootstrap; 0 for not at all.
    pub bootstrap_ms: i64,
    /// The longest span of one question.
    pub chunk_ms: i64,
    /// How often it is asked for what is new; 0 for never.
    pub poll_ms: i64,
    /// How it is reached.
    pub http: HttpConfig,
}

impl PrometheusSource {
    /// What makes two sources the same: server, tenant and series. Holds no secret.
    pub fn identity(&self) -> (&Url, Vec<&str>, Vec<(&str, &str)>) {
        let mut matching: Vec<&str> = self.matching.iter().map(|text| text.trim()).collect();
        matching.sort_unstable();
        let headers = self.http.http_headers.iter().filter_map(|(name, value)| match value {
            HeaderValue::Plain(value) => Some((name.as_str(), value.as_str())),
            HeaderValue::Hidden(_) => None,
        });
        (&self.url, matching, headers.collect())
    }
}

fn list(given: &ConfigValue, most: usize) -> Option<Vec<String>> {
    let texts: Option<Vec<String>> = match given {
        ConfigValue::Text(text) => Some(vec![text.clone()]),
        ConfigValue::Yaml(Value::Array(all)) => {
            all.iter().map(|one| one.as_str().map(str::to_owned)).collect()
        }
        ConfigValue::Yaml(_) => None,
    };
    texts.filter(|all| (1..=most).contains(&all.len()))
}

fn flag(given: &ConfigValue) -> Option<bool> {
    match given {
        ConfigValue::Yaml(Value::Bool(flag)) => Some(*flag),
        ConfigValue::Text(text) => text.parse().ok(),
        ConfigValue::Yaml(_) => None,
    }
}

fn text(given: &ConfigValue) -> Option<String> {
    given.text().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn quantiles_bound() -> String {
    let known: Vec<String> = QUANTILES.iter().map(f64::to_string).collect();
    format!("a list of some of {}", known.join(", "))
}

fn quantiles(given: &ConfigValue) -> Option<QuantileSet> {
    let ConfigValue::Yaml(Value::Array(wanted)) = given else { return None };
    let wanted: Option<Vec<f64>> = wanted.iter().map(Value::as_f64).collect();
    QuantileSet::new(&wanted?).ok()
}

fn is_selector(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= SELECTOR_BYTES_MAX
}

impl ConfigReader {
    /// The servers under `sources.prometheus`; `longest_ms` is the longest window.
    pub(super) fn prometheus_sources(
        &mut self,
        longest_ms: i64,
    ) -> Result<Vec<PrometheusSource>, ConfigError> {
        const LIST: &str = "sources.prometheus";
        let example = "{url: 'http://127.0.0.1:9090', match: ['{job=\"node\"}']}";
        let given = self.entries(LIST, SOURCES_MAX, example)?;
        let mut sources: Vec<PrometheusSource> = Vec::new();
        for at in 0..given {
            let source = self.prometheus(&format!("{LIST}[{at}]"), longest_ms)?;
            if let Some(same) = sources.iter().position(|held| held.identity() == source.identity()) {
                return Err(ConfigError::Bad {
                    origin: self.origin(LIST),
                    path: format!("{LIST}[{at}]"),
                    bound: "another server, tenant or match than every other source".to_owned(),
                    value: format!("those of {LIST}[{same}]"),
                });
            }
            sources.push(source);
        }
        Ok(sources)
    }

    fn prometheus(&mut self, path: &str, longest_ms: i64) -> Result<PrometheusSource, ConfigError> {
        let at = |key: &str| format!("{path}.{key}");
        let selectors = format!("a list of 1 to {SELECTORS_MAX} selectors such as ['{{job=\"node\"}}']");
        let bootstrap = "a duration from 0s to 30d";
        let chunk = "a duration from 1m to 1d";
        let poll = "0s, or a duration from 1s to 1h";
        Ok(PrometheusSource {
            url: self.needed(&at("url"), &super::http::NotAUrl.to_string(), |g| g.text()?.parse().ok())?,
            matching: self.needed(&at("match"), &selectors, |g| {
                list(g, SELECTORS_MAX).filter(|all| all.iter().all(|text| is_selector(text)))
            })?,
            bootstrap_ms: self
                .leaf(&at("bootstrap"), bootstrap, |g| {
                    g.duration_ms().filter(|ms| (0..=30 * DAY_MS).contains(ms))
                })?
                .unwrap_or(longest_ms),
            chunk_ms: self
                .leaf(&at("chunk"), chunk, |g| g.duration_ms().filter(|ms| (60_000..=DAY_MS).contains(ms)))?
                .unwrap_or(3_600_000),
            poll_ms: self
                .leaf(&at("poll"), poll, |g| {
                    g.duration_ms().filter(|ms| *ms == 0 || (1_000..=3_600_000).contains(ms))
                })?
                .unwrap_or(15_000),
            http: self.http_config(&at("http_config"))?,
        })
    }

    fn http_config(&mut self, path: &str) -> Result<HttpConfig, ConfigError> {
        let at = |key: &str| format!("{path}.{key}");
        self.leaf(&at("follow_redirects"), "false: redirects are not followed", |g| {
            flag(g).filter(|flag| !flag)
        })?;
        let basic_auth = self.basic_auth(&at("basic_auth"))?;
        let authorization = self.authorization(&at("authorization"))?;
        if basic_auth.is_some() && authorization.is_some() {
            return Err(ConfigError::Bad {
                origin: self.origin(path),
                path: path.to_owned(),
                bound: "one of basic_auth and authorization".to_owned(),
                value: "both".to_owned(),
            });
        }
        let tls = at("tls_config");
        let file = "the path of a file";
        let path_of = |g: &ConfigValue| text(g).map(PathBuf::from);
        let server_name = "the name in the server's certificate";
        let skip = self.leaf(&format!("{tls}.insecure_skip_verify"), "true or false", flag)?;
        Ok(HttpConfig {
            basic_auth,
            authorization,
            tls: TlsConfig {
                ca_file: self.leaf(&format!("{tls}.ca_file"), file, path_of)?,
                cert_file: self.leaf(&format!("{tls}.cert_file"), file, path_of)?,
                key_file: self.leaf(&format!("{tls}.key_file"), file, path_of)?,
                server_name: self.leaf(&format!("{tls}.server_name"), server_name, text)?,
                insecure_skip_verify: skip.unwrap_or(false),
            },
            proxy_url: self.leaf(&at("proxy_url"), "a URL such as http://127.0.0.1:3128", |g| {
                g.text()?.parse().ok().filter(|url: &Url| !url.is_https())
            })?,
            http_headers: self.headers(&at("http_headers"))?,
        })
    }

    fn basic_auth(&mut self, path: &str) -> Result<Option<BasicAuth>, ConfigError> {
        let password = self.credential(path, "password", "password_file")?;
        let username = self.leaf(&format!("{path}.username"), "a user name", text)?;
        match (username, password) {
            (None, None) => Ok(None),
            (username, password) => Ok(Some(BasicAuth { username: username.unwrap_or_default(), password })),
        }
    }

    fn authorization(&mut self, path: &str) -> Result<Option<Authorization>, ConfigError> {
        let kind = format!("{path}.type");
        let scheme = self.leaf(&kind, "a word such as Bearer; basic_auth is for Basic", |g| {
            text(g).filter(|word| {
                !word.eq_ignore_ascii_case("basic") && word.bytes().all(|b| b.is_ascii_graphic())
            })
        })?;
        match (self.credential(path, "credentials", "credentials_file")?, scheme) {
            (Some(credentials), scheme) => {
                Ok(Some(Authorization { scheme: scheme.unwrap_or_else(|| "Bearer".to_owned()), credentials }))
            }
            (None, None) => Ok(None),
            (None, Some(_)) => {
                let null = ConfigValue::Yaml(Value::Null);
                Err(self.bad(&format!("{path}.credentials"), "credentials, or credentials_file", &null))
            }
        }
    }

    /// A secret that is given as it is or by its file, never both.
    fn credential(&mut self, path: &str, plain: &str, file: &str) -> Result<Option<Credential>, ConfigError> {
        let secret = self.leaf(&format!("{path}.{plain}"), "a text", text)?;
        let from = self.leaf(&format!("{path}.{file}"), "the path of a file", text)?;
        match (secret, from) {
            (Some(_), Some(_)) => Err(ConfigError::Bad {
                origin: self.origin(path),
                path: path.to_owned(),
                bound: format!("one of {plain} and {file}"),
                value: "both".to_owned(),
            }),
            (Some(secret), None) => Ok(Some(Credential::Text(Secret::new(secret)))),
            (None, Some(file)) => Ok(Some(Credential::File(file.into()))),
            (None, None) => Ok(None),
        }
    }

    /// `{name: {values: [], secrets: [], files: []}}`
    fn headers(&mut self, path: &str) -> Result<Vec<(String, HeaderValue)>, ConfigError> {
        let bound = format!("up to {HEADERS_MAX} headers such as {{X-Scope-OrgID: {{values: [tenant]}}}}");
        let given = self.leaf(path, &bound, |g| match g {
            ConfigValue::Yaml(Value::Object(map)) if map.len() <= HEADERS_MAX => {
                let all: Option<Vec<_>> = map.iter().map(|(name, given)| header(name, given)).collect();
                Some(all?.into_iter().flatten().collect())
            }
            _ => None,
        })?;
        Ok(given.unwrap_or_default())
    }

    /// The entries of `select`.
    pub(super) fn select(&mut self) -> Result<Vec<SelectConfig>, ConfigError> {
        let given = self.entries("select", SELECT_MAX, "{match: '{job=\"node\"}', sample: 100}")?;
        let mut entries = Vec::new();
        for at in 0..given {
            let path = format!("select[{at}]");
            let matching = format!("{path}.match");
            let most = format!("{path}.drop_constant");
            entries.push(SelectConfig {
                matching: self.needed(&matching, "a selector such as {job=\"node\"}", |g| {
                    text(g).filter(|text| is_selector(text))
                })?,
                drop_constant: self.leaf(&most, "true or false", flag)?.unwrap_or(false),
                sample: self.whole(&format!("{path}.sample"), 0, SAMPLE_MAX, 0)? as usize,
                options: self.options(&path)?,
            });
        }
        Ok(entries)
    }

    /// What an entry of `select` sets for its series.
    fn options(&mut self, path: &str) -> Result<SeriesOptions, ConfigError> {
        let transform =
            self.leaf(&format!("{path}.transform"), "auto, raw or rate", |g| match g.text()? {
                "auto" => Some(Transform::Auto),
                "raw" => Some(Transform::Raw),
                "rate" => Some(Transform::Rate),
                _ => None,
            })?;
        // Which periods there can be depends on other settings: the nouns judge that.
        let period = self.leaf(&format!("{path}.period"), PERIOD, |g| g.duration_ms())?;
        let model =
            self.leaf(&format!("{path}.model"), "additive or multiplicative", |g| match g.text()? {
                "additive" => Some(Model::Additive),
                "multiplicative" => Some(Model::Multiplicative),
                _ => None,
            })?;
        let quantiles = self.leaf(&format!("{path}.quantiles"), &quantiles_bound(), quantiles)?;
        Ok(SeriesOptions {
            transform: transform.unwrap_or_default(),
            period_ms: period.unwrap_or_default(),
            model: model.unwrap_or_default(),
            quantiles: quantiles.unwrap_or_default(),
        })
    }

    /// How many maps the list at `path` has.
    fn entries(&mut self, path: &str, most: usize, example: &str) -> Result<usize, ConfigError> {
        let bound = format!("a list of up to {most} entries such as [{example}]");
        let given = match self.list(path)? {
            None => return Ok(0),
            Some(Value::Array(list)) if list.len() <= most => list,
            Some(other) => return Err(self.bad(path, &bound, &ConfigValue::Yaml(other))),
        };
        if let Some(at) = given.iter().position(|entry| !entry.is_object()) {
            let entry = ConfigValue::Yaml(given[at].clone());
            return Err(self.bad(&format!("{path}[{at}]"), &format!("a map such as {example}"), &entry));
        }
        Ok(given.len())
    }

    /// A setting that has no default.
    fn needed<T>(
        &mut self,
        path: &str,
        bound: &str,
        parse: impl Fn(&ConfigValue) -> Option<T>,
    ) -> Result<T, ConfigError> {
        match self.leaf(path, bound, parse)? {
            Some(value) => Ok(value),
            None => Err(self.bad(path, bound, &ConfigValue::Yaml(Value::Null))),
        }
    }
}

/// The values of one header.
fn header(name: &str, given: &Value) -> Option<Vec<(String, HeaderValue)>> {
    let mut values = Vec::new();
    for (kind, all) in given.as_object()? {
        let make: fn(String) -> HeaderValue = match kind.as_str() {
            "values" => HeaderValue::Plain,
            "secrets" => |text| HeaderValue::Hidden(Credential::Text(Secret::new(text))),
            "files" => |text| HeaderValue::Hidden(Credential::File(text.into())),
            _ => return None,
        };
        for text in list(&ConfigValue::Yaml(all.clone()), HEADERS_MAX)? {
            values.push((name.to_owned(), make(text)));
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigFlags};
    use super::*;

    fn file(text: &str) -> Result<Config, String> {
        load(text, &[])
    }

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Config::from_parts(text, "file t.yml".to_owned(), env, ConfigFlags::default())
            .map(|(config, _)| config)
            .map_err(|error| error.to_string())
    }

    /// A file with one source that has these settings as well.
    fn one(settings: &str) -> String {
        format!("sources: {{prometheus: [{{url: 'http://h:1', match: [up]{settings}}}]}}")
    }

    #[test]
    fn a_source_has_defaults_and_everything_can_be_set() {
        let source = file(&one("")).unwrap().sources.prometheus.remove(0);
        assert_eq!(
            (source.bootstrap_ms, source.chunk_ms, source.poll_ms),
            (12 * 3_600_000, 3_600_000, 15_000)
        );
        assert_eq!(
            (source.url.base(), &source.matching[..], source.http),
            ("http://h:1", &["up".to_owned()][..], HttpConfig::default())
        );
        let long = format!("{}\nwindows: [{{length: 2d, hop: 1h}}]", one(""));
        assert_eq!(
            file(&long).unwrap().sources.prometheus[0].bootstrap_ms,
            2 * DAY_MS,
            "as long as the longest window"
        );
        let all = one(
            ", bootstrap: 0s, chunk: 5m, poll: 0s, http_config: {follow_redirects: false, proxy_url: 'http://p:1',
            basic_auth: {username: u, password_file: /p}, tls_config: {ca_file: /ca, cert_file: /c, key_file: /k,
            server_name: s, insecure_skip_verify: true}, http_headers: {X-Scope-OrgID: {values: [a], secrets: [b], files: [/c]}}}",
        );
        let source = file(&all).unwrap().sources.prometheus.remove(0);
        assert_eq!((source.bootstrap_ms, source.chunk_ms, source.poll_ms), (0, 300_000, 0));
        let http = source.http;
        assert_eq!(http.basic_auth.unwrap().password, Some(Credential::File("/p".into())));
        assert_eq!((http.tls.server_name.as_deref(), http.tls.insecure_skip_verify), (Some("s"), true));
        assert_eq!(http.http_headers.len(), 3);
        let bearer = file(&one(", http_config: {authorization: {credentials: t}}"))
            .unwrap()
            .sources
            .prometheus
            .remove(0);
        assert_eq!(bearer.http.authorization.unwrap().scheme, "Bearer");
    }

    #[test]
    fn select_is_read() {
        let config =
            file("select: [{match: up}, {match: '{a=\"b\"}', drop_constant: true, sample: 3}]").unwrap();
        assert_eq!(config.select.len(), 2);
        assert_eq!(
            config.select[1],
            SelectConfig {
                matching: "{a=\"b\"}".to_owned(),
                drop_constant: true,
                sample: 3,
                options: SeriesOptions::default()
            }
        );
        // What changes no result is not journalled.
        assert!(config.settings().select.is_empty());
        let config = file(
            "select: [{match: up, sample: 1}, {match: down, transform: rate, period: 1h30m, model: multiplicative, quantiles: [0.99, 0.5]}, {match: a}]",
        );
        let options = SeriesOptions {
            transform: Transform::Rate,
            period_ms: 5_400_000,
            model: Model::Multiplicative,
            quantiles: QuantileSet::new(&[0.5, 0.99]).unwrap(),
        };
        let select = config.unwrap().settings().select;
        let entries: Vec<_> = select.iter().map(|entry| (&*entry.matching, entry.options)).collect();
        assert_eq!(entries, [("up", SeriesOptions::default()), ("down", options)]);
    }

    #[test]
    fn a_variable_sets_a_part_and_a_whole_list() {
        let env = [
            ("TIDEWATCH_SOURCES__PROMETHEUS__0__HTTP_CONFIG__BASIC_AUTH__PASSWORD", "hunter2"),
            ("TIDEWATCH_SOURCES__PROMETHEUS__0__MATCH", "{a=\"b\"}"),
            ("TIDEWATCH_SELECT", "[{match: up, sample: 1}]"),
        ];
        let config = load(&one(", http_config: {basic_auth: {username: u}}"), &env).unwrap();
        let source = &config.sources.prometheus[0];
        assert_eq!(source.matching, ["{a=\"b\"}"]);
        let password = Some(Credential::Text(Secret::new("hunter2")));
        assert_eq!(source.http.basic_auth.as_ref().unwrap().password, password);
        assert_eq!(config.select[0].sample, 1);
        let env = [("TIDEWATCH_SOURCES__PROMETHEUS", "[{url: 'http://h', match: [a]}]")];
        for text in ["", "workers: 3", "sources:\n", "sources: {prometheus: []}"] {
            assert_eq!(load(text, &env).unwrap().sources.prometheus.len(), 1, "{text:?}");
        }
    }

    #[test]
    fn bad_sources_are_refused_and_secrets_not_shown() {
        let bad = |key: &str, bound: &str, value: &str| {
            format!("sources.prometheus[0].{key} must be {bound}; got {value} (file t.yml)")
        };
        let url = super::super::http::NotAUrl.to_string();
        let selectors = "a list of 1 to 64 selectors such as ['{job=\"node\"}']";
        let source = |text: &str| format!("sources: {{prometheus: [{text}]}}");
        for (text, message) in [
            (source("{match: [up]}"), bad("url", &url, "null")),
            (source("{url: 'ftp://h', match: [up]}"), bad("url", &url, "\"ftp://h\"")),
            (source("{url: 'ftp://u:hunter2@h', match: [up]}"), bad("url", &url, "a text that is not shown")),
            (source("{url: 'http://h'}"), bad("match", selectors, "null")),
            (source("{url: 'http://h', match: []}"), bad("match", selectors, "[]")),
            (source("{url: 'http://h', match: [' ']}"), bad("match", selectors, "[\" \"]")),
            (source("{url: 'http://h', match: [7]}"), bad("match", selectors, "[7]")),
            (one(", bootstrap: 31d"), bad("bootstrap", "a duration from 0s to 30d", "\"31d\"")),
            (one(", chunk: 1s"), bad("chunk", "a duration from 1m to 1d", "\"1s\"")),
            (one(", poll: 100ms"), bad("poll", "0s, or a duration from 1s to 1h", "\"100ms\"")),
            (one(", poll: 2h"), bad("poll", "0s, or a duration from 1s to 1h", "\"2h\"")),
            (one(", http_config: hunter2"), bad("http_config", "a map of settings", "a text that is not shown")),
            (one(", http_config: {basic_auth: 'u:hunter2'}"), bad("http_config.basic_auth", "a map of settings", "a text that is not shown")),
            (one(", http_config: {basic_auth: {password: [hunter2]}}"), bad("http_config.basic_auth.password", "a text", "a list that is not shown")),
            (one(", http_config: {basic_auth: {password: hunter2, password_file: x}}"), bad("http_config.basic_auth", "one of password and password_file", "both")),
            (one(", http_config: {basic_auth: {username: u}, authorization: {credentials: hunter2}}"), bad("http_config", "one of basic_auth and authorization", "both")),
            (one(", http_config: {authorization: {type: Basic, credentials: hunter2}}"), bad("http_config.authorization.type", "a word such as Bearer; basic_auth is for Basic", "a text that is not shown")),
            (one(", http_config: {authorization: {type: Bearer}}"), bad("http_config.authorization.credentials", "credentials, or credentials_file", "null")),
            (one(", http_config: {follow_redirects: true}"), bad("http_config.follow_redirects", "false: redirects are not followed", "true")),
            (one(", http_config: {proxy_url: 'https://u:hunter2@p'}"), bad("http_config.proxy_url", "a URL such as http://127.0.0.1:3128", "a text that is not shown")),
            (one(", http_config: {http_headers: {a: {secret: [hunter2]}}}"), bad("http_config.http_headers", "up to 32 headers such as {X-Scope-OrgID: {values: [tenant]}}", "a map that is not shown")),
            (one(", http_config: {bearer_token: hunter2}"), "there is no setting sources.prometheus[0].http_config.bearer_token (file t.yml); at sources.prometheus[0].http_config there are authorization, basic_auth, follow_redirects, http_headers, proxy_url, tls_config".to_owned()),
            ("sources: [hunter2]".to_owned(), "sources must be a map of settings; got a list that is not shown (file t.yml)".to_owned()),
            ("sources: {prometheus: hunter2}".to_owned(), "sources.prometheus must be a list of up to 16 entries such as [{url: 'http://127.0.0.1:9090', match: ['{job=\"node\"}']}]; got a text that is not shown (file t.yml)".to_owned()),
            (source("hunter2"), "sources.prometheus[0] must be a map such as {url: 'http://127.0.0.1:9090', match: ['{job=\"node\"}']}; got a text that is not shown (file t.yml)".to_owned()),
            (source(&["{url: 'http://h', match: [up]}"; 17].join(", ")), "sources.prometheus must be a list of up to 16 entries such as [{url: 'http://127.0.0.1:9090', match: ['{job=\"node\"}']}]; got a list that is not shown (file t.yml)".to_owned()),
            (source("{url: 'http://h', match: [a, b]}, {url: 'http://h/', match: [b, a]}"), "sources.prometheus[1] must be another server, tenant or match than every other source; got those of sources.prometheus[0] (file t.yml)".to_owned()),
            ("select: [{sample: 1}]".to_owned(), "select[0].match must be a selector such as {job=\"node\"}; got null (file t.yml)".to_owned()),
            ("select: [{match: up, sample: -1}]".to_owned(), "select[0].sample must be a whole number from 0 to 100000000; got -1 (file t.yml)".to_owned()),
            ("select: [{match: up, transform: log}]".to_owned(), "select[0].transform must be auto, raw or rate; got \"log\" (file t.yml)".to_owned()),
            ("select: [{match: up, period: 350}]".to_owned(), "select[0].period must be a duration with its unit such as 6h or 1d; got 350 (file t.yml)".to_owned()),
            ("select: [{match: a}, {match: up, period: 7h1m}]".to_owned(), "select[1].period must be whole minutes from 2m to 6h, or a multiple of 15m up to a third of profile.season_days (1d8h); got 7h1m (file t.yml)".to_owned()),
            ("profile: {season_days: 14}\nselect: [{match: up, period: 8d}]".to_owned(), "select[0].period must be whole minutes from 2m to 6h, or a multiple of 15m up to a third of profile.season_days (4d16h); got 8d (file t.yml)".to_owned()),
            ("select: [{match: up, model: product}]".to_owned(), "select[0].model must be additive or multiplicative; got \"product\" (file t.yml)".to_owned()),
            ("select: [{match: up, quantile: 1}]".to_owned(), "there is no setting select[0].quantile (file t.yml); at select[0] there are drop_constant, match, model, period, quantiles, sample, transform".to_owned()),
            ("select: [{match: up, quantiles: [0.5, 0.51]}]".to_owned(), "select[0].quantiles must be a list of some of 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999; got [0.5,0.51] (file t.yml)".to_owned()),
            ("select: [{match: up, quantiles: 0.5}]".to_owned(), "select[0].quantiles must be a list of some of 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999; got 0.5 (file t.yml)".to_owned()),
        ] {
            assert_eq!(file(&text).map(|_| ()), Err(message), "{text}");
        }
    }
}
