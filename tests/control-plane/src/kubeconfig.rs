//! Kubeconfig files, as JSON, which is YAML too.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;

/// How the user of a kubeconfig proves who it is.
pub(crate) enum Identity<'a> {
    Token(&'a str),
    TokenFile(&'a Path),
}

/// Where the API server is and how to trust it.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) url: String,
    pub(crate) ca_pem: String,
}

impl Cluster {
    /// Writes a kubeconfig that only this user can read.
    pub(crate) fn write_kubeconfig(&self, file: &Path, namespace: &str, identity: &Identity<'_>) -> io::Result<()> {
        let user = match identity {
            Identity::Token(token) => json!({ "token": token }),
            Identity::TokenFile(file) => json!({ "tokenFile": file }),
        };
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "control-plane", "cluster": {
                "server": self.url,
                "certificate-authority-data": k8s_openapi::ByteString(self.ca_pem.clone().into_bytes()),
            }}],
            "users": [{ "name": "user", "user": user }],
            "contexts": [{ "name": "control-plane", "context": {
                "cluster": "control-plane", "user": "user", "namespace": namespace,
            }}],
            "current-context": "control-plane",
        });
        write_private(file, format!("{kubeconfig:#}\n").as_bytes())
    }
}

/// Writes a file with mode 0600.
pub(crate) fn write_private(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(file)?.write_all(content)
}
