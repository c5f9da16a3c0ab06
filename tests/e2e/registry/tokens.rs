//! Token delivery up to the pull: Entra, the exchange, the pull secret on the API server, the registry.

use std::{collections::BTreeMap, sync::Arc};

use acr_pull_injector::{
    admission::NamespaceSource,
    clock::Clock,
    config::Configuration,
    credentials::Credentials,
    ensure::{Ensurer, WriteReason},
    lifecycle::Readiness,
    metrics::Metrics,
    namespaces::KubernetesNamespaces,
    secrets::store::KubernetesPullSecrets,
};
use arc_swap::ArcSwap;
use fake_azure::{FakeAzure, SUFFIX, TENANT};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio_util::sync::CancellationToken;

use super::{
    docker_config,
    place::{Authentication, Pull, registries},
};
use crate::world::{Error, World, entries, expect_equal};

const CLIENT: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
const SECRET: &str = "pull-secret-of-tokens";

/// The parts of the program run in this process, since the installed product knows the registry of other cases only. Hosts
/// end in `localhost`, where the fake Azure stands.
pub async fn a_token_of_the_registry_pulls(world: Arc<World>) -> Result<(), Error> {
    let registries = registries(&world).await?;
    let azure = FakeAzure::start().await;
    azure.entra().application(CLIENT).add_secret("secret-of-the-application");
    azure.registry("contoso").grant(CLIENT);
    let host = azure.login_server("contoso");
    let token_host = format!("contoso.login.{SUFFIX}:{}", azure.registry_address().port());
    let authentication = Authentication::Azure { azure: &azure, token_host };
    let _registry = registries.run(&world.control_plane, "registry-tokens", &host, authentication).await?;

    let namespace = world.namespace(&[]).await?;
    let secret = pull_secret(&world, &azure, &namespace).await?;
    let (username, password) = entries(&secret)?.remove(&host).ok_or("the host is missing")?;
    expect_equal("user name", username.as_str(), "00000000-0000-0000-0000-000000000000")?;
    expect_equal("the application's own secret in the pull secret", password.contains("secret-of"), false)?;

    let image = format!("{host}/app:v1");
    let ours = docker_config(secret)?;
    expect_equal("pull with the pull secret", registries.pull(&image, Some(&ours)).await?, Pull::Done)?;
    expect_equal("pull without", registries.pull(&image, None).await?, Pull::Unauthorized)?;
    let other = String::from_utf8(ours)?.replace("contoso.", "fabrikam.");
    expect_equal("pull with another's", registries.pull(&image, Some(other.as_bytes())).await?, Pull::Unauthorized)
}

/// The pull secret that the product makes for `contoso` when a pod comes.
async fn pull_secret(world: &World, azure: &FakeAzure, namespace: &str) -> Result<Secret, Error> {
    let secret_file = tempfile::NamedTempFile::new()?;
    std::fs::write(secret_file.path(), "secret-of-the-application")?;
    let configuration = Configuration::parse(&format!(
        "pullSecretName: {SECRET}\n\
         registries:\n\
         - name: contoso\n  \
           hosts: [\"{host}\"]\n  \
           credential:\n    \
             servicePrincipal: {{tenantId: {TENANT}, clientId: {CLIENT}, clientSecretFile: {secret}, delivery: token}}\n\
         azure: {{authorityHost: \"{authority}\", extraSuffixes: [{SUFFIX}], caFile: {ca}}}\n",
        host = azure.login_server("contoso"),
        secret = secret_file.path().display(),
        authority = azure.authority_host(),
        ca = azure.ca_file().display(),
    ))?;
    let (metrics, shutdown) = (Arc::new(Metrics::new()), CancellationToken::new());
    let _ends_with_this = shutdown.clone().drop_guard();
    let settings = Arc::new(ArcSwap::from_pointee(configuration.settings(None)));
    let credentials = Arc::new(Credentials::read(&configuration, metrics.clone(), Clock::system()).await);
    let store = Arc::new(KubernetesPullSecrets::new(world.client.clone(), settings.clone()));
    let namespaces = Arc::new(KubernetesNamespaces::new(world.client.clone()));
    let readiness = Readiness::new();
    let gates = [readiness.gate("namespaces"), readiness.gate("pull secrets")];
    tokio::spawn(namespaces.clone().follow(world.client.clone(), gates[0].clone(), shutdown.clone()));
    tokio::spawn(store.clone().follow(world.client.clone(), gates[1].clone(), shutdown.clone()));
    for gate in &gates {
        gate.opened().await;
    }
    let wanted = configuration.settings(None).rules.login_servers().parse(&azure.login_server("contoso"))?;
    let ensurer = Ensurer::new(credentials, store, settings, metrics, Clock::system());
    let found = namespaces.read(namespace).await?.ok_or("no such namespace")?;
    let wanted = BTreeMap::from([(wanted, "contoso".parse()?)]);
    ensurer.ensure(&found, &wanted, WriteReason::Admission).await?;
    Ok(Api::namespaced(world.client.clone(), namespace).get(SECRET).await?)
}
