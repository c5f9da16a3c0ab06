//! Clients that take their time. The clock is tokio's own: it runs ahead when everybody waits, so what passes here is what
//! is configured, and costs no time.

use std::{collections::BTreeSet, net::SocketAddr};

use certs::{
    Lifetimes,
    issue::{create_authority, issue_leaf},
};
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

const NAME: &str = "webhook.own.svc";

/// The webhook's port and who trusts it.
struct Port {
    address: SocketAddr,
    trusting: TlsConnector,
}

impl Port {
    fn open() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = create_authority("webhook", &Lifetimes::default(), Timestamp::now()).unwrap();
        let names = BTreeSet::from([NAME.to_owned()]);
        let leaf = issue_leaf(&authority, &names, &Lifetimes::default(), Timestamp::now()).unwrap();
        let serving = ServingCertificate::new();
        serving.load(leaf.pair().clone());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        let server =
            serve_webhook(listener, serving.server_config().unwrap(), router(&lifecycle), axum_server::Handle::new());
        tokio::spawn(server);
        Self { address, trusting: Arc::new(client).into() }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let connection = TcpStream::connect(self.address).await.unwrap();
        self.trusting.connect(NAME.try_into().unwrap(), connection).await.unwrap()
    }
}

/// Sends `first`, then `drip` every second, until the other side ends it. Gives what it answered and how long that took.
async fn until_ended(connection: impl AsyncRead + AsyncWrite, first: &[u8], drip: &[u8]) -> (String, Duration) {
    let started = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(connection);
    let send = async {
        let mut next = first;
        while writer.write_all(next).await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            next = drip;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let read = async {
        let mut piece = [0; 1024];
        // A connection that is reset has ended too.
        while let Ok(length @ 1..) = reader.read(&mut piece).await {
            answer.extend_from_slice(&piece[..length]);
        }
    };
    tokio::select! {
        () = send => {}
        ended = tokio::time::timeout(Duration::from_secs(3600), read) => ended.expect("it is never ended"),
    }
    (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
}

/// To the second.
fn assert_took(took: Duration, expected: Duration, what: &str) {
    let off = took.abs_diff(expected);
    assert!(off <= Duration::from_secs(1), "{what}: ended after {took:?}, not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_ended() {
    let port = Port::open();
    // A record of 512 bytes is announced, with a ClientHello.
    let beginning = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for (first, drip, what) in
        [(&[][..], &[][..], "nothing"), (&beginning[..], &[][..], "a beginning"), (&beginning[..], &[0][..], "bytes")]
    {
        let connection = TcpStream::connect(port.address).await.unwrap();
        let (_, took) = until_ended(connection, first, drip).await;
        assert_took(took, HANDSHAKE_TIMEOUT, what);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_is_ended() {
    let port = Port::open();
    let head = b"POST /mutate HTTP/1.1\r\nhost: webhook\r\n";
    for (first, drip, what) in
        [(&[][..], &[][..], "nothing"), (&head[..], &[][..], "a beginning"), (&head[..], b"x", "bytes")]
    {
        let (answer, took) = until_ended(port.connect().await, first, drip).await;
        assert_took(took, HEADER_TIMEOUT, what);
        assert_eq!(answer, "");
    }
}
