//! What changes in a cluster's life, all the time.

use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};

use installation::{Error, RELEASE};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use measuring::metrics;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Cluster, admin},
    record::Record,
};

const PASSWORD_EVERY: Duration = Duration::from_secs(60);
const CERTIFICATE_EVERY: Duration = Duration::from_secs(100);
const LEADER_EVERY: Duration = Duration::from_secs(80);
const GUEST_EVERY: Duration = Duration::from_secs(5);
/// So many guests are there at the same time.
const GUESTS: usize = 6;

/// Starts them all. One that fails is counted, and goes on.
pub fn start(
    cluster: &Arc<Cluster>,
    record: &Arc<Record>,
    stop: &CancellationToken,
    work: &mut JoinSet<Result<(), Error>>,
) {
    let shared = (cluster.clone(), record.clone());
    work.spawn(every(PASSWORD_EVERY, "password", stop.clone(), shared.clone(), change_password));
    work.spawn(every(CERTIFICATE_EVERY, "certificate", stop.clone(), shared.clone(), rotate_certificate));
    work.spawn(every(LEADER_EVERY, "leader", stop.clone(), shared.clone(), change_leader));
    work.spawn(come_and_go(shared.0, shared.1, stop.clone()));
}

type Shared = (Arc<Cluster>, Arc<Record>);

async fn every<Done: Future<Output = Result<(), Error>>>(
    period: Duration,
    what: &'static str,
    stop: CancellationToken,
    shared: Shared,
    disturb: impl Fn(Shared) -> Done,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(period) => drop(shared.1.go_on(what, disturb(shared.clone()).await)),
        }
    }
}

async fn change_password((cluster, record): Shared) -> Result<(), Error> {
    cluster.change_password().await?;
    record.count("password changes");
    Ok(())
}

/// Takes the serving certificate away, as if its time had come: the replicas issue the next one.
async fn rotate_certificate((cluster, record): Shared) -> Result<(), Error> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), RELEASE);
    let name = format!("{RELEASE}-serving-certificate");
    let patch = json!({"data": {"tls.crt": Value::Null, "tls.key": Value::Null}});
    secrets.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    let replaced = |secret: &Secret| secret.data.as_ref().is_some_and(|data| data.contains_key("tls.crt"));
    let started = tokio::time::Instant::now();
    while !replaced(&secrets.get(&name).await?) {
        if started.elapsed() > CERTIFICATE_EVERY {
            record.fault("no new serving certificate was issued".to_owned());
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    record.count("serving certificates");
    Ok(())
}

/// Gives the lead to whoever does not have it, and waits until both replicas know.
async fn change_leader((cluster, record): Shared) -> Result<(), Error> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), RELEASE);
    let holder = leases.get(RELEASE).await?.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    let mut names = cluster.replicas.iter().map(|replica| replica.pod.name());
    let Some(next) = names.find(|name| *name != holder) else { return Ok(()) };
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"holderIdentity": next, "acquireTime": now, "renewTime": now}});
    leases.patch(RELEASE, &PatchParams::default(), &Patch::Merge(patch)).await?;
    let started = tokio::time::Instant::now();
    while leaders(&cluster).await? != [next] {
        if started.elapsed() > LEADER_EVERY {
            record.fault(format!("{next} was given the lead and does not have it alone"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    record.count("leader changes");
    Ok(())
}

/// The replicas that lead, as each says of itself.
async fn leaders(cluster: &Arc<Cluster>) -> Result<Vec<String>, Error> {
    let asked = cluster.clone();
    let leaders = tokio::task::spawn_blocking(move || {
        let mut leaders = Vec::new();
        for replica in &asked.replicas {
            let text = metrics::of_replica(admin(replica))?;
            if metrics::sum(&text, &["acr_pull_injector_leader "]) > 0.0 {
                leaders.push(replica.pod.name().to_owned());
            }
        }
        Ok::<_, std::io::Error>(leaders)
    });
    Ok(leaders.await??)
}

/// A namespace comes, its first pod is served, and it goes again.
async fn come_and_go(cluster: Arc<Cluster>, record: Arc<Record>, stop: CancellationToken) -> Result<(), Error> {
    let mut guests = VecDeque::new();
    for number in 0_u64.. {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(GUEST_EVERY) => {}
        }
        let name = format!("guest-{number}");
        record.go_on("a namespace that comes", come(&cluster, &record, &name).await);
        guests.push_back(name);
        if guests.len() > GUESTS {
            let name = guests.pop_front().unwrap_or_default();
            record.go_on("a namespace that goes", go(&cluster, &record, &name).await);
        }
    }
    Ok(())
}

async fn come(cluster: &Cluster, record: &Record, name: &str) -> Result<(), Error> {
    cluster.create_namespace(name).await?;
    match cluster.create_pod(name).await {
        // The kubelet would look now.
        Ok(()) => match cluster.fault_of(name, true).await? {
            None => record.count("namespaces that came"),
            Some(fault) => record.fault(format!("the first pod of {name} stands and the pull secret {fault}")),
        },
        Err(error) => record.fault(error.to_string()),
    }
    Ok(())
}

async fn go(cluster: &Cluster, record: &Record, name: &str) -> Result<(), Error> {
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), name);
    pods.delete_collection(&now, &ListParams::default()).await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete(name, &DeleteParams::default()).await?;
    record.count("namespaces that went");
    Ok(())
}
