use super::*;

const COMBINED: &[u8] = include_bytes!("../../../tests/fixtures/certificates/combined.pem");
const PKCS1: &[u8] = include_bytes!("../../../tests/fixtures/certificates/pkcs1.pem");
const CERTIFICATE: &[u8] = include_bytes!("../../../tests/fixtures/certificates/cert.pem");
const MODERN: &[u8] = include_bytes!("../../../tests/fixtures/certificates/modern.pfx");
const LEGACY: &[u8] = include_bytes!("../../../tests/fixtures/certificates/legacy.pfx");
const NO_PASSWORD: &[u8] = include_bytes!("../../../tests/fixtures/certificates/no-password.pfx");

#[test]
fn every_form_gives_the_same_certificate() {
    let expected = ClientCertificate::parse(COMBINED, "").unwrap();
    for (form, bytes, password) in [
        ("PEM with a PKCS#1 key", PKCS1, ""),
        ("PKCS#12", MODERN, "open-sesame"),
        ("PKCS#12 with 3DES and RC2", LEGACY, "open-sesame"),
        ("PKCS#12 with an empty password", NO_PASSWORD, ""),
    ] {
        let certificate = ClientCertificate::parse(bytes, password).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(certificate, expected, "{form}");
    }
}

#[test]
fn what_is_no_certificate_is_named() {
    let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let with_certificate = |key: &str| [key.as_bytes(), CERTIFICATE].concat();
    for (bytes, password, error) in [
        (b"not a certificate".to_vec(), "", CertificateError::Format),
        (Vec::new(), "", CertificateError::Format),
        (MODERN.to_vec(), "wrong", CertificateError::Locked),
        (MODERN[..200].to_vec(), "open-sesame", CertificateError::Locked),
        (CERTIFICATE.to_vec(), "", CertificateError::NoKey),
        (with_certificate(&elliptic), "", CertificateError::NotRsa),
        (with_certificate(&other), "", CertificateError::NoCertificate),
    ] {
        assert_eq!(ClientCertificate::parse(&bytes, password).err(), Some(error));
    }
}

#[test]
fn the_certificate_of_the_key_is_found_in_a_chain() {
    let stranger = rcgen::generate_simple_self_signed(["stranger".to_owned()]).unwrap().cert.pem();
    let chain = [stranger.as_bytes(), COMBINED].concat();
    assert_eq!(ClientCertificate::parse(&chain, "").unwrap(), ClientCertificate::parse(COMBINED, "").unwrap());
}

#[test]
fn no_key_is_printed() {
    let printed = format!("{:?}", ClientCertificate::parse(COMBINED, "").unwrap());
    assert!(printed.len() < 120, "{printed}");
}
