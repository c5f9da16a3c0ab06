//! What the Secret holds: certificate authorities, oldest first, and the leaf that is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

use crate::{pair::CertificatePair, validity::validity};

/// Key of the leaf's chain in the Secret (PEM).
pub const LEAF_CERTIFICATE: &str = "tls.crt";
/// Key of the leaf's private key in the Secret (PEM).
pub const LEAF_KEY: &str = "tls.key";
/// Key of the bundle in the Secret: a copy for people and tools, never read back as truth.
pub const BUNDLE: &str = "ca.crt";
/// Key of the certificate authorities with their keys in the Secret (JSON).
pub const AUTHORITIES: &str = "authorities.json";

/// Everything in the Secret that made sense; what did not is absent, so the plan replaces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredCertificates {
    /// In the order in which they were made. All of them are in the bundle.
    pub authorities: Vec<Authority>,
    /// The certificate that every replica serves.
    pub leaf: Option<Leaf>,
}

/// A certificate authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    certificate_pem: String,
    key_pem: Option<String>,
    der: CertificateDer<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
    /// When all webhooks were first seen to have it in their `caBundle`.
    pub published_at: Option<Timestamp>,
}

/// The serving certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    chain_pem: String,
    key_pem: String,
    pair: CertificatePair,
    dns_names: BTreeSet<String>,
    /// The stored authority that signed it.
    issuer: Option<CertificateDer<'static>>,
}

/// One element of [`AUTHORITIES`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthorityRecord {
    certificate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published_at: Option<Timestamp>,
}

impl StoredCertificates {
    /// Reads a Secret's data. Never fails: a part that makes no sense is left out.
    #[must_use]
    pub fn parse(data: &BTreeMap<String, Vec<u8>>) -> Self {
        let records: Vec<serde_json::Value> =
            data.get(AUTHORITIES).and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        let mut authorities: Vec<Authority> = Vec::new();
        for record in records {
            let Ok(record) = serde_json::from_value::<AuthorityRecord>(record) else { continue };
            let Some(mut authority) = Authority::parse(record.certificate, record.key) else { continue };
            authority.published_at = record.published_at;
            if !authorities.iter().any(|other| other.der == authority.der) {
                authorities.push(authority);
            }
        }
        let text = |key| data.get(key).and_then(|bytes| String::from_utf8(bytes.clone()).ok());
        let leaf = text(LEAF_CERTIFICATE)
            .zip(text(LEAF_KEY))
            .and_then(|(chain_pem, key_pem)| Leaf::parse(chain_pem, key_pem, &authorities));
        Self { authorities, leaf }
    }

    /// The Secret's data. Always all keys, so that no write has to remove one.
    pub fn render(&self) -> Result<BTreeMap<String, Vec<u8>>, serde_json::Error> {
        let records: Vec<AuthorityRecord> = self
            .authorities
            .iter()
            .map(|authority| AuthorityRecord {
                certificate: authority.certificate_pem.clone(),
                key: authority.key_pem.clone(),
                published_at: authority.published_at,
            })
            .collect();
        let (chain, key) =
            self.leaf.as_ref().map(|leaf| (leaf.chain_pem.clone(), leaf.key_pem.clone())).unwrap_or_default();
        Ok(BTreeMap::from([
            (AUTHORITIES.to_owned(), serde_json::to_vec(&records)?),
            (BUNDLE.to_owned(), self.bundle_pem().into_bytes()),
            (LEAF_CERTIFICATE.to_owned(), chain.into_bytes()),
            (LEAF_KEY.to_owned(), key.into_bytes()),
        ]))
    }

