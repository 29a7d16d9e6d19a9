//! The console: one page for `dev` and for the admin listener of `serve`, of plain files inside the binary, under a policy
//! that lets them load nothing else. It only reads, but that in `dev` it publishes as any client does.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Whose console it is, which is all that the page is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// A developer's: it streams, with payloads, and publishes.
    Dev,
    /// An operator's: metadata alone.
    Serve,
}

impl Console {
    /// The page and what it loads.
    pub fn router(self) -> Router {
        let path = match self {
            Self::Dev => "/",
            Self::Serve => "/console",
        };
        let files = [
            ("/console.css", CSS, include_str!("console/console.css")),
            ("/console.js", SCRIPT, include_str!("console/console.js")),
            ("/vitals.js", SCRIPT, include_str!("console/vitals.js")),
            ("/chart.js", SCRIPT, include_str!("console/chart.js")),
            (
                "/prometheus.js",
                SCRIPT,
                include_str!("console/prometheus.js"),
            ),
            ("/format.js", SCRIPT, include_str!("console/format.js")),
            ("/sse.js", SCRIPT, include_str!("console/sse.js")),
            ("/json.js", SCRIPT, include_str!("console/json.js")),
        ];
        let page = (path, HTML, Bytes::from(self.page()));
        files
            .into_iter()
            .map(|(path, kind, text)| (path, kind, Bytes::from_static(text.as_bytes())))
            .chain([page])
            .fold(Router::new(), |router, (path, kind, text)| {
                router.route(path, get(async move || file(kind, text)))
            })
    }

    /// The page without what only the other has: that stands between `<!-- dev -->` and `<!-- /dev -->`.
    fn page(self) -> String {
        let (name, other) = match self {
            Self::Dev => ("dev", "serve"),
            Self::Serve => ("serve", "dev"),
        };
        let (begin, end) = (format!("<!-- {other} -->"), format!("<!-- /{other} -->"));
        let whole = include_str!("console/index.html").replace("{{console}}", name);
        let mut parts = whole.split(&begin);
        let mut page = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            page.push_str(part.split_once(&end).map_or("", |(_, rest)| rest));
        }
        page
    }
}

fn file(kind: &'static str, text: Bytes) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}
