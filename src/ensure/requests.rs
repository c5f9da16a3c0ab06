//! Requests for the pull secret of a namespace, each with its span.

use super::Ensurer;
use crate::{
    admission::{CredentialSource, PullSecretStore, ReadPullSecret, StoreError},
    domain::{
        pull_secret::{PullSecret, StoredPullSecret},
        registry::Namespace,
    },
    spans,
};

impl<C: CredentialSource, S: PullSecretStore> Ensurer<C, S> {
    pub(super) async fn read(&self, namespace: &Namespace) -> Result<Option<ReadPullSecret>, StoreError> {
        let read = self.store.read(&namespace.name);
        spans::record(spans::read("pull_secret"), StoreError::as_label, read).await
    }

    pub(super) async fn create(&self, namespace: &Namespace, secret: &PullSecret) -> Result<(), StoreError> {
        let create = self.store.create(&namespace.name, secret);
        spans::record(spans::write("create"), StoreError::as_label, create).await
    }

    pub(super) async fn update(
        &self,
        namespace: &Namespace,
        secret: &PullSecret,
        previous: &StoredPullSecret,
    ) -> Result<(), StoreError> {
        let update = self.store.update(&namespace.name, secret, previous);
        spans::record(spans::write("update"), StoreError::as_label, update).await
    }

    pub(super) async fn delete(&self, namespace: &Namespace, previous: &StoredPullSecret) -> Result<(), StoreError> {
        let delete = self.store.delete(&namespace.name, previous);
        spans::record(spans::write("delete"), StoreError::as_label, delete).await
    }
}
