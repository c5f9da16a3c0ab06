//! The serving certificate comes from files that somebody else writes, and not always well.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use installation::RELEASE;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    azure::{renew_replicas, upgrade},
    edge::under_load,
    progress::say,
    world::{Error, Tls, World, eventually, expect, expect_equal},
};

const SECRET: &str = "own-certificate";
const NOT_USED: &str = "the serving certificate's files cannot be used";

/// A certificate and its key, as PEM.
struct Pair {
    chain: String,
    key: String,
}

pub async fn the_last_good_pair_serves_whatever_is_written(world: Arc<World>) -> Result<(), Error> {
    let authority = authority()?;
    let (first, second) = (pair(&authority)?, pair(&authority)?);
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
    let secret = json!({"metadata": {"name": SECRET}, "stringData": {"tls.crt": first.chain, "tls.key": first.key}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let values = json!({"source": "existingSecret", "existingSecret": {"name": SECRET, "caBundle": authority.pem()}});
    let installed = async {
        upgrade(&world, &["--set-json", &format!("certificates={values}")])?;
        renew_replicas(&world).await
    }
    .await;
    let happened = match installed {
        Ok(()) => under_load(&world, write_badly(&world, &secrets, &first, &second)).await.map(drop),
        failed => failed,
    };
    upgrade(&world, &[])?;
    renew_replicas(&world).await?;
    let replaced = authority.pem();
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    eventually("the program's own CA", || async {
        let webhooks = configurations.get(RELEASE).await?.webhooks.unwrap_or_default();
        let is_own = |bundle: &[u8]| !bundle.is_empty() && bundle != replaced.as_bytes();
        let bundles = webhooks.into_iter().map(|webhook| webhook.client_config.ca_bundle.unwrap_or_default().0);
        Ok(bundles.into_iter().all(|bundle| is_own(&bundle)).then_some(()))
    })
    .await?;
    happened
}

async fn write_badly(world: &Arc<World>, secrets: &Api<Secret>, first: &Pair, second: &Pair) -> Result<(), Error> {
    let (tls, webhooks) = (world.tls().await?, world.installation.webhooks());
    let (shaken, end) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    // Ends with this case, however it ends.
    let mut hands = JoinSet::new();
    hands.spawn(shake_hands(tls.clone(), webhooks.clone(), shaken.clone(), end.clone()));
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let written = [
        ("half of tls.crt", json!({"tls.crt": half(&second.chain), "tls.key": second.key})),
        ("half of tls.key", json!({"tls.crt": second.chain, "tls.key": half(&second.key)})),
        ("a key of another certificate", json!({"tls.crt": second.chain, "tls.key": first.key})),
        ("an empty tls.crt and no tls.key", json!({"tls.crt": "", "tls.key": null})),
    ];
    for (what, data) in written {
        let before = refusals(world);
        write(world, secrets, data).await?;
        eventually(&format!("both replicas to refuse {what}"), || async {
            Ok(refusals(world).iter().zip(&before).all(|(now, before)| now > before).then_some(()))
        })
        .await?;
        for webhook in &webhooks {
            expect_equal(what, served(&tls, *webhook).await?, der(first)?)?;
        }
        say(format!("{what}: the last good pair serves"));
    }
    write(world, secrets, json!({"tls.crt": second.chain, "tls.key": second.key})).await?;
    for webhook in &webhooks {
        eventually("the new pair to serve", || async {
            Ok((served(&tls, *webhook).await? == der(second)?).then_some(()))
        })
        .await?;
    }
    end.cancel();
    while let Some(ended) = hands.join_next().await {
        ended??;
    }
    let shaken = shaken.load(Ordering::Relaxed);
    say(format!("{shaken} handshakes, none failed"));
    expect(shaken > 100, format!("only {shaken} handshakes"))
}

/// How often each replica has said that it cannot use the files.
fn refusals(world: &World) -> Vec<usize> {
    let logs = world.installation.logs_of_each();
    logs.iter().map(|log| log.matches(NOT_USED).count()).collect()
}

/// One after the other. The first that fails is an error.
async fn shake_hands(
    tls: Tls,
    webhooks: Vec<SocketAddr>,
    shaken: Arc<AtomicUsize>,
    end: CancellationToken,
) -> Result<(), Error> {
    while !end.is_cancelled() {
        for webhook in &webhooks {
            let outcome = tls.connect(*webhook).await;
            outcome.map_err(|error| format!("a handshake failed: {error}"))?;
            shaken.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Changes keys of the Secret, and lays it into the replicas' volumes as the kubelet does.
async fn write(world: &World, secrets: &Api<Secret>, keys: serde_json::Value) -> Result<(), Error> {
    let keys: BTreeMap<String, Option<String>> = serde_json::from_value(keys)?;
    let data: BTreeMap<_, _> = keys
        .into_iter()
        .map(|(key, text)| (key, text.map(|text| k8s_openapi::ByteString(text.into_bytes()))))
        .collect();
    secrets.patch(SECRET, &PatchParams::default(), &Patch::Merge(&json!({"data": data}))).await?;
    world.installation.refresh_volumes().await?;
    Ok(())
}

/// The leaf that a replica shows.
async fn served(tls: &Tls, webhook: SocketAddr) -> Result<Vec<u8>, Error> {
    let connection = tls.connect(webhook).await?;
    let chain = connection.get_ref().1.peer_certificates().ok_or("no certificate")?;
    Ok(chain.first().ok_or("an empty chain")?.to_vec())
}

fn der(pair: &Pair) -> Result<Vec<u8>, Error> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    Ok(CertificateDer::from_pem_slice(pair.chain.as_bytes())?.to_vec())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "own authority");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?)
}

fn pair(authority: &CertifiedIssuer<'static, KeyPair>) -> Result<Pair, Error> {
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![format!("{RELEASE}.{RELEASE}.svc")])?.signed_by(&key, authority)?;
    Ok(Pair { chain: leaf.pem(), key: key.serialize_pem() })
}
