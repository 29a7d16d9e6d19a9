//! Keys from a key server: a JWK set at one address that the operator names (RFC 7517 §5), fetched at the start, every now
//! and then, and when a token names a key that is not known, but never more often than once an interval, however many
//! such tokens come. No other address is ever asked, whatever a token says. While the server is away, the last keys stay.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::Algorithm;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use url::Url;

use super::keys::KeySet;
use crate::metrics::Metrics;
use crate::outbound::{self, NoTls, with_causes};

/// Where keys are fetched, and how often.
#[derive(Clone, Debug)]
pub struct JwksConfig {
    /// The address: `https`, or `http` on this machine. See [`JwksConfig::address`].
    url: Uri,
    /// After how long they are fetched again.
    pub refresh: Duration,
}

/// The keys of a key server as far as they are known, for whoever verifies. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RemoteKeys {
    known: watch::Receiver<Known>,
    /// Asks for a refresh; asking again while one is due changes nothing.
    wanted: Arc<Notify>,
    /// A place for each request that may wait.
    places: Arc<Semaphore>,
}

/// What fetches them. One a process.
#[derive(Debug)]
pub struct KeyRefresh {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    config: JwksConfig,
    accepted: Vec<Algorithm>,
    known: watch::Sender<Known>,
    wanted: Arc<Notify>,
    metrics: Arc<Metrics>,
}

/// What is known of the key server. Written by the refresh alone.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The keys that it last gave; none before it first did.
    keys: Option<Arc<KeySet>>,
    /// When the last attempt began that has ended, and whether it succeeded.
    last: Option<(Instant, bool)>,
}

/// Why it cannot be told whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysUnavailable {
    /// The key server does not answer.
    #[error(
        "the key server that knows whether this token is good cannot be reached: try again later"
    )]
    Unreachable,
    /// As many wait for it as may.
    #[error(
        "the key server is still to be asked whether this token is good, and too many wait for that: try again later"
    )]
    Crowded,
}

