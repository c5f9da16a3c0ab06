//! What went wrong while the webhook was not there. No kubelet runs: the cases write what one would write.

mod in_process;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use acr_pull_injector::{
    admission::NamespaceSource,
    domain::stuck_pod::StuckPod,
    heal::{
        HealSettings,
        pods::{Eviction, Pods},
    },
    lifecycle::Readiness,
    namespaces::KubernetesNamespaces,
};
use installation::RELEASE;
use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{Event, Namespace, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::in_process::Healing;
use crate::world::{Error, PULL_SECRET, World, complain, eventually, expect, expect_equal, pod, references};

const OPT_OUT: (&str, &str) = ("acr-pull-injector.io/inject", "disabled");
const IMAGE: &str = "contoso.azurecr.io/app:v1";

pub async fn a_read_corrects_what_is_remembered_of_a_namespace(world: Arc<World>) -> Result<(), Error> {
    let (opted_out, made_anew) = (world.namespace(&[OPT_OUT]).await?, world.namespace(&[OPT_OUT]).await?);
    let namespaces = Arc::new(KubernetesNamespaces::new(world.client.clone()));
    let (follower, synced) = (namespaces.clone(), Readiness::new().gate("namespaces"));
    let following = tokio::spawn(follower.follow(world.client.clone(), synced.clone(), CancellationToken::new()));
    synced.opened().await;
    following.abort(); // As a watch whose connection died.
    let api: Api<Namespace> = Api::all(world.client.clone());
    opt_in(&world, &opted_out).await?;
    api.delete(&made_anew, &kube::api::DeleteParams::default()).await?;
    eventually("the namespace to go", || async { Ok(api.get_opt(&made_anew).await?.is_none().then_some(())) }).await?;
    world.named_namespace(&made_anew, &[]).await?;
    for name in [opted_out, made_anew] {
        let remembered = || Some(namespaces.cached(&name)?.labels.len());
        let labels = [remembered(), namespaces.read(&name).await?.map(|it| it.labels.len()), remembered()];
        expect_equal("labels known before, read, and known after", labels, [Some(2), Some(1), Some(1)])?;
    }
    Ok(())
}

pub async fn a_complaint_of_a_kubelet_has_the_pull_secret_made(world: Arc<World>) -> Result<(), Error> {
    let (ours, other) = (world.namespace(&[]).await?, world.namespace(&[]).await?);
    let mut pods = Vec::new();
    for namespace in [&ours, &other] {
        pods.push(create_pod_that_names_the_pull_secret(&world, namespace).await?);
        expect(world.pull_secret(namespace).await?.is_none(), "there is a pull secret already")?;
    }
    complain(&world, &pods[1], "own-secret").await?;
    let start = Instant::now();
    complain(&world, &pods[0], &format!("own-secret, {PULL_SECRET}")).await?;
    let entries = eventually("the pull secret", || async {
        let made = world.pull_secret(&ours).await?.is_some();
        Ok(if made { Some(world.entries(&ours).await?) } else { None })
    })
    .await?;
    let took = start.elapsed();
    expect_equal("hosts", entries.into_keys().collect::<Vec<_>>(), vec!["contoso.azurecr.io".to_owned()])?;
    expect(took < Duration::from_secs(5), format!("it took {took:?}"))?;
    expect(world.pull_secret(&other).await?.is_none(), "a complaint about another Secret made ours")
}

/// As the fallback policy does it: the pod names the pull secret, and the webhook never saw it.
async fn create_pod_that_names_the_pull_secret(world: &World, namespace: &str) -> Result<Pod, Error> {
    let mut pod = pod("app", &[IMAGE]);
    pod["metadata"]["labels"] = json!({ OPT_OUT.0: OPT_OUT.1 });
    pod["spec"]["imagePullSecrets"] = json!([{"name": "own-secret"}, {"name": PULL_SECRET}]);
    let created = world.create(namespace, &pod).await?.pod;
    let opt_in = Patch::Merge(json!({"metadata": {"labels": {OPT_OUT.0: null}}}));
    Api::<Pod>::namespaced(world.client.clone(), namespace).patch("app", &PatchParams::default(), &opt_in).await?;
    Ok(created)
}

/// As above, but another pod has brought the pull secret of the namespace already, so that no kubelet complains. Runs alone: a
/// round looks at all pods of the cluster.
pub async fn a_pull_secret_that_lacks_what_a_pod_waits_for_gets_it(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    world.create(&namespace, &pod("first", &["fabrikam.azurecr.io/app:v1"])).await?;
    create_pod_that_names_the_pull_secret(&world, &namespace).await?;
    fail_to_pull(&world, &namespace, "app", "c0").await?;
    expect(!world.entries(&namespace).await?.contains_key("contoso.azurecr.io"), "it has the login server already")?;
    let kubeconfig = world.control_plane.service_account_kubeconfig(RELEASE, RELEASE).await?;
    let healing = Healing::start(&Kubeconfig::read_from(kubeconfig)?).await?;
    healing.stuck_pods().tick().await;
    eventually("the login server", || async {
        Ok(world.entries(&namespace).await?.contains_key("contoso.azurecr.io").then_some(()))
    })
    .await
}

/// With the rights that the chart gives: pods are listed, Events are written.
pub async fn a_stuck_pod_is_told_so(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[OPT_OUT]).await?;
    let created = world.create(&namespace, &pod("early", &[IMAGE])).await?.pod;
    fail_to_pull(&world, &namespace, "early", "c0").await?;
    opt_in(&world, &namespace).await?;
    let kubeconfig = world.control_plane.service_account_kubeconfig(RELEASE, RELEASE).await?;
    let healing = Healing::start(&Kubeconfig::read_from(kubeconfig)?).await?;
    healing.wait_for_opt_in(&namespace).await?;
    healing.stuck_pods().tick().await;
    expect(healing.metric("acr_pull_injector_stuck_pods")? >= 1.0, "it was not counted")?;
    let events: Api<Event> = Api::namespaced(world.client.clone(), &namespace);
    let about = format!("involvedObject.uid={}", created.metadata.uid.as_deref().unwrap_or_default());
    let about = ListParams::default().fields(&about);
    let event = eventually("the Event", || async {
        let found = events.list(&about).await?.items;
        Ok(found.into_iter().find(|event| event.reason.as_deref() == Some("PullSecretNotReferenced")))
    })
    .await?;
    let message = event.message.unwrap_or_default();
    expect(message.contains(PULL_SECRET) && message.contains("Delete the pod"), message)?;
    expect_equal("source", event.reporting_component.as_deref(), Some("acr-pull-injector"))?;
    // Within minutes it is not said again; later the Event is counted up rather than made anew.
    healing.stuck_pods().tick().await;
    healing.later_by.store(300, Ordering::SeqCst);
    healing.stuck_pods().tick().await;
    eventually("the Event to be counted up", || async {
        let found = events.list(&about).await?.items;
        let counts = found.iter().map(|event| event.series.as_ref().and_then(|series| series.count));
        Ok((counts.collect::<Vec<_>>() == [Some(2)]).then_some(()))
    })
    .await?;
    let refused = healing.metric("acr_pull_injector_events_total{outcome=\"failed\"}")?;
    expect(refused == 0.0, "an Event was refused")
}

