//! What a request shows: where in it a token may stand, and which one it is.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::{HeaderMap, Method};

/// The parameter that bears a token where that is allowed (RFC 6750 §2.3).
pub const ACCESS_TOKEN: &str = "access_token";

/// The longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// What of a request says who it is from.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'r> {
    /// What it wants to do.
    pub method: &'r Method,
    /// All its headers.
    pub headers: &'r HeaderMap,
    /// What stands behind its path's question mark.
    pub query: Option<&'r str>,
}

/// Where a token may stand besides `Authorization: Bearer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// In a cookie.
    pub cookie: Option<CookiePlace>,
    /// In the query, as `access_token`.
    pub query: bool,
}

/// A cookie that may bear a token, and whose pages may send it: a browser sends it along whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookiePlace {
    /// Its name.
    pub name: String,
    /// Origins as browsers write them, besides the one that the request goes to.
    pub origins: Vec<String>,
}

/// Why a request shows no token that could be judged. The text is for the client: it says what to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCredentials {
    /// Nothing was shown.
    #[error("this server wants a token: send `Authorization: Bearer <token>`")]
    Missing,
    /// The `Authorization` header cannot be read.
    #[error("the Authorization header is not of the form `Bearer <token>` (RFC 6750 2.1)")]
    Malformed,
    /// What stands where a token should be is none.
    #[error("a token has 1 to {MAX_TOKEN_BYTES} visible ASCII characters, and no blanks")]
    NoToken,
    /// It stands where it may not.
    #[error("this server takes no token in the query: send `Authorization: Bearer <token>`")]
    InQuery,
    /// Two are shown that are not the same.
    #[error("this request shows two different tokens: send one, in one place")]
    Contradicting,
    /// The cookie was sent along for a page that may not use it.
    #[error(
        "a token in a cookie is taken only from pages of this server's own origin or of one in HTTP_CORS_ORIGINS, and \
         never from another site: send `Authorization: Bearer <token>`"
    )]
    ForeignPage,
}

impl Places {
    /// The token that a request shows.
    pub(super) fn token<'r>(&self, shown: &Shown<'r>) -> Result<Cow<'r, str>, BadCredentials> {
        self.nothing_misplaced(shown)?;
        let mut by_choice: Vec<Cow<'r, str>> = Vec::new();
        by_choice.extend(bearer(shown.headers)?.map(Cow::Borrowed));
        by_choice.extend(in_query(shown.query));
        let cookies = self
            .cookie
            .iter()
            .flat_map(|cookie| in_cookies(&cookie.name, shown.headers))
            .map(Cow::Borrowed);
        let by_browser: Vec<Cow<'r, str>> = cookies.collect();
        let chosen = !by_choice.is_empty();
        let mut tokens = by_choice.into_iter().chain(by_browser);
        let token = tokens.next().ok_or(BadCredentials::Missing)?;
        if tokens.any(|other| other != token) {
            return Err(BadCredentials::Contradicting);
        }
        if token.len() > MAX_TOKEN_BYTES
            || token.is_empty()
            || !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(BadCredentials::NoToken);
        }
        // Who puts the token somewhere knows it; a cookie goes along by itself.
        if let Some(cookie) = self.cookie.as_ref().filter(|_| !chosen) {
            cookie.check_page(shown)?;
        }
        Ok(token)
    }

    /// Whether there is a token in the query that must not be there: it would stand in the logs of every proxy.
    pub(super) fn nothing_misplaced(&self, shown: &Shown<'_>) -> Result<(), BadCredentials> {
        if !self.query && in_query(shown.query).next().is_some() {
            return Err(BadCredentials::InQuery);
        }
        Ok(())
    }
}

impl CookiePlace {
    /// Whether the page for which a browser sent this request may use the cookie. `Sec-Fetch-Site` and `Origin` cannot be
    /// set by scripts (Fetch §2.2.2); a browser leaves `Origin` out where a page GETs from its own origin.
    fn check_page(&self, shown: &Shown<'_>) -> Result<(), BadCredentials> {
        let header = |name| single(shown.headers, name);
        let site = header("sec-fetch-site").map_err(|()| BadCredentials::ForeignPage)?;
        let origin = header(ORIGIN.as_str()).map_err(|()| BadCredentials::ForeignPage)?;
        let host = header(HOST.as_str()).map_err(|()| BadCredentials::ForeignPage)?;
        let may = match (site, origin) {
            (Some("cross-site"), _) | (_, Some("null")) => false,
            (_, Some(origin)) if self.origins.iter().any(|listed| listed == origin) => true,
            (Some(site), Some(_)) => site == "same-origin",
            (Some(site), None) => {
                site == "same-origin" && matches!(*shown.method, Method::GET | Method::HEAD)
            }
            // A browser that does not say: the origin has to be where the request went.
            (None, Some(origin)) => host.is_some_and(|host| is_origin_of(origin, host)),
            (None, None) => false,
        };
        if may {
            Ok(())
        } else {
            Err(BadCredentials::ForeignPage)
        }
    }
}

