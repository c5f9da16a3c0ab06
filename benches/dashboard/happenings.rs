//! What happens during the run: pods all the time, and now and then something that an operator would want to see.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::json;

use crate::{
    alerts::background::{BAD_CONFIGURATION, change_configuration, configuration, fail_to_pull, refuse_writes},
    alerts::credentials::state_the_end,
    drawing::Mark,
    world::{Error, PASSWORD_HOST, World, eventually},
};

/// When what happens; each second is scaled with the length of the run.
const STORY: [(f64, &str); 7] = [
    (60.0, "both replicas are replaced"),
    (120.0, "a new password is stored, with its end"),
    (170.0, "Azure is away for 40 s, and a new secret of the application is stored"),
    (230.0, "the webhook is not reached for 5 s"),
    (270.0, "a bad configuration, mended after 30 s"),
    (320.0, "the stored password is missing for 20 s"),
    (345.0, "a quota leaves no room for a pull secret"),
];
/// The length that the story is written for.
const LENGTH: f64 = 390.0;

/// Runs the whole story and gives the moments.
pub async fn run(world: &Arc<World>, seconds: f64) -> Result<Vec<Mark>, Error> {
    let started = Instant::now();
    state_the_end(world, 25).await?;
    let load = tokio::spawn(create_pods(Arc::clone(world), started, seconds));
    let mut marks = Vec::new();
    for (number, (at, text)) in STORY.into_iter().enumerate() {
        let at = Duration::from_secs_f64(at * seconds / LENGTH);
        tokio::time::sleep_until((started + at).into()).await;
        marks.push(Mark { at: started.elapsed().as_secs_f64(), text });
        match number {
            0 => replace_replicas(world).await?,
            1 => {
                state_the_end(world, 365).await?;
                world.change_secret("contoso", json!({"stringData": {"clientSecret": "password-1"}})).await?;
            }
            2 => azure_goes_away(world).await?,
            3 => webhook_goes_away(world).await?,
            4 => configure_badly(world).await?,
            5 => lose_the_password(world).await?,
            _ => drop(refuse_writes(world).await?),
        }
    }
    load.await??;
    Ok(marks)
}

/// Five pods a second in ever more namespaces, one in three with tokens. Each is deleted at once.
async fn create_pods(world: Arc<World>, started: Instant, seconds: f64) -> Result<(), Error> {
    let token_host = world.azure.login_server("tokens");
    let mut namespaces = Vec::new();
    let mut number = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    while started.elapsed().as_secs_f64() < seconds {
        ticks.tick().await;
        if number % 20 == 0 {
            namespaces.push(world.namespace(&[]).await?);
        }
        let host = if number % 3 == 0 { token_host.as_str() } else { PASSWORD_HOST };
        let namespace = namespaces[number % namespaces.len()].clone();
        let pod = world.create_pod(&namespace, host).await?;
        world.delete_pod(&namespace, &pod).await?;
        number += 1;
    }
    Ok(())
}

async fn replace_replicas(world: &World) -> Result<(), Error> {
    for _ in world.installation.webhooks() {
        world.installation.start_replica(&world.control_plane).await?;
        if let Some(mut old) = world.installation.take_oldest() {
            // As the kubelet does it, while the Service still leads to it for a moment.
            old.pod.terminate();
            tokio::time::sleep(Duration::from_millis(500)).await;
            world.installation.forwarder().remove_backend(old.webhook);
            old.pod.exited().await;
        }
        world.show_pods().await?;
    }
    Ok(())
}

async fn azure_goes_away(world: &World) -> Result<(), Error> {
    world.azure.go_away().await;
    world.change_secret_of_application("secret-1", true).await?;
    tokio::time::sleep(Duration::from_secs(40)).await;
    world.azure.come_back().await;
    Ok(())
}

/// The pods of a Deployment that is created meanwhile cannot pull.
async fn webhook_goes_away(world: &World) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let forwarder = world.installation.forwarder();
    let backends = forwarder.backends();
    for backend in &backends {
        forwarder.remove_backend(*backend);
    }
    forwarder.cut_connections();
    let until = Instant::now() + Duration::from_secs(5);
    let deployment = json!({
        "metadata": {"name": "unseen"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "unseen"}},
            "template": {
                "metadata": {"labels": {"app": "unseen"}},
                "spec": {"containers": [{"name": "app", "image": format!("{PASSWORD_HOST}/app:v1")}]},
            },
        },
    });
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &namespace);
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &namespace);
    let unseen = eventually("the pods of the Deployment", || async {
        let pods = pods.list(&ListParams::default()).await?.items;
        Ok((pods.len() == 2).then_some(pods))
    })
    .await?;
    tokio::time::sleep_until(until.into()).await;
    for backend in backends {
        forwarder.add_backend(backend);
    }
    forwarder.cut_connections();
    for pod in unseen {
        fail_to_pull(world, &namespace, &pod.name_any()).await?;
    }
    Ok(())
}

async fn configure_badly(world: &World) -> Result<(), Error> {
    let before = configuration(world).await?;
    change_configuration(world, BAD_CONFIGURATION).await?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    change_configuration(world, &before).await
}

async fn lose_the_password(world: &World) -> Result<(), Error> {
    world.change_secret("contoso", json!({"data": {"clientSecret": null}})).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.change_secret("contoso", json!({"stringData": {"clientSecret": "password-1"}})).await
}
