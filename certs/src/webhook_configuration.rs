//! The `caBundle` of every webhook of one `MutatingWebhookConfiguration`.

use std::collections::HashSet;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;

use crate::plan::PublishedBundle;

/// Reads the configuration and applies `webhooks[].clientConfig.caBundle`, nothing else.
pub(crate) struct WebhookConfiguration {
    api: Api<MutatingWebhookConfiguration>,
    name: String,
    field_manager: String,
}

/// The configuration as it was read.
pub(crate) struct ReadConfiguration {
    uid: Option<String>,
    resource_version: Option<String>,
    /// Name and `caBundle` of each webhook.
    webhooks: Vec<(String, Vec<u8>)>,
}

/// Why the configuration could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookConfigurationError {
    #[error("cannot read MutatingWebhookConfiguration {name}: the ServiceAccount needs get on it")]
    Read {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot write the caBundle of MutatingWebhookConfiguration {name}: the ServiceAccount needs patch on it")]
    Write {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("MutatingWebhookConfiguration {name} was changed at the same moment: it is read again")]
    Conflict { name: String },
}

impl WebhookConfiguration {
    pub(crate) fn new(client: Client, name: &str, field_manager: &str) -> Self {
        Self { api: Api::all(client), name: name.to_owned(), field_manager: format!("{field_manager}-ca-bundle") }
    }

    /// `None`: it is not installed (yet).
    pub(crate) async fn read(&self) -> Result<Option<ReadConfiguration>, WebhookConfigurationError> {
        let configuration = self
            .api
            .get_opt(&self.name)
            .await
            .map_err(|source| WebhookConfigurationError::Read { name: self.name.clone(), source })?;
        Ok(configuration.map(|configuration| ReadConfiguration {
            uid: configuration.metadata.uid,
            resource_version: configuration.metadata.resource_version,
            webhooks: configuration
                .webhooks
                .unwrap_or_default()
                .into_iter()
                .map(|webhook| (webhook.name, webhook.client_config.ca_bundle.unwrap_or_default().0))
                .collect(),
        }))
    }

    /// Makes the bundle of every webhook right. The API server keeps the other fields of a webhook that is named in an
    /// apply, and their owners may change them later (seen with Kubernetes 1.36, applies and strategic merge patches).
    ///
    /// By force: who removes or edits a bundle by hand becomes its owner, and the webhook would fail until they let go.
    pub(crate) async fn write(
        &self,
        read: &ReadConfiguration,
        bundle_pem: &str,
    ) -> Result<(), WebhookConfigurationError> {
        let ca_bundle = k8s_openapi::ByteString(bundle_pem.as_bytes().to_vec());
        let webhooks: Vec<_> = read
            .webhooks
            .iter()
            .map(|(name, _)| json!({"name": name, "clientConfig": {"caBundle": ca_bundle}}))
            .collect();
        let apply = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            // UID and version keep a webhook that was removed meanwhile from being half put back.
            "metadata": {"name": self.name, "uid": read.uid, "resourceVersion": read.resource_version},
            "webhooks": webhooks,
        });
        let parameters = PatchParams::apply(&self.field_manager).force();
        match self.api.patch(&self.name, &parameters, &Patch::Apply(&apply)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                Err(WebhookConfigurationError::Conflict { name: self.name.clone() })
            }
            Err(source) => Err(WebhookConfigurationError::Write { name: self.name.clone(), source }),
        }
    }
}

impl ReadConfiguration {
    /// All webhooks have exactly this bundle.
    pub(crate) fn has_bundle(&self, bundle_pem: &str) -> bool {
        self.webhooks.iter().all(|(_, bundle)| bundle == bundle_pem.as_bytes())
    }

    /// The certificates that are in the bundle of every webhook.
    pub(crate) fn published(&self) -> PublishedBundle {
        let certificates = |bundle: &[u8]| -> HashSet<CertificateDer<'static>> {
            CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok).collect()
        };
        let bundles = self.webhooks.iter().map(|(_, bundle)| certificates(bundle));
        bundles
            .reduce(|common, next| common.intersection(&next).cloned().collect())
            .map_or(PublishedBundle::NoWebhook, PublishedBundle::Certificates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> (String, CertificateDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["ca".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), certificate.der().clone())
    }

    #[test]
    fn only_what_every_webhook_has_is_published() {
        let ((first_pem, first), (second_pem, _)) = (certificate(), certificate());
        let read = ReadConfiguration {
            uid: None,
            resource_version: None,
            webhooks: vec![
                ("a".to_owned(), format!("{first_pem}{second_pem}").into_bytes()),
                ("b".to_owned(), first_pem.clone().into_bytes()),
            ],
        };
        assert_eq!(read.published(), PublishedBundle::Certificates(HashSet::from([first])));
        assert!(!read.has_bundle(&first_pem));
    }

    #[test]
    fn a_webhook_without_bundle_publishes_nothing() {
        let read =
            ReadConfiguration { uid: None, resource_version: None, webhooks: vec![("a".to_owned(), Vec::new())] };
        assert_eq!(read.published(), PublishedBundle::Certificates(HashSet::new()));
    }
}
