//! The readiness probe, as the kubelet sends it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::LocalPodError;
use super::template::container_port;

const TIMEOUT: Duration = Duration::from_secs(1);

/// An HTTP GET whose answer must be a 2xx or 3xx.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    address: SocketAddr,
    path: String,
}

impl Probe {
    /// `None` when the container has no readiness probe: then it is ready while it runs.
    pub(super) fn of(container: &Container, address: IpAddr) -> Result<Option<Self>, LocalPodError> {
        let Some(probe) = &container.readiness_probe else { return Ok(None) };
        let unsupported = |what: &str| LocalPodError::Unsupported(format!("a readiness probe {what}"));
        let get = probe.http_get.as_ref().ok_or_else(|| unsupported("other than httpGet"))?;
        if get.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
            return Err(unsupported("over HTTPS"));
        }
        let port =
            container_port(container, &get.port).ok_or_else(|| unsupported("of a port that has no such name"))?;
        let path = get.path.clone().unwrap_or_else(|| "/".to_owned());
        Ok(Some(Self { address: SocketAddr::new(address, port), path }))
    }

    /// Probes once; says what was wrong.
    pub(super) async fn try_once(&self) -> Result<(), String> {
        match tokio::time::timeout(TIMEOUT, self.status()).await {
            Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
            Ok(Ok(status)) => Err(format!("GET {} answered {status}", self.path)),
            Ok(Err(error)) => Err(format!("GET {}: {error}", self.path)),
            Err(_) => Err(format!("GET {}: no answer within {} s", self.path, TIMEOUT.as_secs())),
        }
    }

    async fn status(&self) -> std::io::Result<u16> {
        let Self { address, path } = self;
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: kube-probe\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let status =
            answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|status| status.parse().ok());
        status.ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
    }
}
