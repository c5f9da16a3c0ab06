//! The JSON patch: the only place that knows a JSON pointer.

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use super::{
    pull_secret::PullSecretName,
    review::{Pod, PullSecretReference},
};

/// The patch that makes the pod reference the pull secret, or `None` when it does so already.
///
/// It is exactly one `add` of the whole list, also when the list exists: such a patch always applies, and one that does
/// not makes the API server reject the pod, even under `failurePolicy: Ignore`. The order of the list is kept, since the
/// kubelet tries its entries in turn, and ours comes last. A second entry of one name, which only earns a warning, is dropped.
pub fn image_pull_secrets(pod: &Pod<'_>, name: &PullSecretName) -> Option<Patch> {
    if pod.references(name) {
        return None;
    }
    let existing = pod.image_pull_secrets();
    let is_first = |(index, reference): &(usize, &PullSecretReference)| {
        reference.name().is_none() || !existing[..*index].iter().any(|earlier| earlier.name() == reference.name())
    };
    let kept = existing.iter().enumerate().filter(is_first).map(|(_, reference)| reference.to_value());
    let list: Vec<Value> = kept.chain([json!({"name": name.as_str()})]).collect();
    let path = PointerBuf::from_tokens(["spec", "imagePullSecrets"]);
    Some(Patch(vec![PatchOperation::Add(AddOperation { path, value: Value::Array(list) })]))
}

#[cfg(test)]
mod tests;
