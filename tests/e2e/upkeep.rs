//! Pull secrets stay right without any pod asking: edits, deletions, opt-outs, withdrawn rules, a new configuration.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use installation::RELEASE;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{
    Error, PULL_SECRET, World, entries, eventually, expect, expect_equal, get, pod, references, review,
};

fn secrets(world: &World, namespace: &str) -> Api<Secret> {
    Api::namespaced(world.client.clone(), namespace)
}

/// A namespace with a pull secret for these images.
async fn served(world: &World, labels: &[(&str, &str)], images: &[&str]) -> Result<String, Error> {
    let namespace = world.namespace(labels).await?;
    world.create(&namespace, &pod("app", images)).await?;
    expect(world.pull_secret(&namespace).await?.is_some(), "no pull secret to begin with")?;
    Ok(namespace)
}

pub async fn an_edited_pull_secret_is_mended_in_place(world: Arc<World>) -> Result<(), Error> {
    let namespace = served(&world, &[], &["contoso.azurecr.io/app:v1", "fabrikam.azurecr.io/app:v1"]).await?;
    let before = world.pull_secret(&namespace).await?.ok_or("gone")?;
    let broken =
        json!({"stringData": {".dockerconfigjson": "{\"auths\":{\"contoso.azurecr.io\":{\"auth\":\"eDp5\"}}}"}});
    let annotate = |name: &str, value: Option<&str>| json!({"metadata": {"annotations": {format!("acr-pull-injector.io/{name}"): value}}});
    let edits = [
        broken,
        annotate("hosts", Some("contoso.azurecr.io")),
        annotate("hosts", None),
        // A token that is good for ever, as far as this says.
        annotate("tokens", None),
        annotate("tokens", Some("contoso.azurecr.io=2050-01-01T00:00:00Z/2099-01-01T00:00:00Z")),
        annotate("source-hash", None),
    ];
    for edit in edits {
        let edited =
            secrets(&world, &namespace).patch(PULL_SECRET, &PatchParams::default(), &Patch::Merge(&edit)).await?;
        let mended = eventually("the edit to be undone", || async {
            let secret = world.pull_secret(&namespace).await?.ok_or("gone")?;
            let moved = secret.metadata.resource_version != edited.metadata.resource_version;
            let is_told = secret.metadata.annotations == before.metadata.annotations;
            Ok((moved && is_told && secret.data == before.data).then_some(secret))
        })
        .await?;
        expect_equal("uid", mended.metadata.uid, before.metadata.uid.clone())?;
    }
    Ok(())
}

pub async fn a_deleted_pull_secret_comes_back(world: Arc<World>) -> Result<(), Error> {
    let namespace = served(&world, &[], &["contoso.azurecr.io/app:v1", "fabrikam.azurecr.io/app:v1"]).await?;
    let before = world.entries(&namespace).await?;
    secrets(&world, &namespace).delete(PULL_SECRET, &DeleteParams::default()).await?;
    let after = eventually("the pull secret to come back", || async { world.pull_secret(&namespace).await }).await?;
    expect_equal("entries", entries(&after)?, before)
}

/// Whoever takes our label off takes the Secret over.
pub async fn a_pull_secret_that_was_taken_over_is_left_alone(world: Arc<World>) -> Result<(), Error> {
    let namespace = served(&world, &[], &["contoso.azurecr.io/app:v1"]).await?;
    let take_over = json!({
        "metadata": {"labels": {"app.kubernetes.io/managed-by": null}},
        "stringData": {".dockerconfigjson": "{\"auths\":{}}"},
    });
    let theirs =
        secrets(&world, &namespace).patch(PULL_SECRET, &PatchParams::default(), &Patch::Merge(&take_over)).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = world.pull_secret(&namespace).await?.ok_or("gone")?;
    expect_equal("resourceVersion", after.metadata.resource_version, theirs.metadata.resource_version)
}

