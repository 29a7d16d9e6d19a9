//! What this process asks of others over HTTP, beside AMQP: how it reaches them, in the clear or over TLS. It follows no
//! redirect and knows no proxy.

use std::sync::Arc;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::RootCertStore;

/// Why nobody can be reached over TLS.
#[derive(Debug, thiserror::Error)]
pub enum NoTls {
    /// Nothing says which certificates to trust.
    #[error(
        "there are no root certificates on this system ({0}): install ca-certificates, or name a file of them in \
         SSL_CERT_FILE"
    )]
    NoRoots(String),
    /// The library refuses its own defaults.
    #[error("no version of TLS can be spoken: {0}")]
    NoVersion(#[from] rustls::Error),
}

/// What connects a client: to `https` with nothing but TLS and certificates that this system trusts, else also in the clear.
///
/// # Errors
/// [`NoTls`] where TLS is wanted, and nobody could be told from another.
pub fn connector(https_only: bool) -> Result<HttpsConnector<HttpConnector>, NoTls> {
    let mut roots = RootCertStore::empty();
    if https_only {
        let found = rustls_native_certs::load_native_certs();
        // Some systems carry a few that are too old to be read.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let reason = found
                .errors
                .first()
                .map_or_else(|| "none was found".to_owned(), ToString::to_string);
            return Err(NoTls::NoRoots(reason));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
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
