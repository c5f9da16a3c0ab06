//! What the webhook asked of the API server, by the API server's audit log, which, unlike its metrics, knows who asked.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
};

use control_plane::ControlPlaneBuilder;
use serde_json::{Value, json};

use crate::product::{Error, RELEASE};

/// Follows the audit log.
#[derive(Debug)]
pub struct AuditLog {
    directory: tempfile::TempDir,
    read: u64,
}

/// Requests by verb and resource, such as `patch secrets`.
#[derive(Clone, Debug, Default)]
pub struct Requests(BTreeMap<(String, String), u64>);

impl AuditLog {
    /// Writes the policy: the requests of the webhook's ServiceAccount, without their bodies.
    pub fn new() -> Result<Self, Error> {
        let directory = tempfile::tempdir()?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "users": [format!("system:serviceaccount:{RELEASE}:{RELEASE}")]},
                {"level": "None"},
            ],
        });
        fs::write(directory.path().join("policy.yaml"), policy.to_string())?;
        Ok(Self { directory, read: 0 })
    }

    /// Makes the API server write it.
    pub fn kept_by(&self, control_plane: ControlPlaneBuilder) -> ControlPlaneBuilder {
        control_plane
            .api_server_argument(format!("--audit-policy-file={}", self.directory.path().join("policy.yaml").display()))
            .api_server_argument(format!("--audit-log-path={}", self.log().display()))
            .api_server_argument("--audit-log-mode=blocking")
    }

    /// What was asked since the last call.
    pub fn take(&mut self) -> Result<Requests, Error> {
        let mut file = match File::open(self.log()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Requests::default()),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // The last line may be half written.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += complete as u64;
        let mut requests = Requests::default();
        for line in text[..complete].lines() {
            let event: Value = serde_json::from_str(line)?;
            let verb = event["verb"].as_str().unwrap_or("unknown");
            // A watch is logged when it begins, as it may never end; all else when it is done.
            let counted = if verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
            if event["stage"] == counted {
                let resource = event["objectRef"]["resource"].as_str().unwrap_or("none");
                *requests.0.entry((verb.to_owned(), resource.to_owned())).or_default() += 1;
            }
        }
        Ok(requests)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }
}

impl Requests {
    /// Writes of Secrets.
    pub fn secret_writes(&self) -> u64 {
        let of_secrets = self.0.iter().filter(|((_, resource), _)| resource == "secrets");
        of_secrets
            .filter(|((verb, _), _)| ["create", "update", "patch", "delete"].contains(&verb.as_str()))
            .map(|(_, count)| count)
            .sum()
    }

    /// Reads of Secrets and namespaces: single objects, lists and watches.
    pub fn reads(&self) -> u64 {
        let of_ours = self.0.iter().filter(|((_, resource), _)| ["secrets", "namespaces"].contains(&resource.as_str()));
        of_ours.filter(|((verb, _), _)| ["get", "list", "watch"].contains(&verb.as_str())).map(|(_, count)| count).sum()
    }
}
