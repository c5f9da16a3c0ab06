//! The configuration file: read, checked, and turned into types that cannot be wrong.
//!
//! Every error names the field by its path and says what to write instead.

mod azure;
mod credential;
mod field;
mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use certs::polled_file;

pub use azure::{AzureConfiguration, DEFAULT_AUTHORITY_HOST, DEFAULT_SCOPE};
pub(crate) use credential::is_tenant;
pub use credential::{CredentialConfiguration, CredentialFiles, IdentityConfiguration, StatedEnd, Value};
pub use field::{InvalidField, parse_duration, parse_moment};

use self::{
    field::{deserialize, each, parse_field},
    file::File,
};
use crate::domain::{
    decision::{Limits, Settings},
    image::{DomainSuffix, LoginServerRule},
    pull_secret::PullSecretName,
    registry::{RegistryName, RegistryRules},
};

/// What the operator configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The name of every pull secret. Default `acr-pull-secret`.
    pub pull_secret_name: PullSecretName,
    /// Which login servers exist besides Azure's own, and which credential is for which of them.
    pub rules: RegistryRules,
    /// Where each rule's credential comes from.
    pub credentials: BTreeMap<RegistryName, CredentialConfiguration>,
    /// How Entra and the registries are reached.
    pub azure: AzureConfiguration,
    /// How long and how much.
    pub limits: Limits,
    /// Whether pods that are stuck without their pull secret are evicted, so that their controller makes them anew.
    pub evict_stuck_pods: bool,
    /// Namespaces that are never touched. Default kube-system and kube-node-lease.
    pub excluded_namespaces: BTreeSet<String>,
}

/// Why a configuration file was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file does not say what it should.
    #[error("configuration file {path}: {reason}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// The field, what is wrong with it and what to write.
        reason: String,
    },
}

impl ConfigurationError {
    /// What is wrong with a field of this file.
    pub fn in_file(path: &Path) -> impl FnOnce(InvalidField) -> Self {
        |InvalidField(reason)| Self::Invalid { path: path.to_owned(), reason }
    }
}

/// What a ConfigMap can hold.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

impl Configuration {
    /// Reads and checks a configuration file or a pipe, for a program that does nothing else meanwhile.
    ///
    /// # Errors
    ///
    /// When it cannot be read or does not say what it should.
    pub fn load(path: &Path) -> Result<Self, ConfigurationError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigurationError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(ConfigurationError::in_file(path))
    }

    /// Reads and checks a configuration file: a regular one of at most 1 MiB.
    ///
    /// # Errors
    ///
    /// When it cannot be read or does not say what it should.
    pub async fn read(path: &Path) -> Result<Self, ConfigurationError> {
        Self::parse(&read_text(path).await?).map_err(ConfigurationError::in_file(path))
    }

    /// Checks the text of a configuration file. An empty one is valid: no registry is configured then.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        Self::from_value(&value_of(text)?)
    }

    /// Checks the text of a configuration file that changes while this configuration is in force.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong, or that cannot change so.
    pub fn changed_to(&self, text: &str) -> Result<Self, InvalidField> {
        let value = value_of(text)?;
        // What is left of a file that somebody empties or has written half of would take every pull secret away.
        if !self.rules.is_empty() && value.get("registries").is_none() {
            return Err(InvalidField(
                "registries is missing, as in a file that is half written: write `registries: []` to remove all registries"
                    .to_owned(),
            ));
        }
        let changed = Self::from_value(&value)?;
        if changed.pull_secret_name != self.pull_secret_name {
            return Err(InvalidField("pullSecretName changes only by a restart".to_owned()));
        }
        Ok(changed)
    }

    fn from_value(value: &serde_json::Value) -> Result<Self, InvalidField> {
        match value {
            // Nothing but comments.
            serde_json::Value::Null => Self::from_file(File::default()),
            serde_json::Value::Object(_) => Self::from_file(deserialize(value)?),
            // What is derived for `File` would take a list of its fields in their order.
            _ => Err(InvalidField(
                "the file holds no fields: begin it with a field such as registries and a colon".to_owned(),
            )),
        }
    }

    /// The part that decides about pods. `own_namespace` is excluded whatever is configured.
    #[must_use]
    pub fn settings(&self, own_namespace: Option<&str>) -> Settings {
        let mut excluded_namespaces = self.excluded_namespaces.clone();
        excluded_namespaces.extend(own_namespace.map(str::to_owned));
        Settings {
            pull_secret_name: self.pull_secret_name.clone(),
            excluded_namespaces,
            rules: self.rules.clone(),
            limits: self.limits,
        }
    }

    fn from_file(file: File) -> Result<Self, InvalidField> {
        let File { pull_secret_name, registries, azure, admission, reconcile, heal } = file;
        let suffixes = each(&azure.extra_suffixes, "azure.extraSuffixes", DomainSuffix::from_str)?;
        let login_servers = LoginServerRule::new(suffixes);
        let mut rules = Vec::new();
        let mut credentials = BTreeMap::new();
        for (index, registry) in registries.into_iter().enumerate() {
            let field = format!("registries[{index}]");
            let rule = registry.rule(&field, &login_servers)?;
            credentials.insert(rule.name.clone(), registry.credential.parse(&format!("{field}.credential"))?);
            rules.push(rule);
        }
        Ok(Self {
            pull_secret_name: parse_field(&pull_secret_name, "pullSecretName", PullSecretName::from_str)?,
            rules: RegistryRules::new(login_servers, rules)
                .map_err(|error| InvalidField(format!("registries: {error}")))?,
            credentials,
            azure: azure.parse("azure")?,
            limits: Limits {
                ensure_timeout: parse_field(
                    &admission.ensure_timeout,
                    "admission.ensureTimeout",
                    parse_ensure_timeout,
                )?,
                writes_per_second: reconcile.writes_per_second()?,
            },
            evict_stuck_pods: heal.evict_stuck_pods,
            excluded_namespaces: admission.excluded_namespaces,
        })
    }
}

/// The text of a configuration file: a regular one of at most 1 MiB.
///
/// # Errors
///
/// When it cannot be read.
pub async fn read_text(path: &Path) -> Result<String, ConfigurationError> {
    let read = polled_file::read(path, MAX_FILE_BYTES).await;
    let text = read.and_then(|bytes| {
        String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8"))
    });
    text.map_err(|source| ConfigurationError::Unreadable { path: path.to_owned(), source })
}

/// Through a JSON value, since that is what lets an error name the field by its path.
fn value_of(text: &str) -> Result<serde_json::Value, InvalidField> {
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| InvalidField(format!("not valid YAML: {error}")))
}

fn parse_ensure_timeout(text: &str) -> Result<Duration, String> {
    let limits = Duration::from_millis(10)..=Duration::from_secs(25);
    let timeout = parse_duration(text)?;
    if limits.contains(&timeout) {
        Ok(timeout)
    } else {
        Err(format!("{text} is out of bounds: write 10ms to 25s, less than the webhook's timeoutSeconds"))
    }
}
