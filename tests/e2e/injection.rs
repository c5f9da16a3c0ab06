//! Pods through the API server, the webhook and back.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, Secret, ServiceAccount},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{Error, PULL_SECRET, World, entries, eventually, expect, expect_equal, pod, references, review};

pub async fn bare_pod(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let created = world.create(&namespace, &pod("bare", &["contoso.azurecr.io/app:v1"])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])?;
    expect_equal("warnings", created.warnings, vec![])?;
    // Read at once: the pull secret must stand before the pod is there.
    let expected = [("contoso.azurecr.io".to_owned(), ("contoso-app".to_owned(), "contoso-password".to_owned()))];
    expect_equal("pull secret", world.entries(&namespace).await?, expected.into())?;
    let secret = world.pull_secret(&namespace).await?.ok_or("gone")?;
    let annotation = secret.metadata.annotations.unwrap_or_default().remove("acr-pull-injector.io/hosts");
    expect_equal("hosts annotation", annotation.as_deref(), Some("contoso.azurecr.io"))
}

pub async fn pods_of_a_deployment(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "contoso.azurecr.io/web:v1"}]},
            },
        },
    }))?;
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &namespace);
    deployments.create(&PostParams::default(), &deployment).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &namespace);
    let pods = eventually("two pods", || async {
        let pods = pods.list(&ListParams::default()).await?.items;
        Ok((pods.len() == 2).then_some(pods))
    })
    .await?;
    for pod in pods {
        expect_equal("imagePullSecrets", references(&pod), vec![PULL_SECRET.to_owned()])?;
    }
    let template = deployments.get("web").await?.spec.and_then(|spec| spec.template.spec).ok_or("no template")?;
    expect(template.image_pull_secrets.is_none(), "the Deployment itself was changed")
}

pub async fn image_of_an_init_container_only(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let mut pod = pod("init", &["nginx"]);
    pod["spec"]["initContainers"] = json!([{"name": "init", "image": "contoso.azurecr.io/init:v1"}]);
    let created = world.create(&namespace, &pod).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])
}

pub async fn image_volume_only(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let mut pod = pod("volume", &["nginx"]);
    pod["spec"]["volumes"] = json!([{"name": "model", "image": {"reference": "contoso.azurecr.io/model:v1"}}]);
    let created = world.create(&namespace, &pod).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])
}

/// The kubelet compares hosts literally, so the pull secret must spell them as the image does.
pub async fn hosts_are_spelled_as_the_images_spell_them(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    for (name, image) in [
        ("mixed", "Contoso.azurecr.io/app:v1"),
        ("port", "contoso.azurecr.io:443/app:v1"),
        ("regional", "contoso.eastus.geo.azurecr.io/app:v1"),
    ] {
        let created = world.create(&namespace, &pod(name, &[image])).await?;
        expect_equal(image, references(&created.pod), vec![PULL_SECRET.to_owned()])?;
    }
    let hosts: Vec<_> = world.entries(&namespace).await?.into_keys().collect();
    let expected = ["Contoso.azurecr.io", "contoso.azurecr.io:443", "contoso.eastus.geo.azurecr.io"];
    expect_equal("hosts", hosts, expected.map(str::to_owned).into())
}

pub async fn two_registries_with_their_own_credentials(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let images = ["contoso.azurecr.io/app:v1", "fabrikam.azurecr.io/app:v1", "other.azurecr.io/app:v1"];
    world.create(&namespace, &pod("two", &images)).await?;
    let entry =
        |host: &str, username: &str, password: &str| (host.to_owned(), (username.to_owned(), password.to_owned()));
    let expected = [
        entry("contoso.azurecr.io", "contoso-app", "contoso-password"),
        entry("fabrikam.azurecr.io", "fabrikam-token", "fabrikam-password"),
    ];
    expect_equal("entries", world.entries(&namespace).await?, expected.into())
}

pub async fn a_host_that_no_registry_covers_is_warned_about(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let created = world.create(&namespace, &pod("other", &["other.azurecr.io/app:v1"])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![])?;
    let warnings = created.warnings.join("\n");
    expect(warnings.contains("no pull secret for other.azurecr.io"), format!("warnings: {warnings:?}"))?;
    expect(world.pull_secret(&namespace).await?.is_none(), "a pull secret was made")
}

