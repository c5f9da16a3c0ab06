//! The pods that are created.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use installation::{Error, PULL_SECRET};
use kube::{Client, api::PostParams, client::Body, core::Request};
use serde_json::{Value, json};

/// Creates a pod in each of the namespaces, `clients` at a time, and checks that the webhook did its work, or did not.
pub async fn create_all(
    client: &Client,
    namespaces: Vec<String>,
    clients: usize,
    with: bool,
) -> Result<(Vec<Duration>, f64), Error> {
    let pod: Arc<[u8]> = serde_json::to_vec(&pod())?.into();
    let started = Instant::now();
    let creations = stream::iter(namespaces).map(|namespace| {
        let (client, pod) = (client.clone(), pod.clone());
        async move { create(&client, &namespace, &pod, with).await }
    });
    let latencies: Vec<Duration> = creations.buffer_unordered(clients).try_collect().await?;
    Ok((latencies, started.elapsed().as_secs_f64()))
}

pub async fn create(client: &Client, namespace: &str, pod: &[u8], with: bool) -> Result<Duration, Error> {
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/pods"));
    let request = request.create(&PostParams::default(), pod.to_vec())?.map(Body::from);
    let started = Instant::now();
    let response = client.send(request).await?;
    let (status, body) = (response.status(), response.into_body().collect_bytes().await?);
    let latency = started.elapsed();
    let injected = is_injected(&body);
    if status.is_success() && injected == with {
        Ok(latency)
    } else {
        Err(format!("{status}, injected: {injected}: {}", String::from_utf8_lossy(&body)).into())
    }
}

/// Whether the API server's answer names the pull secret.
pub fn is_injected(body: &[u8]) -> bool {
    body.windows(PULL_SECRET.len()).any(|window| window == PULL_SECRET.as_bytes())
}

/// The pod of the captured review, as its controller creates it.
pub fn pod() -> Value {
    let review: Value = serde_json::from_str(include_str!("../../tests/fixtures/review-create-replicaset-pod.json"))
        .unwrap_or_default();
    let object = &review["request"]["object"];
    let mut spec = object["spec"].clone();
    // What the API server added by itself.
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.retain(|volume| volume.get("projected").is_none());
    }
    for containers in ["containers", "initContainers"] {
        for container in spec[containers].as_array_mut().into_iter().flatten() {
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.retain(|mount| mount["name"] == "tmp" || mount["name"] == "cfg");
            }
        }
    }
    for defaulted in ["priority", "preemptionPolicy", "tolerations"] {
        spec.as_object_mut().map(|spec| spec.remove(defaulted));
    }
    let metadata = &object["metadata"];
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": metadata["generateName"],
            "labels": metadata["labels"],
            "annotations": metadata["annotations"],
        },
        "spec": spec,
    })
}
