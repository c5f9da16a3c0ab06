//! Clients that take their time. From the moment at which they do, the clock is tokio's own: it runs ahead when everybody
//! waits, so that no test waits and each measures exactly what is configured.

use std::{collections::BTreeSet, net::SocketAddr};

use certs::{
    Lifetimes,
    issue::{create_authority, issue_leaf},
};
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
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
        Self::on(TcpSocket::new_v4().unwrap())
    }

    /// With as little room for answers on the way as the kernel allows.
    fn open_narrow() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(1).unwrap();
        Self::on(socket)
    }

    fn on(socket: TcpSocket) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = create_authority("webhook", &Lifetimes::default(), Timestamp::now()).unwrap();
        let names = BTreeSet::from([NAME.to_owned()]);
        let leaf = issue_leaf(&authority, &names, &Lifetimes::default(), Timestamp::now()).unwrap();
        let serving = ServingCertificate::new();
        serving.load(leaf.pair().clone());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();

        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(8).unwrap().into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        let server = serve_webhook(listener, serving.server_config().unwrap(), webhook(&lifecycle), lifecycle);
        tokio::spawn(server);
        Self { address, trusting: Arc::new(client).into() }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let connection = TcpStream::connect(self.address).await.unwrap();
        self.trusting.connect(NAME.try_into().unwrap(), connection).await.unwrap()
    }
}

/// Sends `drip` every second until the other side ends it. Gives what it answered and how long that took.
async fn until_ended(connection: impl AsyncRead + AsyncWrite, drip: &[u8]) -> (String, Duration) {
    tokio::time::pause();
    let started = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(connection);
    let send = async {
        while writer.write_all(drip).await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
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
    let took = started.elapsed();
    tokio::time::resume();
    (String::from_utf8_lossy(&answer).into_owned(), took)
}

/// Reads up to the end of a head.
async fn head(connection: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// To the second.
fn assert_took(took: Duration, expected: Duration, what: &str) {
    let off = took.abs_diff(expected);
    assert!(off <= Duration::from_secs(1), "{what}: ended after {took:?}, not {expected:?}");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let port = Port::open();
    // A record of 512 bytes is announced, with a ClientHello.
    let beginning = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for (first, drip, what) in
        [(&[][..], &[][..], "nothing"), (&beginning[..], &[][..], "a beginning"), (&beginning[..], &[0][..], "bytes")]
    {
        let mut connection = TcpStream::connect(port.address).await.unwrap();
        connection.write_all(first).await.unwrap();
        let (_, took) = until_ended(connection, drip).await;
        assert_took(took, HANDSHAKE_TIMEOUT, what);
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_ended() {
    let port = Port::open();
    let head = "POST /mutate HTTP/1.1\r\nhost: webhook\r\n";
    for (first, drip, what) in [("", "", "nothing"), (head, "", "a beginning"), (head, "x", "bytes")] {
        let mut connection = port.connect().await;
        connection.write_all(first.as_bytes()).await.unwrap();
        let (answer, took) = until_ended(connection, drip.as_bytes()).await;
        assert_took(took, HEADER_TIMEOUT, what);
        assert_eq!(answer, "", "{what}");
    }
}

#[tokio::test]
async fn a_connection_that_was_used_is_kept_for_longer_than_the_api_server_keeps_it() {
    let mut connection = Port::open().connect().await;
    connection.write_all(b"GET / HTTP/1.1\r\nhost: webhook\r\n\r\n").await.unwrap();
    assert!(head(&mut connection).await.starts_with("HTTP/1.1 404 "));
    let (_, took) = until_ended(connection, b"").await;
    assert_took(took, HEADER_TIMEOUT, "silence after an answer");
    assert!(took > Duration::from_secs(91), "the API server may be sending when it is closed");
}

#[tokio::test]
async fn a_body_that_does_not_end_is_refused() {
    let port = Port::open();
    for (length, drip, what) in [
        ("content-length: 1000", "", "nothing"),
        ("content-length: 1000", " ", "bytes"),
        ("transfer-encoding: chunked", "", "no chunk"),
        ("transfer-encoding: chunked", "1\r\n \r\n", "chunks"),
    ] {
        let mut connection = port.connect().await;
        let request = format!("POST /mutate HTTP/1.1\r\nhost: webhook\r\nexpect: 100-continue\r\n{length}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        // It waits for the body from here on.
        assert_eq!(head(&mut connection).await, "HTTP/1.1 100 Continue\r\n\r\n");
        let (answer, took) = until_ended(connection, drip.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{what}: {answer:?}");
        assert_took(took, BODY_TIMEOUT, what);
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_are_given_up() {
    let mut connection = Port::open_narrow().connect().await;
    tokio::time::pause();
    let started = Instant::now();
    let ask = async { while connection.write_all(b"GET / HTTP/1.1\r\nhost: webhook\r\n\r\n").await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(3600), ask).await.expect("they are never given up");
    assert_took(started.elapsed(), WRITE_TIMEOUT, "answers");
}
