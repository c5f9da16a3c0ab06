//! Plays kube-proxy for one Service.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Listens on a Service's address and forwards each TCP connection to one of its backends, in turn.
///
/// As with kube-proxy, a backend that is removed gets no new connections, and open ones live on. A connection for which
/// there is no backend, or whose backend does not listen, is closed at once. Runs on the tokio runtime in which it was
/// started; dropping it stops listening and cuts all connections.
#[derive(Debug)]
pub struct ServiceForwarder {
    address: SocketAddr,
    state: Arc<State>,
    listener: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    backends: Mutex<Backends>,
    /// Counts the cuts: a connection ends when the number changes.
    cuts: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Backends {
    addresses: Vec<SocketAddr>,
    /// Connections forwarded so far, which also says whose turn it is.
    forwarded: usize,
}

impl ServiceForwarder {
    /// Starts without a backend. `port` is the Service's port, not the target port; ports below 1024 take root, or a
    /// `net.ipv4.ip_unprivileged_port_start` that allows them.
    pub async fn start(cluster_ip: IpAddr, port: u16) -> io::Result<Self> {
        let listener =
            TcpListener::bind((cluster_ip, port)).await.map_err(|error| explained(&error, cluster_ip, port))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { backends: Mutex::default(), cuts: watch::Sender::new(0) });
        let listener = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state, listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a backend for new connections; one that is there already is not added twice.
    pub fn add_backend(&self, backend: SocketAddr) {
        let mut backends = self.state.backends();
        if !backends.addresses.contains(&backend) {
            backends.addresses.push(backend);
        }
    }

    /// Sends no new connections to a backend. Open ones live on.
    pub fn remove_backend(&self, backend: SocketAddr) {
        self.state.backends().addresses.retain(|address| *address != backend);
    }

    /// The backends of new connections.
    #[must_use]
    pub fn backends(&self) -> Vec<SocketAddr> {
        self.state.backends().addresses.clone()
    }

    /// Breaks all open connections. New ones are accepted as before.
    pub fn cut_connections(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How many connections are open now.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.state.cuts.receiver_count()
    }

    /// How many connections have been given to a backend since the start.
    #[must_use]
    pub fn forwarded_count(&self) -> usize {
        self.state.backends().forwarded
    }
}

impl Drop for ServiceForwarder {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut_connections();
    }
}

impl State {
    fn backends(&self) -> MutexGuard<'_, Backends> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_backend(&self) -> Option<SocketAddr> {
        let mut backends = self.backends();
        let turn = backends.forwarded.checked_rem(backends.addresses.len())?;
        backends.forwarded += 1;
        backends.addresses.get(turn).copied()
    }
}

fn explained(error: &io::Error, cluster_ip: IpAddr, port: u16) -> io::Error {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": run as root, or once `sudo sysctl -w net.ipv4.ip_unprivileged_port_start=443`"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot listen on {cluster_ip}:{port} ({error}){remedy}"))
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                // Subscribed before the next accept, so that a cut reaches every connection accepted before it.
                let cut = state.cuts.subscribe();
                if let Some(backend) = state.next_backend() {
                    tokio::spawn(forward(client, backend, cut));
                }
            }
            // Out of file descriptors, most likely: some will be closed.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn forward(mut client: TcpStream, backend: SocketAddr, mut cut: watch::Receiver<u64>) {
    let exchange = async {
        let mut server = TcpStream::connect(backend).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        copy_bidirectional(&mut client, &mut server).await
    };
    tokio::select! {
        // Either side may end it in any way it likes.
        _ = exchange => {}
        _ = cut.changed() => {}
    }
}