pub async fn opting_out_removes_the_pull_secret_and_opting_in_brings_it_back(world: Arc<World>) -> Result<(), Error> {
    let namespace = served(&world, &[], &["contoso.azurecr.io/app:v1"]).await?;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let label = |value: serde_json::Value| json!({"metadata": {"labels": {"acr-pull-injector.io/inject": value}}});
    let disabled = Patch::Merge(label(json!("disabled")));
    namespaces.patch(&namespace, &PatchParams::default(), &disabled).await?;
    eventually("the pull secret to go", || async { Ok(world.pull_secret(&namespace).await?.is_none().then_some(())) })
        .await?;
    let created = world.create(&namespace, &pod("out", &["contoso.azurecr.io/app:v1"])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![])?;
    namespaces.patch(&namespace, &PatchParams::default(), &Patch::Merge(label(json!(null)))).await?;
    eventually("a pod to be served again", || async {
        let created = world.create(&namespace, &pod("in", &["contoso.azurecr.io/app:v1"])).await?;
        if references(&created.pod).is_empty() {
            world.delete_pod(&namespace, "in").await?;
            return Ok(None);
        }
        Ok(Some(()))
    })
    .await?;
    expect(world.pull_secret(&namespace).await?.is_some(), "no pull secret after opting in again")
}

pub async fn a_withdrawn_rule_takes_its_credential_back(world: Arc<World>) -> Result<(), Error> {
    let images = ["contoso.azurecr.io/app:v1", "restricted.azurecr.io/app:v1"];
    let namespace = served(&world, &[("team", "restricted")], &images).await?;
    let uid = world.pull_secret(&namespace).await?.ok_or("gone")?.metadata.uid;
    let patch = json!({"metadata": {"labels": {"team": "other"}}});
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    namespaces.patch(&namespace, &PatchParams::default(), &Patch::Merge(patch)).await?;
    eventually("the credential to go", || async {
        let hosts: Vec<_> = world.entries(&namespace).await?.into_keys().collect();
        Ok((hosts == ["contoso.azurecr.io"]).then_some(()))
    })
    .await?;
    expect_equal("uid", world.pull_secret(&namespace).await?.ok_or("gone")?.metadata.uid, uid)
}

/// Alone: changes the credential that other cases look at.
pub async fn an_immutable_pull_secret_is_made_anew(world: Arc<World>) -> Result<(), Error> {
    let namespace = served(&world, &[], &["rotating.azurecr.io/app:v1"]).await?;
    let immutable = Patch::Merge(json!({"immutable": true}));
    let before = secrets(&world, &namespace).patch(PULL_SECRET, &PatchParams::default(), &immutable).await?;
    change_password(&world, "password-after-immutable").await?;
    let after = eventually("the new password", || async {
        let Some(secret) = world.pull_secret(&namespace).await? else { return Ok(None) };
        Ok((entries(&secret)?["rotating.azurecr.io"].1 == "password-after-immutable").then_some(secret))
    })
    .await?;
    expect(after.metadata.uid != before.metadata.uid, "an immutable Secret was changed in place?")
}

async fn change_password(world: &World, password: &str) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"stringData": {"clientSecret": password}}));
    Api::<Secret>::namespaced(world.client.clone(), RELEASE).patch("rotating", &PatchParams::default(), &patch).await?;
    world.installation.refresh_volumes().await
}

