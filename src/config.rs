//! The configuration file: read, checked, and turned into types that cannot be wrong.
//!
//! Every error names the field by its path and says what to write instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::domain::{
    decision::Settings,
    image::{DomainSuffix, LoginServerRule},
    pull_secret::PullSecretName,
    registry::{
        HostPattern, LabelOperator, LabelRequirement, NamespaceSelector, RegistryName, RegistryRule, RegistryRules,
    },
};

/// What the operator configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The name of every pull secret. Default `acr-pull-secret`.
    pub pull_secret_name: PullSecretName,
    /// Which login servers exist besides Azure's own, and which credential is for which of them.
    pub rules: RegistryRules,
    /// Where each rule's credential is stored.
    pub credentials: BTreeMap<RegistryName, CredentialFiles>,
    /// How long a pod waits for its pull secret at most. Default 2 s.
    pub ensure_timeout: Duration,
    /// Namespaces that are never touched. Default kube-system and kube-node-lease.
    pub excluded_namespaces: BTreeSet<String>,
}

/// A credential whose username and password a registry accepts as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The application id of a service principal, the name of a token or of the admin user.
    pub username: Value,
    /// The file with the password.
    pub password_file: PathBuf,
}

/// Something that is written in the configuration or stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Written in the configuration.
    Literal(String),
    /// The content of this file.
    File(PathBuf),
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
        source: std::io::Error,
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

impl Configuration {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    ///
    /// When it cannot be read or does not say what it should.
    pub fn load(path: &Path) -> Result<Self, ConfigurationError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigurationError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|InvalidField(reason)| ConfigurationError::Invalid { path: path.to_owned(), reason })
    }

    /// Checks the text of a configuration file. An empty one is valid: no registry is configured then.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidField> {
        if text.trim().is_empty() {
            return Self::from_file(File::default());
        }
        // Through a JSON value, since that is what lets an error name the field by its path.
        let value: serde_json::Value =
            serde_saphyr::from_str(text).map_err(|error| InvalidField(format!("not valid YAML: {error}")))?;
        Self::from_file(deserialize(&value)?)
    }

    /// The part that decides about pods. `own_namespace` is excluded whatever is configured.
    #[must_use]
    pub fn settings(&self, own_namespace: Option<&str>) -> Settings {
        let mut excluded_namespaces = self.excluded_namespaces.clone();
        excluded_namespaces.extend(own_namespace.map(str::to_owned));
        Settings { pull_secret_name: self.pull_secret_name.clone(), excluded_namespaces, rules: self.rules.clone() }
    }

    fn from_file(file: File) -> Result<Self, InvalidField> {
        let File { pull_secret_name, registries, azure, admission } = file;
        let suffixes = each(&azure.extra_suffixes, "azure.extraSuffixes", DomainSuffix::from_str)?;
        let login_servers = LoginServerRule::new(suffixes);
        let mut rules = Vec::new();
        let mut credentials = BTreeMap::new();
        for (index, registry) in registries.into_iter().enumerate() {
            let field = format!("registries[{index}]");
            let rule = registry.rule(&field, &login_servers)?;
            credentials.insert(rule.name.clone(), registry.credential.files(&format!("{field}.credential"))?);
            rules.push(rule);
        }
        Ok(Self {
            pull_secret_name: parse_field(&pull_secret_name, "pullSecretName", PullSecretName::from_str)?,
            rules: RegistryRules::new(login_servers, rules)
                .map_err(|error| InvalidField(format!("registries: {error}")))?,
            credentials,
            ensure_timeout: parse_field(&admission.ensure_timeout, "admission.ensureTimeout", parse_ensure_timeout)?,
            excluded_namespaces: admission.excluded_namespaces,
        })
    }
}

