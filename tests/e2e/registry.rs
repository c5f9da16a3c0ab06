//! A real client pulls from a real registry with nothing but what the product has written into the pull secret.
//!
//! The registries are those of the distribution project and answer to the names that users spell: the client reaches them
//! through a proxy.

mod place;
mod proxy;
mod tokens;

use std::sync::Arc;

use fake_azure::{FakeAzure, SecretState};
use installation::RELEASE;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use place::{Authentication, Pull, registries};
pub use tokens::a_token_of_the_registry_pulls;

use crate::world::{Error, PULL_SECRET, World, eventually, expect_equal, pod, references};

/// Creates a pod with these images and gives the bytes of the pull secret that it refers to.
async fn pull_secret_of_a_pod(world: &World, images: &[&str]) -> Result<Vec<u8>, Error> {
    let namespace = world.namespace(&[]).await?;
    let created = world.create(&namespace, &pod("app", images)).await?;
    let name = references(&created.pod).pop().ok_or("the pod refers to no pull secret")?;
    let secret = Api::<Secret>::namespaced(world.client.clone(), &namespace).get(&name).await?;
    docker_config(secret)
}

/// What the kubelet hands to the container runtime.
fn docker_config(secret: Secret) -> Result<Vec<u8>, Error> {
    let bytes = secret.data.and_then(|mut data| data.remove(".dockerconfigjson"));
    Ok(bytes.ok_or("no .dockerconfigjson")?.0)
}

pub async fn a_pod_pulls_with_the_password_of_a_service_principal(world: Arc<World>) -> Result<(), Error> {
    let registries = registries(&world).await?;
    let image = "contoso.azurecr.io/app:v1";
    let ours = pull_secret_of_a_pod(&world, &[image]).await?;
    expect_equal("pull with the pull secret", registries.pull(image, Some(&ours)).await?, Pull::Done)?;
    expect_equal("pull without", registries.pull(image, None).await?, Pull::Unauthorized)?;
    let other = pull_secret_of_a_pod(&world, &["fabrikam.azurecr.io/app:v1"]).await?;
    expect_equal("pull with another's", registries.pull(image, Some(&other)).await?, Pull::Unauthorized)
}

pub async fn two_registries_pull_with_one_pull_secret(world: Arc<World>) -> Result<(), Error> {
    let registries = registries(&world).await?;
    let images = ["contoso.azurecr.io/app:v1", "fabrikam.azurecr.io/app:v1"];
    let ours = pull_secret_of_a_pod(&world, &images).await?;
    for image in images {
        expect_equal(image, registries.pull(image, Some(&ours)).await?, Pull::Done)?;
    }
    Ok(())
}

/// Clients look for the host as the image spells it, so that one without the port would not do.
pub async fn a_port_in_the_image_is_found_in_the_pull_secret(world: Arc<World>) -> Result<(), Error> {
    let registries = registries(&world).await?;
    let image = "contoso.azurecr.io:443/app:v1";
    let ours = pull_secret_of_a_pod(&world, &[image]).await?;
    expect_equal(image, registries.pull(image, Some(&ours)).await?, Pull::Done)?;
    let without_port = pull_secret_of_a_pod(&world, &["contoso.azurecr.io/app:v1"]).await?;
    expect_equal("the entry without port", registries.pull(image, Some(&without_port)).await?, Pull::Unauthorized)
}

pub async fn a_digest_in_the_image_pulls(world: Arc<World>) -> Result<(), Error> {
    let registries = registries(&world).await?;
    let image = format!("contoso.azurecr.io/app:v1@{}", registries.digest());
    let ours = pull_secret_of_a_pod(&world, &[&image]).await?;
    expect_equal(&image, registries.pull(&image, Some(&ours)).await?, Pull::Done)
}

/// Both passwords of the service principal are good while the pull secrets are rewritten; then the old one is deleted.
///
/// The registry asks for tokens, as those of Azure do; the endpoint of Azure that gives them out checks the password.
pub async fn a_rotated_password_pulls_until_it_is_revoked(world: Arc<World>) -> Result<(), Error> {
    const IMAGE: &str = "rotating.azurecr.io/app:v1";
    let registries = registries(&world).await?;
    let azure = FakeAzure::start().await;
    let application = azure.entra().application("rotating-app");
    application.add_secret("first-secret");
    azure.registry("rotating").grant("rotating-app");
    let token_host = "rotating.login.azurecr.io".to_owned();
    let authentication = Authentication::Azure { azure: &azure, token_host };
    let _registry =
        registries.run(&world.control_plane, "registry-rotating", "rotating.azurecr.io", authentication).await?;

    store_password(&world, "first-secret").await?;
    let namespace = world.namespace(&[]).await?;
    let created = world.create(&namespace, &pod("app", &[IMAGE])).await?;
    expect_equal("imagePullSecrets", references(&created.pod), vec![PULL_SECRET.to_owned()])?;
    let first = pull_secret_with(&world, &namespace, "first-secret").await?;
    expect_equal("pull with the first", registries.pull(IMAGE, Some(&first)).await?, Pull::Done)?;
    expect_equal("pull without", registries.pull(IMAGE, None).await?, Pull::Unauthorized)?;

    application.add_secret("second-secret");
    store_password(&world, "second-secret").await?;
    let second = pull_secret_with(&world, &namespace, "second-secret").await?;
    expect_equal("pull with the first, both good", registries.pull(IMAGE, Some(&first)).await?, Pull::Done)?;
    expect_equal("pull with the second, both good", registries.pull(IMAGE, Some(&second)).await?, Pull::Done)?;

    application.set_secret("first-secret", SecretState::Revoked);
    expect_equal("pull with the revoked one", registries.pull(IMAGE, Some(&first)).await?, Pull::Unauthorized)?;
    expect_equal("pull with the second alone", registries.pull(IMAGE, Some(&second)).await?, Pull::Done)
}

/// As an operator rotates: the Secret in the release's namespace is changed.
async fn store_password(world: &World, password: &str) -> Result<(), Error> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
    let patch = json!({"stringData": {"clientSecret": password}});
    secrets.patch("rotating", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    world.installation.refresh_volumes().await
}

/// The bytes of the namespace's pull secret once they hold `password`.
async fn pull_secret_with(world: &World, namespace: &str, password: &str) -> Result<Vec<u8>, Error> {
    eventually("the password in the pull secret", || async {
        Ok((world.entries(namespace).await?["rotating.azurecr.io"].1 == password).then_some(()))
    })
    .await?;
    docker_config(world.pull_secret(namespace).await?.ok_or("no pull secret")?)
}
