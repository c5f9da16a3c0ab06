//! The API server and the webhook: not reached, or answered by something that does not fit.

use std::sync::Arc;

use axum::{Router, body::Bytes, routing::post};
use axum_server::tls_rustls::RustlsConfig;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Value, json};

use super::{calms_down, fires, quiet};
use crate::{
    installation::RELEASE,
    world::{Error, PASSWORD_HOST, World, eventually},
};

/// No replica is reached, and pods are created all the same.
pub async fn fail_open(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorFailOpen").await?;
    create_a_pod_unseen(&world).await?;
    fires(&world, "AcrPullInjectorFailOpen").await
}

/// Creates a pod while no replica is reached.
pub async fn create_a_pod_unseen(world: &World) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let away = Away::begin(world);
    world.create_pod(&namespace, PASSWORD_HOST).await?;
    drop(away);
    Ok(())
}

/// No replica is reached, and pods are refused.
pub async fn fail_closed(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorFailClosed").await?;
    let namespace = world.namespace(&[]).await?;
    world.upgrade(&["webhook.failurePolicy=Fail"])?;
    // Until the API server has taken over the policy, calls are made rather than lost: no alert of another kind.
    eventually("failurePolicy Fail to be in force", || async {
        let away = Away::begin(&world);
        let refused = world.create_pod(&namespace, PASSWORD_HOST).await.is_err();
        drop(away);
        Ok(refused.then_some(()))
    })
    .await?;
    fires(&world, "AcrPullInjectorFailClosed").await?;
    world.upgrade(&["webhook.failurePolicy=Ignore"])
}

/// Something answers in the webhook's place, with its certificate, by a patch that cannot be applied: our own never is such
/// a one.
pub async fn patch_rejected(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorPatchRejected").await?;
    answer_badly(&world).await?;
    fires(&world, "AcrPullInjectorPatchRejected").await
}

/// Has a pod refused because of such an answer.
pub async fn answer_badly(world: &World) -> Result<(), Error> {
    let namespace = world.namespace(&[]).await?;
    let away = Away::begin(world);
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), RELEASE);
    let secret = secrets.get(&format!("{RELEASE}-serving-certificate")).await?;
    let pem = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
        data.ok_or_else(|| format!("the Secret has no {key}"))
    };
    let tls = RustlsConfig::from_pem(pem("tls.crt")?, pem("tls.key")?).await?;
    let listener = std::net::TcpListener::bind((world.control_plane.new_pod_address(), 8443))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/mutate", post(async |body: Bytes| bad_answer(&body)));
    let server = tokio::spawn(axum_server::from_tcp_rustls(listener, tls)?.serve(router.into_make_service()));
    world.installation.forwarder().add_backend(address);
    let refused = world.create_pod(&namespace, PASSWORD_HOST).await;
    world.installation.forwarder().remove_backend(address);
    server.abort();
    drop(away);
    if refused.is_ok() { Err("the API server took a patch that does not fit".into()) } else { Ok(()) }
}

fn bad_answer(review: &[u8]) -> String {
    let review: Value = serde_json::from_slice(review).unwrap_or_default();
    let patch = json!([{"op": "replace", "path": "/spec/there/is/nothing", "value": 1}]).to_string();
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch",
            "patch": BASE64_STANDARD.encode(patch),
        },
    })
    .to_string()
}

/// No replica runs.
pub async fn down(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorDown").await?;
    let replicas = world.installation.webhooks().len();
    for _ in 0..replicas {
        world.end_oldest();
    }
    fires(&world, "AcrPullInjectorDown").await?;
    for _ in 0..replicas {
        world.installation.start_replica(&world.control_plane).await?;
    }
    world.show_pods().await?;
    calms_down(&world, "AcrPullInjectorDown").await
}

/// While it lives, the Service leads to no replica.
struct Away<'a> {
    world: &'a World,
}

impl<'a> Away<'a> {
    fn begin(world: &'a World) -> Self {
        let forwarder = world.installation.forwarder();
        for backend in forwarder.backends() {
            forwarder.remove_backend(backend);
        }
        forwarder.cut_connections();
        Self { world }
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        let forwarder = self.world.installation.forwarder();
        for backend in self.world.installation.webhooks() {
            forwarder.add_backend(backend);
        }
        // One that was opened to nobody, or to somebody else, is of no use any more.
        forwarder.cut_connections();
    }
}