    /// The `caBundle`: the certificates of all stored authorities.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.authorities.iter().map(|authority| authority.certificate_pem.as_str()).collect()
    }

    /// Whether the authority that signed the leaf of `other` is one of these.
    #[must_use]
    pub fn knows_issuer_of(&self, other: &Self) -> bool {
        let issuer = other.leaf.as_ref().and_then(|leaf| leaf.issuer.as_ref());
        issuer.is_some_and(|issuer| self.authorities.iter().any(|authority| authority.der == *issuer))
    }

    /// The same certificates, but no authority can sign any more.
    #[must_use]
    pub fn without_authority_keys(mut self) -> Self {
        for authority in &mut self.authorities {
            authority.key_pem = None;
        }
        self
    }

    /// Position of the authority that signed the leaf.
    #[must_use]
    pub fn issuer(&self) -> Option<usize> {
        let issuer = self.leaf.as_ref()?.issuer.as_ref()?;
        self.authorities.iter().position(|authority| authority.der == *issuer)
    }
}

impl Authority {
    /// Parses a certificate authority's PEM certificate; a key that does not fit is dropped.
    /// `None`: it is not a certificate of an authority.
    #[must_use]
    pub fn parse(certificate_pem: String, key_pem: Option<String>) -> Option<Self> {
        let mut certificates = CertificateDer::pem_slice_iter(certificate_pem.as_bytes());
        let der = certificates.next()?.ok()?;
        if certificates.next().is_some() {
            return None;
        }
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        if !certificate.is_ca() {
            return None;
        }
        let (not_before, not_after) = validity(&certificate)?;
        let public_key = certificate.public_key().subject_public_key.data.to_vec();
        let key_pem = key_pem.filter(|pem| {
            rcgen::KeyPair::from_pem(pem).is_ok_and(|key| rcgen::PublicKeyData::der_bytes(&key) == public_key)
        });
        Some(Self { certificate_pem, key_pem, der, not_before, not_after, published_at: None })
    }

    /// The certificate as DER: the authority's identity.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// First second of validity.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Last second of validity.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Its key is known and it is valid now.
    #[must_use]
    pub fn can_sign(&self, now: Timestamp) -> bool {
        self.key_pem.is_some() && self.is_valid(now)
    }

    /// Between not-before and not-after.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    pub(crate) fn key_pem(&self) -> Option<&str> {
        self.key_pem.as_deref()
    }
}

impl Leaf {
    /// Parses a leaf and finds the authority that signed it. `None`: not a pair that TLS could use.
    #[must_use]
    pub fn parse(chain_pem: String, key_pem: String, authorities: &[Authority]) -> Option<Self> {
        let pair = CertificatePair::from_pem(chain_pem.as_bytes(), key_pem.as_bytes()).ok()?;
        let certificate = pair.chain().first()?.clone();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()?;
        let dns_names = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
        let issuer = authorities.iter().find(|authority| pair.verifies_by(&authority.der, authority.not_before));
        let pair = match issuer {
            Some(issuer) => pair.under(issuer.not_after),
            None => pair,
        };
        let issuer = issuer.map(|issuer| issuer.der.clone());
        Some(Self { chain_pem, key_pem, pair, dns_names, issuer })
    }

    /// Chain and key.
    #[must_use]
    pub fn pair(&self) -> &CertificatePair {
        &self.pair
    }

    /// The DNS names that it is good for.
    #[must_use]
    pub fn dns_names(&self) -> &BTreeSet<String> {
        &self.dns_names
    }

    /// Between not-before and not-after.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.pair.not_before() <= now && now < self.pair.not_after()
    }

    /// When it was issued, if its not-before was dated back by `backdate`.
    #[must_use]
    pub fn issued_at(&self, backdate: Duration) -> Timestamp {
        self.pair.not_before().saturating_add(backdate).unwrap_or(Timestamp::MAX)
    }
}

impl PartialEq for Leaf {
    fn eq(&self, other: &Self) -> bool {
        self.chain_pem == other.chain_pem && self.key_pem == other.key_pem
    }
}

impl Eq for Leaf {}

/// Without the key.
impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("published_at", &self.published_at)
            .field("has_key", &self.key_pem.is_some())
            .finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Leaf")
            .field("pair", &self.pair)
            .field("dns_names", &self.dns_names)
            .field("has_issuer", &self.issuer.is_some())
            .finish_non_exhaustive()
    }
}
