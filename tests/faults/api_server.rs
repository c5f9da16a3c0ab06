//! The API server goes away and comes back, or cannot be reached by the replicas alone, or has forgotten what they saw last.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

use crate::{
    line::Line,
    load::Load,
    progress::say,
    replicas::{failed_open_calls, replace_replicas},
    world::{Error, PULL_SECRET, World, expect, expect_equal, pod, review},
};

const IMAGE: &str = "contoso.azurecr.io/app:v1";

/// Its own counters begin anew with it.
pub async fn a_restart_of_the_api_server_loses_nothing(world: Arc<World>) -> Result<(), Error> {
    let untouched = served(&world, 20).await?;
    let before = versions(&world, &untouched).await?;
    let load = Load::start_patient(&world).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.control_plane.stop_api_server();
    say("the API server is down");
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.control_plane.start_api_server().await?;
    say("the API server is back");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let outcome = load.finish().await?;
    say(format!("{outcome:?}"));
    expect(outcome.repeated > 0, "no creation failed, so this case has shown nothing")?;
    expect_equal("calls that failed open", failed_open_calls(&world).await?, 0.0)?;
    watches_work(&world).await?;
    expect_equal("versions of pull secrets that nobody touched", versions(&world, &untouched).await?, before)
}

pub async fn etcd_gone_for_a_while_loses_nothing(world: Arc<World>) -> Result<(), Error> {
    let untouched = served(&world, 20).await?;
    let before = versions(&world, &untouched).await?;
    let failed_open = failed_open_calls(&world).await?;
    let load = Load::start_patient(&world).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.control_plane.stop_etcd();
    say("etcd is down");
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.control_plane.start_etcd().await?;
    say("etcd is back");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let outcome = load.finish().await?;
    say(format!("{outcome:?}"));
    // What is under way may also wait until etcd is back.
    let noticed = outcome.repeated > 0 || outcome.slowest > Duration::from_secs(5);
    expect(noticed, "no creation failed or had to wait, so this case has shown nothing")?;
    expect_equal("calls that failed open", failed_open_calls(&world).await?, failed_open)?;
    watches_work(&world).await?;
    expect_equal("versions of pull secrets that nobody touched", versions(&world, &untouched).await?, before)
}