/// Whether a page of `origin` was served under the name `host`. Behind a proxy nobody knows by which scheme.
fn is_origin_of(origin: &str, host: &str) -> bool {
    let of_scheme = |scheme: &str, port: &str| {
        origin.strip_prefix(scheme).is_some_and(|authority| {
            authority.eq_ignore_ascii_case(host.strip_suffix(port).unwrap_or(host))
        })
    };
    of_scheme("https://", ":443") || of_scheme("http://", ":80")
}

/// A header that may stand once; `Err` where it stands twice or is no text.
fn single<'r>(headers: &'r HeaderMap, name: &str) -> Result<Option<&'r str>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(());
    }
    first
        .map(|value| value.to_str().map_err(|_| ()))
        .transpose()
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1; the scheme's case does not matter, RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, BadCredentials> {
    let value = single(headers, AUTHORIZATION.as_str()).map_err(|()| BadCredentials::Malformed)?;
    let Some(text) = value else {
        return Ok(None);
    };
    match text.split_once(' ') {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() =>
        {
            Ok(Some(token.trim()))
        }
        _ => Err(BadCredentials::Malformed),
    }
}

fn in_query(query: Option<&str>) -> impl Iterator<Item = Cow<'_, str>> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(name, _)| name == ACCESS_TOKEN)
        .map(|(_, value)| value)
}

