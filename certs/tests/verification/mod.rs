//! Simulated time, and what an API server verifies.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use certs::stored::Leaf;
use jiff::{SignedDuration, Timestamp};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

const NAME: &str = "webhook.own.svc";

pub(crate) fn names() -> BTreeSet<String> {
    BTreeSet::from([NAME.to_owned()])
}

pub(crate) fn start() -> Timestamp {
    "2026-11-24T00:00:00Z".parse().unwrap()
}

pub(crate) fn hours(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count * 3600)
}

pub(crate) fn certificates(bundle: &str) -> HashSet<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(bundle.as_bytes()).map(Result::unwrap).collect()
}

pub(crate) fn verify(leaf: &Leaf, bundle: &str, now: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(bundle) {
        roots.add(certificate).unwrap();
    }
    if roots.is_empty() {
        return false;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().unwrap()));
    let (leaf, intermediates) = leaf.pair().chain().split_first().unwrap();
    verifier.verify_server_cert(leaf, intermediates, &ServerName::try_from(NAME).unwrap(), &[], now).is_ok()
}
