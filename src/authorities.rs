//! Whom this process believes when it connects to others over TLS.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// This system knows no authority whose certificates could be believed. Says why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAuthorities(String);

/// The authorities that this system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
///
/// # Errors
/// When there is none.
pub fn of_system() -> Result<RootCertStore, NoAuthorities> {
    let found = rustls_native_certs::load_native_certs();
    let mut authorities = RootCertStore::empty();
    // Some systems carry a few that are too old to be read.
    authorities.add_parsable_certificates(found.certs);
    if authorities.is_empty() {
        let first = found.errors.first();
        let reason = first.map_or_else(|| "none was found".to_owned(), ToString::to_string);
        return Err(NoAuthorities(reason));
    }
    Ok(authorities)
}

/// TLS 1.2 and 1.3 as a client that believes these authorities and shows no certificate of its own.
///
/// # Errors
/// When the library refuses its own defaults.
pub fn client(authorities: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions
        .with_root_certificates(authorities)
        .with_no_client_auth())
}
