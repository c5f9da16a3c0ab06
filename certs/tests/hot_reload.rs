//! Real TLS connections over a reload.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use certs::{
    CertificatePair, Lifetimes, ServingCertificate,
    issue::{create_authority, issue_leaf},
    stored::Authority,
};
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// A server that sends back what it gets.
async fn echo_server(serving: &ServingCertificate) -> std::net::SocketAddr {
    let acceptor = TlsAcceptor::from(serving.server_config().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

fn pair(authority: &Authority) -> CertificatePair {
    let names = BTreeSet::from(["webhook.own.svc".to_owned()]);
    issue_leaf(authority, &names, &Lifetimes::default(), Timestamp::now()).unwrap().pair().clone()
}

async fn connect(address: std::net::SocketAddr, authority: &Authority) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("webhook.own.svc").unwrap(), TcpStream::connect(address).await?).await
}

fn served(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn assert_echoes(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
}

#[tokio::test]
async fn an_open_connection_outlives_a_reload_and_a_new_one_sees_the_new_certificate() {
    let authority = create_authority("webhook", &Lifetimes::default(), Timestamp::now()).unwrap();
    let (first, second) = (pair(&authority), pair(&authority));
    let serving = ServingCertificate::new();
    let address = echo_server(&serving).await;

    serving.load(first.clone());
    let mut open = connect(address, &authority).await.unwrap();
    assert_eq!(served(&open), first.chain()[0]);
    assert_eq!(open.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_echoes(&mut open).await;

    serving.load(second.clone());
    assert_echoes(&mut open).await;
    let mut new = connect(address, &authority).await.unwrap();
    assert_eq!(served(&new), second.chain()[0]);
    assert_echoes(&mut new).await;
    assert_echoes(&mut open).await;
    assert_eq!(serving.not_after(), Some(second.not_after()));
}

#[tokio::test]
async fn handshakes_fail_until_the_first_pair_and_readiness_waits_for_it() {
    let authority = create_authority("webhook", &Lifetimes::default(), Timestamp::now()).unwrap();
    let serving = ServingCertificate::new();
    let address = echo_server(&serving).await;
    assert!(connect(address, &authority).await.is_err());
    assert_eq!(serving.not_after(), None);
    assert!(tokio::time::timeout(Duration::from_millis(20), serving.loaded()).await.is_err());

    let waiting = tokio::spawn({
        let serving = serving.clone();
        async move { serving.loaded().await }
    });
    serving.load(pair(&authority));
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(5), serving.loaded()).await.unwrap();
    connect(address, &authority).await.unwrap();
}