/// A field that does not say what it should: its path, what is wrong and what to write.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidField(String);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    pull_secret_name: String,
    registries: Vec<Registry>,
    azure: Azure,
    admission: Admission,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Registry {
    name: String,
    #[serde(default = "any_public_login_server")]
    hosts: Vec<String>,
    #[serde(default)]
    namespaces: Namespaces,
    credential: Credential,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Namespaces {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Expression>,
    names: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Credential {
    ServicePrincipal(ServicePrincipal),
    Static(Static),
    WorkloadIdentity(serde::de::IgnoredAny),
    ManagedIdentity(serde::de::IgnoredAny),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServicePrincipal {
    client_id: Option<String>,
    client_id_file: Option<PathBuf>,
    client_secret_file: Option<PathBuf>,
    client_certificate_file: Option<PathBuf>,
    // Only token delivery needs the tenant; it may stand here already.
    #[serde(rename = "tenantId")]
    _tenant_id: Option<String>,
    #[serde(rename = "tenantIdFile")]
    _tenant_id_file: Option<PathBuf>,
    #[serde(default)]
    delivery: Delivery,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Delivery {
    #[default]
    Password,
    Token,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Static {
    username: Option<String>,
    username_file: Option<PathBuf>,
    password_file: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Azure {
    extra_suffixes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Admission {
    ensure_timeout: String,
    excluded_namespaces: BTreeSet<String>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            pull_secret_name: "acr-pull-secret".to_owned(),
            registries: Vec::new(),
            azure: Azure::default(),
            admission: Admission::default(),
        }
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            ensure_timeout: "2s".to_owned(),
            excluded_namespaces: ["kube-system", "kube-node-lease"].map(str::to_owned).into(),
        }
    }
}

impl Registry {
    fn rule(&self, field: &str, login_servers: &LoginServerRule) -> Result<RegistryRule, InvalidField> {
        Ok(RegistryRule {
            name: parse_field(&self.name, &format!("{field}.name"), RegistryName::from_str)?,
            hosts: each(&self.hosts, &format!("{field}.hosts"), |host| HostPattern::parse(host, login_servers))?,
            namespaces: NamespaceSelector {
                names: self.namespaces.names.clone(),
                match_labels: self.namespaces.match_labels.clone(),
                match_expressions: self.requirements(field)?,
            },
        })
    }

    fn requirements(&self, field: &str) -> Result<Vec<LabelRequirement>, InvalidField> {
        let requirement = |(index, expression): (usize, &Expression)| {
            let operator = match expression.operator {
                Operator::In => LabelOperator::In,
                Operator::NotIn => LabelOperator::NotIn,
                Operator::Exists => LabelOperator::Exists,
                Operator::DoesNotExist => LabelOperator::DoesNotExist,
            };
            LabelRequirement::new(expression.key.clone(), operator, expression.values.clone())
                .map_err(|error| InvalidField(format!("{field}.namespaces.matchExpressions[{index}]: {error}")))
        };
        self.namespaces.match_expressions.iter().enumerate().map(requirement).collect()
    }
}

impl Credential {
    fn files(&self, field: &str) -> Result<CredentialFiles, InvalidField> {
        match self {
            Self::Static(credential) => Ok(CredentialFiles {
                username: one_of(
                    credential.username.as_deref(),
                    credential.username_file.as_deref(),
                    &format!("{field}.static"),
                    "username",
                )?,
                password_file: credential.password_file.clone(),
            }),
            Self::ServicePrincipal(principal) => principal.files(&format!("{field}.servicePrincipal")),
            Self::WorkloadIdentity(_) => Err(unsupported(&format!("{field}.workloadIdentity"))),
            Self::ManagedIdentity(_) => Err(unsupported(&format!("{field}.managedIdentity"))),
        }
    }
}

impl ServicePrincipal {
    fn files(&self, field: &str) -> Result<CredentialFiles, InvalidField> {
        if matches!(self.delivery, Delivery::Token) {
            return Err(unsupported(&format!("{field}.delivery: token")));
        }
        if self.client_certificate_file.is_some() {
            return Err(unsupported(&format!("{field}.clientCertificateFile")));
        }
        let Some(password_file) = self.client_secret_file.clone() else {
            return Err(InvalidField(format!(
                "{field}.clientSecretFile is missing: name the file that holds the service principal's password"
            )));
        };
        let username = one_of(self.client_id.as_deref(), self.client_id_file.as_deref(), field, "clientId")?;
        Ok(CredentialFiles { username, password_file })
    }
}

fn any_public_login_server() -> Vec<String> {
    vec!["*.azurecr.io".to_owned()]
}

fn unsupported(field: &str) -> InvalidField {
    InvalidField(format!(
        "{field} is not supported by this version: use servicePrincipal with delivery: password, or static"
    ))
}

fn one_of(literal: Option<&str>, file: Option<&Path>, field: &str, name: &str) -> Result<Value, InvalidField> {
    match (literal, file) {
        (Some(""), None) => Err(InvalidField(format!("{field}.{name} is empty: write a value or {name}File"))),
        (Some(literal), None) => Ok(Value::Literal(literal.to_owned())),
        (None, Some(file)) => Ok(Value::File(file.to_owned())),
        (None, None) => Err(InvalidField(format!("{field}: {name} or {name}File is missing"))),
        (Some(_), Some(_)) => Err(InvalidField(format!("{field}: write {name} or {name}File, not both"))),
    }
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

/// Parses a duration such as `2s`, `500ms` or `1m 30s`.
///
/// # Errors
///
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| format!("{text:?} is not a duration: write for example 2s, 500ms or 1m 30s"))
}

fn parse_field<T, E: fmt::Display>(
    text: &str,
    field: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, InvalidField> {
    parse(text).map_err(|error| InvalidField(format!("{field}: {error}")))
}

fn each<T, E: fmt::Display>(
    texts: &[String],
    field: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, InvalidField> {
    texts.iter().enumerate().map(|(index, text)| parse_field(text, &format!("{field}[{index}]"), &parse)).collect()
}

fn deserialize<T: DeserializeOwned>(value: &serde_json::Value) -> Result<T, InvalidField> {
    serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string().as_str() {
        "." => InvalidField(error.inner().to_string()),
        path => InvalidField(format!("{path}: {}", error.inner())),
    })
}
