//! Namespaces: a watched cache, and a live read for those that are too new to be in it.

use std::{fmt, sync::Arc};

use k8s_openapi::{api::core::v1, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, core::PartialObjectMeta};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{NamespaceSource, StoreError},
    domain::registry::Namespace,
    lifecycle::Gate,
    secrets::store::within_limit,
    watch_cache::WatchCache,
};

/// The namespaces of the cluster, with the labels that opt-outs and selectors look at.
pub struct KubernetesNamespaces {
    client: Client,
    cache: WatchCache<Namespace>,
}

impl KubernetesNamespaces {
    /// Knows nothing until [`KubernetesNamespaces::follow`] runs.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, cache: WatchCache::new() }
    }

    /// Keeps the cache current by `watches` until `shutdown`.
    pub async fn follow(self: Arc<Self>, watches: Client, synced: Gate, shutdown: CancellationToken) {
        let api: Api<PartialObjectMeta<v1::Namespace>> = Api::all(watches);
        let entry = |metadata: &ObjectMeta| namespace(metadata).map(|namespace| (namespace.name.clone(), namespace));
        self.cache.clone().follow(api, None, entry, synced, shutdown).await;
    }
}

impl NamespaceSource for KubernetesNamespaces {
    fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        self.cache.get(name)
    }

    async fn read(&self, name: &str) -> Result<Option<Namespace>, StoreError> {
        // The name comes from whoever sent the review, and goes into a URL.
        if !could_be_a_namespace(name) {
            return Ok(None);
        }
        let api: Api<v1::Namespace> = Api::all(self.client.clone());
        let read = within_limit(api.get_metadata_opt(name)).await?;
        Ok(read.and_then(|object| namespace(&object.metadata)))
    }
}

fn namespace(metadata: &ObjectMeta) -> Option<Namespace> {
    Some(Namespace {
        name: metadata.name.clone()?,
        labels: metadata.labels.clone().unwrap_or_default(),
        terminating: metadata.deletion_timestamp.is_some(),
    })
}

/// Namespaces are named by the rules of a DNS label (RFC 1123).
fn could_be_a_namespace(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

impl fmt::Debug for KubernetesNamespaces {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KubernetesNamespaces").field("cache", &self.cache).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_change_the_url_is_no_namespace() {
        for name in ["team-a", "a", "0", &"x".repeat(63)] {
            assert!(could_be_a_namespace(name), "{name}");
        }
        for name in ["", "team-a/secrets/other", "..", "team-a?watch=1", "Team", "-a", "a-", "a b", &"x".repeat(64)] {
            assert!(!could_be_a_namespace(name), "{name}");
        }
    }
}
