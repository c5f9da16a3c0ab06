//! Every query of the dashboard gives something, once everything that it shows has happened.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{
    INTERVAL,
    alerts::background::{
        BAD_CONFIGURATION, OPT_OUT, change_configuration, configuration, fail_to_pull, opt_in, refuse_writes,
    },
    alerts::credentials::state_the_end,
    alerts::webhook::{answer_badly, create_a_pod_unseen},
    dashboard::{self, Target},
    world::{Error, PASSWORD_HOST, World, eventually},
};

/// How far back is looked: longer than this program runs.
const PAST: Duration = Duration::from_secs(30 * 60);

pub async fn every_query_gives_something(world: Arc<World>) -> Result<(), Error> {
    happen(&world).await?;
    let panels = dashboard::panels(&dashboard::definition()?, &world.prometheus, INTERVAL, INTERVAL).await?;
    let mut silent = Vec::new();
    // What happened last has perhaps not been scraped yet.
    for _ in 0..10 {
        silent.clear();
        for panel in &panels {
            for target in &panel.targets {
                if let Err(error) = shows_something(&world, target).await {
                    silent.push(format!("{}: {}: {error}", panel.definition["title"], target.expression));
                }
            }
        }
        if silent.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Err(silent.join("\n").into())
}

/// A number above zero at some time, and labels for all that the legend names.
async fn shows_something(world: &World, target: &Target) -> Result<(), Error> {
    let found = world.prometheus.query_range(&target.expression, PAST, INTERVAL).await?;
    for series in &found {
        target.name(series)?;
    }
    let mut values = found.iter().flat_map(|series| series.values.iter().map(|(_, value)| *value));
    if values.any(|value| value.is_finite() && value > 0.0) {
        return Ok(());
    }
    Err(if found.is_empty() { "no series" } else { "never above zero" }.into())
}

/// Everything that the dashboard has a panel for.
async fn happen(world: &World) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    for host in [PASSWORD_HOST.to_owned(), world.azure.login_server("tokens")] {
        world.create_pod(&namespace, &host).await?;
    }
    world.change_secret_of_application("secret-of-the-panels", true).await?;
    state_the_end(world, 365).await?;
    take_the_credential_away(world).await?;
    create_a_pod_unseen(world).await?;
    answer_badly(world).await?;
    let before = configuration(world).await?;
    for text in [BAD_CONFIGURATION, &before] {
        change_configuration(world, text).await?;
        let refused = i32::from(text != before);
        let expression = format!("max(acr_pull_injector_configuration_refused) == {refused}");
        eventually("the configuration to be read", || async {
            Ok((!world.prometheus.query(&expression).await?.is_empty()).then_some(()))
        })
        .await?;
    }
    let full = refuse_writes(world).await?;
    have_a_pod_evicted(world).await?;
    Api::<Namespace>::all(world.client.clone()).delete(&full, &DeleteParams::default()).await?;
    Ok(())
}

async fn take_the_credential_away(world: &World) -> Result<(), Error> {
    for (keys, readable) in
        [(json!({"data": {"clientSecret": null}}), 0), (json!({"stringData": {"clientSecret": "password-0"}}), 1)]
    {
        world.change_secret("contoso", keys).await?;
        let expression = format!("min(acr_pull_injector_registry_credential_readable) == {readable}");
        eventually("the credential to be read", || async {
            Ok((!world.prometheus.query(&expression).await?.is_empty()).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// A pod of a Deployment that was created unseen and cannot pull comes again.
async fn have_a_pod_evicted(world: &World) -> Result<(), Error> {
    let namespace = world.namespace(&[OPT_OUT]).await?;
    let deployment = json!({
        "metadata": {"name": "early"},
        "spec": {
            "selector": {"matchLabels": {"app": "early"}},
            "template": {
                "metadata": {"labels": {"app": "early"}},
                "spec": {"containers": [{"name": "app", "image": format!("{PASSWORD_HOST}/app:v1")}]},
            },
        },
    });
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &namespace);
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &namespace);
    let early = eventually("the pod of the Deployment", || async {
        Ok(pods.list(&ListParams::default()).await?.items.into_iter().next())
    })
    .await?;
    fail_to_pull(world, &namespace, &early.name_any()).await?;
    opt_in(world, &namespace).await?;
    eventually("the pod to be evicted", || async { Ok(pods.get_opt(&early.name_any()).await?.is_none().then_some(())) })
        .await
}
