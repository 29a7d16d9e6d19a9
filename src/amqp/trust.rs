//! TLS to a node: whose certificates are believed, and what is spoken over a socket once it is connected.
//!
//! `lapin` has TLS of its own, but inside of it: what [`mending`](super::mending) reads would be encrypted. So TLS is
//! under both, and `lapin` is told of a plain connection. Whoever connects must come by [`Passage::over`], or a password would
//! go out in the clear.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::Error;
use super::address::AmqpAddress;
use crate::authorities;

/// Whose certificates are believed of a node that is asked for TLS. Cheap to clone.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

/// Why there is nobody to believe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbelievable {
    /// The file cannot be read.
    #[error("cannot be read ({0}): name a file of certificates in PEM")]
    Unreadable(String),
    /// It is no PEM, or none of it is a certificate.
    #[error("has no certificate that can be used ({0}): write the authority's certificates in PEM")]
    NoCertificate(String),
    /// This system knows no authority.
    #[error(
        "asks for TLS, but this system has no certificates of authorities ({0}): install its package of them (ca-certificates), or set RABBITMQ_CA_FILE"
    )]
    NoSystem(String),
}

impl Trust {
    /// Believes those that the authorities in a PEM file have signed, and nobody else.
    ///
    /// # Errors
    /// When the file has no certificate.
    pub fn of_file(path: &Path) -> Result<Self, Unbelievable> {
        let pem = read(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate =
                certificate.map_err(|error| Unbelievable::NoCertificate(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| Unbelievable::NoCertificate(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(Unbelievable::NoCertificate("it is empty".to_owned()));
        }
        Self::of_roots(roots)
    }

    /// Believes those that this system's authorities have signed.
    ///
    /// # Errors
    /// When it has none.
    pub fn of_system() -> Result<Self, Unbelievable> {
        let roots = authorities::of_system()
            .map_err(|reason| Unbelievable::NoSystem(reason.to_string()))?;
        Self::of_roots(roots)
    }

    fn of_roots(roots: RootCertStore) -> Result<Self, Unbelievable> {
        let config = authorities::client(roots)
            .map_err(|error| Unbelievable::NoCertificate(error.to_string()))?;
        Ok(Self(Arc::new(config)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Unbelievable> {
    std::fs::read(path).map_err(|error| Unbelievable::Unreadable(error.to_string()))
}

impl fmt::Debug for Trust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Trust")
    }
}

/// What is spoken with a node: AMQP as it is, or inside TLS.
pub(super) type Spoken = Either<TcpStream, TlsStream<TcpStream>>;

/// How a socket to one node becomes one that can be spoken over.
#[derive(Clone)]
pub(super) enum Passage {
    Plain,
    Tls(TlsConnector, ServerName<'static>),
}

impl fmt::Debug for Passage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls(..) => "Tls",
        })
    }
}

impl Passage {
    /// The way to a node, as its address says. Never in the clear where that asks for TLS.
    pub(super) fn to(node: &AmqpAddress, trust: Option<&Trust>) -> Result<Self, Error> {
        if !node.is_tls() {
            return Ok(Self::Plain);
        }
        let refusal = |reason: String| Error::Tls {
            node: node.to_string(),
            reason,
        };
        let trust =
            trust.ok_or_else(|| refusal("no authority is configured to believe in".to_owned()))?;
        let (host, _) = node.endpoint();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| refusal(format!("the host cannot be in a certificate: {error}")))?;
        let connector = TlsConnector::from(Arc::clone(&trust.0));
        Ok(Self::Tls(connector, name))
    }

    /// Takes a socket that is connected to where it can be spoken over. Waits for the node's handshake for as long as
    /// it takes.
    pub(super) async fn over(&self, socket: TcpStream) -> io::Result<Spoken> {
        match self {
            Self::Plain => Ok(Either::Left(socket)),
            Self::Tls(connector, name) => {
                let shaking = connector.connect(name.clone(), socket);
                shaking.await.map(Either::Right)
            }
        }
    }
}

/// What is wrong with the node's certificate, or with its TLS, if it is that which failed.
pub(super) fn refusal(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match inner {
        rustls::Error::InvalidMessage(_) => {
            format!(
                "what answers there does not speak TLS ({inner}); is it the port of amqps, usually 5671?"
            )
        }
        _ => inner.to_string(),
    })
}
