//! One number of namespaces, measured from the first pod to the last rewrite.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use control_plane::{ControlPlane, LocalPod, LocalPodOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use installation::{Error, PULL_SECRET, RELEASE};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use measuring::{
    client::Endpoint,
    latencies::Latencies,
    metrics,
    process::{Memory, Process},
    product::{CREDENTIAL, Product},
};
use serde_json::{Value, json};

use crate::audit::{AuditLog, Requests};

/// The cluster as it grows.
pub struct Scale {
    pub product: Product,
    pub program: std::path::PathBuf,
    pub audit: AuditLog,
    pub replica: LocalPod,
    pub namespaces: usize,
    pub passwords: usize,
    pub idle: Duration,
}

/// What one number of namespaces costs.
#[derive(Debug)]
pub struct Measured {
    pub namespaces: usize,
    /// First pods served a second while the pull secrets were made.
    pub made_per_second: f64,
    /// The replica that made them.
    pub memory_after_making: Memory,
    /// A fresh replica that knows them.
    pub memory_fresh: Memory,
    pub start_to_ready: Duration,
    /// What a fresh replica asked while it had nothing to do.
    pub idle: Requests,
    pub rewrite: Duration,
    pub rewriting: Requests,
    /// The leader, at the end of the rewrite.
    pub memory_rewritten: Memory,
    /// Pods that came while the rewrite was under way.
    pub served_first: Option<Latencies>,
    /// The API server's own count of applied Secrets during the rewrite, whoever asked.
    pub applied_by_metrics: f64,
}

const CLIENTS: usize = 8;
const PROBE_EVERY: Duration = Duration::from_millis(2);
const READY_LIMIT: Duration = Duration::from_secs(120);
/// A replica that waits for the lead gets it after the 15 s for which it is lent.
const LEAD_LIMIT: Duration = Duration::from_secs(60);
/// Pods that come in the middle of a rewrite, at most.
const PODS_DURING_REWRITE: usize = 48;

impl Scale {
    /// Grows the cluster to this many namespaces and measures.
    pub async fn stage(&mut self, namespaces: usize) -> Result<Measured, Error> {
        eprintln!("{namespaces} namespaces: making them");
        let new: Vec<_> = (self.namespaces..namespaces).map(name).collect();
        let creations = stream::iter(&new).map(|name| self.product.create_namespace(name));
        creations.buffer_unordered(2 * CLIENTS).try_collect::<()>().await?;
        self.namespaces = namespaces;

        eprintln!("{namespaces} namespaces: a first pod in each");
        let started = Instant::now();
        self.review(new.clone()).await?;
        let made_per_second = new.len() as f64 / started.elapsed().as_secs_f64();
        let memory_after_making = Process(self.replica.id()).memory()?;

        eprintln!("{namespaces} namespaces: a fresh replica");
        self.stop_replica().await;
        self.audit.take()?;
        let start_to_ready = self.start_replica().await?;
        wait_for_lead(&self.product.client, self.replica.name()).await?;
        tokio::time::sleep(self.idle).await;
        let memory_fresh = Process(self.replica.id()).memory()?;
        let idle = self.audit.take()?;

        eprintln!("{namespaces} namespaces: a new password");
        let applied_before = applied_secrets(&self.product.control_plane).await?;
        let (rewrite, served_first) = self.rewrite().await?;
        let rewriting = self.audit.take()?;
        let applied_by_metrics = applied_secrets(&self.product.control_plane).await? - applied_before;
        let memory_rewritten = Process(self.replica.id()).memory()?;
        Ok(Measured {
            namespaces,
            made_per_second,
            memory_after_making,
            memory_fresh,
            start_to_ready,
            idle,
            rewrite,
            rewriting,
            memory_rewritten,
            served_first,
            applied_by_metrics,
        })
    }

