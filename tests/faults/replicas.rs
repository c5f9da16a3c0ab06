//! Replicas die and are replaced.

use std::{sync::Arc, time::Duration};

use kube::api::PostParams;

use crate::{
    azure::{settle, upgrade},
    load::Load,
    progress::say,
    world::{Error, World, eventually, expect, expect_equal, pod, references},
};

/// Calls that were under way fail open. The reference of these pods comes from the fallback policy, which the API server
/// applies by itself, and their pull secret when a kubelet misses it.
pub async fn a_killed_replica_costs_no_pod(world: Arc<World>) -> Result<(), Error> {
    with_fallback_policy(&world, Box::pin(kill_replicas(&world))).await
}

async fn kill_replicas(world: &Arc<World>) -> Result<(), Error> {
    let load = Load::start_patient(world).await?;
    let mut failed_open = 0.0;
    let mut round = 0;
    // Until a kill has hit calls that were under way; one in two does.
    while round < 2 || failed_open == 0.0 && round < 8 {
        round += 1;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = failed_open_calls(world).await?;
        let killed = world.installation.take_oldest().ok_or("no replica")?;
        killed.pod.kill();
        // Kubernetes notices after a while; until then half of the new connections go nowhere.
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.installation.forwarder().remove_backend(killed.webhook);
        let failed = failed_open_calls(world).await? - before;
        failed_open += failed;
        say(format!("kill -9 number {round}: {failed} calls failed open"));
        world.installation.start_replica(&world.control_plane).await?;
    }
    let outcome = load.finish().await?;
    say(format!("{outcome:?}"));
    expect(outcome.created > 200, format!("only {} pods were created", outcome.created))?;
    expect(failed_open > 0.0, "no call failed, so this case has shown nothing")
}

/// As a rolling update with `maxUnavailable: 0` goes, also to another version of the Deployment.
pub async fn a_rolling_update_fails_no_call(world: Arc<World>) -> Result<(), Error> {
    let failed_open = failed_open_calls(&world).await?;
    let load = Load::start(&world).await?;
    replace_replicas(&world, vec![Vec::new(); 2]).await?;
    let outcome = load.finish().await?;
    say(format!("{outcome:?}"));
    expect(outcome.created > 100, format!("only {} pods were created", outcome.created))?;
    expect_equal("calls that failed open", failed_open_calls(&world).await?, failed_open)
}

/// Its case is one of `tests/e2e`; here pods keep coming. The leader has calls under way when it dies, as above.
pub async fn a_leader_killed_in_the_middle_of_a_rewrite_costs_no_pod(world: Arc<World>) -> Result<(), Error> {
    let killed = async {
        let load = Load::start_patient(&world).await?;
        crate::upkeep::a_rewrite_survives_the_death_of_its_leader(world.clone()).await?;
        let outcome = load.finish().await?;
        say(format!("{outcome:?}"));
        expect(outcome.created > 50, format!("only {} pods were created", outcome.created))
    };
    with_fallback_policy(&world, Box::pin(killed)).await
}

/// Has the API server put the reference when no webhook does, for as long as `case` takes.
async fn with_fallback_policy(world: &World, case: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    upgrade(world, &["--set", "fallbackPolicy.enabled=true"])?;
    wait_for_fallback_policy(world, true).await?;
    case.await?;
    upgrade(world, &[])?;
    wait_for_fallback_policy(world, false).await
}

/// The API server learns of the policy, and that it is gone, a second or three later. Nobody else makes the reference here.
async fn wait_for_fallback_policy(world: &World, active: bool) -> Result<(), Error> {
    let (forwarder, namespace) = (world.installation.forwarder(), world.namespace(&[]).await?);
    let webhooks = forwarder.backends();
    for webhook in &webhooks {
        forwarder.remove_backend(*webhook);
    }
    forwarder.cut_connections();
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    let learnt = eventually("the API server to learn of the policy, or that it is gone", || async {
        let created = world.create_with(&namespace, &pod("app", &["contoso.azurecr.io/app:v1"]), &parameters).await?;
        Ok((references(&created.pod).is_empty() != active).then_some(()))
    })
    .await;
    for webhook in webhooks {
        forwarder.add_backend(webhook);
    }
    learnt?;
    settle(world).await
}

/// Puts back what was installed, whatever a case that failed has left behind.
pub async fn start_over(world: &World) -> Result<(), Error> {
    say("the case failed; all is put back for the next");
    world.control_plane.start_etcd().await?;
    world.control_plane.start_api_server().await?;
    let forwarder = world.installation.forwarder();
    for backend in forwarder.backends() {
        forwarder.remove_backend(backend);
    }
    forwarder.cut_connections();
    // Dropped, and so killed.
    while world.installation.take_oldest().is_some() {}
    upgrade(world, &[])?;
    for _ in 0..2 {
        world.installation.start_replica(&world.control_plane).await?;
    }
    // A case may have switched it on.
    wait_for_fallback_policy(world, false).await
}

/// The API server's own count of calls that failed and let the pod pass.
pub async fn failed_open_calls(world: &World) -> Result<f64, Error> {
    world.api_server_counter(&["apiserver_admission_webhook_fail_open_count", "acr-pull-injector"]).await
}

/// Replaces as many of the oldest replicas as there are environments, as a rolling update does: the new one is ready before
/// the old one is told to stop.
pub async fn replace_replicas(world: &World, environments: Vec<Vec<(String, String)>>) -> Result<(), Error> {
    let mut stopping = Vec::new();
    for environment in environments {
        world.installation.start_replica_with(&world.control_plane, environment).await?;
        let old = world.installation.take_oldest().ok_or("no replica")?;
        old.pod.terminate();
        // The endpoint goes away some time after the process was told, not before.
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.installation.forwarder().remove_backend(old.webhook);
        stopping.push(old);
    }
    for mut old in stopping {
        let status = tokio::time::timeout(Duration::from_secs(40), old.pod.exited()).await;
        let status = status.map_err(|_| "the old replica did not end")?;
        expect(status.success(), format!("the old replica ended with {status}"))?;
    }
    Ok(())
}
