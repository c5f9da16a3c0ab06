//! The pull secret: what it holds, how it is written, and what its metadata tells.

mod stored;

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::image::{LoginServer, LoginServerRule};
pub use stored::{Origin, StoredPullSecret};

/// The label that marks a Secret as ours when its value is [`MANAGER`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Who we are: the value of [`MANAGED_BY_LABEL`], and the field manager of our writes.
pub const MANAGER: &str = "acr-pull-injector";
/// The annotation that lists the hosts of a pull secret, sorted, spelled as in `auths`, joined by commas.
pub const HOSTS_ANNOTATION: &str = "acr-pull-injector.io/hosts";
/// The annotation that says when the first credential of a pull secret expires (RFC 3339); absent when none does.
pub const EXPIRES_AT_ANNOTATION: &str = "acr-pull-injector.io/expires-at";
/// The annotation with the SHA-256 of the value of [`DATA_KEY`], in hexadecimal.
pub const CONTENT_HASH_ANNOTATION: &str = "acr-pull-injector.io/content-hash";
/// The type of a pull secret.
pub const SECRET_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// The one key of its data.
pub const DATA_KEY: &str = ".dockerconfigjson";

/// The name of the pull secret, the same in every namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullSecretName(String);

/// The text cannot name a Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name a Secret: use at most 253 lower case letters, digits, dashes and dots, with a letter or digit at \
     both ends of every part between dots"
)]
pub struct PullSecretNameError(String);

impl PullSecretName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PullSecretName {
    type Err = PullSecretNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_part = |part: &str| {
            part.bytes().next().is_some_and(is_word)
                && part.bytes().next_back().is_some_and(is_word)
                && part.bytes().all(|byte| is_word(byte) || byte == b'-')
        };
        if text.len() <= 253 && text.split('.').all(is_part) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PullSecretNameError(text.to_owned()))
        }
    }
}

impl fmt::Display for PullSecretName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A password. It never shows in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps the password.
    #[must_use]
    pub fn new(password: String) -> Self {
        Self(password)
    }

    /// The password itself, for the place that has to send or store it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(..)")
    }
}

/// What a registry accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryCredential {
    /// The user name: no colon, since `auth` joins it to the password with one.
    pub username: String,
    /// The password or token.
    pub password: Password,
    /// When the registry stops accepting it; `None` when that is not known.
    pub expires_at: Option<Timestamp>,
}

/// The content of a pull secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullSecret {
    credentials: BTreeMap<LoginServer, RegistryCredential>,
}

/// The stored bytes are no docker config.
#[derive(Debug, thiserror::Error)]
#[error("the stored pull secret is not a docker config with an auths object (line {line}, column {column})")]
pub struct PullSecretError {
    line: usize,
    column: usize,
}

impl PullSecret {
    /// A pull secret with these credentials.
    #[must_use]
    pub fn new(credentials: BTreeMap<LoginServer, RegistryCredential>) -> Self {
        Self { credentials }
    }

    /// Reads what is stored, to keep the entries whose credential is not at hand.
    ///
    /// `expires_at` is the stored expiry, which holds for the entry that expires first; every entry gets it, since which
    /// one that is was not stored. Entries that are of no use are left out: a host that is no login server, no user name,
    /// no password. The kubelet would stop at a malformed one, for every image of the pod.
    pub fn parse(
        docker_config_json: &[u8],
        expires_at: Option<Timestamp>,
        login_servers: &LoginServerRule,
    ) -> Result<Self, PullSecretError> {
        let config: DockerConfig<serde_json::Value> = serde_json::from_slice(docker_config_json)
            .map_err(|error| PullSecretError { line: error.line(), column: error.column() })?;
        let credentials = config.auths.into_iter().filter_map(|(host, entry)| {
            let login_server = login_servers.parse(&host).ok()?;
            let field = |key| Some(entry.get(key)?.as_str()?.to_owned()).filter(|value| !value.is_empty());
            let (username, password) = (field("username")?, Password::new(field("password")?));
            Some((login_server, RegistryCredential { username, password, expires_at }))
        });
        Ok(Self { credentials: credentials.collect() })
    }

    /// Its login servers, sorted.
    pub fn hosts(&self) -> impl Iterator<Item = &LoginServer> {
        self.credentials.keys()
    }

    /// The credential for a login server of exactly this spelling.
    #[must_use]
    pub fn credential(&self, login_server: &LoginServer) -> Option<&RegistryCredential> {
        self.credentials.get(login_server)
    }

    /// Its credentials.
    #[must_use]
    pub fn into_credentials(self) -> BTreeMap<LoginServer, RegistryCredential> {
        self.credentials
    }

    /// The value of [`DATA_KEY`]: what `kubectl create secret docker-registry` writes, byte for byte the same for the
    /// same credentials.
    #[must_use]
    pub fn docker_config_json(&self) -> Vec<u8> {
        let entries = self.credentials.iter().map(|(login_server, credential)| {
            let RegistryCredential { username, password, .. } = credential;
            let auth = STANDARD.encode(format!("{username}:{}", password.expose()));
            (login_server.to_string(), DockerConfigEntry { username, password: password.expose(), auth })
        });
        json(&DockerConfig { auths: entries.collect() })
    }

    /// When the first credential expires; `None` when none does.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.credentials.values().filter_map(|credential| credential.expires_at).min()
    }

    /// The SHA-256 of [`Self::docker_config_json`] in hexadecimal.
    #[must_use]
    pub fn content_hash(&self) -> String {
        format!("{:x}", Sha256::digest(self.docker_config_json()))
    }

    /// The annotations that tell all that is needed of a stored pull secret without its data.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let hosts: Vec<&str> = self.hosts().map(LoginServer::as_str).collect();
        let mut annotations = BTreeMap::from([
            (HOSTS_ANNOTATION.to_owned(), hosts.join(",")),
            (CONTENT_HASH_ANNOTATION.to_owned(), self.content_hash()),
        ]);
        if let Some(expires_at) = self.expires_at() {
            annotations.insert(EXPIRES_AT_ANNOTATION.to_owned(), expires_at.to_string());
        }
        annotations
    }

    /// The label that makes the Secret ours.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned())])
    }
}

#[expect(clippy::expect_used, reason = "the keys are strings, and nothing else can fail")]
fn json(config: &DockerConfig<DockerConfigEntry<'_>>) -> Vec<u8> {
    serde_json::to_vec(config).expect("a docker config can be written as JSON")
}

#[derive(Deserialize, Serialize)]
struct DockerConfig<Entry> {
    auths: BTreeMap<String, Entry>,
}

/// The kubelet takes user name and password from `auth`; other readers take the two fields.
#[derive(Serialize)]
struct DockerConfigEntry<'a> {
    username: &'a str,
    password: &'a str,
    auth: String,
}

#[cfg(test)]
mod tests;