    /// Sends the review of a pod to the replica for each of these namespaces.
    async fn review(&self, namespaces: Vec<String>) -> Result<Vec<Duration>, Error> {
        let webhook = self.replica.port("webhook").ok_or("no port named webhook")?;
        let endpoint = self.product.endpoint(webhook).await?;
        let part = namespaces.len().div_ceil(CLIENTS).max(1);
        let clients = namespaces.chunks(part).map(|namespaces| {
            let (endpoint, namespaces) = (endpoint.clone(), namespaces.to_vec());
            tokio::task::spawn_blocking(move || reviews(&endpoint, &namespaces))
        });
        let mut latencies = Vec::new();
        for client in clients.collect::<Vec<_>>() {
            latencies.extend(client.await??);
        }
        Ok(latencies)
    }

    async fn stop_replica(&mut self) {
        self.replica.terminate();
        self.replica.exited().await;
    }

    /// Starts a replica in place of the old one and tells how long it took to be ready.
    async fn start_replica(&mut self) -> Result<Duration, Error> {
        let address = self.product.control_plane.new_pod_address();
        let options = LocalPodOptions::new(&self.program, address);
        let replica = LocalPod::start(&self.product.control_plane, RELEASE, RELEASE, options).await?;
        // The program begins at the very end of the start above.
        let started = Instant::now();
        let admin = admin(&replica)?;
        self.replica = replica;
        let ready = tokio::task::spawn_blocking(move || {
            while !metrics::get(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                if started.elapsed() > READY_LIMIT {
                    return None;
                }
                thread::sleep(PROBE_EVERY);
            }
            Some(started.elapsed())
        });
        ready.await?.ok_or_else(|| format!("the replica is not ready\n{}", self.replica.log()).into())
    }

