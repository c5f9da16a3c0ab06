//! An HTTPS server that can go away and come back at the same port.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use axum_server::{Handle, tls_rustls::RustlsConfig};

use crate::{authority::Authority, lock};

#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    tls: RustlsConfig,
    router: Router,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    handle: Handle<SocketAddr>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(authority: &Arc<Authority>, router: Router) -> Self {
        let (port, listener) = listen();
        let tls = RustlsConfig::from_config(Arc::new(authority.server_config()));
        let server = Self { port, tls, router, running: Mutex::default() };
        server.serve(listener).await;
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection and refuses new ones.
    pub(crate) async fn stop(&self) {
        let running = lock(&self.running).take();
        if let Some(Running { handle, task }) = running {
            handle.shutdown();
            // A panic of the server shows in the test by what it does not answer.
            let _ = task.await;
        }
    }

    #[expect(clippy::expect_used, reason = "a test cannot go on without its fake")]
    pub(crate) async fn resume(&self) {
        if lock(&self.running).is_some() {
            return;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).expect("the port is free again");
        self.serve(listener).await;
    }

    #[expect(clippy::expect_used, reason = "a test cannot go on without its fake")]
    async fn serve(&self, listener: TcpListener) {
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let handle = Handle::new();
        let server = axum_server::from_tcp_rustls(listener, self.tls.clone()).expect("the listener serves");
        let service = self.router.clone().into_make_service();
        let task = tokio::spawn(server.handle(handle.clone()).serve(service));
        let listening = tokio::time::timeout(Duration::from_secs(10), handle.listening()).await;
        assert!(matches!(listening, Ok(Some(_))), "the fake does not listen");
        *lock(&self.running) = Some(Running { handle, task });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(Running { handle, task }) = lock(&self.running).take() {
            handle.shutdown();
            task.abort();
        }
    }
}

/// A port outside the range that outgoing connections use, so that it is free again after a pause.
#[expect(clippy::panic, reason = "a test cannot go on without its fake")]
fn listen() -> (u16, TcpListener) {
    let mut bytes = [0; 4];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    let start = u32::from_le_bytes(bytes);
    for attempt in 0..2_000_u32 {
        let port = 18_000 + u16::try_from((start.wrapping_add(attempt * 7)) % 14_000).unwrap_or(0);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return (port, listener);
        }
    }
    panic!("no free port on loopback")
}
