//! The JSON patch: the only place that knows a JSON pointer.

use std::collections::HashSet;

use super::{
    pull_secret::PullSecretName,
    review::{Pod, PullSecretReference},
};

/// A JSON patch (RFC 6902), as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch(String);

impl Patch {
    /// The list of operations: always one.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// The patch that makes the pod reference the pull secret, or `None` when it does so already, or when its list is too long
/// to be known in full.
///
/// It is exactly one `add` of the whole list, also when the list exists: such a patch always applies, and one that does
/// not makes the API server reject the pod, even under `failurePolicy: Ignore`. The order of the list is kept, since the
/// kubelet tries its entries in turn, and ours comes last. A second entry of one name, which only earns a warning, is dropped.
pub fn image_pull_secrets(pod: &Pod<'_>, name: &PullSecretName) -> Option<Patch> {
    if pod.references(name) || pod.has_too_many_pull_secrets() {
        return None;
    }
    let mut names = HashSet::new();
    let kept =
        pod.image_pull_secrets().iter().filter(|reference| reference.name().is_none_or(|name| names.insert(name)));
    // Nothing in a name needs an escape.
    let ours = format!(r#"{{"name":"{name}"}}"#);
    let list = kept.map(PullSecretReference::as_json).chain([ours.as_str()]).collect::<Vec<_>>().join(",");
    Some(Patch([r#"[{"op":"add","path":"/spec/imagePullSecrets","value":["#, &list, "]}]"].concat()))
}

#[cfg(test)]
mod tests;
