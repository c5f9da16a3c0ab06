//! What a pull secret should hold, put together from the credentials of now and from what it holds already.

use std::collections::{BTreeMap, BTreeSet};

use super::{EnsureError, Ensurer, MAX_LOGIN_SERVERS, Missing, error::Incomplete};
use crate::{
    admission::{CredentialSource, PullSecretStore, StoreError},
    domain::{
        image::LoginServer,
        pull_secret::{Origin, PullSecret, StoredPullSecret},
        registry::{Namespace, RegistryName},
        upkeep::{granted, held},
    },
};

/// What a pull secret should hold.
pub(super) struct Assembly {
    pub(super) secret: PullSecret,
    /// What stands in the namespace, where that was looked at.
    pub(super) content: Option<PullSecret>,
    /// All that could be had stands there, so that nobody had to look.
    pub(super) is_known: bool,
    /// Something that is missing may be had later without a change that is seen: a token, or room for one more.
    pub(super) may_pass_unseen: bool,
    /// The login servers that got no credential just now.
    missing: BTreeMap<LoginServer, Missing>,
    /// Those of them that keep the one from before, which is still good as far as we know.
    kept: BTreeSet<LoginServer>,
}

impl Assembly {
    /// Every login server that got no credential just now.
    pub(super) fn lacks(&self) -> Option<EnsureError> {
        Incomplete::of(self.missing.clone())
    }

    /// What keeps pods from pulling from these login servers.
    pub(super) fn fails<'a>(&self, wanted: impl Iterator<Item = &'a LoginServer>) -> Option<EnsureError> {
        self.lacks()?.concerning(wanted.filter(|wanted| !self.kept.contains(*wanted)))
    }
}

impl<C: CredentialSource, S: PullSecretStore> Ensurer<C, S> {
    /// Puts together the login servers that are wanted, and those that the pull secret holds, as far as they are still granted.
    ///
    /// A credential must never come where only other rules than its own would have it, so nothing is put together while
    /// the configuration is replaced.
    pub(super) async fn assemble(
        &self,
        namespace: &Namespace,
        wanted: &BTreeMap<LoginServer, RegistryName>,
        stored: Option<&StoredPullSecret>,
    ) -> Result<Assembly, EnsureError> {
        let settings = self.settings.load_full();
        if stored.is_some_and(|stored| stored.origin == Origin::Foreign) {
            return Err(EnsureError::Foreign {
                name: settings.pull_secret_name.to_string(),
                namespace: namespace.name.clone(),
            });
        }
        if !self.credentials.goes_by(&settings.rules) {
            return Err(EnsureError::Changing);
        }
        let wanted = granted(wanted.keys().cloned(), namespace, &settings);
        let mut content = None;
        let mut held = stored.map(|stored| held(stored, namespace, &settings)).unwrap_or_default();
        if stored.is_some_and(|stored| !stored.untouched) {
            // The list of hosts may be what was changed, so what the data says counts too.
            let found = self.content(namespace, &mut content).await?;
            let hosts = found.into_iter().flat_map(PullSecret::hosts).cloned();
            held.extend(granted(hosts, namespace, &settings));
        }
        let more = wanted.iter().filter(|(login_server, _)| !held.contains_key(*login_server));
        let mut all: Vec<_> = held.iter().chain(more).collect();
        // What a rule names has its place, whatever somebody makes up under a wildcard or in other spellings.
        all.sort_by_key(|(login_server, _)| !settings.rules.names(login_server));
        // Those without a credential count too: somebody who edits a pull secret must not have us ask for thousands.
        let (asked, left_out) = all.split_at(all.len().min(MAX_LOGIN_SERVERS));
        let too_many = || Missing::TooMany { namespace: namespace.name.clone() };
        let mut missing: BTreeMap<_, _> =
            left_out.iter().map(|(login_server, _)| ((*login_server).clone(), too_many())).collect();
        let mut may_pass_unseen = !missing.is_empty();
        for (login_server, registry) in asked {
            let held = stored.filter(|stored| stored.untouched).and_then(|stored| stored.host(login_server.as_str()));
            if held.is_some_and(|held| held.lifetime.is_some()) {
                self.credentials.vouch(registry, login_server);
            }
        }
        let mut credentials = BTreeMap::new();
        // At once, so that a login server that is away keeps none of the others waiting longer than itself.
        let answers = asked.iter().map(async |(login_server, registry)| {
            (*login_server, *registry, self.credentials.credential(registry, login_server).await)
        });
        let mut without = Vec::new();
        for (login_server, registry, answer) in futures_util::future::join_all(answers).await {
            match answer {
                Ok(credential) => drop(credentials.insert(login_server.clone(), credential)),
                Err(error) => {
                    missing.insert(login_server.clone(), error.into());
                    may_pass_unseen |= self.credentials.source(registry).is_some();
                    without.push(login_server);
                }
            }
        }
        if !self.credentials.goes_by(&settings.rules) {
            return Err(EnsureError::Changing);
        }
        let is_good = |login_server: &&&LoginServer| {
            let stored = stored.and_then(|stored| stored.host(login_server.as_str()));
            stored.is_some_and(|stored| stored.lifetime.is_none_or(|lifetime| lifetime.is_good(self.clock.now())))
        };
        let is_known = !without.is_empty()
            && stored.is_some_and(|stored| {
                let mut all = all.iter().map(|(login_server, _)| login_server);
                let is_all = stored.hosts.len() == all.len() && all.all(|all| stored.host(all.as_str()).is_some());
                stored.untouched && is_all && stored.holds_tokens(credentials.iter())
            });
        let mut kept = BTreeSet::new();
        for login_server in without.iter().filter(|login_server| held.contains_key(**login_server)) {
            // What works today must not be taken away because its credential cannot be had just now.
            let found = if is_known { None } else { self.content(namespace, &mut content).await? };
            let found = found.and_then(|content| content.credential(login_server));
            credentials.extend(found.map(|credential| ((*login_server).clone(), credential.clone())));
            if is_known || found.is_some() {
                kept.extend(Some(login_server).filter(is_good).map(|login_server| (*login_server).clone()));
            }
        }
        let content = content.and_then(|Content(found)| found);
        Ok(Assembly { secret: PullSecret::new(credentials), content, is_known, may_pass_unseen, missing, kept })
    }

    /// What stands in the namespace now, read once per assembly.
    async fn content<'a>(
        &self,
        namespace: &Namespace,
        content: &'a mut Option<Content>,
    ) -> Result<Option<&'a PullSecret>, StoreError> {
        let found = match content.take() {
            Some(found) => found,
            None => Content(self.read(namespace).await?.and_then(|read| read.content)),
        };
        Ok(content.insert(found).0.as_ref())
    }
}

/// What a read found: nothing that is of use, or the content of a pull secret.
struct Content(Option<PullSecret>);
