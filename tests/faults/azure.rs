//! Azure is away, slow, wrong or throttles, while pods keep coming whose pull secrets hold its tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use fake_azure::{FakeAzure, Fault, TENANT};
use installation::{CHART, RELEASE, helm};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::{
    edge::under_load,
    progress::say,
    replicas::failed_open_calls,
    settings,
    world::{Error, PULL_SECRET, World, eventually, expect, expect_equal, pod, references},
};

/// The clock of Azure is behind, so that the program finds its tokens 40 s old: due after 16 s and over after 32, whereas
/// the registry takes them for 72 s.
const BEHIND: SignedDuration = SignedDuration::from_secs(40);
const TOKEN_LIFE: Duration = Duration::from_secs(72);
/// Most tokens fall due within this time.
const FAULTY_FOR: Duration = Duration::from_secs(24);
/// Longer than the faults last.
const RETRY_AFTER: i64 = 36;
const PASSWORD: &str = "azure-password";

/// An identity and a login server of their own for each fault, of which one suffers.
struct Place {
    registry: String,
    client: String,
    fault: &'static str,
    party: Party,
    login_server: String,
    namespace: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Party {
    Entra,
    Registry,
}

pub async fn azure_costs_no_pod_and_recovery_is_by_itself(world: Arc<World>) -> Result<(), Error> {
    let azure = FakeAzure::start_at(Arc::new(|| Timestamp::now() - BEHIND)).await;
    let mut places = Vec::new();
    for name in faults().into_keys() {
        for (party, prefix) in [(Party::Entra, "entra"), (Party::Registry, "registry")] {
            let registry = format!("{prefix}{name}");
            let client = format!("{registry}-app");
            azure.entra().application(&client).add_secret(PASSWORD);
            azure.registry(&registry).grant(&client).set_token_life(TOKEN_LIFE);
            let (login_server, namespace) = (azure.login_server(&registry), world.namespace(&[]).await?);
            places.push(Place { registry, client, fault: name, party, login_server, namespace });
        }
    }
    install(&world, &azure, &places).await?;
    azure.go_away().await;
    renew_replicas(&world).await?;
    let happened = under_load(&world, suffer(&world, &azure, &places)).await;
    uninstall(&world).await?;
    happened.map(drop)
}

fn faults() -> BTreeMap<&'static str, Fault> {
    let expired = concat!(
        r#"{"refresh_token":"e30.eyJpYXQiOjE3MDAwMDAwMDAsImV4cCI6MTcwMDAxMDgwMH0.c2ln","#,
        r#""access_token":"expired","token_type":"Bearer","expires_in":0}"#
    );
    let elsewhere = r#"{"access_token":"for-another-audience","token_type":"Bearer","expires_in":3599}"#;
    let date =
        (Timestamp::now() + SignedDuration::from_secs(RETRY_AFTER)).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let unavailable = vec![("retry-after", RETRY_AFTER.to_string())];
    BTreeMap::from([
        ("html", Fault::html(200)),
        ("empty", Fault::json(200, "{}")),
        ("truncated", Fault::json(200, r#"{"refresh_token":"e30.eyJpYXQ","access_token":"#)),
        ("expired", Fault::json(200, expired)),
        ("elsewhere", Fault::json(200, elsewhere)),
        ("broken", Fault::json(500, "")),
        ("slow", Fault::Hang),
        ("unavailable", Fault::Answer { status: 503, headers: unavailable, body: String::new() }),
        ("throttled", Fault::throttled(&RETRY_AFTER.to_string())),
        ("throttleduntil", Fault::throttled(&date)),
    ])
}

async fn suffer(world: &Arc<World>, azure: &FakeAzure, places: &[Place]) -> Result<(), Error> {
    // From the start without Azure: pods are admitted with the reference, and told what is missing.
    for warnings in pods(world, places, "cold").await? {
        expect(warnings.iter().any(|text| text.contains("refuses connections")), format!("warnings {warnings:?}"))?;
    }
    azure.come_back().await;
    let first = tokens(world, azure, places, &BTreeMap::new()).await?;
    say("Azure is back, and every pull secret is right");

    let faults = faults();
    for place in places {
        let fault = Some(faults[place.fault].clone());
        match place.party {
            Party::Registry => drop(azure.registry(&place.registry).fail_always(fault)),
            Party::Entra => {
                azure.entra().application(&place.client).fail_always(fault);
                // Has the program sign in anew, since its token of Entra is good for longer.
                azure.registry(&place.registry).fail_next(Fault::json(401, ""));
            }
        }
    }
    let (started, before) = (Instant::now(), counts(azure, places));
    let mut round = 0;
    while started.elapsed() < FAULTY_FOR {
        pods(world, places, &format!("round-{round}")).await?;
        for place in places {
            let token = token(world, place).await?.ok_or_else(|| format!("{} lost its token", place.registry))?;
            let is_good = azure.registry(&place.registry).accepts(USER, &token);
            expect(is_good, format!("{} cannot pull any more", place.registry))?;
        }
        round += 1;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let after = counts(azure, places);
    let asked: BTreeMap<_, _> = after.iter().map(|(name, count)| (name.as_str(), count - before[name])).collect();
    say(format!("{round} rounds of pods; requests in {FAULTY_FOR:?}: {asked:?}"));
    for place in places {
        azure.registry(&place.registry).fail_always(None);
        azure.entra().application(&place.client).fail_always(None);
    }
    for (name, asked) in asked {
        // By two replicas, each of which asks for itself.
        let most = if name.contains("throttled") || name.contains("unavailable") { 2 } else { 16 };
        expect((1..=most).contains(&asked), format!("{name} was asked {asked} times in {FAULTY_FOR:?}"))?;
    }
    tokens(world, azure, places, &first).await?;
    say("every pull secret has a new token");
    Ok(())
}

/// Creates a pod at each place, at once. Each has its reference. Gives the warnings.
///
/// That the webhook answers in time is what [`under_load`] sees: the API server waits for 5 s.
async fn pods(world: &Arc<World>, places: &[Place], name: &str) -> Result<Vec<Vec<String>>, Error> {
    let created = places.iter().map(|place| async move {
        let wanted = pod(name, &[&format!("{}/app:v1", place.login_server)]);
        let created = world.create(&place.namespace, &wanted).await?;
        let what = format!("pod {name} of {}", place.registry);
        expect_equal(&what, references(&created.pod), vec![PULL_SECRET.to_owned()])?;
        Ok::<_, Error>(created.warnings)
    });
    futures_util::future::try_join_all(created).await
}

/// Waits until each pull secret holds a token that the registry takes, other than `before`.
async fn tokens(
    world: &World,
    azure: &FakeAzure,
    places: &[Place],
    before: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Error> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (mut found, mut late) = (BTreeMap::new(), BTreeSet::new());
        for place in places {
            match token(world, place).await? {
                Some(token)
                    if before.get(&place.registry) != Some(&token)
                        && azure.registry(&place.registry).accepts(USER, &token) =>
                {
                    found.insert(place.registry.clone(), token);
                }
                _ => drop(late.insert(&place.registry)),
            }
        }
        if late.is_empty() {
            return Ok(found);
        }
        expect(Instant::now() < deadline, format!("no good token after a minute: {late:?}"))?;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// The user name that goes with a token of a registry.
const USER: &str = "00000000-0000-0000-0000-000000000000";

/// The token in the place's pull secret.
async fn token(world: &World, place: &Place) -> Result<Option<String>, Error> {
    let Some(secret) = world.pull_secret(&place.namespace).await? else { return Ok(None) };
    let entries = crate::world::entries(&secret)?;
    expect_equal("hosts", entries.keys().collect::<Vec<_>>(), vec![&place.login_server])?;
    Ok(entries.into_values().next().map(|(_, token)| token))
}

/// How often each place's faulty party was asked.
fn counts(azure: &FakeAzure, places: &[Place]) -> BTreeMap<String, usize> {
    let sign_ins = azure.entra().seen();
    let count = |place: &Place| match place.party {
        Party::Registry => azure.registry(&place.registry).exchanges(),
        Party::Entra => sign_ins.iter().filter(|seen| seen.field("client_id") == Some(&place.client)).count(),
    };
    places.iter().map(|place| (place.registry.clone(), count(place))).collect()
}

/// Configures a registry rule for each place, beside those that there are.
async fn install(world: &World, azure: &FakeAzure, places: &[Place]) -> Result<(), Error> {
    let secret = serde_json::from_value(
        json!({"metadata": {"name": "azure-faults"}, "stringData": {"clientSecret": PASSWORD}}),
    )?;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
    secrets.create(&PostParams::default(), &secret).await?;
    let authority =
        serde_json::from_value(json!({"metadata": {"name": "azure-ca"}, "data": {"ca.crt": azure.ca_pem()}}))?;
    let authorities: Api<ConfigMap> = Api::namespaced(world.client.clone(), RELEASE);
    authorities.create(&PostParams::default(), &authority).await?;
    let rules = places.iter().map(|place| {
        json!({
            "name": place.registry,
            "hosts": [place.login_server],
            "credential": {"servicePrincipal": {
                "existingSecret": "azure-faults", "clientId": place.client, "tenantId": TENANT, "delivery": "token",
            }},
        })
    });
    // `settings` fills in the first two.
    let rules = [json!({}), json!({})].into_iter().chain(rules).collect::<Value>();
    upgrade(
        world,
        &[
            "--set-json",
            &format!("registries={rules}"),
            "--set",
            &format!("azure.authorityHost={}", azure.authority_host()),
            "--set",
            "azure.extraSuffixes={localhost},azure.caBundle.configMapName=azure-ca",
        ],
    )
}

async fn uninstall(world: &World) -> Result<(), Error> {
    upgrade(world, &[])?;
    renew_replicas(world).await
}

pub fn upgrade(world: &World, values: &[&str]) -> Result<(), Error> {
    let settings = settings();
    let arguments = [&["upgrade", RELEASE, CHART, "-n", RELEASE], &settings[..], values].concat();
    helm(&world.control_plane, &arguments).map(drop)
}

/// Replaces all replicas, as a changed Deployment has it done.
pub async fn renew_replicas(world: &World) -> Result<(), Error> {
    for _ in 0..world.installation.webhooks().len() {
        world.installation.start_replica(&world.control_plane).await?;
        let old = world.installation.take_oldest().ok_or("no replica")?;
        world.installation.forwarder().remove_backend(old.webhook);
        old.pod.terminate();
    }
    world.installation.forwarder().cut_connections();
    settle(world).await
}

/// Waits until the API server calls the webhook as it is configured now: it learns of a change a while later.
pub async fn settle(world: &World) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    eventually("three pods in a row without a failed call", || async {
        let before = failed_open_calls(world).await?;
        for name in ["first", "second", "third"] {
            let parameters = PostParams { dry_run: true, ..PostParams::default() };
            world.create_with(&namespace, &pod(name, &["contoso.azurecr.io/app:v1"]), &parameters).await?;
        }
        let failed = failed_open_calls(world).await? - before;
        Ok((failed == 0.0).then_some(()))
    })
    .await
}
