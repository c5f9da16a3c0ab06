//! A certificate chain and its private key, checked to belong together.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

/// A certificate chain (leaf first, intermediates after it) and the private key of the leaf.
///
/// Whether the leaf is valid *now* is the caller's question: this type knows no clock.
#[derive(Clone)]
pub struct CertificatePair {
    certified_key: Arc<CertifiedKey>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why bytes are not a usable [`CertificatePair`].
#[derive(Debug, thiserror::Error)]
pub enum CertificatePairError {
    /// The chain holds no PEM block of type CERTIFICATE.
    #[error("the certificate file holds no certificate: it must be PEM, leaf first, then intermediates")]
    NoCertificate,
    /// The chain is not readable PEM.
    #[error("the certificate chain is not valid PEM: write it again in full")]
    Chain(#[source] rustls::pki_types::pem::Error),
    /// The key file holds no readable PEM private key.
    #[error("the private key is missing or not valid PEM: use an unencrypted PKCS#8, SEC1 or PKCS#1 key")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// The leaf is no X.509 certificate.
    #[error("the first certificate of the chain is not a valid X.509 certificate: {reason}")]
    Leaf {
        /// What the parser said.
        reason: String,
    },
    /// The leaf ends before it begins, or its dates are out of range.
    #[error("the certificate's validity is empty (notBefore is not earlier than notAfter): issue it again")]
    Validity,
    /// The key is of another certificate, or of a kind that TLS cannot use.
    #[error("the private key does not fit the certificate: store the key that the certificate was issued for")]
    KeyMismatch(#[source] rustls::Error),
}

impl CertificatePair {
    /// Parses a PEM chain and a PEM key and checks that they belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificatePairError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(CertificatePairError::Chain)?;
        let leaf = chain.first().ok_or(CertificatePairError::NoCertificate)?;
        let (not_before, not_after) = validity(leaf)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificatePairError::Key)?;
        let certified_key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(CertificatePairError::KeyMismatch)?;
        Ok(Self { certified_key: Arc::new(certified_key), not_before, not_after })
    }

    /// First second in which the leaf is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Last second in which the leaf is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The chain as DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    pub(crate) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified_key
    }
}

/// Without the key.
impl fmt::Debug for CertificatePair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CertificatePair")
            .field("certificates", &self.certified_key.cert.len())
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn validity(leaf: &CertificateDer<'_>) -> Result<(Timestamp, Timestamp), CertificatePairError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| CertificatePairError::Leaf { reason: error.to_string() })?;
    let second = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|_| CertificatePairError::Validity)
    };
    let (not_before, not_after) = (second(parsed.validity().not_before)?, second(parsed.validity().not_after)?);
    if not_before >= not_after {
        return Err(CertificatePairError::Validity);
    }
    Ok((not_before, not_after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_chain_keeps_its_intermediates_in_order() {
        let (leaf, key) = pair("leaf.example");
        let (intermediate, _) = pair("intermediate.example");
        let parsed = CertificatePair::from_pem(format!("{leaf}{intermediate}").as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(parsed.chain().len(), 2);
        assert_eq!(parsed.chain()[0], CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap());
    }

    #[test]
    fn bad_bytes_are_refused_with_the_fitting_reason() {
        let (leaf, key) = pair("leaf.example");
        let (_, other_key) = pair("other.example");
        let refuse = |chain: &str, key: &str| CertificatePair::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(matches!(refuse("", &key), CertificatePairError::NoCertificate));
        assert!(matches!(refuse("garbage", &key), CertificatePairError::NoCertificate));
        assert!(matches!(refuse(&leaf[..leaf.len() / 2], &key), CertificatePairError::Chain(_)));
        assert!(matches!(refuse(&leaf, &key[..key.len() / 2]), CertificatePairError::Key(_)));
        assert!(matches!(refuse(&leaf, &leaf), CertificatePairError::Key(_)));
        assert!(matches!(refuse(&leaf, &other_key), CertificatePairError::KeyMismatch(_)));
        let not_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(refuse(not_x509, &key), CertificatePairError::Leaf { .. }));
    }

    #[test]
    fn an_empty_validity_is_refused() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["leaf.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2029, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let error =
            CertificatePair::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap_err();
        assert!(matches!(error, CertificatePairError::Validity));
    }

    #[test]
    fn debug_shows_no_key() {
        let (leaf, key) = pair("leaf.example");
        let shown = format!("{:?}", CertificatePair::from_pem(leaf.as_bytes(), key.as_bytes()).unwrap());
        assert!(shown.contains("not_after") && !shown.to_lowercase().contains("key"), "{shown}");
    }
}
