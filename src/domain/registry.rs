//! Registry rules: which credential a login server and a namespace may use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use super::image::{DomainSuffix, LoginServer, LoginServerError, LoginServerRule};

/// The unique name of a registry rule. It is a metric label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryName(String);

/// The text cannot name a registry rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a registry name: use 1 to 63 lower case letters, digits and dashes, with a letter or digit at both ends"
)]
pub struct RegistryNameError(String);

impl RegistryName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegistryName {
    type Err = RegistryNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let well_formed = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| is_word(byte) || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if well_formed { Ok(Self(text.to_owned())) } else { Err(RegistryNameError(text.to_owned())) }
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What an entry of a rule's `hosts` covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// One login server.
    Exact {
        /// The host name in lower case, without the port.
        host: String,
        /// This port only; `None` covers every port.
        port: Option<u16>,
    },
    /// `*.suffix`: every login server under the suffix, regional ones and every port included.
    Any {
        /// A suffix of the login server rule.
        suffix: DomainSuffix,
    },
}

/// The text is no host pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// A wildcard before something that is no suffix of the login server rule.
    #[error("{pattern:?} is not a host pattern: a wildcard stands for a whole domain, one of {}", .wildcards.join(", "))]
    Wildcard {
        /// The text.
        pattern: String,
        /// What is possible.
        wildcards: Vec<String>,
    },
    /// Neither a wildcard nor a login server.
    #[error(transparent)]
    Host(#[from] LoginServerError),
}

impl HostPattern {
    /// Parses `contoso.azurecr.io`, `contoso.localhost:5443` or `*.azurecr.io`.
    pub fn parse(pattern: &str, login_servers: &LoginServerRule) -> Result<Self, HostPatternError> {
        if !pattern.contains('*') {
            let login_server = login_servers.parse(pattern)?;
            return Ok(Self::Exact { host: login_server.host_name(), port: login_server.port() });
        }
        pattern
            .strip_prefix("*.")
            .and_then(|domain| login_servers.suffixes().find(|suffix| suffix.as_str().eq_ignore_ascii_case(domain)))
            .map(|suffix| Self::Any { suffix: suffix.clone() })
            .ok_or_else(|| HostPatternError::Wildcard {
                pattern: pattern.to_owned(),
                wildcards: login_servers.suffixes().map(|suffix| format!("*.{suffix}")).collect(),
            })
    }

    /// How closely the pattern names the login server; `None` when it does not cover it.
    fn specificity(&self, login_server: &LoginServer) -> Option<Specificity> {
        let name = login_server.spelled_name();
        match self {
            Self::Any { suffix } => suffix.strip_from(name).map(|_| Specificity::Wildcard),
            Self::Exact { host, .. } if !host.eq_ignore_ascii_case(name) => None,
            Self::Exact { port: None, .. } => Some(Specificity::Host),
            Self::Exact { port, .. } => (*port == login_server.port()).then_some(Specificity::HostAndPort),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { host, port: None } => formatter.write_str(host),
            Self::Exact { host, port: Some(port) } => write!(formatter, "{host}:{port}"),
            Self::Any { suffix } => write!(formatter, "*.{suffix}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    Wildcard,
    Host,
    HostAndPort,
}

/// What has to be known of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is being deleted: nothing can be created in it any more.
    pub terminating: bool,
}

/// Which namespaces a rule serves. All parts must match; the default is every namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSelector {
    /// When there are any, the namespace must be one of these.
    pub names: BTreeSet<String>,
    /// The namespace must have each of these labels with this value.
    pub match_labels: BTreeMap<String, String>,
    /// The namespace must meet each of these.
    pub match_expressions: Vec<LabelRequirement>,
}

impl NamespaceSelector {
    /// Is the namespace selected?
    pub fn matches(&self, namespace: &Namespace) -> bool {
        (self.names.is_empty() || self.names.contains(&namespace.name))
            && self.match_labels.iter().all(|(key, value)| namespace.labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(&namespace.labels))
    }

    /// Does it depend on the labels of a namespace?
    pub fn selects_by_label(&self) -> bool {
        !(self.match_labels.is_empty() && self.match_expressions.is_empty())
    }
}

/// An entry of `matchExpressions`, with the meaning that Kubernetes gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRequirement {
    key: String,
    operator: LabelOperator,
    values: BTreeSet<String>,
}

/// The operator of a label requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum LabelOperator {
    /// The label is there with one of the values.
    In,
    /// The label is not there, or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

/// The parts of a label requirement do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelRequirementError {
    /// No label is named.
    #[error("the key of a label requirement is empty")]
    NoKey,
    /// `In` or `NotIn` without a value.
    #[error("label {0:?}: the operators In and NotIn need at least one value")]
    NoValues(String),
    /// `Exists` or `DoesNotExist` with a value.
    #[error("label {0:?}: the operators Exists and DoesNotExist take no values")]
    Values(String),
}

