//! Pull secrets over the Kubernetes API.
//!
//! Writes are server-side applies, for two reasons: RBAC can then limit even `create` to one name, and the fields that we
//! own are recorded, so that an edit by somebody else shows in the metadata. Deletes and lists of other Secrets are never
//! asked for.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::PartialObjectMeta,
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{PullSecretStore, ReadPullSecret, StoreError},
    domain::{
        decision::Settings,
        pull_secret::{DATA_KEY, MANAGER, Origin, PullSecret, PullSecretName, SECRET_TYPE, StoredPullSecret},
    },
    lifecycle::Gate,
    recovery::Recovery,
    server::CountPullSecrets,
    watch_cache::WatchCache,
};

const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// The pull secrets of the cluster: all Secrets of one name.
pub struct KubernetesPullSecrets {
    client: Client,
    name: PullSecretName,
    settings: Arc<ArcSwap<Settings>>,
    cache: WatchCache<StoredPullSecret>,
}

impl KubernetesPullSecrets {
    /// Knows nothing until [`KubernetesPullSecrets::follow`] runs. The name of the pull secrets is fixed from here on.
    #[must_use]
    pub fn new(client: Client, settings: Arc<ArcSwap<Settings>>) -> Self {
        let name = settings.load().pull_secret_name.clone();
        Self { client, name, settings, cache: WatchCache::new() }
    }

    /// The same, and it raises the number in `changes` when somebody restored the past.
    #[must_use]
    pub fn with_changes(mut self, changes: watch::Sender<u64>) -> Self {
        self.cache.changes = changes;
        self
    }

    /// Keeps the cache current by `watches` until `shutdown`. The field selector is what RBAC checks the name against.
    pub async fn follow(self: Arc<Self>, watches: Client, synced: Gate, shutdown: CancellationToken) {
        let api: Api<PartialObjectMeta<Secret>> = Api::all(watches);
        let fields = format!("metadata.name={}", self.name);
        let entry = |metadata: &ObjectMeta| {
            metadata.namespace.clone().map(|namespace| (namespace, StoredPullSecret::from_metadata(metadata)))
        };
        self.cache.clone().follow(api, Some(fields), entry, synced, shutdown).await;
    }

    /// Is announced when the watch goes on after it broke.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.cache.recovery.clone()
    }

    async fn apply(
        &self,
        namespace: &str,
        secret: &PullSecret,
        previous: Option<&StoredPullSecret>,
    ) -> Result<(), StoreError> {
        let (labels, annotations) = (secret.labels(), secret.annotations());
        let mut metadata = json!({"name": self.name.as_str(), "labels": labels, "annotations": annotations});
        let parameters = match previous {
            None => PatchParams::apply(&creation_manager()),
            Some(previous) => {
                metadata["uid"] = json!(previous.uid);
                metadata["resourceVersion"] = json!(previous.resource_version);
                PatchParams::apply(MANAGER).force()
            }
        };
        let desired = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": SECRET_TYPE,
            "data": { DATA_KEY: BASE64_STANDARD.encode(secret.docker_config_json()) },
        });
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Apply(&desired);
        match within_limit(api.patch_metadata(self.name.as_str(), &parameters, &patch)).await {
            Ok(written) => {
                self.know(namespace, StoredPullSecret::from_metadata(&written.metadata));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn know(&self, namespace: &str, stored: StoredPullSecret) {
        let version = stored.resource_version.clone();
        self.cache.insert(namespace.to_owned(), &version, stored);
    }
}

impl CountPullSecrets for KubernetesPullSecrets {
    fn count(&self) -> usize {
        self.cache.snapshot().iter().filter(|(_, stored)| stored.origin == Origin::Ours).count()
    }
}

impl PullSecretStore for KubernetesPullSecrets {
    fn stored(&self, namespace: &str) -> Option<Arc<StoredPullSecret>> {
        self.cache.get(namespace)
    }

    fn all(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        self.cache.snapshot()
    }

    fn take_deleted(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        let mut deleted = self.cache.take_deleted();
        deleted.retain(|(_, stored)| stored.origin == Origin::Ours);
        deleted
    }

    async fn read(&self, namespace: &str) -> Result<Option<ReadPullSecret>, StoreError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let Some(secret) = within_limit(api.get_opt(self.name.as_str())).await? else {
            self.cache.lose(namespace);
            return Ok(None);
        };
        let stored = StoredPullSecret::from_metadata(&secret.metadata);
        let settings = self.settings.load();
        let content = secret.data.as_ref().and_then(|data| data.get(DATA_KEY)).and_then(|bytes| {
            PullSecret::parse(&bytes.0, |host| stored.lifetime(host), settings.rules.login_servers()).ok()
        });
        self.know(namespace, stored.clone());
        Ok(Some(ReadPullSecret { stored, content }))
    }

    async fn create(&self, namespace: &str, secret: &PullSecret) -> Result<(), StoreError> {
        self.apply(namespace, secret, None).await
    }

    async fn update(
        &self,
        namespace: &str,
        secret: &PullSecret,
        previous: &StoredPullSecret,
    ) -> Result<(), StoreError> {
        self.apply(namespace, secret, Some(previous)).await
    }

    async fn delete(&self, namespace: &str, previous: &StoredPullSecret) -> Result<(), StoreError> {
        let parameters = DeleteParams::default().preconditions(Preconditions {
            uid: Some(previous.uid.clone()),
            resource_version: Some(previous.resource_version.clone()),
        });
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        match within_limit(api.delete(self.name.as_str(), &parameters)).await {
            Ok(_) | Err(StoreError::NamespaceGone) => {
                self.cache.remove(namespace);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Creations are applied without force under a manager of their own: of two that meet, by two replicas or by one whose
/// cache was behind, the second gets a conflict and merges. Under a shared manager it would silently replace what the
/// first stored.
fn creation_manager() -> String {
    format!("{MANAGER}-{:016x}", fastrand::u64(..))
}

/// Waits for an answer of the API server, but not for ever: a flight that hangs would hold up its namespace.
pub(crate) async fn within_limit<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, StoreError> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| store_error(&error)),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", REQUEST_LIMIT.as_secs()))),
    }
}

/// Sorts an answer of the API server by what to do about it. Its texts never hold the content of a Secret: the API server
/// redacts that.
fn store_error(error: &kube::Error) -> StoreError {
    let kube::Error::Api(status) = error else {
        return StoreError::Unavailable(root_cause(error));
    };
    if status.is_conflict() {
        return StoreError::Conflict;
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let terminating = causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating");
    if terminating || status.is_not_found() {
        return StoreError::NamespaceGone;
    }
    // The one field that is named when the type or an immutable Secret is in the way.
    let immutable =
        status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.message.contains("immutable"));
    if status.is_invalid() && immutable {
        return StoreError::Immutable(status.message.clone());
    }
    match status.code {
        400..=428 | 430..=499 => StoreError::Refused(status.message.clone()),
        _ => StoreError::Unavailable(status.message.clone()),
    }
}

/// The innermost cause: the outer ones say only that a request failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl fmt::Debug for KubernetesPullSecrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KubernetesPullSecrets").field("cache", &self.cache).finish_non_exhaustive()
    }
}
