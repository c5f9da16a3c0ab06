//! `helm upgrade` and `helm rollback` while pods keep coming.
//!
//! The roll-out itself is Kubernetes' own: the Deployment controller makes and deletes pods as the chart's strategy says,
//! and waits for them to be ready. There is no node, so [`Node`] does for these pods what a kubelet and kube-proxy would.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use installation::{CHART, RELEASE, helm, set};
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::Deployment,
        core::v1::{Node as NodeObject, Pod},
    },
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    disruption::failed_calls,
    load::Load,
    settings,
    world::{Error, PULL_SECRET, World, eventually, expect, expect_equal, pod, references},
};

const NODE: &str = "upgrade-node";
/// How often a kubelet and the controllers here are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How much later than a stopping pod everybody else learns that it stops.
const ENDPOINTS_LAG: Duration = Duration::from_secs(1);
/// For helm to see the new pods ready: two starts and two drains, on a machine that is busy with the load.
const ROLL_OUT: &str = "4m";
/// A registry that only the new version of the release knows.
const NEW_IMAGE: &str = "newest.azurecr.io/app:v1";

pub async fn an_upgrade_and_a_rollback_under_load_lose_no_pod(world: Arc<World>) -> Result<(), Error> {
    let node = Node::start(&world).await?;
    settled(&world, "the pods of the installation").await?;
    let before = (failed_calls(&world).await?, load_pods(&world).await?);
    let load = Load::start(&world).await?;
    let outcome = upgrade_and_roll_back(&world).await;
    // Whatever came of it, nothing may go on after this case.
    let created = load.finish().await;
    let stopped = node.finish().await;
    // What the node could not do explains what helm waited for.
    stopped?;
    outcome?;
    let created = created?.created;
    expect(created > 500, format!("only {created} pods were created"))?;
    expect_equal("pods that are still there", load_pods(&world).await? - before.1, created)?;
    expect_equal("calls that failed", failed_calls(&world).await?, before.0)
}

/// How many pods of any load there are.
async fn load_pods(world: &World) -> Result<usize, Error> {
    let pods = Api::<Pod>::all(world.client.clone()).list_metadata(&ListParams::default()).await?.items;
    Ok(pods.iter().filter(|pod| pod.metadata.name.as_ref().is_some_and(|name| name.starts_with("load-"))).count())
}

async fn upgrade_and_roll_back(world: &Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let first = settled(world, "the pods before the upgrade").await?;
    let revision = revision(world)?;

    let changes = set(&[
        "image.tag=next",
        "webhook.timeoutSeconds=8",
        "drainSeconds=4",
        "podAnnotations.version=next",
        "registries[4].name=new",
        "registries[4].hosts={newest.azurecr.io}",
        "registries[4].credential.servicePrincipal.existingSecret=contoso",
    ]);
    let upgrade = ["upgrade", RELEASE, CHART, "-n", RELEASE, "--wait", "--timeout", ROLL_OUT];
    run_helm(world, [&upgrade[..], &settings(), &changes].concat()).await?;
    let second = settled(world, "the pods of the upgrade").await?;
    expect(first.is_disjoint(&second), "the upgrade left a pod of the version before")?;
    expect_equal("image and timeout of the upgrade", state(world).await?, ("next".to_owned(), Some(8)))?;
    let made = world.create(&namespace, &pod("new", &[NEW_IMAGE])).await?;
    expect_equal("imagePullSecrets after the upgrade", references(&made.pod), vec![PULL_SECRET.to_owned()])?;

    let rollback = ["rollback", RELEASE, &revision, "-n", RELEASE, "--wait", "--timeout", ROLL_OUT];
    run_helm(world, rollback.to_vec()).await?;
    let third = settled(world, "the pods of the rollback").await?;
    expect(second.is_disjoint(&third), "the rollback left a pod of the version after")?;
    let (image, timeout) = state(world).await?;
    expect(
        image != "next" && timeout == Some(5),
        format!("image and timeout after the rollback: {image}, {timeout:?}"),
    )?;
    let made = world.create(&namespace, &pod("old", &[NEW_IMAGE])).await?;
    expect_equal("imagePullSecrets after the rollback", references(&made.pod), vec![])
}

async fn run_helm(world: &Arc<World>, arguments: Vec<&str>) -> Result<String, Error> {
    let (world, arguments) = (world.clone(), arguments.into_iter().map(str::to_owned).collect::<Vec<_>>());
    tokio::task::spawn_blocking(move || {
        helm(&world.control_plane, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    })
    .await?
}

/// The number of the release's revision.
fn revision(world: &World) -> Result<String, Error> {
    let status = helm(&world.control_plane, &["status", RELEASE, "-n", RELEASE, "--output", "json"])?;
    let status: Value = serde_json::from_str(&status)?;
    Ok(status["version"].to_string())
}

/// What the chart made of the values: the tag of the image, and the webhook's timeout.
async fn state(world: &World) -> Result<(String, Option<i32>), Error> {
    let deployment = Api::<Deployment>::namespaced(world.client.clone(), RELEASE).get(RELEASE).await?;
    let template = deployment.spec.and_then(|spec| spec.template.spec).ok_or("no pod template")?;
    let image = template.containers.first().and_then(|container| container.image.clone()).ok_or("no image")?;
    let tag = image.rsplit(':').next().unwrap_or_default().to_owned();
    let configuration = Api::<MutatingWebhookConfiguration>::all(world.client.clone()).get(RELEASE).await?;
    let webhook = configuration.webhooks.unwrap_or_default().pop().ok_or("no webhook")?;
    Ok((tag, webhook.timeout_seconds))
}

/// Waits until the Deployment has what it wants and no pod stops any more. Gives the names of its pods.
async fn settled(world: &World, what: &str) -> Result<BTreeSet<String>, Error> {
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), RELEASE);
    eventually(what, || async {
        let deployment = deployments.get(RELEASE).await?;
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        let status = deployment.status.unwrap_or_default();
        let is_seen = status.observed_generation == deployment.metadata.generation;
        let pods = pods(world).await?;
        let is_settled = is_seen
            && status.updated_replicas == wanted
            && status.ready_replicas == wanted
            && pods.len() == usize::try_from(wanted.unwrap_or_default())?
            && pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(is_settled.then(|| pods.into_iter().filter_map(|pod| pod.metadata.name).collect()))
    })
    .await
}