impl LabelRequirement {
    /// Checks that `values` are given exactly for the operators that need them.
    pub fn new(key: String, operator: LabelOperator, values: BTreeSet<String>) -> Result<Self, LabelRequirementError> {
        let takes_values = matches!(operator, LabelOperator::In | LabelOperator::NotIn);
        match (takes_values, values.is_empty()) {
            _ if key.is_empty() => Err(LabelRequirementError::NoKey),
            (true, true) => Err(LabelRequirementError::NoValues(key)),
            (false, false) => Err(LabelRequirementError::Values(key)),
            _ => Ok(Self { key, operator, values }),
        }
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => listed,
            LabelOperator::NotIn => !listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// An entry of the configuration: these login servers take this credential in these namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRule {
    /// Names the rule and its credential.
    pub name: RegistryName,
    /// What it covers.
    pub hosts: Vec<HostPattern>,
    /// Whom it serves.
    pub namespaces: NamespaceSelector,
}

impl RegistryRule {
    /// Does one of its hosts cover the login server?
    pub fn covers(&self, login_server: &LoginServer) -> bool {
        self.specificity(login_server).is_some()
    }

    fn specificity(&self, login_server: &LoginServer) -> Option<Specificity> {
        self.hosts.iter().filter_map(|host| host.specificity(login_server)).max()
    }
}

/// All registry rules, in the order of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRules {
    login_servers: LoginServerRule,
    rules: Vec<RegistryRule>,
}

/// The rules do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryRulesError {
    /// Two rules have one name.
    #[error("two registries have the name {0}; give each its own")]
    DuplicateName(RegistryName),
    /// A rule covers nothing.
    #[error("registry {0} has no hosts; name at least one, such as *.azurecr.io")]
    NoHost(RegistryName),
}

impl RegistryRules {
    /// Checks that names are unique and that every rule covers something.
    pub fn new(login_servers: LoginServerRule, rules: Vec<RegistryRule>) -> Result<Self, RegistryRulesError> {
        let mut names = BTreeSet::new();
        for rule in &rules {
            if !names.insert(&rule.name) {
                return Err(RegistryRulesError::DuplicateName(rule.name.clone()));
            }
            if rule.hosts.is_empty() {
                return Err(RegistryRulesError::NoHost(rule.name.clone()));
            }
        }
        Ok(Self { login_servers, rules })
    }

    /// Which hosts are login servers at all.
    pub fn login_servers(&self) -> &LoginServerRule {
        &self.login_servers
    }

    /// The rules in the order of the configuration.
    pub fn iter(&self) -> std::slice::Iter<'_, RegistryRule> {
        self.rules.iter()
    }

    /// Is no registry configured?
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Does a rule name the login server, in just this spelling? Such names are as few as the operator has written.
    pub fn names(&self, login_server: &LoginServer) -> bool {
        let is_this = |pattern: &HostPattern| match pattern {
            HostPattern::Exact { host, port } => host == login_server.spelled_name() && *port == login_server.port(),
            HostPattern::Any { .. } => false,
        };
        self.rules.iter().flat_map(|rule| &rule.hosts).any(is_this)
    }

    /// The rules that decide about the login server, whatever the namespace: all of the most specific level.
    pub fn covering(&self, login_server: &LoginServer) -> Vec<&RegistryRule> {
        let level = self.rules.iter().filter_map(|rule| rule.specificity(login_server)).max();
        self.rules.iter().filter(|rule| level.is_some() && rule.specificity(login_server) == level).collect()
    }

    /// What the namespace may use for the login server.
    ///
    /// The most specific rules win: host and port, then host, then wildcard. Among rules of one level the first in order
    /// that serves the namespace counts. There is no fall back to a lower level: a rule that keeps a registry from a
    /// namespace must not be undone by a wildcard.
    pub fn grant(&self, login_server: &LoginServer, namespace: &Namespace) -> Grant<'_> {
        let mut refused: Option<(Specificity, &RegistryRule)> = None;
        let mut granted: Option<(Specificity, &RegistryRule)> = None;
        for rule in &self.rules {
            let Some(specificity) = rule.specificity(login_server) else { continue };
            let found = if rule.namespaces.matches(namespace) { &mut granted } else { &mut refused };
            if found.is_none_or(|(best, _)| specificity > best) {
                *found = Some((specificity, rule));
            }
        }
        match (granted, refused) {
            (Some((level, _)), Some((higher, rule))) if higher > level => Grant::Refused(rule),
            (Some((_, rule)), _) => Grant::Granted(rule),
            (None, Some((_, rule))) => Grant::Refused(rule),
            (None, None) => Grant::NoRule,
        }
    }
}

impl<'a> IntoIterator for &'a RegistryRules {
    type Item = &'a RegistryRule;
    type IntoIter = std::slice::Iter<'a, RegistryRule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What a namespace may use for a login server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant<'a> {
    /// The credential of this rule.
    Granted(&'a RegistryRule),
    /// Nothing: the most specific rules for the login server do not serve the namespace. This is the first of them.
    Refused(&'a RegistryRule),
    /// Nothing: no rule covers the login server.
    NoRule,
}

#[cfg(test)]
mod tests;