/// A minute in which every packet between the replicas and the API server is lost, while the API server reaches them: their
/// connections from before never end, and never say a word again.
pub async fn a_minute_without_the_api_server_is_bridged_from_memory(world: Arc<World>) -> Result<(), Error> {
    let lines = replicas_behind_lines(&world).await?;
    let untouched = served(&world, 20).await?;
    let (deleted, opted_out) = (served(&world, 1).await?.remove(0), served(&world, 1).await?.remove(0));
    let before = versions(&world, &untouched).await?;
    let failed_open = failed_open_calls(&world).await?;
    let mut callers = Vec::new();
    for webhook in world.installation.webhooks() {
        callers.push(world.direct(webhook).await?);
    }
    let load = Load::start_patient(&world).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;

    lines.iter().for_each(Line::fall_silent);
    let silent_since = Instant::now();
    say("no replica reaches the API server");
    delete_pull_secret(&world, &deleted).await?;
    opt_out(&world, &opted_out).await?;
    let mut slowest = Duration::ZERO;
    for round in 0.. {
        for caller in &callers {
            let namespace = &untouched[round % untouched.len()];
            slowest = slowest.max(answered_from_memory(&world, caller, namespace).await?);
        }
        if silent_since.elapsed() > Duration::from_secs(60) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    say(format!("the slowest direct answer from memory took {slowest:?}"));
    // First pods of new namespaces wait for a pull secret that cannot be made: as long as they may, and then they pass.
    let started = Instant::now();
    let new = world.namespace(&[]).await?;
    let created = world.create(&new, &pod("first", &[IMAGE])).await?;
    let waited = started.elapsed();
    expect(created.warnings.iter().any(|warning| warning.contains("pull secret")), "the user is not warned")?;
    expect(waited < Duration::from_secs(5), format!("the first pod of a namespace waited {waited:?}"))?;

    lines.iter().for_each(Line::mend);
    let mended_at = Instant::now();
    say("the API server can be reached again");
    let what = "the pull secret of a namespace that was new meanwhile";
    soon(what, mended_at, || async { Ok(world.pull_secret(&new).await?.is_some()) }).await?;
    let what = "the pull secret that was deleted meanwhile";
    soon(what, mended_at, || async { Ok(world.pull_secret(&deleted).await?.is_some()) }).await?;
    let what = "the pull secret of the namespace that opted out meanwhile to go";
    soon(what, mended_at, || async { Ok(world.pull_secret(&opted_out).await?.is_none()) }).await?;
    let outcome = load.finish().await?;
    say(format!("{outcome:?}"));
    expect_equal("calls that failed open", failed_open_calls(&world).await?, failed_open)?;
    expect_equal("versions of pull secrets that nobody touched", versions(&world, &untouched).await?, before)?;
    replace_replicas(&world, vec![Vec::new(); 2]).await
}

/// The replicas miss changes that the API server cannot tell them any more: a watch from before would be answered by 410 Gone.
pub async fn what_happened_in_a_forgotten_history_is_found(world: Arc<World>) -> Result<(), Error> {
    let lines = replicas_behind_lines(&world).await?;
    let untouched = served(&world, 20).await?;
    let before = versions(&world, &untouched).await?;
    let mut changed = served(&world, 4).await?.into_iter();
    let mut next = || changed.next().ok_or("too few namespaces");
    let (deleted, opted_out, edited, opted_in) = (next()?, next()?, next()?, next()?);
    opt_out(&world, &opted_in).await?;
    let what = "the pull secret of a namespace that opted out to go";
    soon(what, Instant::now(), || async { Ok(world.pull_secret(&opted_in).await?.is_none()) }).await?;
    let failed_open = failed_open_calls(&world).await?;
    let load = Load::start_patient(&world).await?;

    lines.iter().for_each(Line::cut);
    delete_pull_secret(&world, &deleted).await?;
    opt_out(&world, &opted_out).await?;
    label(&world, &opted_in, Value::Null).await?;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &edited);
    let broken = Patch::Merge(json!({"stringData": {".dockerconfigjson": "{\"auths\":{}}"}}));
    secrets.patch(PULL_SECRET, &PatchParams::default(), &broken).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    expect_equal("calls that failed open", failed_open_calls(&world).await?, failed_open)?;
    world.control_plane.forget_history().await?;
    // It remembers recent changes itself.
    world.control_plane.restart_api_server().await?;
    expect(
        is_forgotten(&world, before.values().flatten()).await?,
        "a watch from before goes on, so this case shows nothing",
    )?;
    say("the history is forgotten");
    lines.iter().for_each(Line::mend);
    let mended_at = Instant::now();

    let what = "the deleted pull secret";
    soon(what, mended_at, || async { Ok(world.pull_secret(&deleted).await?.is_some()) }).await?;
    let what = "the pull secret of the namespace that opted out to go";
    soon(what, mended_at, || async { Ok(world.pull_secret(&opted_out).await?.is_none()) }).await?;
    let what = "the edited pull secret to be mended";
    soon(what, mended_at, || async { Ok(world.entries(&edited).await?.contains_key("contoso.azurecr.io")) }).await?;
    for webhook in world.installation.webhooks() {
        let caller = world.direct(webhook).await?;
        let what = "a replica to serve the namespace that opted in again";
        let is_served = || async {
            let (_, answer) = world.review(&caller, review(&opted_in, &[IMAGE])).await?;
            Ok(serde_json::from_slice::<Value>(&answer)?["response"]["patch"].is_string())
        };
        soon(what, mended_at, is_served).await?;
    }
    world.create(&opted_in, &pod("again", &[IMAGE])).await?;
    expect(world.pull_secret(&opted_in).await?.is_some(), "a namespace that opted in again was not served")?;
    let outcome = load.finish().await?;
    say(format!("{outcome:?}"));
    expect_equal("calls that failed open", failed_open_calls(&world).await?, 0.0)?;
    expect_equal("versions of pull secrets that nobody touched", versions(&world, &untouched).await?, before)?;
    replace_replicas(&world, vec![Vec::new(); 2]).await
}

/// Two new replicas in place of the others, each behind a line of its own.
async fn replicas_behind_lines(world: &World) -> Result<Vec<Line>, Error> {
    let lines = vec![Line::start(&world.control_plane).await?, Line::start(&world.control_plane).await?];
    let mut environments = Vec::new();
    for line in &lines {
        environments.push(line.environment(&world.control_plane).await?);
    }
    replace_replicas(world, environments).await?;
    Ok(lines)
}

