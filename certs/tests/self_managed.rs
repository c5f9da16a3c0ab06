//! Several replicas against a real API server, with the rights that the documentation names and no more.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod cluster;
mod webhook;

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    time::{Duration, Instant},
};

use certs::{
    Lifetimes, SelfManaged, ServingCertificate,
    stored::{AUTHORITIES, LEAF_CERTIFICATE, StoredCertificates},
};
use cluster::{Cluster, cluster};
use kube::Client;
use tokio_util::sync::CancellationToken;
use webhook::{Webhook, handshake};

/// One webhook configuration with its Secret and the replicas that serve it.
struct Deployment {
    name: String,
    replicas: Vec<Webhook>,
    shutdown: CancellationToken,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Deployment {
    /// Starts all replicas at the same moment. The configuration has one webhook for each, so that an admission calls
    /// all of them.
    async fn start(cluster: &Cluster, name: &str, replicas: usize, lifetimes: &Lifetimes) -> Self {
        let client = cluster.restricted_client(name).await;
        let mut deployment = Self {
            name: name.to_owned(),
            replicas: Vec::new(),
            shutdown: CancellationToken::new(),
            running: Vec::new(),
        };
        for _ in 0..replicas {
            deployment.replicas.push(Webhook::start(ServingCertificate::new()).await);
        }
        cluster.install_configuration(name, &deployment.replicas).await;
        for replica in &deployment.replicas {
            let run =
                self_managed(client.clone(), name, lifetimes).run(replica.serving.clone(), deployment.shutdown.clone());
            deployment.running.push(tokio::spawn(run));
        }
        deployment
    }

    /// Every replica serves a certificate that the `caBundle` of every webhook verifies.
    async fn verifies(&self, cluster: &Cluster) -> Result<(), String> {
        for bundle in cluster.bundles(&self.name).await {
            for replica in &self.replicas {
                handshake(replica.address, &bundle).await?;
            }
        }
        Ok(())
    }

    async fn until_it_verifies(&self, cluster: &Cluster) {
        until("every replica verifies", || self.verifies(cluster)).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for running in self.running {
            tokio::time::timeout(Duration::from_secs(5), running).await.unwrap().unwrap();
        }
    }
}

fn self_managed(client: Client, name: &str, lifetimes: &Lifetimes) -> SelfManaged {
    SelfManaged {
        client,
        namespace: cluster::NAMESPACE.to_owned(),
        secret_name: name.to_owned(),
        dns_names: vec!["localhost".to_owned()],
        webhook_configuration: name.to_owned(),
        field_manager: "certs-test".to_owned(),
        lifetimes: lifetimes.clone(),
        check_interval: Duration::from_millis(100),
        changed: std::sync::Arc::default(),
    }
}

/// Repeats until it is well, for at most a minute.
async fn until<F: Future<Output = Result<(), String>>>(what: &str, mut attempt: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(reason) = attempt().await {
        assert!(Instant::now() < deadline, "not in time: {what}: {reason}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn stored(data: &BTreeMap<String, Vec<u8>>) -> StoredCertificates {
    StoredCertificates::parse(data)
}

#[test]
fn replicas_that_start_at_once_agree_on_one_authority() {
    cluster::block_on(async {
        let cluster = cluster().await;
        for round in 0..4 {
            let name = format!("at-once-{round}");
            let history = cluster.record_secret(&name).await;
            let deployment = Deployment::start(cluster, &name, 4, &Lifetimes::default()).await;
            deployment.until_it_verifies(cluster).await;
            // The mark is the last write of a fresh installation.
            until("the authority is marked as published", || async {
                let stored = stored(&cluster.secret_data(&name).await);
                match stored.authorities[..] {
                    [ref authority] if authority.published_at.is_some() => Ok(()),
                    _ => Err(format!("{stored:?}")),
                }
            })
            .await;
            let authority_not_after = stored(&cluster.secret_data(&name).await).authorities[0].not_after();
            for replica in &deployment.replicas {
                assert_eq!(replica.serving.authority_not_after(), Some(authority_not_after));
            }
            deployment.stop().await;
            let written = history.finish().await;
            let bundles: HashSet<_> = written.iter().map(|data| stored(data).bundle_pem()).collect();
            assert_eq!(bundles.len(), 1, "an authority was overwritten");
            let leaves: HashSet<_> = written.iter().map(|data| data["tls.crt"].clone()).collect();
            assert_eq!(leaves.len(), 1, "a leaf was overwritten");
        }
    });
}

#[test]
fn a_damaged_leaf_is_replaced_once_though_many_replicas_see_it() {
    const ROUNDS: usize = 12;
    cluster::block_on(async {
        let cluster = cluster().await;
        let history = cluster.record_secret("damaged").await;
        let deployment = Deployment::start(cluster, "damaged", 8, &Lifetimes::default()).await;
        deployment.until_it_verifies(cluster).await;
        for _ in 0..ROUNDS {
            cluster.damage("damaged", LEAF_CERTIFICATE).await;
            until("there is a leaf again", || async {
                stored(&cluster.secret_data("damaged").await).leaf.map(drop).ok_or_else(|| "none".to_owned())
            })
            .await;
            deployment.verifies(cluster).await.unwrap();
        }
        deployment.until_it_verifies(cluster).await;
        deployment.stop().await;
        let leaves = history.finish().await.into_iter().filter(|data| stored(data).leaf.is_some());
        let leaves: HashSet<_> = leaves.map(|data| data["tls.crt"].clone()).collect();
        assert_eq!(leaves.len(), ROUNDS + 1, "two replicas wrote over each other");
    });
}

#[test]
fn a_bundle_that_is_removed_by_hand_is_put_back_and_other_fields_stay() {
    cluster::block_on(async {
        let cluster = cluster().await;
        let deployment = Deployment::start(cluster, "bundle", 2, &Lifetimes::default()).await;
        deployment.until_it_verifies(cluster).await;
        let before = cluster.configuration("bundle").await;

        cluster.set_timeout_and_remove_bundles("bundle", 7).await;
        deployment.until_it_verifies(cluster).await;
        let after = cluster.configuration("bundle").await;
        for (before, after) in before.webhooks.unwrap().into_iter().zip(after.webhooks.unwrap()) {
            assert_eq!(after.timeout_seconds, Some(7), "the change of another owner was taken back");
            assert_eq!(
                after,
                k8s_openapi::api::admissionregistration::v1::MutatingWebhook { timeout_seconds: Some(7), ..before }
            );
        }
        let owned = cluster.owned_fields("bundle", "certs-test-ca-bundle").await;
        assert_eq!(owned, ["clientConfig.caBundle", "name"]);
        deployment.stop().await;
    });
}

#[test]
fn a_configuration_that_is_installed_later_gets_its_bundle() {
    cluster::block_on(async {
        let cluster = cluster().await;
        let deployment = Deployment::start(cluster, "later", 1, &Lifetimes::default()).await;
        deployment.until_it_verifies(cluster).await;
        cluster.delete_configuration("later").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.install_configuration("later", &deployment.replicas).await;
        deployment.until_it_verifies(cluster).await;
        deployment.stop().await;
    });
}

#[test]
fn a_secret_that_is_deleted_emptied_or_damaged_by_hand_heals_without_a_failed_handshake() {
    cluster::block_on(async {
        let cluster = cluster().await;
        let deployment = Deployment::start(cluster, "deleted", 2, &Lifetimes::default()).await;
        deployment.until_it_verifies(cluster).await;
        let first = stored(&cluster.secret_data("deleted").await);
        for damage in ["delete", "empty", AUTHORITIES] {
            match damage {
                "delete" => cluster.delete_secret("deleted").await,
                "empty" => cluster.empty_secret("deleted").await,
                key => cluster.damage("deleted", key).await,
            }
            until("the Secret is whole again", || async {
                deployment.verifies(cluster).await.unwrap();
                let healed = stored(&cluster.secret_data("deleted").await);
                // The old authority's certificate and leaf, and a new authority that will take over.
                let whole = healed.leaf == first.leaf
                    && healed.authorities.len() >= 2
                    && healed.authorities[0].der() == first.authorities[0].der();
                if whole { Ok(()) } else { Err(format!("after {damage}: {healed:?}")) }
            })
            .await;
            deployment.until_it_verifies(cluster).await;
        }
        let records = String::from_utf8(cluster.secret_data("deleted").await[AUTHORITIES].clone()).unwrap();
        let records: serde_json::Value = serde_json::from_str(&records).unwrap();
        assert_eq!(records[0].get("key"), None, "a deletion asks for new keys");
        deployment.stop().await;
    });
}

/// A step is due, and what it makes cannot be stored.
#[test]
fn what_is_stored_serves_although_nothing_can_be_written() {
    cluster::block_on(async {
        let cluster = cluster().await;
        let mut deployment = Deployment::start(cluster, "refused", 1, &Lifetimes::default()).await;
        deployment.until_it_verifies(cluster).await;
        cluster.make_secret_immutable("refused").await;

        let replica = Webhook::start(ServingCertificate::new()).await;
        let another_name = SelfManaged {
            dns_names: vec!["localhost".to_owned(), "renamed".to_owned()],
            ..self_managed(cluster.client.clone(), "refused", &Lifetimes::default())
        };
        let run = another_name.run(replica.serving.clone(), deployment.shutdown.clone());
        deployment.replicas.push(replica);
        deployment.running.push(tokio::spawn(run));
        deployment.until_it_verifies(cluster).await;
        cluster.set_timeout_and_remove_bundles("refused", 7).await;
        deployment.until_it_verifies(cluster).await;
        deployment.stop().await;
    });
}

/// The whole rotation in seconds: the API server's own calls (a Go TLS client with the bundle that it holds) and
/// handshakes with the live bundle, to every replica, without one failure.
#[test]
fn a_rotation_never_breaks_a_call() {
    cluster::block_on(async {
        let cluster = cluster().await;
        let lifetimes = Lifetimes {
            authority: Duration::from_secs(32),
            authority_renewal: Duration::from_secs(22),
            leaf: Duration::from_secs(15),
            overlap: Duration::from_secs(5),
            ..Lifetimes::default()
        };
        let deployment = Deployment::start(cluster, "rotation", 3, &lifetimes).await;
        deployment.until_it_verifies(cluster).await;
        until("the API server calls every replica", || cluster.admit("rotation")).await;
        let first = stored(&cluster.secret_data("rotation").await);
        let deadline = Instant::now() + Duration::from_secs(60);
        let (mut calls, mut most_authorities) = (0, 0);
        loop {
            cluster.admit("rotation").await.unwrap_or_else(|error| panic!("after {calls} calls: {error}"));
            deployment.verifies(cluster).await.unwrap_or_else(|error| panic!("after {calls} calls: {error}"));
            calls += 1;
            let now = stored(&cluster.secret_data("rotation").await);
            most_authorities = most_authorities.max(now.authorities.len());
            if !now.authorities.contains(&first.authorities[0])
                && now.authorities.iter().all(|authority| authority.der() != first.authorities[0].der())
            {
                break;
            }
            assert!(Instant::now() < deadline, "no rotation after {calls} calls: {now:?}");
        }
        assert!(calls > 50, "only {calls} calls");
        assert_eq!(most_authorities, 2, "no overlap");
        deployment.verifies(cluster).await.unwrap();
        cluster.admit("rotation").await.unwrap();
        deployment.stop().await;
    });
}
