//! The control plane that all tests of this file share, and what an operator would do to it by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::LazyLock,
};

use control_plane::ControlPlane;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{ConfigMap, Namespace, Secret, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::OnceCell, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::webhook::Webhook;

/// Namespace of all Secrets.
pub(crate) const NAMESPACE: &str = "own";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Runs a test on the runtime to which the shared clients belong.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    RUNTIME.block_on(test);
}

/// Starts the control plane once.
pub(crate) async fn cluster() -> &'static Cluster {
    CLUSTER.get_or_init(Cluster::start).await
}

pub(crate) struct Cluster {
    control_plane: ControlPlane,
    pub(crate) client: Client,
}

/// Every state of a Secret since the recording began.
pub(crate) struct SecretHistory {
    stop: CancellationToken,
    recording: JoinHandle<Vec<BTreeMap<String, Vec<u8>>>>,
}

impl SecretHistory {
    pub(crate) async fn finish(self) -> Vec<BTreeMap<String, Vec<u8>>> {
        self.stop.cancel();
        self.recording.await.unwrap()
    }
}

impl Cluster {
    async fn start() -> Self {
        let control_plane = ControlPlane::builder().start().await.unwrap();
        let client = control_plane.client();
        let cluster = Self { control_plane, client };
        cluster.create(&Api::<Namespace>::all(cluster.client.clone()), json!({"metadata": {"name": NAMESPACE}})).await;
        cluster
    }

