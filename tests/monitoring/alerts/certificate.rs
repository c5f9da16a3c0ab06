//! The serving certificate.

use std::sync::Arc;

use installation::RELEASE;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use super::{calms_down, fires, quiet};
use crate::world::{Error, PASSWORD_HOST, World};

const SECRET: &str = "own-certificate";

/// A certificate of one's own is stored that ends within three days.
pub async fn serving_certificate_expires(world: Arc<World>) -> Result<(), Error> {
    use_own_certificate(&world, "AcrPullInjectorServingCertificateExpires", 3, 900).await
}

/// A certificate of one's own is stored whose CA ends within 20 days.
pub async fn authority_expires(world: Arc<World>) -> Result<(), Error> {
    use_own_certificate(&world, "AcrPullInjectorServingCertificateAuthorityExpires", 10, 20).await
}

async fn use_own_certificate(world: &World, alert: &str, days: i64, days_of_authority: i64) -> Result<(), Error> {
    quiet(world, alert).await?;
    let ca_pem = store_certificate(world, days, days_of_authority).await?;
    let bundle = format!("certificates.existingSecret.caBundle={ca_pem}");
    let name = format!("certificates.existingSecret.name={SECRET}");
    world.upgrade(&["certificates.source=existingSecret", &name, &bundle])?;
    replace_replicas(world).await?;
    fires(world, alert).await?;
    // It is in use, so that this is about what the API server sees.
    let namespace = world.namespace(&[]).await?;
    world.create_pod(&namespace, PASSWORD_HOST).await?;
    let none = ["certificates.existingSecret.name=", "certificates.existingSecret.caBundle="];
    world.upgrade(&[&["certificates.source=selfManaged"][..], &none].concat())?;
    replace_replicas(world).await?;
    calms_down(world, alert).await
}

async fn replace_replicas(world: &World) -> Result<(), Error> {
    for _ in world.installation.webhooks() {
        world.installation.start_replica(&world.control_plane).await?;
        world.end_oldest();
    }
    world.show_pods().await
}

async fn store_certificate(world: &World, days: i64, days_of_authority: i64) -> Result<String, Error> {
    let now = time::OffsetDateTime::now_utc();
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.not_after = now + time::Duration::days(days_of_authority);
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
    let mut parameters = CertificateParams::new(vec![format!("{RELEASE}.{RELEASE}.svc")])?;
    parameters.not_after = now + time::Duration::days(days);
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, &authority)?;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate.pem() + &authority.pem(), "tls.key": key.serialize_pem()},
    });
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
    let parameters = PatchParams::apply("operator").force();
    secrets.patch(SECRET, &parameters, &Patch::Apply(secret)).await?;
    Ok(authority.pem())
}
