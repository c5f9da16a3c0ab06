//! When what proves a service principal ends: as the operator states it, or as its certificate says.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{
    files::{FileError, read_line},
    identity::Proof,
    material::Material,
};
use crate::config::{CredentialConfiguration, IdentityConfiguration, StatedEnd, parse_moment};

/// Why it is not known when a secret ends, though a file should say so. The secret is used all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file does not hold a moment. What it holds may be a secret under the wrong key and is not repeated.
    #[error("{} does not say when the secret ends: {reason}", path.display())]
    Moment {
        /// Which file.
        path: PathBuf,
        /// What to write.
        reason: String,
    },
}

/// The end of the secret or certificate of a service principal. `None`: the credential is none, or nobody has said.
///
/// # Errors
///
/// When there is a file that should say so and does not.
pub async fn end(
    configuration: &CredentialConfiguration,
    material: Option<&Material>,
) -> Result<Option<Timestamp>, EndError> {
    let stated = match configuration {
        CredentialConfiguration::Stored(files) => &files.end,
        CredentialConfiguration::Identity(IdentityConfiguration::ClientSecret { end, .. }) => end,
        CredentialConfiguration::Identity(_) => return Ok(material.and_then(end_of_certificate)),
    };
    match stated {
        None => Ok(None),
        Some(StatedEnd::At(moment)) => Ok(Some(*moment)),
        Some(StatedEnd::File(path)) => read(path).await,
    }
}

async fn read(path: &Path) -> Result<Option<Timestamp>, EndError> {
    let text = match read_line(path).await {
        Ok(text) => text,
        Err(FileError::Missing(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match parse_moment(text.trim()) {
        Ok(moment) => Ok(Some(moment)),
        Err(reason) => Err(EndError::Moment { path: path.to_owned(), reason }),
    }
}

fn end_of_certificate(material: &Material) -> Option<Timestamp> {
    match material {
        Material::Identity { identity, .. } => match &identity.proof {
            Proof::Certificate { certificate, .. } => Some(certificate.not_after()),
            Proof::Secret { .. } | Proof::FederatedToken { .. } | Proof::Machine { .. } => None,
        },
        Material::Stored(_) => None,
    }
}