/// Runs alone: a round looks at all pods of the cluster.
pub async fn stuck_pods_come_back_with_the_pull_secret(world: Arc<World>) -> Result<(), Error> {
    let healing = Healing::start(&Kubeconfig::read_from(world.control_plane.kubeconfig())?).await?;
    healing.stuck_pods().tick().await;
    let before = healing.metric("acr_pull_injector_stuck_pods")?;

    let namespace = world.namespace(&[OPT_OUT]).await?;
    create_workloads(&world, &namespace).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &namespace);
    let early = eventually("the pods", || async {
        let pods = pods.list(&ListParams::default()).await?.items;
        Ok((pods.len() == 3).then_some(pods))
    })
    .await?;
    let uids: BTreeMap<String, String> = early
        .iter()
        .filter_map(|pod| Some((pod.metadata.labels.as_ref()?.get("app")?.clone(), pod.metadata.uid.clone()?)))
        .collect();
    for pod in &early {
        fail_to_pull(&world, &namespace, pod.metadata.name.as_deref().unwrap_or_default(), "app").await?;
    }
    opt_in(&world, &namespace).await?;
    healing.wait_for_opt_in(&namespace).await?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    eventually("new pods to be injected", || async {
        let created = world.create_with(&namespace, &pod("try", &[IMAGE]), &dry_run).await?;
        Ok((!references(&created.pod).is_empty()).then_some(()))
    })
    .await?;

    let mut stuck = healing.stuck_pods();
    for round in 0..2 {
        stuck.tick().await;
        expect_equal("stuck pods", healing.metric("acr_pull_injector_stuck_pods")?, before + 3.0)?;
        expect_equal(&format!("pods after round {round}"), uids_of(&pods).await?, uids.clone())?;
    }
    healing.settings.store(Arc::new(HealSettings { evict_stuck_pods: true }));
    stuck.tick().await;
    expect_equal("evictions", healing.metric("acr_pull_injector_evictions_total{outcome=\"evicted\"}")?, 1.0)?;
    let replaced = eventually("the new pod of the Deployment", || async {
        let found = pods.list(&ListParams::default().labels("app=deployment")).await?.items;
        Ok(found.into_iter().find(|pod| pod.metadata.uid.as_ref() != Some(&uids["deployment"])))
    })
    .await?;
    expect_equal("imagePullSecrets", references(&replaced), vec![PULL_SECRET.to_owned()])?;
    stuck.tick().await;
    expect_equal("stuck pods that are left", healing.metric("acr_pull_injector_stuck_pods")?, before + 2.0)?;
    let after = uids_of(&pods).await?;
    for kept in ["bare", "job"] {
        expect_equal(kept, after.get(kept), uids.get(kept))?;
    }
    Ok(())
}