/// The pods that the Deployment controller has made of the release's Deployment.
async fn pods(world: &World) -> Result<Vec<Pod>, Error> {
    let own = format!("app.kubernetes.io/name={RELEASE},app.kubernetes.io/instance={RELEASE}");
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), RELEASE);
    Ok(pods.list(&ListParams::default().labels(&own)).await?.items)
}

/// A node that runs the release's pods, each as a [`control_plane::LocalPod`].
struct Node {
    stop: CancellationToken,
    work: JoinHandle<Result<(), Error>>,
}

impl Node {
    async fn start(world: &Arc<World>) -> Result<Self, Error> {
        let node = serde_json::from_value(json!({"metadata": {"name": NODE}}))?;
        Api::<NodeObject>::all(world.client.clone()).create(&PostParams::default(), &node).await?;
        let stop = CancellationToken::new();
        let work = tokio::spawn(run_pods(world.clone(), stop.clone()));
        Ok(Self { stop, work })
    }

    /// The replicas live on; their pods go with the node.
    async fn finish(self) -> Result<(), Error> {
        self.stop.cancel();
        self.work.await?
    }
}

async fn run_pods(world: Arc<World>, stop: CancellationToken) -> Result<(), Error> {
    // The replicas that the installation has already; its first pods stand for them.
    let mut unclaimed = world.installation.names();
    let mut known = BTreeSet::new();
    let mut running: BTreeMap<String, String> = BTreeMap::new();
    let (mut starting, mut stopping) = (JoinSet::new(), JoinSet::new());
    let mut failed = Ok(());
    while !stop.is_cancelled() && failed.is_ok() {
        failed = heartbeat(&world).await;
        for pod in pods(&world).await? {
            let name = pod.metadata.name.ok_or("a pod without a name")?;
            if pod.metadata.deletion_timestamp.is_some() {
                if let Some(replica) = running.remove(&name) {
                    stopping.spawn(stop_pod(world.clone(), name, replica));
                }
            } else if known.insert(name.clone()) {
                starting.spawn(start_pod(world.clone(), name, unclaimed.pop()));
            }
        }
        while let Some(started) = starting.try_join_next() {
            match started? {
                Ok((name, replica)) => drop(running.insert(name, replica)),
                Err(error) => failed = Err(error),
            }
        }
        while let Some(stopped) = stopping.try_join_next() {
            failed = failed.and(stopped?);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    starting.shutdown().await;
    stopping.shutdown().await;
    Api::<NodeObject>::all(world.client.clone()).delete(NODE, &DeleteParams::default()).await?;
    failed
}

/// Without it Kubernetes soon takes the node's pods for dead.
async fn heartbeat(world: &World) -> Result<(), Error> {
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now()});
    let status = Patch::Strategic(json!({"status": {"conditions": [ready]}}));
    Api::<NodeObject>::all(world.client.clone()).patch_status(NODE, &PatchParams::default(), &status).await?;
    Ok(())
}

/// Runs a pod and says so when it is ready. Gives its name and that of the replica.
async fn start_pod(world: Arc<World>, name: String, replica: Option<String>) -> Result<(String, String), Error> {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), RELEASE);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
    });
    let _: Value = pods.create_subresource("binding", &name, &PostParams::default(), &binding).await?;
    let replica = match replica {
        Some(replica) => replica,
        None => world.installation.start_replica(&world.control_plane).await?,
    };
    let is_true = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now()});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(is_true);
    let status = Patch::Strategic(json!({"status": {"phase": "Running", "conditions": conditions}}));
    pods.patch_status(&name, &PatchParams::default(), &status).await?;
    Ok((name, replica))
}

/// Tells a replica to stop, lets it end, and gives its pod back.
async fn stop_pod(world: Arc<World>, name: String, replica: String) -> Result<(), Error> {
    let mut old = world.installation.take(&replica).ok_or_else(|| format!("there is no replica {replica}"))?;
    old.pod.terminate();
    tokio::time::sleep(ENDPOINTS_LAG).await;
    world.installation.forwarder().remove_backend(old.webhook);
    let status = tokio::time::timeout(Duration::from_secs(45), old.pod.exited()).await;
    let status = status.map_err(|_| format!("{replica} did not end within its grace period"))?;
    expect(status.success(), format!("{replica} ended with {status}\n{}", old.pod.log()))?;
    world.delete_pod(RELEASE, &name).await
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
