//! The one Secret that holds everything. Written by server-side apply only.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use rustls::crypto::aws_lc_rs;

use crate::{
    hexadecimal::hexadecimal,
    stored::{BUNDLE, StoredCertificates},
};

/// Label that says which program a Secret belongs to.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Reads and writes the Secret.
pub(crate) struct CertificateSecret {
    api: Api<Secret>,
    name: String,
    namespace: String,
    field_manager: String,
    /// Of this process alone, so that two processes that create at the same moment conflict.
    creating_field_manager: String,
}

/// The Secret as it was read, with what a guarded write needs.
#[derive(Default)]
pub(crate) struct ReadSecret {
    pub(crate) stored: StoredCertificates,
    bundle: Vec<u8>,
    /// UID and resourceVersion; `None`: there is no Secret.
    version: Option<(Option<String>, Option<String>)>,
}

/// Why the Secret could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("cannot read Secret {name}: the ServiceAccount needs get on it")]
    Read {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error(
        "cannot write Secret {name}: the ServiceAccount needs create and patch on it, and it must not be immutable"
    )]
    Write {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("another replica wrote Secret {name} first: it is read again")]
    Conflict { name: String },
    #[error("cannot encode the certificate authorities: please report this as a bug")]
    Encode(#[source] serde_json::Error),
}

impl CertificateSecret {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, field_manager: &str) -> Self {
        let mut random = [0; 8];
        // Should the system have no randomness, the name is shared, which only loosens the guard on creation.
        let _ = aws_lc_rs::default_provider().secure_random.fill(&mut random);
        let creating_field_manager = format!("{field_manager}-{}", hexadecimal(&random));
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            field_manager: field_manager.to_owned(),
            creating_field_manager,
        }
    }

    /// The Secret as the API server's storage holds it (never from a cache).
    pub(crate) async fn read(&self) -> Result<ReadSecret, SecretError> {
        let secret = self
            .api
            .get_opt(&self.name)
            .await
            .map_err(|source| SecretError::Read { name: self.name.clone(), source })?;
        let Some(secret) = secret else { return Ok(ReadSecret::default()) };
        let data: BTreeMap<String, Vec<u8>> =
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        Ok(ReadSecret {
            stored: StoredCertificates::parse(&data),
            bundle: data.get(BUNDLE).cloned().unwrap_or_default(),
            version: Some((secret.metadata.uid, secret.metadata.resource_version)),
        })
    }

    /// Writes these certificates over what was read; [`SecretError::Conflict`] if somebody else wrote since.
    pub(crate) async fn write(&self, read: &ReadSecret, stored: &StoredCertificates) -> Result<(), SecretError> {
        let data = stored.render().map_err(SecretError::Encode)?;
        let (parameters, (uid, resource_version)) = match &read.version {
            // A UID of a Secret that is gone is a conflict; a resourceVersion alone would bring it back.
            Some(version) => (PatchParams::apply(&self.field_manager).force(), version.clone()),
            None => (PatchParams::apply(&self.creating_field_manager), (None, None)),
        };
        // The type is left out: it cannot be changed, and a Secret that somebody prepared may have any.
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), self.field_manager.clone())])),
                uid,
                resource_version,
                ..ObjectMeta::default()
            },
            data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value))).collect()),
            ..Secret::default()
        };
        match self.api.patch(&self.name, &parameters, &Patch::Apply(&secret)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                Err(SecretError::Conflict { name: self.name.clone() })
            }
            Err(source) => Err(SecretError::Write { name: self.name.clone(), source }),
        }
    }
}

impl ReadSecret {
    pub(crate) fn exists(&self) -> bool {
        self.version.is_some()
    }

    /// The copy of the bundle for people fits the authorities.
    pub(crate) fn bundle_is_right(&self) -> bool {
        self.bundle == self.stored.bundle_pem().as_bytes()
    }
}
