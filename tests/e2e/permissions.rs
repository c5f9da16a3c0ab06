//! What the chart's ServiceAccount cannot do, tried with its own token.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use installation::RELEASE;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::world::{Error, PULL_SECRET, World, eventually, expect};

async fn as_the_webhook(world: &World) -> Result<Client, Error> {
    let kubeconfig = world.control_plane.service_account_kubeconfig(RELEASE, RELEASE).await?;
    let config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn refused<T>(what: &str, result: kube::Result<T>) -> Result<(), Error> {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => Ok(()),
        Err(error) => Err(format!("{what}: refused for another reason: {error}").into()),
        Ok(_) => Err(format!("{what}: was allowed").into()),
    }
}

fn secret(name: &str, kind: &str, data: &Value, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "acr-pull-injector"},
            "annotations": annotations,
        },
        "type": kind,
        "data": data,
    })
}

fn docker_config() -> Value {
    json!({".dockerconfigjson": BASE64_STANDARD.encode(r#"{"auths":{}}"#)})
}

pub async fn no_other_secret_can_be_read(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let other = serde_json::from_value(json!({"metadata": {"name": "other"}, "stringData": {"key": "value"}}))?;
    Api::<Secret>::namespaced(world.client.clone(), &namespace).create(&PostParams::default(), &other).await?;
    let webhook = as_the_webhook(&world).await?;
    let all: Api<Secret> = Api::all(webhook.clone());
    let here: Api<Secret> = Api::namespaced(webhook.clone(), &namespace);
    refused("list of all Secrets", all.list(&ListParams::default()).await)?;
    refused("list of the namespace's Secrets", here.list(&ListParams::default()).await)?;
    let other_name = ListParams::default().fields("metadata.name=other");
    refused("list of another name", all.list(&other_name).await)?;
    refused("get of another Secret", here.get("other").await)?;
    refused("watch of all Secrets", all.watch(&WatchParams::default(), "0").await.map(drop))?;
    refused("delete of another Secret", here.delete("other", &DeleteParams::default()).await)?;
    let own = ListParams::default().fields(&format!("metadata.name={PULL_SECRET}"));
    all.list(&own).await?;
    refused("get of the credential in the own namespace", {
        Api::<Secret>::namespaced(webhook.clone(), RELEASE).get("acr-pull-injector-credential").await
    })?;
    let pods: Api<Pod> = Api::namespaced(webhook.clone(), &namespace);
    refused("deletion of a pod", pods.delete("any", &DeleteParams::default()).await)?;
    refused("list of ConfigMaps", Api::<ConfigMap>::all(webhook).list(&ListParams::default()).await)
}

pub async fn nothing_but_a_pull_secret_can_be_written(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let webhook: Api<Secret> = Api::namespaced(as_the_webhook(&world).await?, &namespace);
    let apply = PatchParams::apply("attempt").force();
    let none = json!({});
    let token = json!({"kubernetes.io/service-account.name": "default"});
    let attempts = [
        ("another name", secret("other", "kubernetes.io/dockerconfigjson", &docker_config(), &none)),
        ("another type", secret(PULL_SECRET, "Opaque", &docker_config(), &none)),
        ("a ServiceAccount token", secret(PULL_SECRET, "kubernetes.io/service-account-token", &none, &token)),
        ("another key", {
            let mut data = docker_config();
            data["extra"] = json!("eA==");
            secret(PULL_SECRET, "kubernetes.io/dockerconfigjson", &data, &none)
        }),
        ("an owner", {
            let mut owned = secret(PULL_SECRET, "kubernetes.io/dockerconfigjson", &docker_config(), &none);
            owned["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}]);
            owned
        }),
    ];
    for (what, attempt) in &attempts {
        let name = attempt["metadata"]["name"].as_str().unwrap_or_default();
        refused(what, webhook.patch(name, &apply, &Patch::Apply(attempt)).await)?;
    }
    let good = secret(PULL_SECRET, "kubernetes.io/dockerconfigjson", &docker_config(), &none);
    let typed = serde_json::from_value(good.clone())?;
    refused("create by POST", webhook.create(&PostParams::default(), &typed).await)?;
    webhook.patch(PULL_SECRET, &apply, &Patch::Apply(&good)).await?;
    webhook.delete(PULL_SECRET, &DeleteParams::default()).await?;
    Ok(())
}

pub async fn a_foreign_secret_can_be_neither_written_nor_deleted(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &namespace);
    let mut foreign = secret(PULL_SECRET, "kubernetes.io/dockerconfigjson", &docker_config(), &json!({}));
    foreign["metadata"]["labels"] = json!({});
    secrets.create(&PostParams::default(), &serde_json::from_value(foreign)?).await?;
    let webhook: Api<Secret> = Api::namespaced(as_the_webhook(&world).await?, &namespace);
    let ours = secret(PULL_SECRET, "kubernetes.io/dockerconfigjson", &docker_config(), &json!({}));
    let apply = PatchParams::apply("attempt").force();
    refused("overwrite", webhook.patch(PULL_SECRET, &apply, &Patch::Apply(&ours)).await)?;
    refused("delete", webhook.delete(PULL_SECRET, &DeleteParams::default()).await)?;
    expect(secrets.get_opt(PULL_SECRET).await?.is_some(), "it is gone")
}

/// A policy becomes active a second or three after it was created.
pub async fn wait_for_the_guard(world: &World) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let webhook: Api<Secret> = Api::namespaced(as_the_webhook(world).await?, &namespace);
    let opaque = secret(PULL_SECRET, "Opaque", &docker_config(), &json!({}));
    eventually("the guard policy to become active", || async {
        let dry_run = PatchParams::apply("attempt").force().dry_run();
        Ok(webhook.patch(PULL_SECRET, &dry_run, &Patch::Apply(&opaque)).await.is_err().then_some(()))
    })
    .await
}

/// At level trace, every dependency included, after the replicas have read, written and served for a while. The cases that
/// restart replicas leave young ones, so this one gives them work of every kind first.
pub async fn no_password_is_in_the_logs(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    for webhook in world.installation.webhooks() {
        let direct = world.direct(webhook).await?;
        for image in ["contoso.azurecr.io/app", "fabrikam.azurecr.io/app", "Contoso.azurecr.io/app"] {
            world.review(&direct, crate::world::review(&namespace, &[image])).await?;
        }
    }
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &namespace);
    let broken = json!({"stringData": {".dockerconfigjson": "{\"auths\":{}}"}});
    secrets.patch(PULL_SECRET, &PatchParams::default(), &Patch::Merge(&broken)).await?;
    eventually("the edit to be undone", || async { Ok((!world.entries(&namespace).await?.is_empty()).then_some(())) })
        .await?;
    let data = world.pull_secret(&namespace).await?.and_then(|secret| secret.data).ok_or("gone")?;
    let stored = BASE64_STANDARD.encode(&data[".dockerconfigjson"].0);
    let logs = world.installation.logs();
    expect(logs.contains("\"level\":\"TRACE\""), "the logs are not at level trace")?;
    let auth = BASE64_STANDARD.encode("contoso-app:contoso-password");
    for secret in ["contoso-password", "fabrikam-password", &auth, &stored[..40]] {
        expect(!logs.contains(secret), format!("a secret is in the logs, such as {secret:.12}..."))?;
    }
    Ok(())
}
