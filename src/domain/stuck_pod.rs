//! Pods that cannot pull. Those that were created without the pull secret are stuck: the list in their spec cannot change any
//! more, so no pull secret helps them. Only a new pod does. Those that name it may wait for what it lacks.

pub mod eviction;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    decision::{self, Decision, Settings},
    image::LoginServer,
    registry::{Namespace, RegistryName},
    review::OPT_OUT_VALUE,
};

/// What a container waits for when the kubelet could not pull its image, or waits before it tries again.
///
/// Source: `ErrImagePull` and `ErrImagePullBackOff` in `pkg/kubelet/images/types.go` of Kubernetes.
const PULL_FAILURES: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];

/// What is read of a pod that the API server lists. All other fields are passed over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListedPod {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

/// A pod that waits for an image in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a pod that comes back under the same name has another.
    pub uid: String,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// The uid of the controller that makes a new pod when this one is evicted; `None`: nobody would, or not for sure.
    pub replaced_by: Option<String>,
}

/// The pod, if it is stuck without the pull secret in a namespace that is granted a credential for what it pulls.
pub fn find(pod: &ListedPod, namespace: &Namespace, settings: &Settings) -> Option<StuckPod> {
    if pod.references(settings.pull_secret_name.as_str()) || pulls_in_vain(pod, namespace, settings).is_empty() {
        return None;
    }
    Some(StuckPod {
        namespace: namespace.name.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        created_at: pod.metadata.creation_timestamp,
        replaced_by: pod.replaced_by(),
    })
}

/// What a pod that names the pull secret could not pull from, as far as its namespace is granted it. None of it helps the pod
/// when the pull secret has it already.
pub fn may_lack(pod: &ListedPod, namespace: &Namespace, settings: &Settings) -> BTreeMap<LoginServer, RegistryName> {
    if pod.references(settings.pull_secret_name.as_str()) {
        pulls_in_vain(pod, namespace, settings)
    } else {
        BTreeMap::new()
    }
}

fn pulls_in_vain(pod: &ListedPod, namespace: &Namespace, settings: &Settings) -> BTreeMap<LoginServer, RegistryName> {
    if settings.excludes(&namespace.name) || pod.is_left_alone() {
        return BTreeMap::new();
    }
    match decision::decide(pod.login_servers_waited_for(settings), namespace, settings) {
        Decision::Inject(injection) => injection.granted,
        Decision::Skip(_) => BTreeMap::new(),
    }
}

impl ListedPod {
    /// The namespace that it is in.
    pub fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    fn is_left_alone(&self) -> bool {
        let Metadata { labels, annotations, deletion_timestamp, .. } = &self.metadata;
        let opted_out = labels.opt_out.as_deref() == Some(OPT_OUT_VALUE);
        opted_out || annotations.mirror.is_some() || deletion_timestamp.is_some()
    }

    fn references(&self, pull_secret: &str) -> bool {
        self.spec.image_pull_secrets.iter().any(|reference| reference.name == pull_secret)
    }

    /// The login servers of the images that the kubelet could not pull. A container waits for its own image and for those
    /// of the image volumes that it mounts.
    fn login_servers_waited_for(&self, settings: &Settings) -> BTreeSet<LoginServer> {
        let Status { init_containers, containers, ephemeral_containers } = &self.status;
        let statuses = init_containers.iter().chain(containers).chain(ephemeral_containers);
        let waiting: BTreeSet<&str> =
            statuses.filter(|status| status.waits_for_image()).map(|status| status.name.as_str()).collect();
        let Spec { init_containers, containers, ephemeral_containers, volumes, .. } = &self.spec;
        let containers = init_containers.iter().chain(containers).chain(ephemeral_containers);
        let images = containers.filter(|container| waiting.contains(container.name.as_str())).flat_map(|container| {
            let mounted = |volume: &&Volume| container.volume_mounts.iter().any(|mount| mount.name == volume.name);
            let volumes = volumes.iter().filter(mounted).filter_map(|volume| volume.image.as_ref());
            volumes.map(|image| image.reference.as_str()).chain([container.image.as_str()])
        });
        images.filter_map(|image| settings.rules.login_servers().login_server_of(image)).collect()
    }

    /// The uid of the controller that is known to make up for an eviction. A Job counts an evicted pod as failed, and with
    /// `backoffLimit: 0` never makes another; controllers of workflows do as they like: stuck, those pods can still be
    /// mended by hand.
    ///
    /// Source: `isPodFailed` in `pkg/controller/job/job_controller.go` of Kubernetes.
    fn replaced_by(&self) -> Option<String> {
        let controller = self.metadata.owner_references.iter().find(|owner| owner.controller)?;
        let makes_another = match controller.kind.as_str() {
            "ReplicaSet" | "StatefulSet" | "DaemonSet" => controller.api_version.starts_with("apps/"),
            "ReplicationController" => controller.api_version == "v1",
            _ => false,
        };
        makes_another.then(|| controller.uid.clone())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    namespace: String,
    name: String,
    uid: String,
    labels: Labels,
    annotations: Annotations,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
    owner_references: Vec<OwnerReference>,
}

/// The one label that counts, `OPT_OUT_LABEL` of the module for reviews.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "acr-pull-injector.io/inject")]
    opt_out: Option<String>,
}

/// The one annotation that counts. The others can be large, and are not kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OwnerReference {
    api_version: String,
    kind: String,
    uid: String,
    controller: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    image_pull_secrets: Vec<Reference>,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
    volumes: Vec<Volume>,
}

/// Something that is named: an entry of `imagePullSecrets` or of `volumeMounts`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Reference {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    image: String,
    volume_mounts: Vec<Reference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Volume {
    name: String,
    image: Option<ImageVolume>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ImageVolume {
    reference: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(rename = "initContainerStatuses")]
    init_containers: Vec<ContainerStatus>,
    #[serde(rename = "containerStatuses")]
    containers: Vec<ContainerStatus>,
    #[serde(rename = "ephemeralContainerStatuses")]
    ephemeral_containers: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    state: ContainerState,
}

impl ContainerStatus {
    fn waits_for_image(&self) -> bool {
        self.state.waiting.as_ref().is_some_and(|waiting| PULL_FAILURES.contains(&waiting.reason.as_str()))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Waiting>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: String,
}

#[cfg(test)]
mod tests;