/// A replica that has just started does not evict: the API server may not trust it yet, and what is evicted too early comes
/// back as it was.
pub async fn the_first_round_evicts_nothing(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[OPT_OUT]).await?;
    create_workloads(&world, &namespace).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &namespace);
    let name = eventually("the pod of the Deployment", || async {
        let found = pods.list(&ListParams::default().labels("app=deployment")).await?.items;
        Ok(found.into_iter().next().and_then(|pod| pod.metadata.name))
    })
    .await?;
    fail_to_pull(&world, &namespace, &name, "app").await?;
    opt_in(&world, &namespace).await?;
    let healing = Healing::start(&Kubeconfig::read_from(world.control_plane.kubeconfig())?).await?;
    healing.wait_for_opt_in(&namespace).await?;
    healing.settings.store(Arc::new(HealSettings { evict_stuck_pods: true }));
    let mut stuck = healing.stuck_pods();
    stuck.tick().await;
    expect(pods.get_opt(&name).await?.is_some(), "it was evicted in the first round")?;
    stuck.tick().await;
    expect(pods.get_opt(&name).await?.is_none(), "it was not evicted in the second round")
}

/// The API server asks no budget about a pod that never ran, and its answer for one that runs is "not now".
pub async fn a_budget_protects_pods_that_run(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[OPT_OUT]).await?;
    let budget = serde_json::from_value(json!({
        "metadata": {"name": "all"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "guarded"}}},
    }))?;
    Api::<PodDisruptionBudget>::namespaced(world.client.clone(), &namespace)
        .create(&PostParams::default(), &budget)
        .await?;
    let mut stuck = BTreeMap::new();
    for name in ["running", "pending"] {
        let mut pod = pod(name, &[IMAGE]);
        pod["metadata"]["labels"] = json!({"app": "guarded"});
        let uid = world.create(&namespace, &pod).await?.pod.metadata.uid.ok_or("no uid")?;
        let (namespace, name) = (namespace.clone(), name.to_owned());
        stuck.insert(name.clone(), StuckPod { namespace, name, uid, created_at: None, replaced_by: None });
    }
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    patch_status(&world, &namespace, "running", running).await?;

    let pods = Pods::new(Healing::client(&Kubeconfig::read_from(world.control_plane.kubeconfig())?).await?);
    let start = Instant::now();
    expect_equal("running", pods.evict(&stuck["running"]).await?, Eviction::Held)?;
    expect(start.elapsed() < Duration::from_secs(2), format!("the answer took {:?}", start.elapsed()))?;
    let another = StuckPod { uid: "another".to_owned(), ..stuck["pending"].clone() };
    expect_equal("another of that name", pods.evict(&another).await?, Eviction::Gone)?;
    expect_equal("pending", pods.evict(&stuck["pending"]).await?, Eviction::Evicted)?;
    expect_equal("pending, again", pods.evict(&stuck["pending"]).await?, Eviction::Gone)?;
    let names = uids_of(&Api::namespaced(world.client.clone(), &namespace)).await?.len();
    expect_equal("pods that are left", names, 1)
}

