//! The API server and the webhook: not reached, or answered by something that does not fit.

use std::sync::Arc;

use axum::{Router, body::Bytes, routing::post};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use installation::RELEASE;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{calms_down, fires, quiet};
use crate::world::{Error, PASSWORD_HOST, World, eventually};

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
    let chain = CertificateDer::pem_slice_iter(&pem("tls.crt")?).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&pem("tls.key")?)?;
    let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let listener = TcpListener::bind((world.control_plane.new_pod_address(), 8443)).await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/mutate", post(async |body: Bytes| bad_answer(&body)));
    let server = tokio::spawn(serve(listener, Arc::new(tls).into(), router));
    world.installation.forwarder().add_backend(address);
    let refused = world.create_pod(&namespace, PASSWORD_HOST).await;
    world.installation.forwarder().remove_backend(address);
    server.abort();
    drop(away);
    if refused.is_ok() { Err("the API server took a patch that does not fit".into()) } else { Ok(()) }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, router: Router) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
        connections.spawn(async move {
            if let Ok(stream) = tls.accept(socket).await {
                // The API server comes and goes.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
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