    /// A client with exactly the rights that [`certs::SelfManaged`] asks for.
    pub(crate) async fn restricted_client(&self, name: &str) -> Client {
        let subjects = json!([{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]);
        let metadata = json!({"name": name});
        self.create(&self.namespaced::<ServiceAccount>(), json!({"metadata": metadata})).await;
        let rule = |group: &str, resource: &str, verbs: &[&str]| json!([{"apiGroups": [group], "resources": [resource], "resourceNames": [name], "verbs": verbs}]);
        let rules = rule("", "secrets", &["get", "create", "patch"]);
        self.create(&self.namespaced::<Role>(), json!({"metadata": metadata, "rules": rules})).await;
        let reference = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let binding = json!({"metadata": metadata, "roleRef": reference("Role"), "subjects": subjects});
        self.create(&self.namespaced::<RoleBinding>(), binding).await;
        let rules = rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations", &["get", "patch"]);
        self.create(&Api::<ClusterRole>::all(self.client.clone()), json!({"metadata": metadata, "rules": rules})).await;
        let binding = json!({"metadata": metadata, "roleRef": reference("ClusterRole"), "subjects": subjects});
        self.create(&Api::<ClusterRoleBinding>::all(self.client.clone()), binding).await;
        let kubeconfig = self.control_plane.service_account_kubeconfig(NAMESPACE, name).await.unwrap();
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    }

    /// One webhook per replica, called for every `ConfigMap` that carries the name as label.
    pub(crate) async fn install_configuration(&self, name: &str, replicas: &[Webhook]) {
        let webhooks: Vec<Value> = replicas
            .iter()
            .enumerate()
            .map(|(number, replica)| {
                json!({
                    "name": format!("replica-{number}.{name}.example.com"),
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": "Fail",
                    "timeoutSeconds": 10,
                    "objectSelector": {"matchLabels": {"test": name}},
                    "clientConfig": {"url": format!("https://localhost:{}/", replica.address.port())},
                    "rules": [{
                        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"],
                    }],
                })
            })
            .collect();
        self.create(&self.configurations(), json!({"metadata": {"name": name}, "webhooks": webhooks})).await;
    }

    pub(crate) async fn configuration(&self, name: &str) -> MutatingWebhookConfiguration {
        self.configurations().get(name).await.unwrap()
    }

    /// The `caBundle` of each webhook.
    pub(crate) async fn bundles(&self, name: &str) -> Vec<Vec<u8>> {
        let webhooks = self.configuration(name).await.webhooks.unwrap();
        webhooks.into_iter().map(|webhook| webhook.client_config.ca_bundle.unwrap_or_default().0).collect()
    }

    /// As `kubectl edit` would.
    pub(crate) async fn set_timeout_and_remove_bundles(&self, name: &str, seconds: i32) {
        let mut configuration = self.configuration(name).await;
        for webhook in configuration.webhooks.iter_mut().flatten() {
            webhook.timeout_seconds = Some(seconds);
            webhook.client_config.ca_bundle = None;
        }
        self.configurations().replace(name, &PostParams::default(), &configuration).await.unwrap();
    }

    pub(crate) async fn delete_configuration(&self, name: &str) {
        self.configurations().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// The fields of webhooks that a field manager owns, as sorted paths.
    pub(crate) async fn owned_fields(&self, name: &str, field_manager: &str) -> Vec<String> {
        let managed = self.configuration(name).await.metadata.managed_fields.unwrap();
        let mut fields = BTreeSet::new();
        for entry in managed.into_iter().filter(|entry| entry.manager.as_deref() == Some(field_manager)) {
            let tree = entry.fields_v1.unwrap().0;
            assert_eq!(tree.as_object().unwrap().len(), 1, "owns more than webhooks: {tree}");
            for webhook in tree["f:webhooks"].as_object().unwrap().values() {
                collect_paths(webhook, "", &mut fields);
            }
        }
        fields.into_iter().collect()
    }

    /// Dry run of a ConfigMap that all webhooks of this name must admit.
    pub(crate) async fn admit(&self, name: &str) -> Result<(), String> {
        let map = json!({"metadata": {"generateName": "x-", "labels": {"test": name}}});
        let map: ConfigMap = serde_json::from_value(map).unwrap();
        let parameters = PostParams { dry_run: true, ..PostParams::default() };
        self.namespaced::<ConfigMap>().create(&parameters, &map).await.map(drop).map_err(|error| error.to_string())
    }

    /// The Secret's data; empty while there is none.
    pub(crate) async fn secret_data(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        self.namespaced::<Secret>().get_opt(name).await.unwrap().map(data).unwrap_or_default()
    }

    pub(crate) async fn delete_secret(&self, name: &str) {
        self.namespaced::<Secret>().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn empty_secret(&self, name: &str) {
        let patch = Patch::Merge(json!({"data": null}));
        self.namespaced::<Secret>().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn make_secret_immutable(&self, name: &str) {
        let patch = Patch::Merge(json!({"immutable": true}));
        self.namespaced::<Secret>().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn damage(&self, name: &str, key: &str) {
        let patch = Patch::Merge(json!({"stringData": {key: "damaged"}}));
        self.namespaced::<Secret>().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(crate) async fn record_secret(&self, name: &str) -> SecretHistory {
        let parameters = WatchParams::default().fields(&format!("metadata.name={name}"));
        let events = self.namespaced::<Secret>().watch(&parameters, "0").await.unwrap().boxed();
        let stop = CancellationToken::new();
        let events = events.take_until(stop.clone().cancelled_owned());
        let recording = tokio::spawn(
            events
                .try_filter_map(async |event| match event {
                    WatchEvent::Added(secret) | WatchEvent::Modified(secret) => Ok(Some(data(secret))),
                    _ => Ok(None),
                })
                .map(Result::unwrap)
                .collect(),
        );
        SecretHistory { stop, recording }
    }

    fn configurations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    fn namespaced<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn create<K>(&self, api: &Api<K>, object: Value)
    where
        K: Clone + std::fmt::Debug + serde::Serialize + DeserializeOwned,
    {
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
}

fn data(secret: Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
}

/// `{"f:a": {"f:b": {}}}` holds the path `a.b`.
fn collect_paths(tree: &Value, path: &str, paths: &mut BTreeSet<String>) {
    for (key, below) in tree.as_object().unwrap() {
        let Some(field) = key.strip_prefix("f:") else { continue };
        let path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
        if below.as_object().unwrap().is_empty() {
            paths.insert(path);
        } else {
            collect_paths(below, &path, paths);
        }
    }
}
