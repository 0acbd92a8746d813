//! `GET /`, `/docs` and `/page/...`: the web page and the description of the API, from files that are part of the program.
//!
//! The page is plain ES modules without a build step; it asks this API and nothing else, and a strict
//! Content-Security-Policy holds it to that. The description is Swagger UI, which needs a little more. Files are answered with
//! an ETag and asked for again each time, so that a new version of the server is a new page at the next reload. One module,
//! `statistics.js`, is made from the table of statistics.
//!
//! Not here: what the page shows (`page/`), and the answers it shows (the rest of this room).

use std::io::Write;
use std::sync::{Arc, LazyLock, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::error;
use super::measure::measure;
use crate::metrics::Metrics;
use crate::store::record::CellType;
use crate::store::{STATISTICS, Statistic};

/// What the page may load: files and answers of this server; no style or script inside HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same for the description: Swagger UI writes styles into its HTML, and has its icons in `data:` addresses.
const POLICY_OF_DOCS: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                              img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                              frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// A file of the page.
#[derive(Clone, Copy)]
struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($path:literal $content_type:ident $file:literal)*) => {
        [$(Asset { path: $path, content_type: $content_type, text: include_str!(concat!("page/", $file)) }),*]
    };
}

/// Every file, under the path it is served at.
static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let mut all = Vec::from(FILES);
    // Made once, for as long as the process lives.
    all.push(Asset { path: "/page/statistics.js", content_type: SCRIPT, text: statistics().leak() });
    all
});

/// The statistics of a window, as a module.
fn statistics() -> String {
    let one = |statistic: &Statistic| {
        json!({
            "name": statistic.name(),
            "about": statistic.column.about,
            "unit": statistic.column.unit,
            "whole": statistic.column.of == CellType::UInt,
            "overview": statistic.overview,
        })
    };
    let all: Value = STATISTICS.iter().map(one).collect();
    format!("// The statistics of a window, from the server's table.\nexport const STATISTICS = {all};\n")
}

/// Those that are files.
const FILES: [Asset; 25] = assets! {
    "/" HTML "index.html"
    "/page/style.css" CSS "style.css"
    "/page/icon.svg" SVG "icon.svg"
    "/page/theme.js" SCRIPT "theme.js"
    "/page/app.js" SCRIPT "app.js"
    "/page/api.js" SCRIPT "api.js"
    "/page/dom.js" SCRIPT "dom.js"
    "/page/format.js" SCRIPT "format.js"
    "/page/state.js" SCRIPT "state.js"
    "/page/header.js" SCRIPT "header.js"
    "/page/chart.js" SCRIPT "chart.js"
    "/page/views/series.js" SCRIPT "views/series.js"
    "/page/views/one.js" SCRIPT "views/one.js"
    "/page/views/parts.js" SCRIPT "views/parts.js"
    "/page/views/profile.js" SCRIPT "views/profile.js"
    "/page/vendor/uplot/uPlot.esm.js" SCRIPT "vendor/uplot/uPlot.esm.js"
    "/page/vendor/uplot/uPlot.min.css" CSS "vendor/uplot/uPlot.min.css"
    "/page/vendor/uplot/LICENSE" TEXT "vendor/uplot/LICENSE"
    "/docs" HTML "docs.html"
    "/page/docs.css" CSS "docs.css"
    "/page/docs.js" SCRIPT "docs.js"
    "/page/vendor/swagger-ui/swagger-ui-bundle.js" SCRIPT "vendor/swagger-ui/swagger-ui-bundle.js"
    "/page/vendor/swagger-ui/swagger-ui.css" CSS "vendor/swagger-ui/swagger-ui.css"
    "/page/vendor/swagger-ui/LICENSE" TEXT "vendor/swagger-ui/LICENSE"
    "/page/vendor/swagger-ui/swagger-ui-bundle.js.LICENSE.txt" TEXT "vendor/swagger-ui/swagger-ui-bundle.js.LICENSE.txt"
};

/// A file as it is sent.
struct Ready {
    asset: &'static Asset,
    /// Made when it is first asked for: a start is not to wait for it.
    zipped: OnceLock<Bytes>,
    /// Of the file as it is, and of the file zipped: they are different bytes.
    tags: [HeaderValue; 2],
}

impl Ready {
    fn of(asset: &'static Asset) -> Ready {
        let tag = format!("{:08x}-{:x}", crc32fast::hash(asset.text.as_bytes()), asset.text.len());
        let tags = [format!("\"{tag}\""), format!("\"{tag}-gzip\"")];
        let tags = tags.map(|tag| HeaderValue::from_str(&tag).expect("hex digits are a header's value"));
        Ready { asset, zipped: OnceLock::new(), tags }
    }

