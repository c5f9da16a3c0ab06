//! etcd's process and what can be asked of it without the API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{fs, io};

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
    pub(super) data: PathBuf,
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

    /// Copies the data, while etcd does not run.
    pub(super) async fn back_up(&self) -> Result<(), ControlPlaneError> {
        self.process.stop();
        replace(&self.backup(), &self.data).map_err(ControlPlaneError::io("back up the data of etcd"))?;
        self.start_again().await
    }

    /// Starts anew with the data of the last backup.
    pub(super) async fn restore_backup(&self) -> Result<(), ControlPlaneError> {
        self.process.stop();
        replace(&self.data, &self.backup()).map_err(ControlPlaneError::io("restore the backup of etcd"))?;
        self.start_again().await
    }

    fn backup(&self) -> PathBuf {
        self.data.with_extension("backup")
    }

    async fn ask(&self, path: &str, question: Value) -> kube::Result<Value> {
        let address = format!("127.0.0.1:{}", self.client_port);
        let uri = Uri::builder().scheme("http").authority(address).path_and_query("/").build();
        let client = Client::try_from(Config::new(uri.map_err(kube::Error::HttpError)?))?;
        let request = http::Request::post(path).body(question.to_string().into_bytes());
        client.request(request.map_err(kube::Error::HttpError)?).await
    }
}

/// Makes `target` the same tree as `source`.
fn replace(target: &Path, source: &Path) -> io::Result<()> {
    if target.exists() {
        fs::remove_dir_all(target)?;
    }
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            replace(&to, &from)?;
        } else {
            fs::copy(from, to)?;
        }
    }
    // etcd insists on it for its data.
    fs::set_permissions(target, fs::metadata(source)?.permissions())
}
