//! A stored pull secret as its metadata shows it, so that no cache has to hold passwords.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

use super::{CONTENT_HASH_ANNOTATION, DATA_KEY, EXPIRES_AT_ANNOTATION, HOSTS_ANNOTATION, MANAGED_BY_LABEL, MANAGER};
use crate::domain::image::LoginServer;

/// What is known of a stored pull secret from its metadata alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPullSecret {
    /// Who made it.
    pub origin: Origin,
    /// The hosts it holds, by its annotation.
    pub hosts: BTreeSet<String>,
    /// When its first credential expires; `None` when none does.
    pub expires_at: Option<Timestamp>,
    /// The hash of what we wrote, by its annotation.
    pub content_hash: Option<String>,
    /// Nobody but us has written the data since: we own the field in `managedFields`, and we alone.
    pub data_untouched: bool,
    /// The identity of the object.
    pub uid: String,
    /// The version of the object.
    pub resource_version: String,
}

/// Who made a Secret of our name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// We did.
    Ours,
    /// Somebody else did. It is never touched.
    Foreign,
}

impl StoredPullSecret {
    /// Reads the metadata of a Secret. What is missing or malformed counts as not there.
    pub fn from_metadata(metadata: &ObjectMeta) -> Self {
        let label = metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY_LABEL));
        let annotation = |key| metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
        let hosts = annotation(HOSTS_ANNOTATION).map_or("", String::as_str).split(',');
        Self {
            origin: if label.is_some_and(|value| value == MANAGER) { Origin::Ours } else { Origin::Foreign },
            hosts: hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect(),
            // An expiry that cannot be read counts as past, so that the pull secret is written anew.
            expires_at: annotation(EXPIRES_AT_ANNOTATION)
                .map(|expires_at| expires_at.parse().unwrap_or(Timestamp::UNIX_EPOCH)),
            content_hash: annotation(CONTENT_HASH_ANNOTATION).cloned(),
            data_untouched: is_data_ours(metadata.managed_fields.as_deref().unwrap_or_default()),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }

    /// Can a pod pull from all these login servers with it, as far as we know? The hosts are compared as the kubelet
    /// does, by letter case and port.
    pub fn covers<'a>(&self, login_servers: impl IntoIterator<Item = &'a LoginServer>, now: Timestamp) -> bool {
        self.origin == Origin::Ours
            && self.data_untouched
            && self.expires_at.is_none_or(|expires_at| expires_at > now)
            && login_servers.into_iter().all(|login_server| self.hosts.contains(login_server.as_str()))
    }
}

/// Do we own the data, and we alone? Whoever else writes it becomes an owner in our place or beside us.
fn is_data_ours(managed_fields: &[ManagedFieldsEntry]) -> bool {
    let data_field = format!("f:{DATA_KEY}");
    let mut owners = managed_fields.iter().filter(|entry| {
        let data = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:data"));
        data.is_some_and(|data| data.get(&data_field).is_some())
    });
    let is_ours = |entry: &ManagedFieldsEntry| entry.manager.as_deref().is_some_and(|name| name.starts_with(MANAGER));
    owners.next().is_some_and(is_ours) && owners.all(is_ours)
}
