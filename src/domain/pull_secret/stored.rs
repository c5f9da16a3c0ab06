//! A stored pull secret as its metadata shows it, so that no cache has to hold passwords.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

use super::{
    DATA_KEY, HOSTS_ANNOTATION, Lifetime, MANAGED_BY_LABEL, MANAGER, MAX_LOGIN_SERVERS, PullSecret, RegistryCredential,
    SOURCE_HASH_ANNOTATION, TOKENS_ANNOTATION,
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
    /// What it holds, by its annotations, sorted by host.
    pub hosts: Vec<StoredHost>,
    /// The hash of what its credentials were made from, by its annotation.
    pub source_hash: Option<String>,
    /// Nobody has changed the data or what its annotations say of it since we wrote them: we own these fields in
    /// `managedFields`.
    pub untouched: bool,
    /// The identity of the object.
    pub uid: String,
    /// The version of the object.
    pub resource_version: String,
}

/// A host of a stored pull secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHost {
    /// Spelled as in `auths`.
    pub host: Box<str>,
    /// How long its credential is good; `None` when it does not expire.
    pub lifetime: Option<Lifetime>,
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
        let managed_fields = metadata.managed_fields.as_deref().unwrap_or_default();
        let listed = annotation(HOSTS_ANNOTATION).map_or("", String::as_str).split(',').filter(|host| !host.is_empty());
        let written_by_us = |host: &&str| host.len() <= LONGEST_HOST;
        let tokens = annotation(TOKENS_ANNOTATION)
            .filter(|_| owns(managed_fields, &["f:metadata", "f:annotations", &field(TOKENS_ANNOTATION)]))
            .map(|tokens| lifetimes(tokens));
        // What somebody else wrote tells nothing.
        let stored_host = |host: &str| StoredHost {
            host: host.into(),
            lifetime: tokens.as_ref().map_or(Some(Lifetime::OVER), |tokens| tokens.get(host).copied()),
        };
        let mut hosts: Vec<_> = listed.clone().take(MAX_LOGIN_SERVERS).filter(written_by_us).map(stored_host).collect();
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        hosts.dedup_by(|one, other| one.host == other.host);
        let is_cut = listed.take(MAX_LOGIN_SERVERS + 1).count() > hosts.len();
        Self {
            origin: if is_ours { Origin::Ours } else { Origin::Foreign },
            hosts,
            source_hash: annotation(SOURCE_HASH_ANNOTATION).filter(|hash| hash.len() <= LONGEST_HASH).cloned(),
            untouched: !is_cut && owns_what_it_tells(managed_fields),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }

    /// What is known of its credential for a host of exactly this spelling.
    pub fn host(&self, host: &str) -> Option<&StoredHost> {
        let index = self.hosts.binary_search_by(|stored| stored.host.as_ref().cmp(host)).ok()?;
        self.hosts.get(index)
    }

    /// How long its credential for this host is good. Nobody knows of one that it does not list.
    pub fn lifetime(&self, host: &str) -> Option<Lifetime> {
        self.host(host).map_or(Some(Lifetime::OVER), |stored| stored.lifetime)
    }

    /// Is `secret` worth writing in its place: made from something else, or with newer tokens? What stands there already,
    /// since no credential can be had, is not. `content` is what was found there, if somebody looked.
    pub fn is_older_than(&self, secret: &PullSecret, content: Option<&PullSecret>, now: Timestamp) -> bool {
        if secret.is_read_back() && secret.hosts().count() == self.hosts.len() {
            return false;
        }
        let is_there = || content.is_some_and(|content| content.docker_config_json() == secret.docker_config_json());
        secret.credentials().any(|(host, credential)| self.has_older(host, credential, now))
            || self.source_hash != Some(secret.source_hash()) && !is_there()
    }

    /// Is its credential for this host an older one?
    fn has_older(&self, host: &LoginServer, credential: &RegistryCredential, now: Timestamp) -> bool {
        let Some(StoredHost { lifetime, .. }) = self.host(host.as_str()).filter(|_| !credential.is_read_back()) else {
            return false;
        };
        match (lifetime, credential.lifetime) {
            (Some(stored), Some(offered)) => {
                stored.renew_at < offered.renew_at
                    || stored.expires_at < offered.expires_at
                    || stored.is_ahead(now) && !offered.is_ahead(now)
            }
            (stored, offered) => stored.is_some() != offered.is_some(),
        }
    }

    /// Does it hold exactly these tokens already? Of a password nobody can tell.
    pub fn holds_tokens<'a>(
        &self,
        mut tokens: impl Iterator<Item = (&'a LoginServer, &'a RegistryCredential)>,
    ) -> bool {
        tokens.all(|(host, token)| {
            token.lifetime.is_some() && self.host(host.as_str()).is_some_and(|stored| stored.lifetime == token.lifetime)
        })
    }

    /// Can a pod pull from all these login servers with it, as far as we know? The hosts are compared as the kubelet
    /// does, by letter case and port.
    pub fn covers<'a>(&self, login_servers: impl IntoIterator<Item = &'a LoginServer>, now: Timestamp) -> bool {
        let is_good = |stored: &StoredHost| stored.lifetime.is_none_or(|lifetime| lifetime.is_good(now));
        self.origin == Origin::Ours
            && self.untouched
            && login_servers.into_iter().all(|login_server| self.host(login_server.as_str()).is_some_and(is_good))
    }
}

/// Of two times, one that cannot be read counts as past, so that the pull secret is written anew.
fn lifetimes(tokens: &str) -> HashMap<&str, Lifetime> {
    let time = |text: &str| text.parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let lifetime = |text: &str| {
        let (renew_at, expires_at) = text.split_once('/').unwrap_or_default();
        Lifetime { renew_at: time(renew_at), expires_at: time(expires_at) }
    };
    let tokens = tokens.split(',').take(MAX_LOGIN_SERVERS).filter_map(|token| token.split_once('='));
    tokens.map(|(host, text)| (host, lifetime(text))).collect()
}

/// Do we own the data and what the annotations say of it? Whoever writes something else becomes its owner in our place;
/// whoever applies the same becomes one beside us, and nothing is wrong with that.
fn owns_what_it_tells(managed_fields: &[ManagedFieldsEntry]) -> bool {
    let annotations = [HOSTS_ANNOTATION, TOKENS_ANNOTATION, SOURCE_HASH_ANNOTATION];
    owns(managed_fields, &["f:data", &field(DATA_KEY)])
        && annotations.iter().all(|key| owns(managed_fields, &["f:metadata", "f:annotations", &field(key)]))
}

fn field(key: &str) -> String {
    format!("f:{key}")
}

fn owns(managed_fields: &[ManagedFieldsEntry], path: &[&str]) -> bool {
    managed_fields.iter().any(|entry| {
        entry.manager.as_deref().is_some_and(|manager| manager.starts_with(MANAGER))
            && entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| path.iter().try_fold(&fields.0, |field, name| field.get(name)).is_some())
    })
}
