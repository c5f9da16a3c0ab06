//! Things that go wrong or change while pods keep coming. These cases have the control plane for themselves.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use installation::{CHART, RELEASE, helm};
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    load::Load,
    settings,
    world::{Error, PULL_SECRET, World, complain, entries, eventually, expect, expect_equal, pod, references, review},
};

/// How many calls of the webhook the API server counts as failed: let through without it, refused because of it, or
/// answered by anything but 200.
pub async fn failed_calls(world: &World) -> Result<f64, Error> {
    let text = world.control_plane.metrics().await?;
    let is_failure = |line: &&str| {
        line.contains("inject.acr-pull-injector.io")
            && (line.starts_with("apiserver_admission_webhook_fail_open_count")
                || line.starts_with("apiserver_admission_webhook_rejection_count")
                || (line.starts_with("apiserver_admission_webhook_request_total") && !line.contains("code=\"200\"")))
    };
    Ok(text.lines().filter(is_failure).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// The API server's own count of calls that went to the webhook.
async fn calls(world: &World) -> Result<f64, Error> {
    world
        .api_server_counter(&["apiserver_admission_webhook_admission_duration_seconds_count", "acr-pull-injector"])
        .await
}

pub async fn a_pod_without_such_an_image_costs_no_call(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let before = calls(&world).await?;
    let created = world.create(&namespace, &pod("other", &["nginx", "quay.io/app/app:v1"])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![])?;
    expect_equal("calls for a pod without such an image", calls(&world).await?, before)?;
    world.create(&namespace, &pod("ours", &["contoso.azurecr.io/app:v1"])).await?;
    // Patched pods go through the admission chain once more; a webhook that changed nothing since is not asked again.
    expect_equal("calls for a pod with one", calls(&world).await?, before + 1.0)
}

pub async fn a_changed_password_reaches_every_pull_secret(world: Arc<World>) -> Result<(), Error> {
    let mut before = Vec::new();
    for _ in 0..3 {
        let namespace = world.namespace(&[]).await?;
        world.create(&namespace, &pod("app", &["rotating.azurecr.io/app:v1", "contoso.azurecr.io/app:v1"])).await?;
        let uid = world.pull_secret(&namespace).await?.ok_or("no pull secret")?.metadata.uid;
        before.push((namespace, uid));
    }
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
    for password in ["password-2", "password-3", "password-4"] {
        let patch = json!({"stringData": {"clientSecret": password}});
        secrets.patch("rotating", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        world.installation.refresh_volumes().await?;
        for (namespace, uid) in &before {
            eventually("the new password", || async {
                let entries = world.entries(namespace).await?;
                Ok((entries["rotating.azurecr.io"].1 == password).then_some(()))
            })
            .await?;
            let secret = world.pull_secret(namespace).await?.ok_or("gone")?;
            expect_equal("uid", secret.metadata.uid.as_ref(), uid.as_ref())?;
            expect_equal("the other entry", entries(&secret)?["contoso.azurecr.io"].1.as_str(), "contoso-password")?;
        }
    }
    Ok(())
}

/// Two replicas get pods of one namespace with different registries in the same instant.
pub async fn two_replicas_adding_registries_at_once_lose_none(world: Arc<World>) -> Result<(), Error> {
    let webhooks = world.installation.webhooks();
    let (first, second) = (world.direct(webhooks[0]).await?, world.direct(webhooks[1]).await?);
    for round in 0..25 {
        let namespace = world.namespace(&[]).await?;
        // The second time round the pull secret exists and is extended rather than created.
        for hosts in [["contoso.azurecr.io", "fabrikam.azurecr.io"], ["a.contoso", "b.contoso"]] {
            let [left, right] = match hosts {
                ["a.contoso", _] => ["Contoso.azurecr.io/app", "Fabrikam.azurecr.io/app"],
                _ => ["contoso.azurecr.io/app", "fabrikam.azurecr.io/app"],
            };
            let (left, right) = tokio::join!(
                world.review(&first, review(&namespace, &[left])),
                world.review(&second, review(&namespace, &[right])),
            );
            for (status, body) in [left?, right?] {
                let answer = String::from_utf8_lossy(&body).into_owned();
                expect(status == 200 && !answer.contains("warnings"), format!("round {round}: {status} {answer}"))?;
            }
        }
        let hosts: BTreeSet<_> = world.entries(&namespace).await?.into_keys().collect();
        let expected = ["Contoso.azurecr.io", "Fabrikam.azurecr.io", "contoso.azurecr.io", "fabrikam.azurecr.io"];
        expect_equal(&format!("hosts in round {round}"), hosts, expected.map(str::to_owned).into())?;
    }
    Ok(())
}

pub async fn a_rolling_restart_under_load_fails_no_call(world: Arc<World>) -> Result<(), Error> {
    let before = failed_calls(&world).await?;
    let load = Load::start(&world).await?;
    let replicas = world.installation.webhooks().len();
    for _ in 0..replicas {
        // As a rolling update with maxUnavailable 0 does it: the new one is ready before the old one is told to stop.
        world.installation.start_replica(&world.control_plane).await?;
        let mut old = world.installation.take_oldest().ok_or("no replica")?;
        old.pod.terminate();
        // The endpoint goes away some time after the process was told, not before.
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.installation.forwarder().remove_backend(old.webhook);
        let status = tokio::time::timeout(Duration::from_secs(40), old.pod.exited()).await;
        let status = status.map_err(|_| "the old replica did not end")?;
        expect(status.success(), format!("the old replica ended with {status}\n{}", old.pod.log()))?;
    }
    let created = load.finish().await?.created;
    expect(created > 200, format!("only {created} pods were created"))?;
    expect_equal("calls that failed", failed_calls(&world).await?, before)
}

/// With failurePolicy Ignore a dead webhook is in nobody's way.
pub async fn pods_are_admitted_while_the_webhook_is_dead(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let mut stopped = Vec::new();
    while let Some(replica) = world.installation.take_oldest() {
        replica.pod.kill();
        world.installation.forwarder().remove_backend(replica.webhook);
        stopped.push(replica);
    }
    let created = world.create(&namespace, &pod("alone", &["contoso.azurecr.io/app:v1"])).await;
    for _ in &stopped {
        world.installation.start_replica(&world.control_plane).await?;
    }
    let created = created?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![])?;
    let created = world.create(&namespace, &pod("served", &["contoso.azurecr.io/app:v1"])).await?;
    expect_equal("imagePullSecrets after the restart", references(&created.pod), vec![PULL_SECRET.to_owned()])
}

/// With the policy the reference comes from the API server itself, and the pull secret once a webhook is back and a kubelet
/// has complained.
pub async fn the_fallback_policy_serves_while_the_webhook_is_dead(world: Arc<World>) -> Result<(), Error> {
    let settings = settings();
    let upgrade = |enabled| {
        let mut arguments = vec!["upgrade", RELEASE, CHART, "-n", RELEASE];
        arguments.extend(&settings);
        arguments.extend(["--set", enabled]);
        helm(&world.control_plane, &arguments).map(drop)
    };
    upgrade("fallbackPolicy.enabled=true")?;
    while let Some(replica) = world.installation.take_oldest() {
        replica.pod.kill();
        world.installation.forwarder().remove_backend(replica.webhook);
    }
    let namespace = world.namespace(&[]).await?;
    let outcome: Result<_, Error> = async {
        // A policy becomes active a second or three after it was created.
        let created = eventually("the policy to inject the reference", || async {
            let created = world.create(&namespace, &pod("app", &["contoso.azurecr.io/app:v1"])).await?;
            if references(&created.pod).is_empty() {
                world.delete_pod(&namespace, "app").await?;
                return Ok(None);
            }
            Ok(Some(created))
        })
        .await?;
        expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])?;
        expect(world.pull_secret(&namespace).await?.is_none(), "who made the pull secret?")?;
        let plain = world.create(&namespace, &pod("plain", &["nginx"])).await?;
        expect_equal("imagePullSecrets of another pod", references(&plain.pod), vec![])?;
        Ok(created.pod)
    }
    .await;
    for _ in 0..2 {
        world.installation.start_replica(&world.control_plane).await?;
    }
    upgrade("fallbackPolicy.enabled=false")?;
    complain(&world, &outcome?, PULL_SECRET).await?;
    eventually("the pull secret", || async { world.pull_secret(&namespace).await }).await?;
    Ok(())
}

