//! The election of the replica that works in the background, while the clock of another is wrong or the Lease cannot be
//! written. The candidates run in this process, on Leases of their own.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use acr_pull_injector::{leader, metrics::Metrics};
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::util::MapFutureLayer;

use crate::{
    progress::say,
    world::{Error, World, eventually, expect, expect_equal},
};

const LEASE: &str = "election";
const OURSELVES: &str = "candidate";

/// One holder renews the Lease with a clock that is decades behind, and then for the last time with one that is ahead.
pub async fn whoever_holds_the_lease_is_not_believed_the_time(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &namespace);
    renew(&leases, "another", "1999-01-01T00:00:00.000000Z").await?;
    let candidate = Candidate::stand(world.client.clone(), &namespace);
    for second in 0..25 {
        renew(&leases, "another", &format!("1999-01-01T00:00:{second:02}.000000Z")).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    expect_equal("changes of the lead while its holder renews it", candidate.changes(), Vec::new())?;

    renew(&leases, "another", "2099-01-01T00:00:00.000000Z").await?;
    let gone_since = Instant::now();
    candidate.comes_to(true, Duration::from_secs(60)).await?;
    say(format!("a holder that is gone was replaced after {:.1} s", gone_since.elapsed().as_secs_f64()));
    let spec = spec(&leases).await?;
    expect_equal("the holder", spec.holder_identity.as_deref(), Some(OURSELVES))?;
    expect_equal("changes of the holder", spec.lease_transitions, Some(1))?;

    drop(candidate.standing);
    eventually("the lead to be released", || async {
        Ok(spec_of(leases.get(LEASE).await?).holder_identity.is_none().then_some(()))
    })
    .await
}

/// The candidate may read the Lease all the time; whether it may write it changes.
pub async fn a_lead_that_cannot_be_renewed_is_kept_for_a_moment_and_not_announced(
    world: Arc<World>,
) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &namespace);
    // As a process that was killed left it.
    renew(&leases, OURSELVES, "2026-01-01T00:00:00.000000Z").await?;
    let account = bind_account(&world, &namespace, Duration::ZERO).await?;
    allow(&world, &namespace, &["get"]).await?;
    let candidate = Candidate::stand(account, &namespace);
    tokio::time::sleep(Duration::from_secs(10)).await;
    expect_equal("changes of the lead that cannot be renewed", candidate.changes(), Vec::new())?;

    allow(&world, &namespace, &["get", "patch"]).await?;
    candidate.comes_to(true, Duration::from_secs(60)).await?;
    allow(&world, &namespace, &["get"]).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    allow(&world, &namespace, &["get", "patch"]).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    expect_equal("changes of the lead after a moment without rights", candidate.changes(), vec![true])?;

    allow(&world, &namespace, &["get"]).await?;
    let since = Instant::now();
    candidate.comes_to(false, Duration::from_secs(30)).await?;
    say(format!("a lead that could not be renewed ended after {:.1} s", since.elapsed().as_secs_f64()));
    expect(since.elapsed() > Duration::from_secs(8), "the lead was given up at the first failure")?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    expect_equal("changes of the lead in the end", candidate.changes(), vec![true, false])
}

/// Each request takes three seconds.
pub async fn a_slow_api_server_has_a_leader(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &namespace);
    renew(&leases, OURSELVES, "2026-01-01T00:00:00.000000Z").await?;
    allow(&world, &namespace, &["get", "patch"]).await?;
    let candidate = Candidate::stand(bind_account(&world, &namespace, Duration::from_secs(3)).await?, &namespace);
    candidate.comes_to(true, Duration::from_secs(15)).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    expect_equal("changes of the lead", candidate.changes(), vec![true])
}

struct Candidate {
    changes: Arc<Mutex<Vec<bool>>>,
    standing: DropGuard,
}

impl Candidate {
    fn stand(client: Client, namespace: &str) -> Self {
        let (leader, shutdown, metrics) =
            (watch::Sender::new(false), CancellationToken::new(), Arc::new(Metrics::new()));
        let (mut outcome, mut last) = (leader.subscribe(), false);
        let changes: Arc<Mutex<Vec<bool>>> = Arc::default();
        let heard = changes.clone();
        tokio::spawn(async move {
            while outcome.changed().await.is_ok() {
                let leads = *outcome.borrow_and_update();
                if std::mem::replace(&mut last, leads) != leads {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(leads);
                }
            }
        });
        let (namespace, lease, identity) = (namespace.to_owned(), LEASE.to_owned(), OURSELVES.to_owned());
        tokio::spawn(leader::run(client, namespace, lease, identity, leader, metrics, shutdown.clone()));
        Self { changes, standing: shutdown.drop_guard() }
    }

    /// What the candidate has announced, without what it said already.
    fn changes(&self) -> Vec<bool> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn comes_to(&self, leads: bool, limit: Duration) -> Result<(), Error> {
        let since = Instant::now();
        while self.changes().last() != Some(&leads) {
            expect(since.elapsed() < limit, format!("leads: {leads} was not announced within {limit:?}"))?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

async fn renew(leases: &Api<Lease>, holder: &str, at: &str) -> Result<(), Error> {
    let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "acquireTime": at, "renewTime": at});
    let lease =
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE}, "spec": spec});
    leases.patch(LEASE, &PatchParams::apply("another").force(), &Patch::Apply(lease)).await?;
    Ok(())
}

async fn spec(leases: &Api<Lease>) -> Result<LeaseSpec, Error> {
    Ok(spec_of(leases.get(LEASE).await?))
}

fn spec_of(lease: Lease) -> LeaseSpec {
    lease.spec.unwrap_or_default()
}

/// A client with the rights of [`allow`], which does not try again by itself, and whose requests take so long.
async fn bind_account(world: &World, namespace: &str, delay: Duration) -> Result<Client, Error> {
    let binding = serde_json::from_value(json!({
        "metadata": {"name": LEASE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": LEASE},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }))?;
    let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), namespace);
    bindings.create(&PostParams::default(), &binding).await?;
    let kubeconfig =
        Kubeconfig::read_from(world.control_plane.service_account_kubeconfig(namespace, "default").await?)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    let slow = MapFutureLayer::new(move |answer| async move {
        tokio::time::sleep(delay).await;
        answer.await
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&slow).build())
}

async fn allow(world: &World, namespace: &str, verbs: &[&str]) -> Result<(), Error> {
    let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": LEASE}, "rules": rules});
    let roles: Api<Role> = Api::namespaced(world.client.clone(), namespace);
    roles.patch(LEASE, &PatchParams::apply("test").force(), &Patch::Apply(role)).await?;
    Ok(())
}
