//! The measure for the webhook: axum over TLS that decodes a review as a plain handler would and gives a constant answer,
//! and does nothing else.
//!
//! It runs as a process of its own: the bench program, called with [`COMMAND`] as its first argument. A crate of its own, so
//! that it is compiled for speed throughout.

use std::{collections::BTreeMap, hint::black_box, net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use clap::Parser;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Why it could not serve.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// As large a body as the webhook takes, in bytes.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// The first argument that makes the bench program this server.
pub const COMMAND: &str = "axum-handler";

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    decode: Decode,
    /// File with the constant answer
    #[arg(long)]
    answer: PathBuf,
}

/// What a review is decoded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Decode {
    /// A struct of the fields that a decision needs
    Typed,
    /// `serde_json::Value`
    Value,
}

/// Serves until it is killed.
pub fn run(arguments: impl Iterator<Item = String>) -> Result<(), Error> {
    let arguments = Arguments::parse_from(arguments);
    // The same runtime as the webhook has.
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> Result<(), Error> {
    let certificate = CertificateDer::from_pem_file(&arguments.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&arguments.key)?;
    let mut tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
    tls.send_tls13_tickets = 0;
    let answer = Bytes::from(std::fs::read(&arguments.answer)?);
    let router = Router::new()
        .route("/mutate", post(mutate))
        .with_state((arguments.decode, answer))
        .layer(DefaultBodyLimit::max(BODY_LIMIT));
    let listener = TcpListener::bind(arguments.address).await?;
    // On a worker thread, as in the webhook: on a shared core, two threads get more time than one.
    Ok(tokio::spawn(accept(listener, Arc::new(tls).into(), router)).await??)
}

/// The loop of axum's own example of TLS (`low-level-rustls`).
async fn accept(listener: TcpListener, tls: TlsAcceptor, router: Router) -> std::io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            // As the webhook does.
            let _ = socket.set_nodelay(true);
            if let Ok(stream) = tls.accept(socket).await {
                // Clients come and go.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}

async fn mutate(State((decode, answer)): State<(Decode, Bytes)>, body: Bytes) -> Response {
    let decoded = match decode {
        Decode::Typed => serde_json::from_slice::<Review>(&body).map(|review| drop(black_box(review))),
        Decode::Value => serde_json::from_slice::<serde_json::Value>(&body).map(|review| drop(black_box(review))),
    };
    match decoded {
        Ok(()) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoding is all that is measured")]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoding is all that is measured")]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    namespace: String,
    operation: String,
    dry_run: bool,
    object: Pod,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoding is all that is measured")]
struct Pod {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    generate_name: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoding is all that is measured")]
#[serde(rename_all = "camelCase")]
struct Spec {
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Vec<Container>,
    #[serde(default)]
    image_pull_secrets: Vec<Reference>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoding is all that is measured")]
struct Container {
    image: String,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "decoding is all that is measured")]
struct Reference {
    name: String,
}