/// A second signal ends a replica at once, whatever the drain.
pub async fn a_second_signal_ends_a_replica_at_once(world: Arc<World>) -> Result<(), Error> {
    world.installation.start_replica(&world.control_plane).await?;
    let mut old = world.installation.take_oldest().ok_or("no replica")?;
    world.installation.forwarder().remove_backend(old.webhook);
    old.pod.terminate();
    eventually("the drain to begin", || async { Ok(old.pod.log().contains("draining").then_some(())) }).await?;
    old.pod.terminate();
    let ended = tokio::time::timeout(Duration::from_secs(3), old.pod.exited()).await;
    expect(ended.is_ok(), "it still runs three seconds after the second signal")
}

pub async fn an_upgrade_keeps_the_ca_bundle(world: Arc<World>) -> Result<(), Error> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let settings = settings();
    let mut arguments = vec!["upgrade", RELEASE, CHART, "-n", RELEASE, "--set", "webhook.timeoutSeconds=7"];
    arguments.extend(&settings);
    helm(&world.control_plane, &arguments)?;
    let webhooks = configurations.get(RELEASE).await?.webhooks.unwrap_or_default();
    for webhook in &webhooks {
        expect_equal("timeoutSeconds", webhook.timeout_seconds, Some(7))?;
        expect(webhook.client_config.ca_bundle.is_some(), "the upgrade removed the CA bundle")?;
    }
    let namespace = world.namespace(&[]).await?;
    let created = world.create(&namespace, &pod("after", &["contoso.azurecr.io/app:v1"])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])
}

pub async fn a_removed_ca_bundle_comes_back(world: Arc<World>) -> Result<(), Error> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let remove = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(remove)?);
    let started = Instant::now();
    // Again and again, as a tool does that has its own idea of the registration.
    for _ in 0..3 {
        configurations.patch(RELEASE, &PatchParams::default(), &patch).await?;
        eventually("the CA bundle", || async {
            let webhooks = configurations.get(RELEASE).await?.webhooks.unwrap_or_default();
            Ok(webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.is_some()).then_some(()))
        })
        .await?;
    }
    expect(started.elapsed() < Duration::from_secs(5), format!("it took {:?}, three times", started.elapsed()))
}
