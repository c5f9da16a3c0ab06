//! A certificate pair that somebody else keeps in a directory: a mounted Secret, or cert-manager's.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_util::sync::CancellationToken;

use crate::{
    pair::{CertificatePair, CertificatePairError},
    polled_file,
    serving::ServingCertificate,
    validity::validity_of,
};

/// What a Secret can hold.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A directory with `tls.crt` (PEM chain, leaf first) and `tls.key` (PEM key), and perhaps `ca.crt` (PEM), where cert-manager
/// puts the root. The root is not served; it only tells when it ends.
///
/// It is polled, and bytes are compared. A watch on the files would miss changes: the kubelet updates a mounted
/// Secret by swapping a symlink, so the watched files are never written to.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The directory that holds both files.
    pub directory: PathBuf,
    /// Time between two looks at the files.
    pub poll_interval: Duration,
}

/// Why the files cannot be served. The pair that was loaded last stays in use.
#[derive(Debug, thiserror::Error)]
enum CertificateFilesError {
    #[error("cannot read {path}: check that the Secret is mounted there and holds this key", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use {directory}", directory = directory.display())]
    Pair {
        directory: PathBuf,
        #[source]
        source: CertificatePairError,
    },
    #[error("the certificate in {directory} expired at {not_after}: store a new one", directory = directory.display())]
    Expired { directory: PathBuf, not_after: Timestamp },
    #[error("the certificate in {directory} is valid only from {not_before}: it is taken then", directory = directory.display())]
    NotYetValid { directory: PathBuf, not_before: Timestamp },
}

/// What both files held at one look.
#[derive(PartialEq, Eq)]
struct Contents {
    chain: Vec<u8>,
    key: Vec<u8>,
    roots: Vec<u8>,
}

impl CertificateFiles {
    /// Loads the pair into `serving` now and after every change, until `shutdown`.
    ///
    /// Files that cannot be used are logged once per change; the last good pair stays in use.
    pub async fn run(self, serving: ServingCertificate, shutdown: CancellationToken) {
        let mut loaded: Option<Contents> = None;
        let mut reported: Option<String> = None;
        loop {
            match self.look(&mut loaded, &serving).await {
                Ok(()) => reported = None,
                Err(error) => {
                    let reason = crate::reason::with_sources(&error);
                    if reported.as_ref() != Some(&reason) {
                        tracing::warn!(%reason, "the serving certificate's files cannot be used; keeping the last good pair");
                        reported = Some(reason);
                    }
                }
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(self.poll_interval)).await.is_none() {
                return;
            }
        }
    }

    async fn look(
        &self,
        loaded: &mut Option<Contents>,
        serving: &ServingCertificate,
    ) -> Result<(), CertificateFilesError> {
        let contents = self.read().await?;
        if loaded.as_ref() == Some(&contents) {
            return Ok(());
        }
        let pair = CertificatePair::from_pem(&contents.chain, &contents.key)
            .map_err(|source| CertificateFilesError::Pair { directory: self.directory.clone(), source })?;
        let pair = match root_not_after(&contents.roots, &pair) {
            Some(not_after) => pair.under(not_after),
            None => pair,
        };
        let (now, not_before, not_after) = (Timestamp::now(), pair.not_before(), pair.not_after());
        if not_after < now {
            return Err(CertificateFilesError::Expired { directory: self.directory.clone(), not_after });
        }
        // Where nothing else can be served, it may be our clock that is behind.
        if not_before > now && serving.not_after().is_some_and(|not_after| not_after > now) {
            return Err(CertificateFilesError::NotYetValid { directory: self.directory.clone(), not_before });
        }
        serving.load(pair);
        tracing::info!(directory = %self.directory.display(), %not_after, "serving certificate loaded");
        *loaded = Some(contents);
        Ok(())
    }

    /// Reads the chain again after the key, so that a swap between both reads is seen and not reported as a mismatch.
    async fn read(&self) -> Result<Contents, CertificateFilesError> {
        let (chain_path, key_path) = (self.directory.join("tls.crt"), self.directory.join("tls.key"));
        let roots = polled_file::read(&self.directory.join("ca.crt"), MAX_FILE_BYTES).await.unwrap_or_default();
        let mut chain = read_file(&chain_path).await?;
        for _ in 0..3 {
            let key = read_file(&key_path).await?;
            let chain_again = read_file(&chain_path).await?;
            if chain_again == chain {
                return Ok(Contents { chain, key, roots });
            }
            chain = chain_again;
        }
        Ok(Contents { key: read_file(&key_path).await?, chain, roots })
    }
}

/// When the last of the roots by which the pair verifies ends.
fn root_not_after(roots: &[u8], pair: &CertificatePair) -> Option<Timestamp> {
    CertificateDer::pem_slice_iter(roots)
        .filter_map(Result::ok)
        .filter_map(|root| {
            let (not_before, not_after) = validity_of(&root)?;
            pair.verifies_by(&root, not_before).then_some(not_after)
        })
        .max()
}

async fn read_file(path: &Path) -> Result<Vec<u8>, CertificateFilesError> {
    let read = polled_file::read(path, MAX_FILE_BYTES).await;
    read.map_err(|source| CertificateFilesError::Read { path: path.to_owned(), source })
}
