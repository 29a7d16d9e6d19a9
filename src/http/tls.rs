//! TLS on the public listener: a certificate and its key, read at the start and again whenever their files change, so that
//! a renewal needs no restart. What cannot be used is told and never takes the place of what can.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::IntGauge;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use x509_cert::der::Decode;

use crate::lifecycle::Lifecycle;

/// HTTP/2 as the two ends agree on it (RFC 9113 §3.2).
pub(super) const HTTP2: &[u8] = b"h2";

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and what leads to its authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// Which of the two files it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The certificate.
    Certificate,
    /// The key.
    Key,
}

/// Why the files cannot be used. The text names neither file nor setting: whoever reports does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unusable {
    /// Which file to look at.
    pub which: Which,
    reason: String,
}

/// Certificate and key in use. Shared by the listener and by the task that looks after the files.
pub struct Tls {
    files: TlsFiles,
    /// Written by [`Tls::look_after`], read at each connection.
    current: RwLock<Arc<ServerConfig>>,
    /// What the files held that are in use.
    contents: Contents,
    expiry: IntGauge,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files. `expiry` is told when the certificate ends, in seconds since 1970; 0 where it does not say.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn load(files: TlsFiles, expiry: IntGauge) -> Result<Self, Unusable> {
        let contents = Contents::read(&files)?;
        let current = RwLock::new(Arc::new(contents.server_config()?));
        expiry.set(contents.expiry());
        Ok(Self {
            files,
            current,
            contents,
            expiry,
        })
    }

    /// Whether the files can be used.
    ///
    /// # Errors
    /// When they cannot.
    pub fn check(files: &TlsFiles) -> Result<(), Unusable> {
        Contents::read(files)?.server_config().map(drop)
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }

    /// Takes what the files hold when that changes, until the doors close.
    pub async fn look_after(self: Arc<Self>, lifecycle: Lifecycle) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping = std::pin::pin!(lifecycle.doors.stopping());
        let (mut used, mut seen) = (Ok(self.contents.clone()), Ok(self.contents.clone()));
        self.warn_of_the_end(&self.contents);
        loop {
            tokio::select! {
                () = &mut stopping => return,
                _ = ticks.tick() => {}
            }
            let files = self.files.clone();
            let reading = tokio::task::spawn_blocking(move || Contents::read(&files));
            let Ok(found) = reading.await else { continue };
            // Two files are seldom written at once: only what stayed as it is for one tick is judged.
            let settled = found == seen;
            seen = found.clone();
            if settled && found != used {
                self.take(&found);
                used = found;
            }
        }
    }

    fn take(&self, found: &Result<Contents, Unusable>) {
        let contents = found.as_ref().map_err(Clone::clone);
        match contents.and_then(|contents| Ok((contents, contents.server_config()?))) {
            Ok((contents, config)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                self.expiry.set(contents.expiry());
                tracing::info!(expires = contents.expiry(), "the certificate was renewed");
                self.warn_of_the_end(contents);
            }
            Err(error) => {
                let file = match error.which {
                    Which::Certificate => &self.files.certificate,
                    Which::Key => &self.files.key,
                };
                tracing::error!(file = %file.display(), %error, "the new certificate cannot be used; the old one stays in use");
            }
        }
    }

    fn warn_of_the_end(&self, contents: &Contents) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if contents.expiry() != 0 && contents.expiry() <= now {
            tracing::error!(file = %self.files.certificate.display(), "the certificate has expired: clients will refuse it; renew it");
        }
    }
}

/// What the two files hold.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, Unusable> {
        let unreadable = |which| {
            move |error: io::Error| {
                Unusable::new(
                    which,
                    format!("cannot be read ({error}): name a file in PEM"),
                )
            }
        };
        Ok(Self {
            certificate: std::fs::read(&files.certificate)
                .map_err(unreadable(Which::Certificate))?,
            key: std::fs::read(&files.key).map_err(unreadable(Which::Key))?,
        })
    }

    fn server_config(&self) -> Result<ServerConfig, Unusable> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&self.certificate).collect();
        let certificates = certificates
            .map_err(|error| error.to_string())
            .and_then(|found| {
                if found.is_empty() {
                    Err("there is none in it".to_owned())
                } else {
                    Ok(found)
                }
            })
            .map_err(|reason| {
                let advice =
                    "write the server's certificate in PEM, then those that lead to its authority";
                Unusable::new(
                    Which::Certificate,
                    format!("has no certificate that can be read ({reason}): {advice}"),
                )
            })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            let advice = "write the certificate's private key in PEM, without a passphrase";
            Unusable::new(
                Which::Key,
                format!("has no key that can be read ({error}): {advice}"),
            )
        })?;
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| Unusable::new(Which::Certificate, error.to_string()))?
                .with_no_client_auth()
                .with_single_cert(certificates, key)
                .map_err(|error| {
                    let advice = "name a certificate and the key that belongs to it";
                    Unusable::new(Which::Key, format!("cannot be used ({error}): {advice}"))
                })?;
        config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        // Clients that come back prove who they were without another handshake, and nothing is kept for them here.
        if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Ok(config)
    }

    /// When the server's certificate ends, in seconds since 1970; 0 where that cannot be read.
    fn expiry(&self) -> i64 {
        CertificateDer::pem_slice_iter(&self.certificate)
            .next()
            .and_then(Result::ok)
            .and_then(|first| x509_cert::Certificate::from_der(&first).ok())
            .and_then(|certificate| {
                let end = certificate.tbs_certificate.validity.not_after;
                i64::try_from(end.to_unix_duration().as_secs()).ok()
            })
            .unwrap_or(0)
    }
}

impl Unusable {
    fn new(which: Which, reason: String) -> Self {
        Self { which, reason }
    }
}
