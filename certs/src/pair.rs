//! A certificate chain and its private key, checked to belong together.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use crate::validity::{validity, validity_of};

/// A certificate chain (leaf first, intermediates after it) and the private key of the leaf.
///
/// Whether the leaf is valid *now* is the caller's question: this type knows no clock.
#[derive(Clone)]
pub struct CertificatePair {
    certified_key: Arc<CertifiedKey>,
    not_before: Timestamp,
    not_after: Timestamp,
    authority_not_after: Option<Timestamp>,
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
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|error| CertificatePairError::Leaf { reason: error.to_string() })?;
        let (not_before, not_after) = validity(&parsed).ok_or(CertificatePairError::Validity)?;
        let above = chain.iter().skip(1).filter_map(validity_of);
        let authority_not_after = above.map(|(_, not_after)| not_after).min();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificatePairError::Key)?;
        let certified_key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(CertificatePairError::KeyMismatch)?;
        Ok(Self { certified_key: Arc::new(certified_key), not_before, not_after, authority_not_after })
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

    /// Last second in which everything above the leaf is valid, as far as it is known: the first end among the certificates
    /// that follow the leaf in the chain and of the root, if [`CertificatePair::under`] named one. `None`: nothing is known.
    #[must_use]
    pub fn authority_not_after(&self) -> Option<Timestamp> {
        self.authority_not_after
    }

    /// The same pair, which verifies by a root that ends at `root_not_after`.
    #[must_use]
    pub fn under(self, root_not_after: Timestamp) -> Self {
        let ends = self.authority_not_after.into_iter().chain([root_not_after]);
        Self { authority_not_after: ends.min(), ..self }
    }

    /// The chain as DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    /// Verifies the chain by this root as a TLS client does, at a second at which both are valid. Whether that is now is asked
    /// elsewhere.
    pub(crate) fn verifies_by(&self, root: &CertificateDer<'static>, root_not_before: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        let Some((leaf, intermediates)) = self.chain().split_first() else { return false };
        let Ok(seconds) = u64::try_from(self.not_before.max(root_not_before).as_second()) else { return false };
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        roots.add(root.clone()).is_ok()
            && ParsedCertificate::try_from(leaf).is_ok_and(|leaf| {
                verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, moment, algorithms).is_ok()
            })
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
    fn what_is_above_the_leaf_ends_when_the_first_of_it_ends() {
        let key = rcgen::KeyPair::generate().unwrap();
        let ending_in = |year| {
            let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(&key).unwrap().pem()
        };
        let year = |year: i16| jiff::civil::date(year, 1, 1).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
        let pair = |years: &[i32]| {
            let chain: String = years.iter().map(|year| ending_in(*year)).collect();
            CertificatePair::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
        };
        assert_eq!(pair(&[2030]).authority_not_after(), None);
        assert_eq!(pair(&[2030, 2040, 2035]).authority_not_after(), Some(year(2035)));
        assert_eq!(pair(&[2030]).under(year(2050)).authority_not_after(), Some(year(2050)));
        assert_eq!(pair(&[2030, 2040]).under(year(2050)).authority_not_after(), Some(year(2040)));
        assert_eq!(pair(&[2030, 2040]).under(year(2036)).authority_not_after(), Some(year(2036)));
        assert_eq!(pair(&[2030, 2040]).not_after(), year(2030));
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
