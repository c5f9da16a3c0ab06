//! Very many first pods at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, api::PostParams, client::Body, core::Request};
use tokio::{
    sync::{Barrier, Semaphore},
    task::JoinSet,
};

use crate::{
    progress::say,
    replicas::failed_open_calls,
    world::{Error, PULL_SECRET, World, eventually, expect, expect_equal, pod, references},
};

const NAMESPACES: usize = 500;
/// Namespaces that are made at the same time, before the burst.
const MADE_AT_ONCE: usize = 25;
/// How long a client tries again what the API server has no room for.
const PATIENCE: Duration = Duration::from_secs(60);

/// All of them are patched by the webhook, and every pull secret is there and right soon after. How many of the pods had to
/// pass before it was is the machine's affair, and printed.
pub async fn a_pod_in_each_of_500_new_namespaces(world: Arc<World>) -> Result<(), Error> {
    let failed_open = failed_open_calls(&world).await?;
    let namespaces = new_namespaces(&world).await?;
    say(format!("{NAMESPACES} namespaces are there"));
    // A connection for each pod, none of which has been idle so long that the API server closes it.
    let client = world.control_plane.client();
    let start = Arc::new(Barrier::new(NAMESPACES));
    let mut pods = JoinSet::new();
    let started = Instant::now();
    for namespace in namespaces.clone() {
        let (client, start) = (client.clone(), start.clone());
        pods.spawn(async move {
            start.wait().await;
            create_first_pod(&client, &namespace).await.map_err(|error| format!("the pod of {namespace}: {error:?}"))
        });
    }
    let (mut latencies, mut late, mut repeated) = (Vec::new(), 0, 0);
    while let Some(created) = pods.join_next().await {
        let created = created??;
        latencies.push(created.latency);
        late += usize::from(created.is_late);
        repeated += created.repeated;
    }
    latencies.sort();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    say(format!(
        "{NAMESPACES} pods within {:?}: p50 {:?}, p99 {:?}, {late} before their pull secret, {repeated} tried again",
        started.elapsed(),
        percentile(50),
        percentile(99),
    ));
    let expected =
        BTreeMap::from([("contoso.azurecr.io".to_owned(), ("contoso-app".to_owned(), "contoso-password".to_owned()))]);
    for namespace in &namespaces {
        let what = format!("the pull secret of {namespace}");
        eventually(&what, || async { world.pull_secret(namespace).await }).await?;
        expect_equal(&what, world.entries(namespace).await?, expected.clone())?;
    }
    say(format!("all pull secrets are right {:?} after the first pod was sent", started.elapsed()));
    expect_equal("calls that failed open", failed_open_calls(&world).await?, failed_open)
}

async fn new_namespaces(world: &Arc<World>) -> Result<Vec<String>, Error> {
    let permits = Arc::new(Semaphore::new(MADE_AT_ONCE));
    let mut creations = JoinSet::new();
    for _ in 0..NAMESPACES {
        let (world, permits) = (world.clone(), permits.clone());
        creations.spawn(async move {
            let _permit = permits.acquire().await?;
            world.namespace(&[]).await
        });
    }
    let mut namespaces = Vec::new();
    while let Some(created) = creations.join_next().await {
        namespaces.push(created??);
    }
    Ok(namespaces)
}

/// The first pod of a namespace, created.
struct FirstPod {
    /// Of the attempt that the API server took.
    latency: Duration,
    /// It was told that its pull secret comes later.
    is_late: bool,
    /// Attempts that the API server had no room for.
    repeated: usize,
}

/// Tries again what the API server refuses for its load, as controllers do.
async fn create_first_pod(client: &Client, namespace: &str) -> Result<FirstPod, Error> {
    let deadline = Instant::now() + PATIENCE;
    let wanted = serde_json::to_vec(&pod("first", &["contoso.azurecr.io/app:v1"]))?;
    let mut repeated = 0;
    loop {
        let started = Instant::now();
        let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
        let request = request.create(&PostParams::default(), wanted.clone())?.map(Body::from);
        let response = client.send(request).await?;
        let (status, is_late) = (response.status(), response.headers().contains_key("warning"));
        let body = response.into_body().collect_bytes().await?;
        if status.as_u16() == 429 && Instant::now() < deadline {
            repeated += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        expect(status.is_success(), format!("{status}: {}", String::from_utf8_lossy(&body)))?;
        let latency = started.elapsed();
        let created: Pod = serde_json::from_slice(&body)?;
        expect_equal("imagePullSecrets", references(&created), vec![PULL_SECRET.to_owned()])?;
        return Ok(FirstPod { latency, is_late, repeated });
    }
}
