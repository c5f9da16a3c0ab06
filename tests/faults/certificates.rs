//! The serving certificate and its authority are replaced while pods keep coming.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use installation::{RELEASE, ca_bundle};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    load::Load,
    progress::say,
    replicas::failed_open_calls,
    world::{Error, Tls, World, certificates, eventually, expect, expect_equal, review},
};

const SECRET: &str = "acr-pull-injector-serving-certificate";
/// In the record of an authority: since when the bundle holds it.
const PUBLISHED_AT: &str = "publishedAt";

/// Every call succeeds: those of the API server over connections that it keeps and makes, and calls over a new connection
/// each, to every replica, that trust what the API server is told to trust.
///
/// The old authority stays in the bundle for a day; that it goes then is tested in the crate `certs`.
pub async fn a_new_certificate_and_a_new_authority_fail_no_call(world: Arc<World>) -> Result<(), Error> {
    let failed_open = failed_open_calls(&world).await?;
    let load = Load::start(&world).await?;
    let callers = Callers::start(&world).await?;
    let first = Stored::read(&world).await?;

    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
    let remove = Patch::Merge(json!({"data": {"tls.crt": null, "tls.key": null}}));
    secrets.patch(SECRET, &PatchParams::default(), &remove).await?;
    let second = eventually("a new certificate", || async {
        Ok(Stored::read(&world).await.ok().filter(|stored| stored.leaf != first.leaf && !stored.leaf.is_empty()))
    })
    .await?;
    expect_equal("authorities", &second.authorities, &first.authorities)?;
    say("the certificate was replaced");
    all_replicas_serve(&world, &second).await?;

    secrets.delete(SECRET, &DeleteParams::default()).await?;
    eventually("a second authority", || async {
        Ok(Stored::read(&world).await.ok().filter(|stored| stored.authorities.len() == 2))
    })
    .await?;
    // A replica notes at its next look, ten seconds later, that the bundle holds it.
    let third = eventually("a second authority that every API server is told of", || async {
        Ok(Stored::read(&world).await.ok().filter(|stored| stored.marks().len() == 2))
    })
    .await?;
    expect_equal("the certificate in use", &third.leaf, &second.leaf)?;
    expect_equal("authorities in the bundle", certificates(&ca_bundle(&world.client).await?)?.len(), 2)?;
    say("a second authority is trusted");

    third.backdate_marks(&world).await?;
    let fourth = eventually("a certificate by the new authority", || async {
        Ok(Stored::read(&world).await.ok().filter(|stored| stored.leaf != third.leaf && !stored.leaf.is_empty()))
    })
    .await?;
    say("a certificate by the new authority is in use");
    all_replicas_serve(&world, &fourth).await?;

    let handshakes = callers.finish().await?;
    let outcome = load.finish().await?;
    say(format!("{handshakes} handshakes, {outcome:?}"));
    expect(handshakes > 100, format!("only {handshakes} handshakes"))?;
    expect_equal("calls that failed open", failed_open_calls(&world).await?, failed_open)
}

/// What the Secret holds.
#[derive(Clone, Debug)]
struct Stored {
    leaf: Vec<u8>,
    authorities: Vec<Value>,
}

impl Stored {
    async fn read(world: &World) -> Result<Self, Error> {
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
        let data = secrets.get(SECRET).await?.data.unwrap_or_default();
        let bytes = |key: &str| data.get(key).map(|bytes| bytes.0.clone()).unwrap_or_default();
        let authorities = serde_json::from_slice(&bytes("authorities.json"))?;
        Ok(Self { leaf: bytes("tls.crt"), authorities })
    }

    /// When each authority was seen in the bundle.
    fn marks(&self) -> Vec<&str> {
        self.authorities.iter().filter_map(|authority| authority[PUBLISHED_AT].as_str()).collect()
    }

    /// As if the bundle had held all of them for more than a day.
    async fn backdate_marks(&self, world: &World) -> Result<(), Error> {
        let mut authorities = self.authorities.clone();
        let long_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(25);
        for authority in &mut authorities {
            authority[PUBLISHED_AT] = json!(long_ago.to_string());
        }
        let data = json!({"authorities.json": ByteString(serde_json::to_vec(&authorities)?)});
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
        secrets.patch(SECRET, &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await?;
        Ok(())
    }
}

/// Waits until new connections to each replica get this certificate, by the newest authority.
async fn all_replicas_serve(world: &World, stored: &Stored) -> Result<(), Error> {
    let leaf = certificates(&stored.leaf)?.swap_remove(0);
    let newest = stored.authorities.last().and_then(|authority| authority["certificate"].as_str());
    let tls = Tls::trusting(certificates(newest.ok_or("no authority")?.as_bytes())?);
    for webhook in world.installation.webhooks() {
        eventually("a replica to serve the new certificate", || async {
            // One that still serves the old certificate is not trusted.
            let Ok(connection) = tls.connect(webhook).await else { return Ok(None) };
            let shown = connection.get_ref().1.peer_certificates().unwrap_or_default();
            Ok(shown.first().is_some_and(|shown| shown.as_ref() == leaf).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Calls every replica over a new connection each time.
struct Callers {
    stop: Arc<AtomicBool>,
    handshakes: Arc<AtomicUsize>,
    work: tokio::task::JoinSet<Result<(), Error>>,
}

impl Callers {
    async fn start(world: &Arc<World>) -> Result<Self, Error> {
        let (stop, handshakes) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let namespace = world.namespace(&[]).await?;
        let mut work = tokio::task::JoinSet::new();
        for webhook in world.installation.webhooks() {
            let (world, stop, handshakes, namespace) =
                (world.clone(), stop.clone(), handshakes.clone(), namespace.clone());
            work.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let direct = world.direct(webhook).await?;
                    let body = review(&namespace, &["contoso.azurecr.io/app:v1"]);
                    let (status, _) =
                        world.review(&direct, body).await.map_err(|error| format!("a call failed: {error:?}"))?;
                    expect_equal("status", status, 200)?;
                    handshakes.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(())
            });
        }
        Ok(Self { stop, handshakes, work })
    }

    async fn finish(mut self) -> Result<usize, Error> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.work.join_next().await {
            ended??;
        }
        Ok(self.handshakes.load(Ordering::SeqCst))
    }
}