/// Namespaces with their pull secret.
pub async fn served(world: &World, count: usize) -> Result<Vec<String>, Error> {
    const AT_ONCE: usize = 4;
    let made = stream::iter(0..count).map(|_| async {
        let namespace = world.namespace(&[]).await?;
        world.create(&namespace, &pod("app", &[IMAGE])).await?;
        expect(world.pull_secret(&namespace).await?.is_some(), "no pull secret to begin with")?;
        Ok(namespace)
    });
    made.buffered(AT_ONCE).try_collect().await
}

async fn versions(world: &World, namespaces: &[String]) -> Result<BTreeMap<String, Option<String>>, Error> {
    let mut versions = BTreeMap::new();
    for namespace in namespaces {
        let secret = world.pull_secret(namespace).await?.ok_or_else(|| format!("{namespace} lost its pull secret"))?;
        versions.insert(namespace.clone(), secret.metadata.resource_version);
    }
    Ok(versions)
}

/// Whether a watch of pull secrets from the last of these versions is refused.
async fn is_forgotten(world: &World, versions: impl Iterator<Item = &String>) -> Result<bool, Error> {
    let numbers = versions.map(|version| version.parse::<u64>()).collect::<Result<Vec<_>, _>>()?;
    let version = numbers.into_iter().max().ok_or("no version")?.to_string();
    let secrets: Api<Secret> = Api::all(world.client.clone());
    let parameters = WatchParams::default().fields(&format!("metadata.name={PULL_SECRET}"));
    let mut events = pin!(secrets.watch(&parameters, &version).await?);
    let first = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
    Ok(matches!(first, Ok(Some(Ok(WatchEvent::Error(status)))) if status.code == 410))
}

/// Asks one replica as the API server does and gives the time that the answer took.
async fn answered_from_memory(world: &World, caller: &Client, namespace: &str) -> Result<Duration, Error> {
    let started = Instant::now();
    let (status, answer) = world.review(caller, review(namespace, &[IMAGE])).await?;
    let took = started.elapsed();
    let answer: Value = serde_json::from_slice(&answer)?;
    let response = &answer["response"];
    expect(status == 200 && response["patch"].is_string() && response["warnings"].is_null(), answer.to_string())?;
    // It takes less than a millisecond; the rest is for a machine that does something else.
    expect(took < Duration::from_secs(1), format!("an answer from memory took {took:?}"))?;
    Ok(took)
}

/// Changes are seen, and mended, by whoever leads.
async fn watches_work(world: &World) -> Result<(), Error> {
    let namespace = served(world, 1).await?.remove(0);
    delete_pull_secret(world, &namespace).await?;
    let what = "a deleted pull secret";
    soon(what, Instant::now(), || async { Ok(world.pull_secret(&namespace).await?.is_some()) }).await?;
    opt_out(world, &namespace).await?;
    let what = "the pull secret of a namespace that opted out to go";
    soon(what, Instant::now(), || async { Ok(world.pull_secret(&namespace).await?.is_none()) }).await
}

pub async fn delete_pull_secret(world: &World, namespace: &str) -> Result<(), Error> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), namespace);
    secrets.delete(PULL_SECRET, &DeleteParams::default()).await?;
    Ok(())
}

pub async fn opt_out(world: &World, namespace: &str) -> Result<(), Error> {
    label(world, namespace, json!("disabled")).await
}

async fn label(world: &World, namespace: &str, value: Value) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {"acr-pull-injector.io/inject": value}}}));
    Api::<Namespace>::all(world.client.clone()).patch(namespace, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Asks until it is so, and says how long that took; longer than this is a fault that was not noticed.
pub async fn soon<F: Future<Output = Result<bool, Error>>>(
    what: &str,
    since: Instant,
    mut ask: impl FnMut() -> F,
) -> Result<(), Error> {
    const SOON: Duration = Duration::from_secs(45);
    while !ask().await? {
        expect(since.elapsed() < SOON, format!("{what}: not within {SOON:?}"))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    say(format!("{what}: after {:.1} s", since.elapsed().as_secs_f64()));
    Ok(())
}
