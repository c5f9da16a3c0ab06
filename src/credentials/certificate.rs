//! The certificate of a service principal: read from PEM or PKCS#12, and what it signs.
//!
//! `azure_identity` would read PKCS#12 by OpenSSL; here it needs no second cryptographic library.
//! Source of the assertion's form: <https://learn.microsoft.com/entra/identity-platform/certificate-credentials>.

use std::{fmt, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{KeyPair as _, RSA_PSS_SHA256, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use p12_keystore::Pkcs12Archive;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::identity::Application;

/// How long an assertion is good. Entra takes up to ten minutes more than that.
const ASSERTION_LIFE: Duration = Duration::from_secs(5 * 60);

/// A certificate with its private key.
pub struct ClientCertificate {
    key: RsaKeyPair,
    /// The SHA-256 of the certificate, which tells Entra which key signed.
    thumbprint: [u8; 32],
    /// The hash of certificate and key.
    fingerprint: String,
    not_after: Timestamp,
}

/// Why a file is no certificate to sign in with. The text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Neither PEM nor PKCS#12.
    #[error("is neither PEM (certificate and private key) nor PKCS#12")]
    Format,
    /// The PKCS#12 file cannot be opened.
    #[error(
        "cannot be opened: clientCertificatePasswordFile does not hold its password, or it uses an unusual encryption"
    )]
    Locked,
    /// No private key.
    #[error("holds no private key that can be read: put the certificate and its unencrypted key into one PEM file")]
    NoKey,
    /// Not RSA.
    #[error("holds a key that is not RSA of at least 2048 bits, which is what Entra takes")]
    NotRsa,
    /// No certificate that belongs to the key.
    #[error("holds no certificate that belongs to its private key")]
    NoCertificate,
}

impl ClientCertificate {
    /// Reads PEM or PKCS#12. An empty `password` opens a PKCS#12 file that has none.
    pub fn parse(bytes: &[u8], password: &str) -> Result<Self, CertificateError> {
        let (key, certificates) = if bytes.windows(11).any(|window| window == b"-----BEGIN ") {
            let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| CertificateError::NoKey)?;
            let certificates = CertificateDer::pem_slice_iter(bytes).filter_map(Result::ok).map(|der| der.to_vec());
            (rsa_key(&key)?, certificates.collect())
        } else {
            open(bytes, password)?
        };
        let certificate = certificates
            .iter()
            .find(|certificate| public_key(certificate).as_deref() == Some(key.public_key().as_ref()))
            .ok_or(CertificateError::NoCertificate)?;
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::NoCertificate)?;
        let not_after = parsed.validity().not_after.timestamp();
        let thumbprint: [u8; 32] = Sha256::digest(certificate).into();
        Ok(Self {
            fingerprint: URL_SAFE_NO_PAD.encode(thumbprint),
            key,
            thumbprint,
            not_after: Timestamp::from_second(not_after).unwrap_or(Timestamp::MAX),
        })
    }

    /// Tells certificates apart. A certificate belongs to one key only.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// When the certificate expires.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// What proves to the token endpoint `audience` that `application` holds the key; `None` when signing fails.
    pub fn assertion(&self, application: &Application, audience: &str, now: Timestamp) -> Option<String> {
        let issued_at = now.as_second();
        let expires_at = issued_at + i64::try_from(ASSERTION_LIFE.as_secs()).ok()?;
        let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(self.thumbprint)});
        let claims = json!({
            "aud": audience,
            "iss": application.client,
            "sub": application.client,
            "jti": unique(),
            "iat": issued_at,
            "nbf": issued_at,
            "exp": expires_at,
        });
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for ClientCertificate {}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientCertificate").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

fn rsa_key(key: &PrivateKeyDer<'_>) -> Result<RsaKeyPair, CertificateError> {
    match key {
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        _ => return Err(CertificateError::NotRsa),
    }
    .map_err(|_| CertificateError::NotRsa)
}

fn open(bytes: &[u8], password: &str) -> Result<(RsaKeyPair, Vec<Vec<u8>>), CertificateError> {
    // Every PKCS#12 file is one DER sequence.
    if bytes.first() != Some(&0x30) {
        return Err(CertificateError::Format);
    }
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(|_| CertificateError::Locked)?;
    let key = archive.keys.first().ok_or(CertificateError::NoKey)?;
    let key = RsaKeyPair::from_pkcs8(key.key.as_der()).map_err(|_| CertificateError::NotRsa)?;
    Ok((key, archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect()))
}

fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

/// A random id in the form of a GUID.
fn unique() -> String {
    let bits = fastrand::u128(..);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        (bits >> 96) & 0xffff_ffff,
        (bits >> 80) & 0xffff,
        (bits >> 64) & 0xffff,
        (bits >> 48) & 0xffff,
        bits & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests;