pub async fn a_rule_for_other_namespaces_is_named_in_the_warning(world: Arc<World>) -> Result<(), Error> {
    let plain = world.namespace(&[]).await?;
    let created = world.create(&plain, &pod("refused", &["restricted.azurecr.io/app:v1"])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![])?;
    let warnings = created.warnings.join("\n");
    expect(warnings.contains("registry restricted does not serve this namespace"), format!("warnings: {warnings:?}"))?;
    expect(world.pull_secret(&plain).await?.is_none(), "a credential came into a namespace that no rule grants it")?;

    let granted = world.namespace(&[("team", "restricted")]).await?;
    let created = world.create(&granted, &pod("granted", &["restricted.azurecr.io/app:v1"])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])
}

pub async fn look_alike_hosts_get_nothing(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let images = [
        "contoso.azurecr.io.evil.example/app:v1",
        "evil.example/contoso.azurecr.io/app:v1",
        "xazurecr.io/app:v1",
        "contoso.eastus.data.azurecr.io/app:v1",
        "contoso.privatelink.azurecr.io/app:v1",
        "a.contoso.azurecr.io/app:v1",
        "azurecr.io/app:v1",
    ];
    for (number, image) in images.iter().enumerate() {
        let created = world.create(&namespace, &pod(&format!("look-alike-{number}"), &[image])).await?;
        expect_equal(image, references(&created.pod), vec![])?;
    }
    expect(world.pull_secret(&namespace).await?.is_none(), "a pull secret was made")
}

pub async fn an_existing_list_keeps_its_order(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let mut pod = pod("list", &["contoso.azurecr.io/app:v1"]);
    pod["spec"]["imagePullSecrets"] = json!([{"name": "zebra"}, {"name": "ant"}]);
    let created = world.create(&namespace, &pod).await?;
    expect_equal(
        "imagePullSecrets",
        references(&created.pod),
        ["zebra", "ant", PULL_SECRET].map(str::to_owned).into(),
    )?;
    expect_equal("warnings", created.warnings, vec![])
}

pub async fn a_pod_that_names_the_pull_secret_gets_it_made(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let mut pod = pod("named", &["contoso.azurecr.io/app:v1"]);
    pod["spec"]["imagePullSecrets"] = json!([{"name": PULL_SECRET}, {"name": "other"}]);
    let created = world.create(&namespace, &pod).await?;
    expect_equal("imagePullSecrets", references(&created.pod), [PULL_SECRET, "other"].map(str::to_owned).into())?;
    expect(world.pull_secret(&namespace).await?.is_some(), "no pull secret was made")
}

pub async fn the_list_of_the_service_account_stays(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), &namespace);
    let patch = json!({"imagePullSecrets": [{"name": "from-account"}]});
    accounts.patch("default", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let created = eventually("the admission plugin to see the ServiceAccount's list", || async {
        let created = world.create(&namespace, &pod("account", &["contoso.azurecr.io/app:v1"])).await?;
        if references(&created.pod).len() == 2 {
            return Ok(Some(created));
        }
        world.delete_pod(&namespace, "account").await?;
        Ok(None)
    })
    .await?;
    expect_equal("imagePullSecrets", references(&created.pod), ["from-account", PULL_SECRET].map(str::to_owned).into())
}

pub async fn an_opted_out_namespace_is_untouched(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[("acr-pull-injector.io/inject", "disabled")]).await?;
    let created = world.create(&namespace, &pod("out", &["contoso.azurecr.io/app:v1"])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![])?;
    expect(world.pull_secret(&namespace).await?.is_none(), "a pull secret was made")
}

pub async fn an_opted_out_pod_is_untouched(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let mut pod = pod("out", &["contoso.azurecr.io/app:v1"]);
    pod["metadata"]["labels"] = json!({"acr-pull-injector.io/inject": "disabled"});
    let created = world.create(&namespace, &pod).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![])?;
    expect(world.pull_secret(&namespace).await?.is_none(), "a pull secret was made")
}

pub async fn a_dry_run_writes_nothing(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let created = world.create_with(&namespace, &pod("dry", &["contoso.azurecr.io/app:v1"]), &dry_run).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])?;
    // Whatever were to be written behind the answer would be there soon after.
    tokio::time::sleep(Duration::from_secs(1)).await;
    expect(world.pull_secret(&namespace).await?.is_none(), "a pull secret was made")
}

