//! What the webhook asked of the API server, by the API server's audit log, which, unlike its metrics, knows who asked.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
};

use control_plane::ControlPlaneBuilder;
use installation::{Error, PULL_SECRET, RELEASE};
use serde_json::{Value, json};

const PULL_SECRETS: &str = "pull secrets";

/// Follows the audit log.
#[derive(Debug)]
pub struct AuditLog {
    directory: tempfile::TempDir,
    read: u64,
}

/// Requests by verb and resource, pull secrets apart from the other Secrets.
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
                let object = &event["objectRef"];
                let resource = match object["resource"].as_str().unwrap_or("none") {
                    // For lists and watches the API server takes the name from the field selector.
                    "secrets" if object["name"] == PULL_SECRET => PULL_SECRETS,
                    resource => resource,
                };
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
    /// Writes of pull secrets.
    pub fn writes(&self) -> u64 {
        self.count(&["create", "update", "patch", "delete"], &[PULL_SECRETS])
    }

    /// Reads of pull secrets and namespaces: single objects, pages of lists, and watches.
    pub fn reads(&self) -> u64 {
        self.count(&["get", "list", "watch"], &[PULL_SECRETS, "namespaces"])
    }

    fn count(&self, verbs: &[&str], resources: &[&str]) -> u64 {
        let matching = self
            .0
            .iter()
            .filter(|((verb, resource), _)| verbs.contains(&verb.as_str()) && resources.contains(&resource.as_str()));
        matching.map(|(_, count)| count).sum()
    }
}
