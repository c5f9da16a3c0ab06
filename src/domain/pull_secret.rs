//! The pull secret: what it holds, how it is written, and what its metadata tells.

mod stored;

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::image::{LoginServer, LoginServerRule};
pub use stored::{Origin, StoredHost, StoredPullSecret};

/// The label that marks a Secret as ours when its value is [`MANAGER`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Who we are: the value of [`MANAGED_BY_LABEL`], and the field manager of our writes.
pub const MANAGER: &str = "acr-pull-injector";
/// The annotation that lists the hosts of a pull secret, sorted, spelled as in `auths`, joined by commas.
pub const HOSTS_ANNOTATION: &str = "acr-pull-injector.io/hosts";
/// The annotation that tells people when the first credential of a pull secret expires (RFC 3339); empty when none does.
pub const EXPIRES_AT_ANNOTATION: &str = "acr-pull-injector.io/expires-at";
/// The annotation that says for each host whose credential expires when it should be renewed and when it expires:
/// `contoso.azurecr.io=2026-11-24T10:00:00Z/2026-11-24T11:30:00Z`, sorted, joined by commas; empty when none expires.
pub const TOKENS_ANNOTATION: &str = "acr-pull-injector.io/tokens";
/// The annotation with the hash of what the credentials were made from: see [`PullSecret::source_hash`].
pub const SOURCE_HASH_ANNOTATION: &str = "acr-pull-injector.io/source-hash";
/// The type of a pull secret.
pub const SECRET_TYPE: &str = "kubernetes.io/dockerconfigjson";
/// The one key of its data.
pub const DATA_KEY: &str = ".dockerconfigjson";

/// Keeps a pull secret far below the 1 MiB that a Secret may hold, whoever sends reviews: an entry takes up to 4 KB.
pub const MAX_LOGIN_SERVERS: usize = 128;

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
    pub fn new(password: String) -> Self {
        Self(password)
    }

    /// The password itself, for the place that has to send or store it.
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
    /// How long it is good; `None` when it does not expire by itself, as far as we know.
    pub lifetime: Option<Lifetime>,
    /// What it was made from.
    pub source: CredentialSourceHash,
}

impl RegistryCredential {
    /// A user name and password that the operator stored, and that go into pull secrets as they are.
    pub fn stored(username: String, password: Password) -> Self {
        let source = CredentialSourceHash::of(&["stored", &username, password.expose()]);
        Self { username, password, lifetime: None, source }
    }

    /// Does it come from a pull secret rather than from where credentials come from?
    pub fn is_read_back(&self) -> bool {
        self.source == CredentialSourceHash::unknown()
    }
}

/// How long a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// From when on it should be replaced.
    pub renew_at: Timestamp,
    /// When the registry stops accepting it.
    pub expires_at: Timestamp,
}

impl Lifetime {
    /// Of a token of which nobody knows how long it is good.
    pub const OVER: Self = Self { renew_at: Timestamp::UNIX_EPOCH, expires_at: Timestamp::UNIX_EPOCH };

    /// Can a registry be expected to accept it: has it not expired, by a clock that is right?
    pub fn is_good(self, now: Timestamp) -> bool {
        self.expires_at > now && !self.is_ahead(now)
    }

    /// Was it written by a clock that has been set back since? A renewal falls due at half of a token's life, 10 % earlier or
    /// later by chance, so what is left before it is never longer than five quarters of what is left after it.
    pub fn is_ahead(self, now: Timestamp) -> bool {
        let before = self.renew_at.duration_since(now).as_secs_f64();
        let after = self.expires_at.duration_since(self.renew_at).as_secs_f64();
        // A few minutes more, since no two clocks agree.
        before > 1.5 * after.max(0.0)
    }
}

/// Tells whether a credential was made from what is stored now: the same after every renewal of a token, another when the
/// operator changes the credential behind it. A SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialSourceHash(String);

