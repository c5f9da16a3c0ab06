//! What the files of a registry rule's credential say.

use std::{path::PathBuf, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{
    certificate::{CertificateError, ClientCertificate},
    files::{FileError, read_bytes, read_line},
    identity::{Application, Identity, Proof},
};
use crate::{
    config::{AzureConfiguration, CredentialConfiguration, CredentialFiles, IdentityConfiguration, Value, is_tenant},
    domain::pull_secret::{CredentialSourceHash, Password, RegistryCredential},
};

/// What the files of a credential say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    /// A username and a password that go into pull secrets.
    Stored(RegistryCredential),
    /// An identity of Entra, whose tokens go into pull secrets.
    Identity {
        /// The identity.
        identity: Arc<Identity>,
        /// The hash of a federated token, which is another after every renewal by its issuer.
        token_hash: Option<[u8; 32]>,
    },
}

/// Why the files of a credential cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// One of them cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A user name that no registry accepts.
    #[error("the user name holds a colon, which no registry accepts")]
    Colon,
    /// Neither the id nor a domain name of a tenant. What stands there may be a secret under the wrong key.
    #[error("{} does not hold a tenant (its id, a GUID, or one of its domain names): is each value under its own key?", .0.display())]
    Tenant(PathBuf),
    /// No application id. What stands there may be a secret under the wrong key.
    #[error("{} does not hold an application id (a GUID): is each value under its own key?", .0.display())]
    Application(PathBuf),
    /// Not a certificate with its key.
    #[error("{} {error}", path.display())]
    Certificate {
        /// Where it stands.
        path: PathBuf,
        /// What is wrong and what to do.
        error: CertificateError,
    },
    /// No two reads in a row said the same.
    #[error("its files keep changing")]
    Unsettled,
}

impl Material {
    /// What a credential made from this is made from.
    pub fn source(&self) -> CredentialSourceHash {
        match self {
            Self::Stored(credential) => credential.source.clone(),
            Self::Identity { identity, .. } => identity.fingerprint(),
        }
    }

    /// Reads all files of a credential. What belongs together is taken only when two reads in a row say the same, so that a
    /// swap of the volume between two files is not mistaken for a pair.
    ///
    /// # Errors
    ///
    /// Names the file and the remedy.
    pub async fn read(
        configuration: &CredentialConfiguration,
        azure: &AzureConfiguration,
    ) -> Result<Self, MaterialError> {
        for _ in 0..3 {
            let first = read(configuration, azure).await?;
            if first == read(configuration, azure).await? {
                return Ok(first);
            }
        }
        Err(MaterialError::Unsettled)
    }
}

async fn read(configuration: &CredentialConfiguration, azure: &AzureConfiguration) -> Result<Material, MaterialError> {
    let identity = match configuration {
        CredentialConfiguration::Stored(files) => return stored(files).await.map(Material::Stored),
        CredentialConfiguration::Identity(identity) => identity,
    };
    let mut token_hash = None;
    let proof = match identity {
        IdentityConfiguration::ClientSecret { tenant, client, secret_file, .. } => Proof::Secret {
            application: application(tenant, client).await?,
            secret: Password::new(read_line(secret_file).await?),
        },
        IdentityConfiguration::ClientCertificate { tenant, client, certificate_file, password_file } => {
            let password = match password_file {
                Some(file) => read_line(file).await?,
                None => String::new(),
            };
            let certificate = ClientCertificate::parse(&read_bytes(certificate_file).await?, &password)
                .map_err(|error| MaterialError::Certificate { path: certificate_file.clone(), error })?;
            Proof::Certificate { application: application(tenant, client).await?, certificate: Arc::new(certificate) }
        }
        IdentityConfiguration::FederatedToken { tenant, client, token_file } => {
            token_hash = Some(Sha256::digest(read_line(token_file).await?).into());
            Proof::FederatedToken { application: application(tenant, client).await?, token_file: token_file.clone() }
        }
        IdentityConfiguration::Managed { client } => Proof::Machine { client: client.clone() },
    };
    let identity = Identity::new(proof, azure.authority_host.clone(), azure.scope.clone());
    Ok(Material::Identity { identity: Arc::new(identity), token_hash })
}

async fn stored(files: &CredentialFiles) -> Result<RegistryCredential, MaterialError> {
    let username = read_value(&files.username).await?;
    if username.contains(':') {
        return Err(MaterialError::Colon);
    }
    let password = Password::new(read_line(&files.password_file).await?);
    Ok(RegistryCredential::stored(username, password))
}

/// Both are named in errors, so what a file holds is looked at first.
async fn application(tenant: &Value, client: &Value) -> Result<Application, MaterialError> {
    let application = Application { tenant: read_value(tenant).await?, client: read_value(client).await? };
    if let Value::File(path) = tenant
        && !(is_guid(&application.tenant) || application.tenant.contains('.') && is_tenant(&application.tenant))
    {
        return Err(MaterialError::Tenant(path.clone()));
    }
    if let Value::File(path) = client
        && !is_guid(&application.client)
    {
        return Err(MaterialError::Application(path.clone()));
    }
    Ok(application)
}

/// No secret of Entra has this form.
fn is_guid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

async fn read_value(value: &Value) -> Result<String, FileError> {
    match value {
        Value::Literal(text) => Ok(text.clone()),
        Value::File(path) => read_line(path).await,
    }
}
