//! A proxy for HTTPS that leads names of the outside world to this machine, and no others anywhere.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
    task::{JoinHandle, JoinSet},
};

use crate::world::Error;

/// Where a name leads to.
#[derive(Clone)]
pub enum Target {
    Address(SocketAddr),
    Socket(PathBuf),
}

type Routes = Arc<Mutex<HashMap<String, Target>>>;

/// Serves until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    routes: Routes,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start() -> Result<Self, Error> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let routes = Routes::default();
        let known = routes.clone();
        let task = tokio::spawn(async move {
            // Connections end with the task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, known.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, routes, task })
    }

    /// The value of `HTTPS_PROXY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Leads `host` (with its port) to `target` from now on.
    pub fn lead(&self, host: &str, target: Target) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), target);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// <https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6>. What fails ends the connection, which is what the client sees.
async fn serve(stream: TcpStream, routes: Routes) -> std::io::Result<()> {
    // The client says nothing more before it has its answer, so that nothing is lost in the buffer.
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let host = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let target = routes.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
    let stream = stream.into_inner();
    match target {
        Some(Target::Address(address)) => tunnel(stream, TcpStream::connect(address).await?).await,
        Some(Target::Socket(path)) => tunnel(stream, UnixStream::connect(path).await?).await,
        None => {
            let mut stream = stream;
            stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await
        }
    }
}

async fn tunnel(mut client: TcpStream, mut server: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