impl CredentialSourceHash {
    /// The hash of these parts, in this order; where one ends and the next begins counts.
    pub fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        Self(format!("{:x}", hash.finalize()))
    }

    /// Of a credential that was read from a pull secret: equal to none that is made now.
    pub fn unknown() -> Self {
        Self(String::new())
    }
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
    pub fn new(credentials: BTreeMap<LoginServer, RegistryCredential>) -> Self {
        Self { credentials }
    }

    /// Reads what is stored, to keep the entries whose credential is not at hand.
    ///
    /// `lifetime` is that of the entry for a host. Entries that are of no use are left out: a host that is no login server,
    /// no user name, no password. The kubelet would stop at a malformed one, for every image of the pod.
    pub fn parse(
        docker_config_json: &[u8],
        lifetime: impl Fn(&str) -> Option<Lifetime>,
        login_servers: &LoginServerRule,
    ) -> Result<Self, PullSecretError> {
        let config: DockerConfig<serde_json::Value> = serde_json::from_slice(docker_config_json)
            .map_err(|error| PullSecretError { line: error.line(), column: error.column() })?;
        let credentials = config.auths.into_iter().filter_map(|(host, entry)| {
            let login_server = login_servers.parse(&host).ok()?;
            let field = |key| Some(entry.get(key)?.as_str()?.to_owned()).filter(|value| !value.is_empty());
            let (username, password) = (field("username")?, Password::new(field("password")?));
            let (lifetime, source) = (lifetime(&host), CredentialSourceHash::unknown());
            Some((login_server, RegistryCredential { username, password, lifetime, source }))
        });
        Ok(Self { credentials: credentials.collect() })
    }

    /// Does it hold no credential at all?
    pub fn is_empty(&self) -> bool {
        self.credentials.is_empty()
    }

    /// Its login servers, sorted.
    pub fn hosts(&self) -> impl Iterator<Item = &LoginServer> {
        self.credentials.keys()
    }

    /// Its login servers, sorted, each with its credential.
    pub fn credentials(&self) -> impl Iterator<Item = (&LoginServer, &RegistryCredential)> {
        self.credentials.iter()
    }

    /// The credential for a login server of exactly this spelling.
    pub fn credential(&self, login_server: &LoginServer) -> Option<&RegistryCredential> {
        self.credentials.get(login_server)
    }

    /// Its credentials.
    pub fn into_credentials(self) -> BTreeMap<LoginServer, RegistryCredential> {
        self.credentials
    }

    /// The value of [`DATA_KEY`]: what `kubectl create secret docker-registry` writes, byte for byte the same for the
    /// same credentials.
    pub fn docker_config_json(&self) -> Vec<u8> {
        let entries = self.credentials.iter().map(|(login_server, credential)| {
            let RegistryCredential { username, password, .. } = credential;
            let auth = STANDARD.encode(format!("{username}:{}", password.expose()));
            (login_server.to_string(), DockerConfigEntry { username, password: password.expose(), auth })
        });
        json(&DockerConfig { auths: entries.collect() })
    }

    /// Is there nothing in it but what stood in the namespace before?
    pub fn is_read_back(&self) -> bool {
        self.credentials.values().all(RegistryCredential::is_read_back)
    }

    /// Tells whether the hosts or what their credentials were made from have changed.
    pub fn source_hash(&self) -> String {
        source_hash(self.credentials.iter().map(|(login_server, credential)| (login_server, &credential.source)))
    }

    /// The annotations that tell all that is needed of a stored pull secret without its data.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let hosts: Vec<&str> = self.hosts().map(LoginServer::as_str).collect();
        let expiring = || self.credentials.iter().filter_map(|(host, credential)| Some((host, credential.lifetime?)));
        let token = |(host, Lifetime { renew_at, expires_at })| format!("{host}={renew_at}/{expires_at}");
        let tokens: Vec<String> = expiring().map(token).collect();
        let expires_at = expiring().map(|(_, lifetime)| lifetime.expires_at).min();
        // Also those that are empty: leaving one out removes it only while nobody else owns it too, as whoever created the
        // pull secret does.
        [
            (HOSTS_ANNOTATION, hosts.join(",")),
            (TOKENS_ANNOTATION, tokens.join(",")),
            (EXPIRES_AT_ANNOTATION, expires_at.map(|expires_at| expires_at.to_string()).unwrap_or_default()),
            (SOURCE_HASH_ANNOTATION, self.source_hash()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// The label that makes the Secret ours.
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned())])
    }
}

/// The [`PullSecret::source_hash`] of a pull secret with these login servers (sorted) and sources, without its credentials
/// at hand.
pub fn source_hash<'a>(sources: impl Iterator<Item = (&'a LoginServer, &'a CredentialSourceHash)>) -> String {
    let parts: Vec<&str> = sources.flat_map(|(login_server, source)| [login_server.as_str(), &source.0]).collect();
    CredentialSourceHash::of(&parts).0
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
