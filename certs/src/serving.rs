//! The certificate that new TLS handshakes get.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::watch;

use crate::pair::CertificatePair;

/// The certificate that new TLS handshakes get; swapped atomically, never cutting a connection.
///
/// Clones share one certificate.
#[derive(Clone)]
pub struct ServingCertificate {
    current: Arc<ArcSwapOption<CertificatePair>>,
    loaded: watch::Sender<bool>,
}

impl ServingCertificate {
    /// Holds no certificate yet: handshakes fail until the first pair is loaded.
    #[must_use]
    pub fn new() -> Self {
        Self { current: Arc::new(ArcSwapOption::empty()), loaded: watch::Sender::new(false) }
    }

    /// A TLS server configuration that follows this certificate: HTTP/1.1, no client certificates.
    ///
    /// Sessions are not resumed: the API server never does, so tickets would be made for nothing.
    /// Fails only if the provider lacks a protocol version, which aws-lc-rs does not.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Serves this pair to every handshake from now on.
    pub fn load(&self, pair: CertificatePair) {
        self.current.store(Some(Arc::new(pair)));
        self.loaded.send_replace(true);
    }

    /// When the loaded leaf ends; `None` while none is loaded.
    #[must_use]
    pub fn not_after(&self) -> Option<Timestamp> {
        self.current.load().as_ref().map(|pair| pair.not_after())
    }

    /// When the first certificate above the loaded leaf ends; `None` while none is loaded, and when none above it is known.
    #[must_use]
    pub fn authority_not_after(&self) -> Option<Timestamp> {
        self.current.load().as_ref().and_then(|pair| pair.authority_not_after())
    }

    /// Resolves as soon as a first pair is loaded; at once when one already is.
    pub async fn loaded(&self) {
        // `self` holds the sender, so the channel cannot close while we wait.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }
}

impl Default for ServingCertificate {
    fn default() -> Self {
        Self::new()
    }
}

/// Without the key.
impl fmt::Debug for ServingCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServingCertificate").field("not_after", &self.not_after()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|pair| Arc::clone(pair.certified_key()))
    }
}
