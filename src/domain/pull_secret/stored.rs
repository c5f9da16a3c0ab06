//! A stored pull secret as its metadata shows it, so that no cache has to hold passwords.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

use super::{
    DATA_KEY, EXPIRES_AT_ANNOTATION, HOSTS_ANNOTATION, Lifetime, MANAGED_BY_LABEL, MANAGER, MAX_LOGIN_SERVERS,
    PullSecret, RENEW_AT_ANNOTATION, SOURCE_HASH_ANNOTATION,
};
use crate::image::LoginServer;

/// A host name and a port, of which we never store a longer one.
const LONGEST_HOST: usize = 253 + ":65535".len();
/// Of any hash that we ever store.
const LONGEST_HASH: usize = 128;

/// What is known of a stored pull secret from its metadata alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPullSecret {
    /// Who made it.
    pub origin: Origin,
    /// The hosts it holds, by its annotation.
    pub hosts: BTreeSet<String>,
    /// When its first credential is to be renewed and when it expires; `None` when none does.
    pub lifetime: Option<Lifetime>,
    /// The hash of what its credentials were made from, by its annotation.
    pub source_hash: Option<String>,
    /// Nobody has changed the data or the list of hosts since we wrote them: we own both fields in `managedFields`.
    pub untouched: bool,
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
        let is_ours = label.is_some_and(|value| value == MANAGER);
        // What somebody else made is never used, and how long its annotations are is up to them.
        let annotations = metadata.annotations.as_ref().filter(|_| is_ours);
        let annotation = |key| annotations.and_then(|annotations| annotations.get(key));
        let listed = annotation(HOSTS_ANNOTATION).map_or("", String::as_str).split(',').filter(|host| !host.is_empty());
        let written_by_us = |host: &&str| host.len() <= LONGEST_HOST;
        let hosts: BTreeSet<_> =
            listed.clone().take(MAX_LOGIN_SERVERS).filter(written_by_us).map(str::to_owned).collect();
        let is_cut = listed.take(MAX_LOGIN_SERVERS + 1).count() > hosts.len();
        Self {
            origin: if is_ours { Origin::Ours } else { Origin::Foreign },
            hosts,
            lifetime: lifetime(annotation(RENEW_AT_ANNOTATION), annotation(EXPIRES_AT_ANNOTATION)),
            source_hash: annotation(SOURCE_HASH_ANNOTATION).filter(|hash| hash.len() <= LONGEST_HASH).cloned(),
            untouched: !is_cut && owns_data_and_hosts(metadata.managed_fields.as_deref().unwrap_or_default()),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }

    /// Is `secret` worth writing in its place: made from something else, or with newer tokens? What stands there already,
    /// since no credential can be had, is not. `content` is what was found there, if somebody looked.
    pub fn is_older_than(&self, secret: &PullSecret, content: Option<&PullSecret>) -> bool {
        if secret.is_read_back() && secret.hosts().count() == self.hosts.len() {
            return false;
        }
        let is_newer = match (self.lifetime, secret.lifetime()) {
            (Some(before), Some(now)) => before.renew_at < now.renew_at || before.expires_at < now.expires_at,
            (before, now) => before.is_none() && now.is_some(),
        };
        let is_there = || content.is_some_and(|content| content.docker_config_json() == secret.docker_config_json());
        is_newer || self.source_hash != Some(secret.source_hash()) && !is_there()
    }

    /// Has one of its credentials expired?
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.lifetime.is_some_and(|lifetime| lifetime.expires_at <= now)
    }

    /// Were its tokens written by a clock that has been set back since? They end sooner than they say.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.lifetime.is_some_and(|lifetime| lifetime.is_ahead(now))
    }

    /// Can a pod pull from all these login servers with it, as far as we know? The hosts are compared as the kubelet
    /// does, by letter case and port.
    pub fn covers<'a>(&self, login_servers: impl IntoIterator<Item = &'a LoginServer>, now: Timestamp) -> bool {
        self.origin == Origin::Ours
            && self.untouched
            && !self.is_expired(now)
            && !self.is_ahead(now)
            && login_servers.into_iter().all(|login_server| self.hosts.contains(login_server.as_str()))
    }
}

/// Of two times, one that is missing or cannot be read counts as past, so that the pull secret is written anew.
fn lifetime(renew_at: Option<&String>, expires_at: Option<&String>) -> Option<Lifetime> {
    if [renew_at, expires_at].into_iter().flatten().all(String::is_empty) {
        return None;
    }
    let time = |text: Option<&String>| text.and_then(|text| text.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    Some(Lifetime { renew_at: time(renew_at), expires_at: time(expires_at) })
}

/// Do we own data and hosts? Whoever writes something else becomes its owner in our place; whoever applies the same becomes
/// one beside us, and nothing is wrong with that.
fn owns_data_and_hosts(managed_fields: &[ManagedFieldsEntry]) -> bool {
    let hosts = ["f:metadata".to_owned(), "f:annotations".to_owned(), format!("f:{HOSTS_ANNOTATION}")];
    let data = ["f:data".to_owned(), format!("f:{DATA_KEY}")];
    [&data[..], &hosts[..]].into_iter().all(|path| {
        managed_fields.iter().any(|entry| {
            entry.manager.as_deref().is_some_and(|manager| manager.starts_with(MANAGER))
                && entry
                    .fields_v1
                    .as_ref()
                    .is_some_and(|fields| path.iter().try_fold(&fields.0, |field, name| field.get(name)).is_some())
        })
    })
}
