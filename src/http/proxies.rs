//! Whose request it is, where proxies stand before the bridge: read from what they say, and only from those that are
//! trusted, as anybody can write a header.
//!
//! A proxy appends whom it was called by, so the list is read from its right end: past proxies that are trusted, up to
//! the first address that is not. What stands further left was written by that client. Where something cannot be
//! read, the last proxy that was vouched for is taken for the client: a limit may then be reached too early, never too late.

use std::net::{IpAddr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The addresses of proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// These networks, and nobody else.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether this address is a proxy's that is believed.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Who is behind a request that `peer` brought: itself, unless it is a trusted proxy.
    ///
    /// `Forwarded` (RFC 7239) and `X-Forwarded-For` are both read. Where both are there and differ, neither is
    /// believed: a proxy that writes the one passes the other on as the client wrote it.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.contains(peer) {
            return peer;
        }
        let behind = |name: &HeaderName, hops: fn(&str) -> Vec<Option<IpAddr>>| {
            headers
                .contains_key(name)
                .then(|| self.walk(peer, headers.get_all(name).iter(), hops))
        };
        match (
            behind(&FORWARDED, forwarded),
            behind(&X_FORWARDED_FOR, x_forwarded_for),
        ) {
            (Some(one), Some(other)) if one != other => peer,
            (Some(client), _) | (None, Some(client)) => client,
            (None, None) => peer,
        }
    }

    /// From the right end of all lines, which are one list (RFC 9110 §5.3), to the first that is not trusted.
    fn walk<'a>(
        &self,
        peer: IpAddr,
        lines: impl DoubleEndedIterator<Item = &'a HeaderValue>,
        hops: fn(&str) -> Vec<Option<IpAddr>>,
    ) -> IpAddr {
        let mut vouched = peer;
        for line in lines.rev() {
            let hops = line.to_str().map(hops).unwrap_or_else(|_| vec![None]);
            for hop in hops.into_iter().rev() {
                let Some(hop) = hop else {
                    return vouched;
                };
                vouched = hop.to_canonical();
                if !self.contains(vouched) {
                    return vouched;
                }
            }
        }
        vouched
    }
}

/// The members of `X-Forwarded-For`: addresses, with a port or without.
fn x_forwarded_for(line: &str) -> Vec<Option<IpAddr>> {
    line.split(',').map(|hop| node(hop.trim())).collect()
}

/// The `for` of each element of `Forwarded` (RFC 7239 §4); none where it has none, or more than one.
fn forwarded(line: &str) -> Vec<Option<IpAddr>> {
    let element = |element: &str| {
        let mut found = unquoted_split(element, ';').into_iter().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("for")
                .then(|| node(value.trim()))
        });
        let first = found.next().flatten();
        first.filter(|_| found.next().is_none())
    };
    unquoted_split(line, ',').into_iter().map(element).collect()
}

/// An address (RFC 7239 §6): in quotes or not, IPv6 in brackets or not, with a port or without. Names that hide an address
/// are none.
fn node(text: &str) -> Option<IpAddr> {
    let text = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(text);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse()
        .ok()
        .or_else(bracketed)
        .or_else(|| text.parse::<SocketAddr>().ok().map(|both| both.ip()))
}

