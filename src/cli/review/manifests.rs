//! Manifests as the cluster would admit them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{apply, case::Case};
use crate::domain::{
    decision::{self, Decision, Settings},
    patch,
    registry::Namespace,
    review::{self, ReviewError},
};

/// The label that the API server puts on every namespace.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What the manifests of one input have in common.
#[derive(Debug)]
pub(super) struct Manifests<'a> {
    namespaces: BTreeMap<String, Namespace>,
    default_namespace: &'a str,
    settings: &'a Settings,
}

/// A manifest is not what it should be. The text names the field.
#[derive(Debug, thiserror::Error)]
#[error("{object}{reason}")]
pub(super) struct ManifestError {
    /// Empty, or the object and a colon.
    object: String,
    reason: String,
}

impl<'a> Manifests<'a> {
    /// Learns the namespaces whose manifests are among the objects.
    pub(super) fn new<'v>(
        objects: impl Iterator<Item = &'v Value>,
        default_namespace: &'a str,
        settings: &'a Settings,
    ) -> Self {
        let mut namespaces = BTreeMap::new();
        let mut objects: Vec<&Value> = objects.collect();
        while let Some(object) = objects.pop() {
            match kind(object) {
                ("v1", "List") => objects.extend(object["items"].as_array().into_iter().flatten()),
                ("v1", "Namespace") => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default();
                    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
                    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
                    namespaces.insert(name.to_owned(), namespace(name, labels.collect()));
                }
                _ => {}
            }
        }
        Self { namespaces, default_namespace, settings }
    }

    /// Changes the object as the webhook would change the pods that it makes, and adds a line or more that say why. Is
    /// the object another one now?
    pub(super) fn admit(&self, object: &mut Value, lines: &mut Vec<String>) -> Result<bool, ManifestError> {
        if object.is_null() {
            return Ok(false);
        }
        if !object.is_object() {
            return Err(ManifestError::new("not an object with apiVersion and kind"));
        }
        for field in ["apiVersion", "kind"] {
            if object[field].as_str().is_none_or(str::is_empty) {
                return Err(ManifestError::new(format!("{field} is missing or no string")));
            }
        }
        if kind(object) == ("v1", "List") {
            return self.admit_items(&mut object["items"], lines);
        }
        self.admit_object(object, lines)
    }

    fn admit_items(&self, items: &mut Value, lines: &mut Vec<String>) -> Result<bool, ManifestError> {
        let items = match items {
            Value::Null => return Ok(false),
            Value::Array(items) => items,
            _ => return Err(ManifestError::new("items is not a list")),
        };
        let mut changed = false;
        for (index, item) in items.iter_mut().enumerate() {
            let item_changed = self.admit(item, lines).map_err(|ManifestError { object, reason }| ManifestError {
                object: format!("items[{index}]: {object}"),
                reason,
            })?;
            changed |= item_changed;
        }
        Ok(changed)
    }

    fn admit_object(&self, object: &mut Value, lines: &mut Vec<String>) -> Result<bool, ManifestError> {
        let name = self.display_name(object);
        let fail = |reason: String| ManifestError { object: format!("{name}: "), reason };
        let (api_version, kind) = kind(object);
        let Some(path) = template_path(api_version, kind) else {
            let is_opted_out_namespace = (api_version, kind) == ("v1", "Namespace")
                && object["metadata"]["name"]
                    .as_str()
                    .and_then(|name| self.namespaces.get(name))
                    .is_some_and(decision::opted_out);
            lines.push(format!(
                "{name}: {}",
                if is_opted_out_namespace { "has opted out" } else { "makes no pods, passes unchanged" }
            ));
            return Ok(false);
        };
        let namespace_name = match &object["metadata"]["namespace"] {
            Value::Null => self.default_namespace,
            Value::String(name) if name.is_empty() => self.default_namespace,
            Value::String(name) => name,
            _ => return Err(fail("metadata.namespace is not a string".to_owned())),
        };
        let known = self.namespaces.get(namespace_name);
        let namespace = known.cloned().unwrap_or_else(|| namespace(namespace_name, BTreeMap::new()));
        let Some(template) = descend(object, path).map_err(fail)? else {
            lines.push(format!("{name}: {} is missing, passes unchanged", path.join(".")));
            return Ok(false);
        };
        let text = template.to_string();
        let pod = review::parse_pod(&text).map_err(|error| fail(at(path, &error)))?;
        let case = Case {
            object: name.clone(),
            pod: &pod,
            namespace: &namespace,
            is_namespace_known: known.is_some(),
            settings: self.settings,
        };
        let decision = case.decide();
        lines.extend(case.explain(&decision));
        match patch::image_pull_secrets(&pod, &self.settings.pull_secret_name) {
            Some(patch) if matches!(decision, Decision::Inject(_)) => {
                apply(&patch, template).map_err(fail)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// `Deployment team-a/web`, as people write it.
    fn display_name(&self, object: &Value) -> String {
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().filter(|text| !text.is_empty());
        let name = text("name").or_else(|| text("generateName")).unwrap_or("(no name)");
        let (api_version, kind) = kind(object);
        match text("namespace") {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None if template_path(api_version, kind).is_some() => format!("{kind} {}/{name}", self.default_namespace),
            None => format!("{kind} {name}"),
        }
    }
}

impl ManifestError {
    fn new(reason: impl Into<String>) -> Self {
        Self { object: String::new(), reason: reason.into() }
    }
}

fn namespace(name: &str, mut labels: BTreeMap<String, String>) -> Namespace {
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
    Namespace { name: name.to_owned(), labels, terminating: false }
}

fn kind(object: &Value) -> (&str, &str) {
    (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default())
}

/// Where an object of this kind describes its pods; `None` when it makes none.
fn template_path(api_version: &str, kind: &str) -> Option<&'static [&'static str]> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(&[]),
        ("", "PodTemplate") => Some(&["template"]),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

/// What stands at the path; `None` when a part of it is missing or null.
fn descend<'v>(object: &'v mut Value, path: &[&str]) -> Result<Option<&'v mut Value>, String> {
    let mut value = object;
    for (depth, field) in path.iter().enumerate() {
        value = match value.as_object_mut().map(|fields| fields.get_mut(*field)) {
            Some(Some(inner)) if inner.is_object() => inner,
            Some(Some(Value::Null) | None) | None => return Ok(None),
            Some(Some(_)) => return Err(format!("{} is not an object", path[..=depth].join("."))),
        };
    }
    Ok(Some(value))
}

/// The error with the field's path from the start of the manifest.
fn at(path: &[&str], error: &ReviewError) -> String {
    path.iter().flat_map(|field| [field, "."]).collect::<String>() + &error.to_string()
}