/// Why keys cannot be fetched at all.
#[derive(Debug, thiserror::Error)]
#[error("nothing tells the server of AUTH_JWKS_URL from another: {0}")]
pub struct NoClient(#[from] NoTls);

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Connection(String),
    #[error("it answered {0}; only 200 will do, and no redirect is followed")]
    Status(StatusCode),
    #[error("it answered with more than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    #[error("its answer is no JWK set: {0}")]
    NoJwks(#[from] serde_json::Error),
    #[error("it did not answer within {} s", FETCH_TIMEOUT.as_secs())]
    TooLate,
}

/// The largest answer that is read.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The least time between the beginnings of two fetches.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same while there are no keys at all: nobody can be served.
const IMPATIENT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a request waits for a key that may be new: for one interval and a fetch that is not slow.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many may wait for it at one time: anybody can make up the name of a key, and no limit has counted these yet. Enough for all
/// clients of a replica that come back while a new key is fetched.
const MAX_WAITING: usize = 10_000;

impl JwksConfig {
    /// The settings for keys at `url`.
    ///
    /// # Errors
    /// In words, when the address is not one that keys may come from: without TLS only from this machine.
    pub fn new(url: &str, refresh: Duration) -> Result<Self, String> {
        Ok(Self {
            url: Self::address(url)?,
            refresh,
        })
    }

    /// The address as it may be logged: what stands behind its path may be a secret.
    fn shown(&self) -> String {
        let (host, path) = (self.url.host().unwrap_or_default(), self.url.path());
        format!("{host}{path}")
    }

    /// Judges an address. Whoever can change what is answered there can sign tokens.
    ///
    /// # Errors
    /// In words, what is legal.
    pub fn address(text: &str) -> Result<Uri, String> {
        let legal =
            || "write https://host/path (http:// only to 127.0.0.1, [::1] or localhost)".to_owned();
        let url = Url::parse(text).map_err(|_| legal())?;
        let here = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
            Some(url::Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
            None => false,
        };
        let secure = url.scheme() == "https" || (url.scheme() == "http" && here);
        let bare =
            url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if !secure || !bare || url.host().is_none() {
            return Err(legal());
        }
        url.as_str().parse().map_err(|_| legal())
    }
}

impl RemoteKeys {
    /// The keys, which `please` if they can be had: where those at hand do not, a refresh is asked for and waited for,
    /// so that a token signed with a key of a minute ago is not refused.
    pub(super) async fn current(
        &self,
        please: impl Fn(&KeySet) -> bool,
    ) -> Result<Arc<KeySet>, KeysUnavailable> {
        let asked_at = Instant::now();
        let mut known = self.known.clone();
        let mut place = None;
        loop {
            let (keys, last) = {
                let known = known.borrow_and_update();
                (known.keys.clone(), known.last)
            };
            // Only what was asked of the server since can say that it does not know a key.
            let since = last.filter(|(began, _)| *began >= asked_at);
            match (keys, since) {
                (Some(keys), _) if please(&keys) => return Ok(keys),
                (Some(keys), Some((_, true))) => return Ok(keys),
                (_, Some((_, false))) => return Err(KeysUnavailable::Unreachable),
                _ => {}
            }
            if place.is_none() {
                let taken = self.places.try_acquire();
                place = Some(taken.map_err(|_| KeysUnavailable::Crowded)?);
            }
            self.wanted.notify_one();
            match timeout_at(asked_at + PATIENCE, known.changed()).await {
                Ok(Ok(())) => {}
                // Nobody refreshes any more, or it takes too long.
                Ok(Err(_)) | Err(_) => return Err(KeysUnavailable::Unreachable),
            }
        }
    }
}

impl KeyRefresh {
    /// What fetches keys, and what hands them out. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`NoClient`] when the key server could not be told from another.
    pub(super) fn new(
        config: &JwksConfig,
        accepted: &[Algorithm],
        metrics: &Arc<Metrics>,
    ) -> Result<(RemoteKeys, Self), NoClient> {
        let (sender, receiver) = watch::channel(Known::default());
        let wanted = Arc::new(Notify::new());
        let keys = RemoteKeys {
            known: receiver,
            wanted: Arc::clone(&wanted),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
        };
        let refresh = Self {
            client: client(&config.url)?,
            config: config.clone(),
            accepted: accepted.to_vec(),
            known: sender,
            wanted,
            metrics: Arc::clone(metrics),
        };
        Ok((keys, refresh))
    }

    /// Fetches, and goes on fetching until `stopping`.
    pub async fn run(self, stopping: impl Future<Output = ()>) {
        let mut stopping = std::pin::pin!(stopping);
        loop {
            let began = Instant::now();
            let succeeded = tokio::select! {
                () = &mut stopping => return,
                succeeded = self.refresh(began) => succeeded,
            };
            let least = if self.known.borrow().keys.is_some() {
                INTERVAL
            } else {
                IMPATIENT_INTERVAL
            };
            let regular = if succeeded {
                self.config.refresh.max(least)
            } else {
                least
            };
            tokio::select! {
                () = &mut stopping => return,
                () = sleep_until(began + regular) => {}
                () = self.wanted.notified() => tokio::select! {
                    () = &mut stopping => return,
                    () = sleep_until(began + least) => {}
                },
            }
        }
    }

    /// One attempt. What it came to is told once, and again when that changes.
    async fn refresh(&self, began: Instant) -> bool {
        let fetched = timeout(FETCH_TIMEOUT, self.fetch())
            .await
            .unwrap_or(Err(FetchError::TooLate));
        let before = self.known.borrow().clone();
        let worked = before.last.map(|(_, worked)| worked);
        let url = self.config.shown();
        let keys = match fetched {
            Ok(keys) => {
                if worked != Some(true) {
                    tracing::info!(%url, keys = keys.len(), "the key server gave its keys");
                }
                if keys.is_empty() && before.keys.is_none_or(|keys| !keys.is_empty()) {
                    tracing::error!(%url, "the key server gave no key that can verify what AUTH_JWT_ALGORITHMS accepts: no token is good");
                }
                self.metrics
                    .jwks_keys
                    .set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
                Some(Arc::new(keys))
            }
            Err(error) => {
                if worked != Some(false) {
                    let kept = before.keys.as_ref().map_or(0, |keys| keys.len());
                    tracing::error!(%url, %error, kept, "cannot fetch keys: the last ones stay, and it is tried again");
                }
                None
            }
        };
        let succeeded = keys.is_some();
        let outcome = if succeeded { "fetched" } else { "failed" };
        self.metrics.jwks_refreshes.of(outcome).inc();
        self.known.send_modify(|known| {
            if keys.is_some() {
                known.keys = keys;
            }
            known.last = Some((began, succeeded));
        });
        succeeded
    }

    async fn fetch(&self) -> Result<KeySet, FetchError> {
        let request = Request::get(&self.config.url)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(
                USER_AGENT,
                concat!("sse-bridge/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())
            .map_err(|error| FetchError::Connection(error.to_string()))?;
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|error| FetchError::Connection(with_causes(&error)))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES);
        let body = body.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge
            } else {
                FetchError::Connection(error.to_string())
            }
        })?;
        Ok(KeySet::of_jwks(&body.to_bytes(), &self.accepted)?)
    }
}

/// A client that follows no redirect and, to `https`, speaks nothing but TLS with certificates that this system trusts.
fn client(url: &Uri) -> Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, NoClient> {
    let connector = outbound::connector(url.scheme_str() == Some("https"))?;
    Ok(Client::builder(TokioExecutor::new())
        // The next fetch is minutes away: by then whoever is between has forgotten the connection.
        .pool_max_idle_per_host(0)
        .build(connector))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_wait_for_a_key_that_may_be_new_and_the_next_is_sent_away_at_once() {
        let url = "http://127.0.0.1:1/keys";
        let config = JwksConfig::new(url, Duration::from_secs(300)).unwrap();
        let metrics = Metrics::new().unwrap();
        let (keys, _nobody_fetches) =
            KeyRefresh::new(&config, &[Algorithm::RS256], &metrics).unwrap();
        let wait = || Box::pin(keys.current(|_| false));
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| wait()).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        let outcome = wait().now_or_never().expect("at once");
        assert_eq!(outcome.unwrap_err(), KeysUnavailable::Crowded);
        waiting.pop();
        assert!(wait().now_or_never().is_none(), "a place is free again");
    }
}