/// Splits at a sign that stands outside of quotes.
fn unquoted_split(text: &str, at: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |character| {
        let escape = std::mem::take(&mut escaped);
        match character {
            '"' if !escape => quoted = !quoted,
            '\\' if quoted && !escape => escaped = true,
            _ => {}
        }
        character == at && !quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.9";

    fn client_behind(peer: &str, lines: &[(&str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48", "192.0.2.1/32"];
        let proxies = TrustedProxies::new(trusted.iter().map(|net| net.parse().unwrap()).collect());
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_client_is_who_the_nearest_trusted_proxy_says_and_nobody_that_it_made_up() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[], PEER),
            (&[("X-Forwarded-For", "203.0.113.7")], "203.0.113.7"),
            (&[("X-Forwarded-For", " 203.0.113.7 ")], "203.0.113.7"),
            (&[("X-Forwarded-For", "203.0.113.7:4711")], "203.0.113.7"),
            (&[("X-Forwarded-For", "2001:db8::7")], "2001:db8::7"),
            (&[("X-Forwarded-For", "[2001:db8::7]:443")], "2001:db8::7"),
            (&[("X-Forwarded-For", "[2001:db8::7]")], "2001:db8::7"),
            (&[("X-Forwarded-For", "::ffff:203.0.113.7")], "203.0.113.7"),
            // What a client writes itself stands to the left of what the proxy appends.
            (
                &[("X-Forwarded-For", "1.1.1.1, 203.0.113.7")],
                "203.0.113.7",
            ),
            (
                &[("X-Forwarded-For", "10.0.0.1, 203.0.113.7")],
                "203.0.113.7",
            ),
            (
                &[("X-Forwarded-For", "127.0.0.1,203.0.113.7")],
                "203.0.113.7",
            ),
            (
                &[
                    ("X-Forwarded-For", "1.1.1.1"),
                    ("X-Forwarded-For", "203.0.113.7"),
                ],
                "203.0.113.7",
            ),
            // Past proxies that are trusted.
            (
                &[("X-Forwarded-For", "203.0.113.7, 10.1.2.3")],
                "203.0.113.7",
            ),
            (
                &[(
                    "X-Forwarded-For",
                    "1.1.1.1, 203.0.113.7, 10.1.2.3, 192.0.2.1",
                )],
                "203.0.113.7",
            ),
            (
                &[
                    ("X-Forwarded-For", "203.0.113.7"),
                    ("X-Forwarded-For", "10.1.2.3"),
                ],
                "203.0.113.7",
            ),
            (
                &[("X-Forwarded-For", "203.0.113.7, 2001:db8:1::2")],
                "203.0.113.7",
            ),
            (&[("X-Forwarded-For", "10.1.2.3")], "10.1.2.3"),
            // What cannot be read: the last that was vouched for.
            (&[("X-Forwarded-For", "")], PEER),
            (&[("X-Forwarded-For", "unknown")], PEER),
            (&[("X-Forwarded-For", "203.0.113.7,")], PEER),
            (&[("X-Forwarded-For", "203.0.113.7, 999.1.1.1")], PEER),
            (
                &[("X-Forwarded-For", "203.0.113.7, x, 10.1.2.3")],
                "10.1.2.3",
            ),
            (&[("X-Forwarded-For", "203.0.113.7 1.1.1.1")], PEER),
            (&[("X-Forwarded-For", "203.0.113.7; 1.1.1.1")], PEER),
            (&[("X-Forwarded-For", "203.0.113.\u{ff}")], PEER),
            (&[("X-Forwarded-For", "0xCB.0.113.7")], PEER),
            (&[("X-Forwarded-For", "203.0.113.7/32")], PEER),
            // RFC 7239.
            (&[("Forwarded", "for=203.0.113.7")], "203.0.113.7"),
            (
                &[(
                    "Forwarded",
                    "For=\"203.0.113.7:80\";proto=https;by=10.0.0.9",
                )],
                "203.0.113.7",
            ),
            (
                &[("Forwarded", "proto=http ; for=\"[2001:db8::7]:4711\"")],
                "2001:db8::7",
            ),
            (
                &[("Forwarded", "for=1.1.1.1, for=203.0.113.7")],
                "203.0.113.7",
            ),
            (
                &[("Forwarded", "for=203.0.113.7, for=10.1.2.3;by=10.0.0.9")],
                "203.0.113.7",
            ),
            (
                &[("Forwarded", "for=1.1.1.1;host=\"a,for=2.2.2.2\"")],
                "1.1.1.1",
            ),
            (
                &[("Forwarded", "for=203.0.113.7;host=\"a\\\",for=2.2.2.2\"")],
                "203.0.113.7",
            ),
            (&[("Forwarded", "for=_hidden")], PEER),
            (&[("Forwarded", "for=unknown")], PEER),
            (&[("Forwarded", "by=203.0.113.7")], PEER),
            (&[("Forwarded", "203.0.113.7")], PEER),
            (&[("Forwarded", "for=203.0.113.7;for=1.1.1.1")], PEER),
            (&[("Forwarded", "for=203.0.113.7, proto=http")], PEER),
            (
                &[("Forwarded", "for=203.0.113.7, for=_x, for=10.1.2.3")],
                "10.1.2.3",
            ),
            // Both: believed where they agree.
            (
                &[
                    ("Forwarded", "for=203.0.113.7"),
                    ("X-Forwarded-For", "203.0.113.7"),
                ],
                "203.0.113.7",
            ),
            (
                &[
                    ("Forwarded", "for=1.1.1.1"),
                    ("X-Forwarded-For", "203.0.113.7"),
                ],
                PEER,
            ),
            (
                &[("Forwarded", "for=203.0.113.7"), ("X-Forwarded-For", "x")],
                PEER,
            ),
            // Nobody's words but these.
            (&[("X-Real-IP", "1.1.1.1")], PEER),
            (&[("CF-Connecting-IP", "1.1.1.1")], PEER),
        ];
        for (lines, client) in cases {
            assert_eq!(client_behind(PEER, lines), *client, "{lines:?}");
        }
    }

    #[test]
    fn who_is_no_trusted_proxy_is_the_client_whatever_it_says() {
        for peer in ["203.0.113.1", "11.0.0.1", "2001:db8:2::1", "192.0.2.2"] {
            let lines = [("X-Forwarded-For", "1.1.1.1"), ("Forwarded", "for=1.1.1.1")];
            assert_eq!(client_behind(peer, &lines), peer);
        }
        // A socket of both families shows IPv4 inside IPv6.
        let lines = [("X-Forwarded-For", "203.0.113.7")];
        assert_eq!(client_behind("::ffff:10.0.0.1", &lines), "203.0.113.7");
        assert_eq!(client_behind("::ffff:11.0.0.1", &lines), "11.0.0.1");
    }
}