/// The values of a cookie (RFC 6265 §4.2.1). HTTP/2 may split the header; an empty value is what a logout leaves.
fn in_cookies<'r>(name: &str, headers: &'r HeaderMap) -> impl Iterator<Item = &'r str> {
    // Pair by pair: what is no text may be somebody else's cookie.
    let pairs = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs
        .filter_map(move |pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            let (own, value) = pair.trim().split_once('=')?;
            (own == name).then(|| value.trim_matches('"'))
        })
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn places() -> Places {
        Places {
            cookie: Some(CookiePlace {
                name: "session".to_owned(),
                origins: vec!["https://app.example".to_owned()],
            }),
            query: true,
        }
    }

    type Headers<'a> = &'a [(&'a str, &'a str)];

    fn outcome(
        places: &Places,
        method: &Method,
        query: Option<&str>,
        headers: Headers<'_>,
    ) -> Result<String, BadCredentials> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                (name.parse::<HeaderName>().unwrap(), value)
            })
            .collect();
        let shown = Shown {
            method,
            headers: &headers,
            query,
        };
        places.token(&shown).map(Cow::into_owned)
    }

    #[test]
    fn a_token_stands_in_the_header_in_the_query_or_in_a_cookie_and_in_one_sense_only() {
        let own = ("Sec-Fetch-Site", "same-origin");
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES + 1));
        type Case<'a> = (
            Option<&'a str>,
            Headers<'a>,
            Result<&'a str, BadCredentials>,
        );
        let cases: &[Case<'_>] = &[
            (None, &[], Err(BadCredentials::Missing)),
            (None, &[("Authorization", "Bearer a.b")], Ok("a.b")),
            (None, &[("Authorization", "bearer  a.b ")], Ok("a.b")),
            (
                None,
                &[("Authorization", "Bearer ")],
                Err(BadCredentials::Malformed),
            ),
            (
                None,
                &[("Authorization", "a.b")],
                Err(BadCredentials::Malformed),
            ),
            (
                None,
                &[("Authorization", "Basic YTpi")],
                Err(BadCredentials::Malformed),
            ),
            (
                None,
                &[("Authorization", "Bearer a"), ("Authorization", "Bearer a")],
                Err(BadCredentials::Malformed),
            ),
            (
                None,
                &[("Authorization", "Bearer a b")],
                Err(BadCredentials::NoToken),
            ),
            (
                None,
                &[("Authorization", &long)],
                Err(BadCredentials::NoToken),
            ),
            (Some("access_token=a.b&team_id=7"), &[], Ok("a.b")),
            (Some("access%5Ftoken=a%2Eb"), &[], Ok("a.b")),
            (Some("access_token="), &[], Err(BadCredentials::NoToken)),
            (
                Some("access_token=a%0Ab"),
                &[],
                Err(BadCredentials::NoToken),
            ),
            (Some("access_token=%00"), &[], Err(BadCredentials::NoToken)),
            (
                Some("access_token=a&access_token=b"),
                &[],
                Err(BadCredentials::Contradicting),
            ),
            (Some("access_token=a&access_token=a"), &[], Ok("a")),
            (
                Some("access_token=a"),
                &[("Authorization", "Bearer a")],
                Ok("a"),
            ),
            (
                Some("access_token=a"),
                &[("Authorization", "Bearer b")],
                Err(BadCredentials::Contradicting),
            ),
            (None, &[("Cookie", "session=a.b"), own], Ok("a.b")),
            (
                None,
                &[("Cookie", "x=y; session=\"a.b\"; z"), own],
                Ok("a.b"),
            ),
            (
                None,
                &[("Cookie", "x=y"), ("Cookie", "session=a.b"), own],
                Ok("a.b"),
            ),
            // Whatever other cookies hold: whoever has a page under the same domain can set one.
            (None, &[("Cookie", "x=\u{fc}; session=a.b"), own], Ok("a.b")),
            (
                None,
                &[("Cookie", "session=a\u{fc}"), own],
                Err(BadCredentials::NoToken),
            ),
            (
                None,
                &[("Cookie", "session="), own],
                Err(BadCredentials::Missing),
            ),
            (
                None,
                &[("Cookie", "Session=a; xsession=a"), own],
                Err(BadCredentials::Missing),
            ),
            (
                None,
                &[("Cookie", "session=a; session=b"), own],
                Err(BadCredentials::Contradicting),
            ),
            (
                None,
                &[("Cookie", "session=a"), ("Authorization", "Bearer b"), own],
                Err(BadCredentials::Contradicting),
            ),
            // Whoever sets the header knows the token: it is no page that uses a cookie unseen.
            (
                None,
                &[
                    ("Cookie", "session=a"),
                    ("Authorization", "Bearer a"),
                    ("Origin", "null"),
                ],
                Ok("a"),
            ),
        ];
        for (query, headers, expected) in cases {
            let outcome = outcome(&places(), &Method::GET, *query, headers);
            assert_eq!(
                outcome.as_deref(),
                expected.as_ref().copied(),
                "{query:?} {headers:?}"
            );
        }
    }

    #[test]
    fn only_pages_that_are_named_and_those_of_the_same_origin_may_use_the_cookie() {
        let (get, post) = (&Method::GET, &Method::POST);
        let cases: &[(&Method, Headers<'_>, bool)] = &[
            (get, &[("Sec-Fetch-Site", "same-origin")], true),
            (post, &[("Sec-Fetch-Site", "same-origin")], false),
            (
                post,
                &[
                    ("Sec-Fetch-Site", "same-origin"),
                    ("Origin", "https://own.example"),
                ],
                true,
            ),
            (get, &[], false),
            (get, &[("Sec-Fetch-Site", "none")], false),
            (get, &[("Sec-Fetch-Site", "same-site")], false),
            (get, &[("Sec-Fetch-Site", "cross-site")], false),
            (get, &[("Origin", "null")], false),
            (
                get,
                &[("Sec-Fetch-Site", "same-origin"), ("Origin", "null")],
                false,
            ),
            (get, &[("Origin", "https://app.example")], true),
            (
                get,
                &[
                    ("Sec-Fetch-Site", "same-site"),
                    ("Origin", "https://app.example"),
                ],
                true,
            ),
            (
                get,
                &[
                    ("Sec-Fetch-Site", "cross-site"),
                    ("Origin", "https://app.example"),
                ],
                false,
            ),
            (get, &[("Origin", "https://app.example:8443")], false),
            (get, &[("Origin", "http://app.example")], false),
            (
                get,
                &[("Origin", "https://app.example.evil.example")],
                false,
            ),
            (get, &[("Origin", "https://evil-app.example")], false),
            (get, &[("Origin", "https://APP.example")], false),
            (get, &[("Origin", "https://own.example")], true),
            (get, &[("Origin", "http://own.example")], true),
            (get, &[("Origin", "https://own.example:8443")], false),
            (
                get,
                &[
                    ("Origin", "https://own.example"),
                    ("Sec-Fetch-Site", "same-site"),
                ],
                false,
            ),
            (
                get,
                &[("Origin", "https://own.example.evil.example")],
                false,
            ),
            (
                get,
                &[
                    ("Origin", "https://app.example"),
                    ("Origin", "https://evil.example"),
                ],
                false,
            ),
        ];
        for (method, headers, allowed) in cases {
            let mut all = vec![("Cookie", "session=a"), ("Host", "own.example")];
            all.extend_from_slice(headers);
            let outcome = outcome(&places(), method, None, &all);
            let expected = if *allowed {
                Ok("a".to_owned())
            } else {
                Err(BadCredentials::ForeignPage)
            };
            assert_eq!(outcome, expected, "{method} {headers:?}");
        }
    }

    #[test]
    fn where_the_query_is_not_for_tokens_one_there_is_told_whatever_else_is_shown() {
        let places = Places::default();
        let bearer = [("Authorization", "Bearer a")];
        let in_query = outcome(&places, &Method::GET, Some("access_token=a"), &bearer);
        assert_eq!(in_query, Err(BadCredentials::InQuery));
        let cookie = [("Cookie", "session=a"), ("Sec-Fetch-Site", "same-origin")];
        let in_cookie = outcome(&places, &Method::GET, None, &cookie);
        assert_eq!(in_cookie, Err(BadCredentials::Missing));
    }
}
