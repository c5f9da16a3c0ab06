//! An HTTPS server that can go away and come back at the same port.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::{authority::Authority, lock};

pub(crate) struct Server {
    port: u16,
    tls: TlsAcceptor,
    router: Router,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Server").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Server {
    pub(crate) async fn start(authority: &Arc<Authority>, router: Router) -> Self {
        let (port, listener) = listen().await;
        let tls = TlsAcceptor::from(Arc::new(authority.server_config()));
        let server = Self { port, tls, router, running: Mutex::default() };
        server.serve(listener);
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection and refuses new ones.
    pub(crate) async fn stop(&self) {
        let running = lock(&self.running).take();
        if let Some(running) = running {
            running.abort();
            // A panic of the server shows in the test by what it does not answer.
            let _ = running.await;
        }
    }

    #[expect(clippy::expect_used, reason = "a test cannot go on without its fake")]
    pub(crate) async fn resume(&self) {
        if lock(&self.running).is_some() {
            return;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await.expect("the port is free again");
        self.serve(listener);
    }

    fn serve(&self, listener: TcpListener) {
        *lock(&self.running) = Some(tokio::spawn(accept(listener, self.tls.clone(), self.router.clone())));
    }
}

/// Every connection ends with this.
async fn accept(listener: TcpListener, tls: TlsAcceptor, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((socket, _)) = listener.accept() => {
                let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
                connections.spawn(async move {
                    if let Ok(stream) = tls.accept(socket).await {
                        // Clients come and go.
                        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
            Some(_) = connections.join_next() => {}
            else => return,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = lock(&self.running).take() {
            running.abort();
        }
    }
}

/// A port outside the range that outgoing connections use, so that it is free again after a pause.
#[expect(clippy::panic, reason = "a test cannot go on without its fake")]
async fn listen() -> (u16, TcpListener) {
    let mut bytes = [0; 4];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    let start = u32::from_le_bytes(bytes);
    for attempt in 0..2_000_u32 {
        let port = 18_000 + u16::try_from((start.wrapping_add(attempt * 7)) % 14_000).unwrap_or(0);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return (port, listener);
        }
    }
    panic!("no free port on loopback")
}
