//! From when to when an X.509 certificate is valid.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

/// The first and the last second of validity. `None`: it ends before it begins, or a date is out of range.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> Option<(Timestamp, Timestamp)> {
    let second = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let validity = certificate.validity();
    let (not_before, not_after) = (second(validity.not_before)?, second(validity.not_after)?);
    (not_before < not_after).then_some((not_before, not_after))
}

/// The same of a certificate that may make no sense.
pub(crate) fn validity_of(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    validity(&parsed)
}
