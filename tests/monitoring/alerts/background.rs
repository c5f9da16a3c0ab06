//! What a leader does, and what keeps it from doing it.

use std::sync::Arc;

use installation::RELEASE;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, ResourceQuota},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{calms_down, fires, quiet};
use crate::world::{Error, PASSWORD_HOST, World, eventually};

/// What the program does not take.
pub const BAD_CONFIGURATION: &str = "registries: [{name: without-a-credential}]";
/// The label of a namespace whose pods are left alone.
pub const OPT_OUT: (&str, &str) = ("acr-pull-injector.io/inject", "disabled");

/// The right to hold the Lease is taken away.
pub async fn no_leader(world: Arc<World>) -> Result<(), Error> {
    eventually("a leader", || async {
        let leaders = world.prometheus.query("sum(acr_pull_injector_leader) == 1").await?;
        Ok((!leaders.is_empty()).then_some(()))
    })
    .await?;
    quiet(&world, "AcrPullInjectorNoLeader").await?;
    let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), RELEASE);
    let mut binding = bindings.get(RELEASE).await?;
    bindings.delete(RELEASE, &DeleteParams::default()).await?;
    fires(&world, "AcrPullInjectorNoLeader").await?;
    binding.metadata.resource_version = None;
    binding.metadata.uid = None;
    bindings.create(&PostParams::default(), &binding).await?;
    calms_down(&world, "AcrPullInjectorNoLeader").await
}

/// Somebody edits the ConfigMap.
pub async fn reload_refused(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorReloadRefused").await?;
    let before = configuration(&world).await?;
    change_configuration(&world, BAD_CONFIGURATION).await?;
    fires(&world, "AcrPullInjectorReloadRefused").await?;
    change_configuration(&world, &before).await?;
    calms_down(&world, "AcrPullInjectorReloadRefused").await
}

/// The configuration file as it stands in the ConfigMap.
pub async fn configuration(world: &World) -> Result<String, Error> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), RELEASE);
    let data = maps.get(RELEASE).await?.data;
    Ok(data.and_then(|mut data| data.remove("config.yaml")).ok_or("the ConfigMap is empty")?)
}

pub async fn change_configuration(world: &World, text: &str) -> Result<(), Error> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), RELEASE);
    let patch = Patch::Merge(json!({"data": {"config.yaml": text}}));
    maps.patch(RELEASE, &PatchParams::default(), &patch).await?;
    world.installation.refresh_volumes().await
}

/// A namespace may have no more Secrets.
pub async fn writes_fail(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorWritesFail").await?;
    let namespace = refuse_writes(&world).await?;
    fires(&world, "AcrPullInjectorWritesFail").await?;
    // Or it would be tried for ever.
    Api::<Namespace>::all(world.client.clone()).delete(&namespace, &DeleteParams::default()).await?;
    Ok(())
}

/// Has a pod created in a namespace whose quota leaves no room for the pull secret; gives the namespace.
pub async fn refuse_writes(world: &World) -> Result<String, Error> {
    let namespace = world.namespace(&[]).await?;
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client.clone(), &namespace);
    let quota = json!({"metadata": {"name": "no-secrets"}, "spec": {"hard": {"count/secrets": "0"}}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota)?).await?;
    eventually("the quota to be in force", || async {
        let status = quotas.get("no-secrets").await?.status;
        Ok(status.and_then(|status| status.used).map(drop))
    })
    .await?;
    world.create_pod(&namespace, PASSWORD_HOST).await?;
    Ok(namespace)
}

/// A pod that was created while its namespace had opted out cannot pull. Nobody owns it, so nobody makes it anew.
pub async fn stuck_pods(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorStuckPods").await?;
    let namespace = world.namespace(&[OPT_OUT]).await?;
    let pod = world.create_pod(&namespace, PASSWORD_HOST).await?;
    fail_to_pull(&world, &namespace, &pod).await?;
    opt_in(&world, &namespace).await?;
    fires(&world, "AcrPullInjectorStuckPods").await?;
    world.delete_pod(&namespace, &pod).await?;
    calms_down(&world, "AcrPullInjectorStuckPods").await
}

/// What a kubelet writes about a container whose image it could not pull.
pub async fn fail_to_pull(world: &World, namespace: &str, pod: &str) -> Result<(), Error> {
    let waiting = json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image"});
    let container = json!({
        "name": "app", "image": format!("{PASSWORD_HOST}/app:v1"), "imageID": "", "ready": false, "restartCount": 0,
        "started": false, "state": {"waiting": waiting},
    });
    world.patch_pod_status(namespace, pod, json!({"phase": "Pending", "containerStatuses": [container]})).await
}

pub async fn opt_in(world: &World, namespace: &str) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {OPT_OUT.0: null}}}));
    let namespaces = Api::<Namespace>::all(world.client.clone());
    debug_assert!(namespaces.get(namespace).await?.labels().contains_key(OPT_OUT.0));
    namespaces.patch(namespace, &PatchParams::default(), &patch).await?;
    Ok(())
}
