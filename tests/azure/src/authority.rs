//! A certificate authority, and a certificate for every name that a client asks for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{lock, token::random};

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
    issued: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Authority")
    }
}

impl Authority {
    #[expect(clippy::expect_used, reason = "the parameters are constants")]
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::default();
        // A name of its own, so that a stranger's CA is an unknown issuer and not a wrong signature.
        parameters.distinguished_name.push(DnType::CommonName, random("CA of a fake Azure "));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key is made");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("the CA is signed");
        Self { pem: issuer.pem(), issuer, issued: Mutex::default() }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    #[expect(clippy::expect_used, reason = "a test cannot go on without its fake")]
    pub(crate) fn server_config(self: &Arc<Self>) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        if let Some(known) = lock(&self.issued).get(name) {
            return Some(known.clone());
        }
        let parameters = CertificateParams::new(vec![name.to_owned()]).ok()?;
        let key = KeyPair::generate().ok()?;
        let certificate = parameters.signed_by(&key, &self.issuer).ok()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).ok()?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key));
        lock(&self.issued).insert(name.to_owned(), certified.clone());
        Some(certified)
    }
}

impl ResolvesServerCert for Authority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate(hello.server_name()?)
    }
}
