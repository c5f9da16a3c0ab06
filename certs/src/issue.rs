//! Makes certificate authorities and leaves: ECDSA P-256, with the extensions that a Go TLS client checks.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use time::OffsetDateTime;

use crate::{
    hexadecimal::hexadecimal,
    plan::{Lifetimes, Step},
    stored::{Authority, Leaf, StoredCertificates},
};

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The library refused the parameters; most likely a DNS name is not ASCII.
    #[error("cannot make the certificate: check the DNS names of the webhook's Service")]
    Certificate(#[from] rcgen::Error),
    /// The clock or the lifetimes lead to a date that a certificate cannot hold.
    #[error("the certificate's dates are out of range: check the node's clock and the lifetimes")]
    Date,
    /// The authority's key is not stored.
    #[error("the certificate authority has no key and cannot sign: a new authority is needed")]
    NoKey,
    /// What was made cannot be read back: a fault in this crate.
    #[error("the certificate that was just made does not verify: please report this as a bug")]
    Unusable,
}

/// Changes `stored` as the step says. `name` becomes part of a new authority's subject.
pub fn carry_out(
    step: &Step,
    stored: &mut StoredCertificates,
    name: &str,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Result<(), IssueError> {
    match step {
        Step::Wait => {}
        Step::MarkPublished { authority } => stored.authorities[*authority].published_at = Some(now),
        Step::CreateAuthority { .. } => stored.authorities.push(create_authority(name, lifetimes, now)?),
        Step::IssueLeaf { authority, dns_names, .. } => {
            stored.leaf = Some(issue_leaf(&stored.authorities[*authority], dns_names, lifetimes, now)?);
        }
        Step::RetireAuthority { authority } => {
            stored.authorities.remove(*authority);
        }
    }
    Ok(())
}

/// Makes a certificate authority that may sign leaves only.
///
/// Its subject holds a part of its key's identifier. Two authorities in one bundle therefore differ in subject, key
/// identifier and serial number, and a client never tries the wrong one first.
pub fn create_authority(name: &str, lifetimes: &Lifetimes, now: Timestamp) -> Result<Authority, IssueError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    let key_identifier = params.key_identifier(&key);
    let suffix = hexadecimal(&key_identifier[..key_identifier.len().min(8)]);
    // X.520 allows 64 characters for a common name.
    let name: String = name.chars().take(40).collect();
    params.distinguished_name = common_name(&format!("{name} CA {suffix}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date(before(now, lifetimes.backdate))?;
    params.not_after = date(after(now, lifetimes.authority))?;
    let certificate = params.self_signed(&key)?;
    Authority::parse(certificate.pem(), Some(key.serialize_pem()))
        .filter(|authority| authority.key_pem().is_some())
        .ok_or(IssueError::Unusable)
}

/// Makes a serving certificate for these DNS names. It never outlives its authority.
pub fn issue_leaf(
    authority: &Authority,
    dns_names: &BTreeSet<String>,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Result<Leaf, IssueError> {
    let authority_key = KeyPair::from_pem(authority.key_pem().ok_or(IssueError::NoKey)?)?;
    let issuer = Issuer::from_ca_cert_der(authority.der(), authority_key)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let names: Vec<String> = dns_names.iter().cloned().collect();
    let first_name: String = names.first().map(|name| name.chars().take(64).collect()).unwrap_or_default();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = common_name(&first_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date(before(now, lifetimes.backdate))?;
    params.not_after = date(after(now, lifetimes.leaf).min(authority.not_after()))?;
    let certificate = params.signed_by(&key, &issuer)?;
    Leaf::parse(certificate.pem(), key.serialize_pem(), std::slice::from_ref(authority)).ok_or(IssueError::Unusable)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

fn date(moment: Timestamp) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(moment.as_second()).map_err(|_| IssueError::Date)
}

fn after(moment: Timestamp, span: Duration) -> Timestamp {
    moment.saturating_add(span).unwrap_or(Timestamp::MAX)
}

fn before(moment: Timestamp, span: Duration) -> Timestamp {
    moment.saturating_sub(span).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_authority_carries_what_a_go_client_checks() {
        let authority = create_authority("webhook", &Lifetimes::default(), Timestamp::now()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(authority.der()).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign());
    }

    #[test]
    fn a_leaf_carries_names_and_usages_and_points_at_its_authority() {
        let now = Timestamp::now();
        let authority = create_authority("webhook", &Lifetimes::default(), now).unwrap();
        let wanted = names(&["webhook.own.svc", "webhook.own.svc.cluster.local"]);
        let leaf = issue_leaf(&authority, &wanted, &Lifetimes::default(), now).unwrap();
        assert_eq!(*leaf.dns_names(), wanted);
        assert_eq!(leaf.pair().authority_not_after(), Some(authority.not_after()));
        assert!(leaf.is_valid(now) && leaf.is_valid(before(now, Duration::from_secs(60))));
        let (_, certificate) = x509_parser::parse_x509_certificate(&leaf.pair().chain()[0]).unwrap();
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
        assert!(!certificate.is_ca());
        let (_, parent) = x509_parser::parse_x509_certificate(authority.der()).unwrap();
        assert_eq!(certificate.issuer(), parent.subject());
        let stored = StoredCertificates { authorities: vec![authority], leaf: Some(leaf) };
        assert_eq!(stored.issuer(), Some(0));
    }

    #[test]
    fn two_authorities_differ_in_everything_that_chain_building_uses() {
        let now = Timestamp::now();
        let authorities = [(); 2].map(|()| create_authority("webhook", &Lifetimes::default(), now).unwrap());
        let [first, second] =
            [&authorities[0], &authorities[1]].map(|a| x509_parser::parse_x509_certificate(a.der()).unwrap().1);
        assert_ne!(first.subject(), second.subject());
        assert_ne!(first.raw_serial(), second.raw_serial());
        let key_identifier = |certificate: &x509_parser::certificate::X509Certificate<'_>| {
            certificate
                .iter_extensions()
                .find_map(|extension| match extension.parsed_extension() {
                    x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                    _ => None,
                })
                .unwrap()
        };
        assert_ne!(key_identifier(&first), key_identifier(&second));
    }

    #[test]
    fn a_leaf_never_outlives_its_authority() {
        let now = Timestamp::now();
        let lifetimes = Lifetimes { authority: Duration::from_secs(600), ..Lifetimes::default() };
        let authority = create_authority("webhook", &lifetimes, now).unwrap();
        let leaf = issue_leaf(&authority, &names(&["a.b.svc"]), &lifetimes, now).unwrap();
        assert_eq!(leaf.pair().not_after(), authority.not_after());
    }
}