    fn zipped(&self) -> &Bytes {
        self.zipped.get_or_init(|| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            // Writing to memory cannot fail; were it to, the empty answer would never be taken for the file.
            let zipped = encoder.write_all(self.asset.text.as_bytes()).and_then(|()| encoder.finish());
            zipped.unwrap_or_default().into()
        })
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let zipped = takes_gzip(asked) && !self.zipped().is_empty();
        let tag = &self.tags[usize::from(zipped)];
        let policy = if self.asset.path == "/docs" { POLICY_OF_DOCS } else { POLICY };
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, tag.clone());
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if is_known(asked, tag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.asset.content_type));
        if zipped {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            return (headers, self.zipped().clone()).into_response();
        }
        (headers, self.asset.text).into_response()
    }
}

/// The routes of the page; its answers are counted as `/`, `/docs` and `/page`.
pub fn router(metrics: &Arc<Metrics>) -> Router {
    let mut router = Router::new();
    for asset in ASSETS.iter() {
        let ready = Arc::new(Ready::of(asset));
        let handler = get(async move |headers: HeaderMap| ready.answer(&headers));
        let others = async move |method: Method, uri: Uri| error::only("GET, HEAD", &method, &uri);
        let route = if asset.path.starts_with("/page/") { "/page" } else { asset.path };
        let measured = from_fn_with_state((metrics.clone(), route), measure);
        router = router.route(asset.path, handler.fallback(others).layer(measured));
    }
    router
}

/// Whether the client takes gzip: named, and not with a weight of zero.
fn takes_gzip(asked: &HeaderMap) -> bool {
    let values = asked.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.unwrap_or(0.0) > 0.0
    })
}

/// Whether the client holds the file with this tag.
fn is_known(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let values = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|held| {
        let held = held.trim();
        held == "*" || held.strip_prefix("W/").unwrap_or(held).as_bytes() == tag.as_bytes()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn headers(pairs: &[(axum::http::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_file_is_sent_zipped_to_whoever_takes_that_and_once() {
        for asset in ASSETS.iter() {
            let ready = Ready::of(asset);
            let mut text = String::new();
            flate2::read::GzDecoder::new(&ready.zipped()[..]).read_to_string(&mut text).unwrap();
            assert_eq!(text, asset.text, "{}", asset.path);
            for (coding, zipped) in [("br, gzip", 1), ("gzip;q=0", 0), ("identity", 0), ("GZIP;q=0.5", 1)] {
                let answer = ready.answer(&headers(&[(ACCEPT_ENCODING, coding)]));
                assert_eq!(answer.headers()[ETAG], ready.tags[zipped], "{coding}");
                assert_eq!(answer.headers().contains_key(CONTENT_ENCODING), zipped == 1, "{coding}");
                let tag = answer.headers()[ETAG].clone();
                let mut again = headers(&[(ACCEPT_ENCODING, coding)]);
                again.insert(IF_NONE_MATCH, tag);
                assert_eq!(ready.answer(&again).status(), StatusCode::NOT_MODIFIED, "{coding}");
                again.insert(IF_NONE_MATCH, HeaderValue::from_static("\"other\""));
                assert_eq!(ready.answer(&again).status(), StatusCode::OK, "{coding}");
            }
        }
    }

    /// What the policy forbids would only be seen in a browser.
    #[test]
    fn the_page_has_no_script_or_style_inside_and_names_only_files_that_are_served() {
        for Asset { path, text: html, .. } in ASSETS.iter().filter(|asset| asset.content_type == HTML) {
            for forbidden in
                ["<style", " style=", " onclick", "javascript:", "http://", "https://", "<script>"]
            {
                assert!(!html.contains(forbidden), "{forbidden} in {path}");
            }
            for attribute in ["src=\"", "href=\""] {
                for named in html.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                    let served = ASSETS.iter().any(|asset| asset.path.strip_prefix('/') == Some(named));
                    let other = named.starts_with('#') || ["./", "api/v1/openapi.json"].contains(&named);
                    assert!(served || other, "{named} in {path} is not served");
                }
            }
        }
        for asset in ASSETS.iter().filter(|asset| !asset.path.contains("vendor")) {
            for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!asset.text.contains(forbidden), "{forbidden} in {}", asset.path);
            }
        }
    }

    #[test]
    fn the_page_has_every_statistic_from_the_table() {
        let text = ASSETS.iter().find(|asset| asset.path == "/page/statistics.js").unwrap().text;
        let list = text.split_once("STATISTICS = ").and_then(|(_, list)| list.strip_suffix(";\n")).unwrap();
        let list: Vec<Value> = serde_json::from_str(list).unwrap();
        let names: Vec<_> = list.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, STATISTICS.iter().map(Statistic::name).collect::<Vec<_>>());
        let overview = list.iter().filter(|one| one["overview"] == true).count();
        assert!((4..=8).contains(&overview), "a table has room for a few columns, not for {overview}");
    }
}