/// Good, bad, good: the bad one changes nothing and shows in the metrics.
pub async fn a_changed_configuration_takes_effect_and_a_bad_one_does_not(world: Arc<World>) -> Result<(), Error> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), RELEASE);
    let original =
        maps.get(RELEASE).await?.data.and_then(|mut data| data.remove("config.yaml")).ok_or("no config.yaml")?;
    let line = original.lines().find(|line| line.contains("- fabrikam.azurecr.io")).ok_or("no such line")?;
    let with_host = original.replace(line, &format!("{line}\n{}", line.replace("fabrikam", "newhost")));
    let namespace = world.namespace(&[]).await?;
    let served = |name: &'static str, image: &'static str| {
        let (world, namespace) = (world.clone(), namespace.clone());
        async move {
            let created = world.create(&namespace, &pod(name, &[image])).await?;
            world.delete_pod(&namespace, name).await?;
            Ok::<_, Error>(!references(&created.pod).is_empty())
        }
    };
    expect(!served("before", "newhost.azurecr.io/app").await?, "the host is served before it is configured")?;
    let put = |text: String| {
        let maps = maps.clone();
        async move {
            let patch = Patch::Merge(json!({"data": {"config.yaml": text}}));
            maps.patch(RELEASE, &PatchParams::default(), &patch).await?;
            Ok::<_, Error>(())
        }
    };
    put(with_host.clone()).await?;
    world.installation.refresh_volumes().await?;
    eventually("every replica to serve the new host", || async {
        for _ in 0..4 {
            if !served("after", "newhost.azurecr.io/app").await? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;

    put(format!("{with_host}\nunknownField: true\n")).await?;
    world.installation.refresh_volumes().await?;
    for admin in world.installation.admins() {
        eventually("the refusal to be counted", || async {
            let metrics = get(&admin.to_string(), "/metrics").await?;
            Ok(metrics.contains("acr_pull_injector_configuration_reloads_total{outcome=\"refused\"} 1").then_some(()))
        })
        .await?;
    }
    expect(world.installation.logs().contains("unknownField"), "the log does not name the field")?;
    expect(served("still", "newhost.azurecr.io/app").await?, "a bad configuration undid the good one")?;
    expect(served("old", "contoso.azurecr.io/app").await?, "a bad configuration stopped everything")?;

    put(original).await?;
    world.installation.refresh_volumes().await?;
    eventually("the host to be gone again", || async {
        for _ in 0..4 {
            if served("gone", "newhost.azurecr.io/app").await? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// 500 pull secrets are being rewritten when the replica that does it dies.
pub async fn a_rewrite_survives_the_death_of_its_leader(world: Arc<World>) -> Result<(), Error> {
    const COUNT: usize = 300;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let mut creations = tokio::task::JoinSet::new();
    for number in 0..COUNT {
        let namespaces = namespaces.clone();
        creations.spawn(async move {
            let name = format!("rewrite-{number}");
            let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
            namespaces.create(&PostParams::default(), &namespace).await?;
            Ok::<_, Error>(())
        });
    }
    while let Some(created) = creations.join_next().await {
        created??;
    }
    let direct = world.direct(world.installation.webhooks()[0]).await?;
    let (asking, asked) = (&world, &direct);
    let reviews = stream::iter(0..COUNT).map(|number| async move {
        let body = review(&format!("rewrite-{number}"), &["rotating.azurecr.io/app"]);
        let (status, answer) = asking.review(asked, body).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        expect(status == 200 && !answer.contains("warnings"), format!("{status} {answer}"))
    });
    reviews.buffer_unordered(4).try_collect::<()>().await?;
    let password = "password-after-the-leader";
    change_password(&world, password).await?;
    eventually("the rewrite to be under way", || async {
        let done = rewritten(&world, password).await?;
        Ok((done.len() > 50).then_some(()))
    })
    .await?;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), RELEASE);
    let holder = leases.get(RELEASE).await?.spec.and_then(|spec| spec.holder_identity).ok_or("nobody leads")?;
    let killed = world.installation.take(&holder).ok_or_else(|| format!("{holder} is no replica"))?;
    killed.pod.kill();
    world.installation.forwarder().remove_backend(killed.webhook);
    let done = rewritten(&world, password).await?.len();
    expect(done < COUNT, format!("the leader was too quick for this case: all {done} were rewritten"))?;
    world.installation.start_replica(&world.control_plane).await?;
    let versions = eventually("the other replica to finish", || async {
        let done = rewritten(&world, password).await?;
        Ok((done.len() == COUNT).then_some(done))
    })
    .await?;
    // Nothing goes on once all is done.
    tokio::time::sleep(Duration::from_secs(3)).await;
    expect_equal("resource versions", rewritten(&world, password).await?, versions)
}

/// Namespaces of the case whose pull secret holds the password, with the version of the pull secret.
async fn rewritten(world: &World, password: &str) -> Result<BTreeMap<String, Option<String>>, Error> {
    let fields = ListParams::default().fields(&format!("metadata.name={PULL_SECRET}"));
    let all = Api::<Secret>::all(world.client.clone()).list(&fields).await?;
    let mut found = BTreeMap::new();
    for secret in all.items {
        let namespace = secret.metadata.namespace.clone().unwrap_or_default();
        if namespace.starts_with("rewrite-") && entries(&secret)?["rotating.azurecr.io"].1 == password {
            found.insert(namespace, secret.metadata.resource_version.clone());
        }
    }
    Ok(found)
}
