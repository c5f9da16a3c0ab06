//! The measure for the webhook: axum over TLS that decodes a review and gives a constant answer, and does nothing else.
//!
//! It runs as a process of its own: this bench program, called with [`COMMAND`] as its first argument.

use std::{net::SocketAddr, path::PathBuf};

use acr_pull_injector::domain::review;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use clap::Parser;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

type Error = Box<dyn std::error::Error + Send + Sync>;

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
    /// File with the constant answer
    #[arg(long)]
    answer: PathBuf,
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
        .with_state(answer)
        .layer(DefaultBodyLimit::max(acr_pull_injector::server::BODY_LIMIT));
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls.into()));
    let server = axum_server::bind(arguments.address).acceptor(acceptor).http1_only();
    // On a worker thread, as in the webhook: on a shared core, two threads get more time than one.
    Ok(tokio::spawn(server.serve(router.into_make_service())).await??)
}

async fn mutate(State(answer): State<Bytes>, body: Bytes) -> Response {
    match review::parse(&body) {
        Ok(_) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