/// The API server rejects a mirror pod that references secrets, so patching one would keep static pods from being shown.
pub async fn a_mirror_pod_is_untouched(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let mut pod = pod("mirror", &["contoso.azurecr.io/app:v1"]);
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    pod["spec"]["nodeName"] = json!("node");
    let created = world.create(&namespace, &pod).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![])
}

pub async fn a_foreign_secret_is_left_as_it_is(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &namespace);
    let foreign = serde_json::from_value(json!({
        "metadata": {"name": PULL_SECRET},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": "{\"auths\":{}}"},
    }))?;
    let before = secrets.create(&PostParams::default(), &foreign).await?;
    let created = world.create(&namespace, &pod("foreign", &["contoso.azurecr.io/app:v1"])).await?;
    let warnings = created.warnings.join("\n");
    expect(warnings.contains("was not made by acr-pull-injector"), format!("warnings: {warnings:?}"))?;
    let after = secrets.get(PULL_SECRET).await?;
    expect_equal("resourceVersion", after.metadata.resource_version, before.metadata.resource_version)
}

pub async fn a_terminating_namespace_is_not_tried_again(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    // Something that keeps the namespace from going away.
    let keeper = serde_json::from_value(json!({"metadata": {"name": "keeper", "finalizers": ["example.com/keep"]}}))?;
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(world.client.clone(), &namespace);
    maps.create(&PostParams::default(), &keeper).await?;
    Api::<Namespace>::all(world.client.clone()).delete(&namespace, &DeleteParams::default()).await?;
    let refused = world.create(&namespace, &pod("late", &["contoso.azurecr.io/app:v1"])).await;
    expect(refused.is_err(), "the API server took a pod in a terminating namespace")?;

    // The endpoint may be called by anybody, so it must know by itself.
    let direct = world.direct(world.installation.webhooks()[0]).await?;
    let (status, answer) = world.review(&direct, review(&namespace, &["contoso.azurecr.io/app:v1"])).await?;
    expect_equal("status", status, 200)?;
    let answer: serde_json::Value = serde_json::from_slice(&answer)?;
    expect_equal("allowed", answer["response"]["allowed"].as_bool(), Some(true))?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let attempts = world
        .installation
        .logs()
        .lines()
        .filter(|line| line.contains(&namespace) && line.contains("could not"))
        .count();
    expect(attempts <= 1, format!("{attempts} attempts"))?;
    maps.patch("keeper", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
    Ok(())
}

pub async fn twenty_new_namespaces_at_once(world: Arc<World>) -> Result<(), Error> {
    let mut names = Vec::new();
    for _ in 0..20 {
        names.push(world.namespace(&[]).await?);
    }
    let mut creations = tokio::task::JoinSet::new();
    for name in &names {
        for number in 0..3 {
            let (world, name) = (world.clone(), name.clone());
            creations.spawn(async move {
                let created = world.create(&name, &pod(&format!("p{number}"), &["contoso.azurecr.io/app:v1"])).await?;
                expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])?;
                expect_equal("warnings", created.warnings, vec![])?;
                let secret = world.pull_secret(&name).await?.ok_or("the pod was there before its pull secret")?;
                expect(entries(&secret)?.contains_key("contoso.azurecr.io"), "the pull secret lacks the host")
            });
        }
    }
    while let Some(created) = creations.join_next().await {
        created??;
    }
    Ok(())
}

/// A namespace and its first pod in the same instant: no cache can know it yet.
pub async fn the_first_pod_right_after_its_namespace(world: Arc<World>) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    for round in 0..10 {
        let name = format!("{namespace}-{round}");
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::<Namespace>::all(world.client.clone()).create(&PostParams::default(), &object).await?;
        let account = serde_json::from_value(json!({"metadata": {"name": "own"}}))?;
        Api::<ServiceAccount>::namespaced(world.client.clone(), &name).create(&PostParams::default(), &account).await?;
        let mut pod = pod("first", &["contoso.azurecr.io/app:v1"]);
        pod["spec"]["serviceAccountName"] = json!("own");
        let created = world.create(&name, &pod).await?;
        expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])?;
        expect(world.pull_secret(&name).await?.is_some(), "the pod was there before its pull secret")?;
    }
    Ok(())
}
