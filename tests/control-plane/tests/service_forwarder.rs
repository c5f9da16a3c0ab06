//! The forwarder does what kube-proxy does, as far as clients can tell.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking, as the tests themselves do"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use control_plane::ServiceForwarder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn connections_go_round_all_backends() {
    let (forwarder, [first, second]) = forwarder_with_two_backends().await;
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(Connection::open(&forwarder).await.backend);
    }
    assert_eq!(names.iter().filter(|name| **name == first).count(), 2, "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == second).count(), 2, "{names:?}");
    assert_eq!(forwarder.forwarded_count(), 4);
}

#[tokio::test]
async fn a_removed_backend_keeps_its_connections_and_gets_no_new_ones() {
    let (forwarder, [first, second]) = forwarder_with_two_backends().await;
    let mut open = Connection::open(&forwarder).await;
    let mut other = Connection::open(&forwarder).await;
    if open.backend != first {
        std::mem::swap(&mut open, &mut other);
    }
    forwarder.remove_backend(first);
    assert_eq!(forwarder.backends(), [second]);
    for _ in 0..3 {
        assert_eq!(Connection::open(&forwarder).await.backend, second);
    }
    assert!(open.echoes().await, "the open connection to the removed backend was broken");
}

#[tokio::test]
async fn a_cut_breaks_open_connections_and_only_those() {
    let (forwarder, _) = forwarder_with_two_backends().await;
    let mut open = [Connection::open(&forwarder).await, Connection::open(&forwarder).await];
    assert_eq!(forwarder.connection_count(), 2);
    forwarder.cut_connections();
    for connection in &mut open {
        assert!(!connection.echoes().await, "a connection outlived the cut");
    }
    assert!(Connection::open(&forwarder).await.echoes().await);
}

#[tokio::test]
async fn without_a_backend_connections_are_closed() {
    let forwarder = ServiceForwarder::start(loopback(), 0).await.unwrap();
    let mut stream = TcpStream::connect(forwarder.address()).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn dropping_it_frees_the_address() {
    let (forwarder, _) = forwarder_with_two_backends().await;
    let address = forwarder.address();
    let mut open = Connection::open(&forwarder).await;
    drop(forwarder);
    assert!(!open.echoes().await);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while TcpListener::bind(address).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "{address} is still taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A connection through the forwarder, to a backend that says its own address first and then echoes.
struct Connection {
    stream: TcpStream,
    backend: SocketAddr,
}

impl Connection {
    async fn open(forwarder: &ServiceForwarder) -> Self {
        let mut stream = TcpStream::connect(forwarder.address()).await.unwrap();
        let port = stream.read_u16().await.unwrap();
        Self { stream, backend: SocketAddr::new(loopback(), port) }
    }

    async fn echoes(&mut self) -> bool {
        let exchange = async {
            self.stream.write_u8(7).await?;
            self.stream.read_u8().await
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), exchange).await.expect("an answer or an end");
        answer.is_ok_and(|byte| byte == 7)
    }
}

async fn forwarder_with_two_backends() -> (ServiceForwarder, [SocketAddr; 2]) {
    let forwarder = ServiceForwarder::start(loopback(), 0).await.unwrap();
    let backends = [backend().await, backend().await];
    for address in backends {
        forwarder.add_backend(address);
        forwarder.add_backend(address);
    }
    assert_eq!(forwarder.backends(), backends);
    (forwarder, backends)
}

async fn backend() -> SocketAddr {
    let listener = TcpListener::bind((loopback(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_u16(address.port()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}
