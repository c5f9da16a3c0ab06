//! etcd's process and what can be asked of it without the API server.

use std::net::{Ipv4Addr, SocketAddr};

use http::Uri;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::ControlPlaneError;
use super::restartable::Restartable;
use super::start::wait;

#[derive(Debug)]
pub(super) struct Etcd {
    pub(super) process: Restartable,
    pub(super) client_port: u16,
}

impl Etcd {
    /// Starts it, unless it runs, and waits until it takes connections.
    pub(super) async fn start_again(&self) -> Result<(), ControlPlaneError> {
        let daemon = self.process.start_again()?;
        wait(&daemon, || async {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.client_port));
            TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    /// Forgets all revisions before the newest, as Kubernetes has it done every five minutes.
    ///
    /// Source: the JSON gateway of etcd's gRPC API, `KV.Range` and `KV.Compact` in `rpc.proto` of etcd 3.6.
    pub(super) async fn compact(&self) -> Result<(), ControlPlaneError> {
        let compacted = async {
            // The answer to a question about any key names the newest revision.
            let newest = self.ask("/v3/kv/range", json!({"key": "AA=="})).await?;
            let revision = newest.pointer("/header/revision");
            self.ask("/v3/kv/compaction", json!({"revision": revision, "physical": true})).await
        };
        compacted.await.map(drop).map_err(|error| ControlPlaneError::Etcd(Box::new(error)))
    }

    async fn ask(&self, path: &str, question: Value) -> kube::Result<Value> {
        let address = format!("127.0.0.1:{}", self.client_port);
        let uri = Uri::builder().scheme("http").authority(address).path_and_query("/").build();
        let client = Client::try_from(Config::new(uri.map_err(kube::Error::HttpError)?))?;
        let request = http::Request::post(path).body(question.to_string().into_bytes());
        client.request(request.map_err(kube::Error::HttpError)?).await
    }
}
