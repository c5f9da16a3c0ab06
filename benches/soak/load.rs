//! The load, open loop: each pod and each review is due at a time that was fixed before, and its latency counts from then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use installation::Error;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use measuring::client::Endpoint;
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Cluster, PASSWORD_HOST},
    record::Record,
};

/// Pods that are being created at the same time at most; more are late, and their latency shows it.
const PODS_AT_ONCE: usize = 64;
const REVIEW_CONNECTIONS: usize = 8;
/// The pods of one namespace are deleted this often, one namespace after the other.
const DELETE_EVERY: Duration = Duration::from_millis(500);

/// The audit annotation of an answer that did not wait any longer for the API server.
const LATE: &str = "\"pull-secret\":\"pending\"";

const MINIMAL: &str = include_str!("../../tests/fixtures/review-create-minimal.json");
const REPLICA_SET_POD: &str = include_str!("../../tests/fixtures/review-create-replicaset-pod.json");

/// Starts both kinds of load, at so many a second.
pub async fn start(
    cluster: &Arc<Cluster>,
    record: &Arc<Record>,
    stop: &CancellationToken,
    pods: f64,
    reviews: f64,
    work: &mut JoinSet<Result<(), Error>>,
) -> Result<(), Error> {
    if pods > 0.0 {
        work.spawn(create_pods(cluster.clone(), record.clone(), stop.clone(), pods));
        work.spawn(delete_pods(cluster.clone(), record.clone(), stop.clone()));
    }
    if reviews > 0.0 {
        let (endpoint, requests) = (cluster.endpoint().await?, Arc::new(requests(cluster)?));
        let (started, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        for _ in 0..REVIEW_CONNECTIONS {
            let (endpoint, requests, next) = (endpoint.clone(), requests.clone(), next.clone());
            let (record, stop) = (record.clone(), stop.clone());
            work.spawn_blocking(move || {
                let due = || {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    (number, Duration::from_secs_f64(number as f64 / reviews))
                };
                send_reviews(&endpoint, &requests, &record, &stop, started, due)
            });
        }
    }
    Ok(())
}

async fn create_pods(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    stop: CancellationToken,
    rate: f64,
) -> Result<(), Error> {
    let started = tokio::time::Instant::now();
    let places = Arc::new(Semaphore::new(PODS_AT_ONCE));
    let mut creations = JoinSet::new();
    for number in 0_u64.. {
        let due = started + Duration::from_secs_f64(number as f64 / rate);
        tokio::time::sleep_until(due).await;
        if stop.is_cancelled() {
            break;
        }
        let place = places.clone().acquire_owned().await?;
        let (cluster, record) = (cluster.clone(), record.clone());
        creations.spawn(async move {
            let namespace = &cluster.namespaces[number as usize % cluster.namespaces.len()];
            match cluster.create_pod(namespace).await {
                Ok(()) => record.pod(due.elapsed()),
                Err(error) => record.fault(error.to_string()),
            }
            drop(place);
        });
        while let Some(ended) = creations.try_join_next() {
            ended?;
        }
    }
    // All that were begun. What was due and could not be begun is missing from what was served.
    while let Some(ended) = creations.join_next().await {
        ended?;
    }
    Ok(())
}

async fn delete_pods(cluster: Arc<Cluster>, record: Arc<Record>, stop: CancellationToken) -> Result<(), Error> {
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    for namespace in cluster.namespaces.iter().cycle() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(DELETE_EVERY) => {}
        }
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
        record.go_on("deleting pods", pods.delete_collection(&now, &ListParams::default()).await);
    }
    Ok(())
}

/// Both captured reviews in each namespace, every second pair with images whose pull secret holds a token.
fn requests(cluster: &Cluster) -> Result<Vec<Vec<u8>>, Error> {
    let mut requests = Vec::new();
    for (number, namespace) in cluster.namespaces.iter().enumerate() {
        for capture in [MINIMAL, REPLICA_SET_POD] {
            let host = if number % 2 == 0 { PASSWORD_HOST.to_owned() } else { cluster.token_host() };
            let mut review: Value = serde_json::from_str(&capture.replace(PASSWORD_HOST, &host))?;
            review["request"]["namespace"] = Value::from(namespace.as_str());
            requests.push(Endpoint::request(review.to_string().as_bytes()));
        }
    }
    Ok(requests)
}

fn send_reviews(
    endpoint: &Endpoint,
    requests: &[Vec<u8>],
    record: &Record,
    stop: &CancellationToken,
    started: Instant,
    next: impl Fn() -> (u64, Duration),
) -> Result<(), Error> {
    let mut connection = endpoint.connect()?;
    while !stop.is_cancelled() {
        let (number, due) = next();
        thread::sleep(due.saturating_sub(started.elapsed()));
        match connection.exchange(&requests[number as usize % requests.len()]) {
            Ok(answer) => {
                let latency = started.elapsed().saturating_sub(due);
                let has_patch = contains(answer, "\"patch\"");
                if has_patch && !contains(answer, "\"warnings\"") {
                    record.review(latency);
                } else if has_patch && contains(answer, LATE) {
                    record.late_review(latency);
                } else {
                    record.fault(format!("a review was answered: {}", String::from_utf8_lossy(answer)));
                }
            }
            Err(error) => {
                record.fault(format!("a review was not answered: {error}"));
                connection = endpoint.connect()?;
            }
        }
    }
    Ok(())
}

fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window == part.as_bytes())
}
