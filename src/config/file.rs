//! The configuration file as it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use serde::Deserialize;

use super::{
    azure,
    credential::Credential,
    field::{InvalidField, each, parse_field},
};
use crate::domain::{
    decision::Limits,
    image::LoginServerRule,
    registry::{HostPattern, LabelOperator, LabelRequirement, NamespaceSelector, RegistryName, RegistryRule},
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) pull_secret_name: String,
    pub(super) registries: Vec<Registry>,
    pub(super) azure: azure::Azure,
    pub(super) admission: Admission,
    pub(super) reconcile: Reconcile,
    pub(super) heal: Heal,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Registry {
    name: String,
    #[serde(default = "any_public_login_server")]
    hosts: Vec<String>,
    #[serde(default)]
    namespaces: Namespaces,
    pub(super) credential: Credential,
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
    operator: LabelOperator,
    #[serde(default)]
    values: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Admission {
    pub(super) ensure_timeout: String,
    pub(super) excluded_namespaces: BTreeSet<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Reconcile {
    writes_per_second: Option<u16>,
}

impl Reconcile {
    pub(super) fn writes_per_second(&self) -> Result<u16, InvalidField> {
        match self.writes_per_second {
            None => Ok(Limits::default().writes_per_second),
            Some(0) => Err(InvalidField("reconcile.writesPerSecond is 0: write 1 or more, 50 for example".to_owned())),
            Some(number) => Ok(number),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Heal {
    pub(super) evict_stuck_pods: bool,
}

impl Default for File {
    fn default() -> Self {
        Self {
            pull_secret_name: "acr-pull-secret".to_owned(),
            registries: Vec::new(),
            azure: azure::Azure::default(),
            admission: Admission::default(),
            reconcile: Reconcile::default(),
            heal: Heal::default(),
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
    pub(super) fn rule(&self, field: &str, login_servers: &LoginServerRule) -> Result<RegistryRule, InvalidField> {
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
            LabelRequirement::new(expression.key.clone(), expression.operator, expression.values.clone())
                .map_err(|error| InvalidField(format!("{field}.namespaces.matchExpressions[{index}]: {error}")))
        };
        self.namespaces.match_expressions.iter().enumerate().map(requirement).collect()
    }
}

fn any_public_login_server() -> Vec<String> {
    vec!["*.azurecr.io".to_owned()]
}