    /// Changes the password and waits until every pull secret holds it.
    async fn rewrite(&mut self) -> Result<(Duration, Option<Latencies>), Error> {
        self.passwords += 1;
        let password = format!("password-{}", self.passwords);
        let patch = json!({"stringData": {"clientSecret": password}});
        let credentials: Api<Secret> = Api::namespaced(self.product.client.clone(), RELEASE);
        let admin = admin(&self.replica)?;
        let written_before = written(admin)?;
        credentials.patch(CREDENTIAL, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.replica.refresh_volumes().await?;
        let started = Instant::now();
        let mut served_first = None;
        loop {
            let done = written(admin)? - written_before;
            if done >= self.namespaces as f64 {
                break;
            }
            if served_first.is_none() && done >= self.namespaces as f64 / 4.0 {
                served_first = self.serve_outdated(&password).await?;
            }
            if started.elapsed() > Duration::from_secs(120 + self.namespaces as u64 / 5) {
                return Err(format!("only {done} pull secrets were rewritten\n{}", self.replica.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let elapsed = started.elapsed();
        let left = self.holding_another(&password).await?.len();
        if left > 0 {
            return Err(format!("{left} pull secrets hold the old password").into());
        }
        if served_first.is_none() && self.namespaces >= 1_000 {
            return Err("no pod came during the rewrite".into());
        }
        Ok((elapsed, served_first))
    }

    /// Sends the review of a pod in namespaces whose pull secret is outdated, so that none is answered from memory. Each must
    /// hold the new password when its pod has been answered. `None` when no pod came in time: a hundred pull secrets are
    /// rewritten within two seconds.
    async fn serve_outdated(&self, password: &str) -> Result<Option<Latencies>, Error> {
        let secrets = |namespace: &str| Api::<Secret>::namespaced(self.product.client.clone(), namespace);
        let is_outdated =
            async |namespace: &String| Ok::<_, Error>(!holds(&secrets(namespace).get(PULL_SECRET).await?, password)?);
        let outdated = self.holding_another(password).await?;
        let mut latencies = Vec::new();
        // A few at a time, since the rewrite goes on.
        for namespaces in outdated.rchunks(CLIENTS).take(PODS_DURING_REWRITE / CLIENTS) {
            let mut left = Vec::new();
            for namespace in namespaces {
                if is_outdated(namespace).await? {
                    left.push(namespace.clone());
                }
            }
            latencies.extend(self.review(left.clone()).await?);
            for namespace in left {
                if is_outdated(&namespace).await? {
                    return Err(format!("the pod in {namespace} was answered before its pull secret").into());
                }
            }
        }
        Ok((!latencies.is_empty()).then(|| Latencies::new(latencies)))
    }

    /// Namespaces whose pull secret holds another password.
    async fn holding_another(&self, password: &str) -> Result<Vec<String>, Error> {
        let secrets: Api<Secret> = Api::all(self.product.client.clone());
        let mut parameters = ListParams::default().fields(&format!("metadata.name={PULL_SECRET}")).limit(1000);
        let mut others = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let page = secrets.list(&parameters).await?;
            for secret in page.items {
                let namespace = secret.metadata.namespace.clone().unwrap_or_default();
                if !holds(&secret, password)? {
                    others.push(namespace.clone());
                }
                seen.insert(namespace);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => break,
            }
        }
        if seen.len() == self.namespaces {
            Ok(others)
        } else {
            Err(format!("{} pull secrets in {} namespaces", seen.len(), self.namespaces).into())
        }
    }
}

/// One review after the other over one connection.
fn reviews(endpoint: &Endpoint, namespaces: &[String]) -> Result<Vec<Duration>, Error> {
    let mut review: Value = serde_json::from_str(include_str!("../../tests/fixtures/review-create-minimal.json"))?;
    let mut connection = endpoint.connect()?;
    let mut latencies = Vec::new();
    for namespace in namespaces {
        review["request"]["namespace"] = json!(namespace);
        let request = Endpoint::request(review.to_string().as_bytes());
        let started = Instant::now();
        let answer = String::from_utf8_lossy(connection.exchange(&request)?).into_owned();
        latencies.push(started.elapsed());
        if !answer.contains("\"patch\"") || answer.contains("\"warnings\"") {
            return Err(format!("the pod in {namespace} was not served: {answer}").into());
        }
    }
    Ok(latencies)
}

fn name(number: usize) -> String {
    format!("team-{number:05}")
}

fn admin(replica: &LocalPod) -> Result<SocketAddr, Error> {
    replica.port("admin").ok_or_else(|| "no port named admin".into())
}

/// Pull secrets that the replica has written.
fn written(admin: SocketAddr) -> Result<f64, Error> {
    let text = metrics::of_replica(admin)?;
    Ok(metrics::sum(&text, &["acr_pull_injector_pull_secret_writes_total", "outcome=\"written\""]))
}

/// Only the replica that leads writes in the background.
async fn wait_for_lead(client: &Client, replica: &str) -> Result<(), Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), RELEASE);
    let started = Instant::now();
    loop {
        let lease = leases.get_opt(RELEASE).await?.and_then(|lease| lease.spec);
        if lease.and_then(|lease| lease.holder_identity).is_some_and(|holder| holder == replica) {
            return Ok(());
        }
        if started.elapsed() > LEAD_LIMIT {
            return Err("the replica does not get the lead".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn applied_secrets(control_plane: &ControlPlane) -> Result<f64, Error> {
    let text = control_plane.metrics().await?;
    Ok(metrics::sum(&text, &["apiserver_request_total{", "resource=\"secrets\"", "verb=\"APPLY\""]))
}

fn holds(secret: &Secret, password: &str) -> Result<bool, Error> {
    let data = secret.data.as_ref().and_then(|data| data.get(".dockerconfigjson")).ok_or("no .dockerconfigjson")?;
    let config: Value = serde_json::from_slice(&data.0)?;
    let mut entries = config["auths"].as_object().into_iter().flatten();
    let expected = BASE64_STANDARD.encode(format!("11111111-2222-3333-4444-555555555555:{password}"));
    Ok(entries.all(|(_, entry)| entry["password"] == password && entry["auth"] == expected.as_str()))
}
