//! A directory that changes as the kubelet changes a mounted Secret.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use certs::{CertificateFiles, ServingCertificate};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

/// PEM chain and key; `days` tells pairs apart by their end.
struct Pair {
    chain: String,
    key: String,
    not_after: Timestamp,
}

fn pair(days: i64) -> Pair {
    pair_from(Timestamp::now().as_second() - 3600, days)
}

fn pair_from(not_before: i64, days: i64) -> Pair {
    let now = Timestamp::now().as_second();
    let not_after = now + days * 24 * 3600;
    let date = |second| time::OffsetDateTime::from_unix_timestamp(second).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["webhook.own.svc".to_owned()]).unwrap();
    params.not_before = date(not_before.min(not_after - 3600));
    params.not_after = date(not_after);
    let certificate = params.self_signed(&key).unwrap();
    Pair { chain: certificate.pem(), key: key.serialize_pem(), not_after: Timestamp::from_second(not_after).unwrap() }
}

/// As the kubelet's atomic writer does it: a new directory, a new symlink renamed over `..data`, the old one removed.
fn swap(volume: &Path, generation: u32, chain: &str, key: &str) {
    let name = format!("..2026_11_24_{generation}");
    let old = fs::read_link(volume.join("..data")).ok();
    fs::create_dir(volume.join(&name)).unwrap();
    fs::write(volume.join(&name).join("tls.crt"), chain).unwrap();
    fs::write(volume.join(&name).join("tls.key"), key).unwrap();
    symlink(&name, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old)).unwrap();
    } else {
        symlink("..data/tls.crt", volume.join("tls.crt")).unwrap();
        symlink("..data/tls.key", volume.join("tls.key")).unwrap();
    }
}

/// An authority that ends after `days`, as PEM, and a pair that it signed.
fn signed_pair(days: i64) -> (String, Pair) {
    let date = |days: i64| time::OffsetDateTime::from_unix_timestamp(Timestamp::now().as_second() + days * 24 * 3600);
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {days}"));
    authority.not_after = date(days).unwrap();
    let (authority_key, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let mut params = rcgen::CertificateParams::new(vec!["webhook.own.svc".to_owned()]).unwrap();
    params.not_after = date(5).unwrap();
    let certificate = params.signed_by(&key, &rcgen::Issuer::new(authority, authority_key)).unwrap();
    let not_after = Timestamp::from_second(params.not_after.unix_timestamp()).unwrap();
    (authority_pem, Pair { chain: certificate.pem(), key: key.serialize_pem(), not_after })
}

/// Days from now, rounded.
fn days_left(end: Option<Timestamp>) -> Option<i64> {
    end.map(|end| (end.duration_since(Timestamp::now()).as_hours() + 12) / 24)
}

struct Watched {
    directory: tempfile::TempDir,
    serving: ServingCertificate,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

fn watch() -> Watched {
    let directory = tempfile::tempdir().unwrap();
    let (serving, shutdown) = (ServingCertificate::new(), CancellationToken::new());
    let files = CertificateFiles { directory: directory.path().to_owned(), poll_interval: Duration::from_millis(5) };
    let running = tokio::spawn(files.run(serving.clone(), shutdown.clone()));
    Watched { directory, serving, shutdown, running }
}

impl Watched {
    async fn until_served(&self, not_after: Timestamp) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.serving.not_after() != Some(not_after) {
            assert!(Instant::now() < deadline, "still {:?}, not {not_after}", self.serving.not_after());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Bad contents must be looked at, and change nothing; then good ones load.
    async fn refuses(&self, generation: u32, chain: &str, key: &str) {
        let before = self.serving.not_after();
        swap(self.directory.path(), generation, chain, key);
        tokio::time::timeout(Duration::from_millis(60), async {
            loop {
                assert_eq!(self.serving.not_after(), before, "generation {generation}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .unwrap_err();
    }
}

#[tokio::test]
async fn three_swaps_of_the_kubelet_are_all_seen() {
    let watched = watch();
    for generation in 0..4 {
        let pair = pair(i64::from(generation) + 1);
        swap(watched.directory.path(), generation, &pair.chain, &pair.key);
        watched.until_served(pair.not_after).await;
    }
    watched.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), watched.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn bad_contents_keep_the_last_good_pair_and_good_ones_follow() {
    let watched = watch();
    let good = pair(1);
    swap(watched.directory.path(), 0, &good.chain, &good.key);
    watched.until_served(good.not_after).await;

    let (next, expired) = (pair(2), pair(-1));
    watched.refuses(1, &next.chain, &good.key).await; // another certificate's key
    watched.refuses(2, &next.chain[..next.chain.len() / 2], &next.key).await; // half written
    watched.refuses(3, &next.chain, "").await; // key not written yet
    watched.refuses(4, "garbage", "garbage").await;
    watched.refuses(5, &expired.chain, &expired.key).await;

    let with_intermediate = format!("{}{}", next.chain, pair(9).chain);
    swap(watched.directory.path(), 6, &with_intermediate, &next.key);
    watched.until_served(next.not_after).await;
}

#[tokio::test]
async fn a_pair_that_is_not_valid_yet_waits_until_it_is() {
    let watched = watch();
    let now = Timestamp::now().as_second();
    let (tomorrow, good, soon) = (pair_from(now + 86_400, 2), pair(1), pair_from(now + 3, 3));
    swap(watched.directory.path(), 0, &tomorrow.chain, &tomorrow.key);
    watched.until_served(tomorrow.not_after).await; // no other is there
    swap(watched.directory.path(), 1, &good.chain, &good.key);
    watched.until_served(good.not_after).await;
    watched.refuses(2, &tomorrow.chain, &tomorrow.key).await;
    swap(watched.directory.path(), 3, &soon.chain, &soon.key);
    watched.until_served(soon.not_after).await;
    assert!(Timestamp::now().as_second() >= now + 3, "too early");
}

#[tokio::test]
async fn the_end_of_the_root_is_known_where_its_file_lies_beside() {
    let watched = watch();
    let (authority, pair) = signed_pair(100);
    swap(watched.directory.path(), 0, &pair.chain, &pair.key);
    watched.until_served(pair.not_after).await;
    assert_eq!(watched.serving.authority_not_after(), None);

    // The root before, the one that counts, and one of somebody else: an overlap, as after a change of the root.
    let roots = [signed_pair(1).0, authority, signed_pair(300).0].concat();
    fs::write(watched.directory.path().join("ca.crt"), roots).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while days_left(watched.serving.authority_not_after()) != Some(100) {
        assert!(Instant::now() < deadline, "{:?}", watched.serving.authority_not_after());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(watched.serving.not_after(), Some(pair.not_after));
}

#[tokio::test]
async fn files_may_appear_late_and_vanish_for_a_while() {
    let watched = watch();
    let (first, second) = (pair(1), pair(2));
    let write = |pair: &Pair| {
        fs::write(watched.directory.path().join("tls.crt"), &pair.chain).unwrap();
        fs::write(watched.directory.path().join("tls.key"), &pair.key).unwrap();
    };
    write(&first);
    watched.until_served(first.not_after).await;
    fs::remove_file(watched.directory.path().join("tls.key")).unwrap();
    fs::write(watched.directory.path().join("tls.crt"), &second.chain).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(watched.serving.not_after(), Some(first.not_after));
    write(&second);
    watched.until_served(second.not_after).await;
}
