//! What this process asks of others over HTTP, beside AMQP: how it reaches them, in the clear or over TLS. It follows no
//! redirect and knows no proxy.

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::RootCertStore;

use crate::authorities::{self, NoAuthorities};

/// Why nobody can be reached over TLS.
#[derive(Debug, thiserror::Error)]
pub enum NoTls {
    /// Nothing says which certificates to trust.
    #[error(
        "there are no root certificates on this system ({0}): install ca-certificates, or name a file of them in \
         SSL_CERT_FILE"
    )]
    NoRoots(#[from] NoAuthorities),
    /// The library refuses its own defaults.
    #[error("no version of TLS can be spoken: {0}")]
    NoVersion(#[from] rustls::Error),
}

/// What connects a client: to `https` with nothing but TLS and certificates that this system trusts, else also in the clear.
///
/// # Errors
/// [`NoTls`] where TLS is wanted, and nobody could be told from another.
pub fn connector(https_only: bool) -> Result<HttpsConnector<HttpConnector>, NoTls> {
    let believed = if https_only {
        authorities::of_system()?
    } else {
        RootCertStore::empty()
    };
    let tls = authorities::client(believed)?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls);
    Ok(if https_only {
        connector.https_only().enable_http1().build()
    } else {
        connector.https_or_http().enable_http1().build()
    })
}

/// An error with what caused it: the outermost of a client's says next to nothing.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