/// A Deployment, a Job that is not tried again, and a pod that nobody owns, each labelled with what it is.
async fn create_workloads(world: &World, namespace: &str) -> Result<(), Error> {
    let template = |kind: &str, restart: &str| {
        json!({
            "metadata": {"labels": {"app": kind}},
            "spec": {"restartPolicy": restart, "containers": [{"name": "app", "image": IMAGE}]},
        })
    };
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "deployment"}},
            "template": template("deployment", "Always"),
        },
    });
    let job =
        json!({"metadata": {"name": "migrate"}, "spec": {"backoffLimit": 0, "template": template("job", "Never")}});
    let mut bare = template("bare", "Always");
    bare["metadata"]["name"] = json!("bare");
    let parameters = PostParams::default();
    let (deployment, job) = (serde_json::from_value(deployment)?, serde_json::from_value(job)?);
    Api::<Deployment>::namespaced(world.client.clone(), namespace).create(&parameters, &deployment).await?;
    Api::<Job>::namespaced(world.client.clone(), namespace).create(&parameters, &job).await?;
    world.create(namespace, &bare).await?;
    Ok(())
}

/// What a kubelet writes about a container whose image it could not pull.
async fn fail_to_pull(world: &World, namespace: &str, name: &str, container: &str) -> Result<(), Error> {
    let waiting = json!({"reason": "ImagePullBackOff", "message": format!("Back-off pulling image \"{IMAGE}\"")});
    let status = json!({
        "name": container, "image": IMAGE, "imageID": "", "ready": false, "restartCount": 0, "started": false,
        "state": {"waiting": waiting},
    });
    patch_status(world, namespace, name, json!({"status": {"phase": "Pending", "containerStatuses": [status]}})).await
}

async fn patch_status(world: &World, namespace: &str, name: &str, status: Value) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

async fn opt_in(world: &World, namespace: &str) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {OPT_OUT.0: null}}}));
    Api::<Namespace>::all(world.client.clone()).patch(namespace, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// The uid of each pod by its label `app`.
async fn uids_of(pods: &Api<Pod>) -> Result<BTreeMap<String, String>, Error> {
    let pods = pods.list(&ListParams::default()).await?.items.into_iter();
    Ok(pods.filter_map(|pod| Some((pod.metadata.labels?.remove("app")?, pod.metadata.uid?))).collect())
}
