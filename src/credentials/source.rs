//! The credentials of all registry rules, whatever each is made from.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    end::{EndError, end},
    exchange::RegistryHost,
    http::AzureHttp,
    identity::Identity,
    material::{Material, MaterialError},
    token_cache::{TokenCache, Wanted},
};
use crate::{
    admission::{CredentialError, CredentialSource},
    clock::Clock,
    config::{AzureConfiguration, Configuration, CredentialConfiguration},
    domain::{
        image::LoginServer,
        pull_secret::{CredentialSourceHash, RegistryCredential},
        registry::{HostPattern, RegistryName, RegistryRules},
    },
    metrics::Metrics,
};

/// How long a changed file goes unnoticed at most, and how late a renewal may begin.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The credentials of all registry rules. Files are read by polling; tokens come from the cache.
///
/// Files are polled and their bytes compared. The kubelet swaps a symbolic link when a Secret changes, and a watch on the
/// file misses that from the second time on.
#[derive(Debug)]
pub struct Credentials {
    state: ArcSwap<State>,
    cache: TokenCache,
    metrics: Arc<Metrics>,
    /// Readings of files follow each other, so that a slow one cannot undo a later one.
    reading: tokio::sync::Mutex<()>,
}

/// Rules and credentials change together: a credential never meets the hosts that its rule gets with another one.
#[derive(Debug)]
struct State {
    configured: Arc<Configured>,
    known: BTreeMap<RegistryName, Known>,
}

/// What is known of a rule's credential.
#[derive(Debug)]
struct Known {
    /// What is in use.
    material: Result<Material, MaterialError>,
    /// Why the files could not be read last time.
    fault: Option<MaterialError>,
    /// Why it is not known when the secret ends.
    end_fault: Option<EndError>,
}

/// The parts of the configuration that credentials depend on.
#[derive(Debug)]
struct Configured {
    credentials: BTreeMap<RegistryName, CredentialConfiguration>,
    rules: RegistryRules,
    azure: AzureConfiguration,
    http: Arc<AzureHttp>,
}

impl Credentials {
    /// Reads all files once. One that is missing is reported and looked for again, never fatal. Azure is not asked yet.
    pub async fn read(configuration: &Configuration, metrics: Arc<Metrics>, clock: Clock) -> Self {
        let configured = Arc::new(Configured::new(configuration, None));
        let cache = TokenCache::new(configured.http.clone(), clock, metrics.clone());
        let credentials = Self {
            state: ArcSwap::from_pointee(State { configured, known: BTreeMap::new() }),
            cache,
            metrics,
            reading: tokio::sync::Mutex::default(),
        };
        credentials.reread().await;
        credentials
    }

    /// Takes over a changed configuration; its files are read at once, and what was in force is until then.
    pub async fn configure(&self, configuration: &Configuration) {
        let _reading = self.reading.lock().await;
        let before = self.state.load_full().configured.clone();
        self.read_by(Arc::new(Configured::new(configuration, Some(&before)))).await;
        // Once no poll is under way any more that would bring them back.
        for removed in before.credentials.keys().filter(|name| !configuration.credentials.contains_key(*name)) {
            self.metrics.registry_removed(removed.as_str());
        }
    }

    /// Polls the files and renews tokens until `shutdown`, and raises the number in `announce` when pull secrets may have
    /// to be rewritten: a credential has changed, or a login server has a token that had none.
    pub async fn follow(self: Arc<Self>, announce: watch::Sender<u64>, shutdown: CancellationToken) {
        let announce = || announce.send_modify(|number| *number += 1);
        let poll = async {
            loop {
                tokio::time::sleep(POLL_INTERVAL).await;
                if self.reread().await {
                    announce();
                }
            }
        };
        let renew = self.cache.keep_renewed(POLL_INTERVAL, announce);
        tokio::select! {
            () = shutdown.cancelled() => {}
            ((), ()) = async { tokio::join!(poll, renew) } => {}
        }
    }

    /// Renews the tokens that are due, once. Tells whether a login server has a token now that had none.
    pub async fn renew_due(&self) -> bool {
        self.cache.renew_due().await
    }

    /// Reads all files again. Tells whether a usable credential differs from before.
    pub async fn reread(&self) -> bool {
        let _reading = self.reading.lock().await;
        let configured = self.state.load_full().configured.clone();
        self.read_by(configured).await
    }

    /// Reads all files that `configured` names, for whoever holds `reading`.
    async fn read_by(&self, configured: Arc<Configured>) -> bool {
        let before = self.state.load_full();
        let mut now = BTreeMap::new();
        let mut changed = false;
        for (registry, credential) in &configured.credentials {
            let read = Material::read(credential, &configured.azure).await;
            self.metrics.credential_readable(registry.as_str(), read.is_ok());
            // By the name alone, another credential would come to the hosts and namespaces of the new one.
            let is_the_same = configured.reads_as(&before.configured, registry);
            let before = before.known.get(registry).filter(|_| is_the_same);
            let (mut known, differs) = self.compare(registry, read, before);
            changed |= differs;
            known.end_fault = self.tell_end(registry, credential, &known, before).await;
            now.insert(registry.clone(), known);
        }
        self.warm(&configured, &now);
        self.state.store(Arc::new(State { configured, known: now }));
        changed
    }

    /// What to go on with, and whether it is another credential than before. A fault is said once, not at every poll.
    /// `before` is what the same configuration of the credential gave.
    fn compare(
        &self,
        registry: &RegistryName,
        read: Result<Material, MaterialError>,
        before: Option<&Known>,
    ) -> (Known, bool) {
        let known = before.and_then(|before| before.material.as_ref().ok());
        match (read, known) {
            (Ok(material), Some(known)) if material.source() == known.source() => {
                if material != *known {
                    // A fresh federated token may be what a refused sign-in was waiting for.
                    self.cache.retry_now(&material.source());
                }
                (Known { material: Ok(material), fault: None, end_fault: None }, false)
            }
            (Ok(material), _) => {
                tracing::info!(%registry, "credential read");
                (Known { material: Ok(material), fault: None, end_fault: None }, true)
            }
            (Err(error), known) => {
                if before.is_none_or(|before| before.fault.as_ref() != Some(&error)) {
                    let consequence = match known {
                        Some(_) => "the credential read before stays in use",
                        None => "pods of this registry are admitted, their pull secret waits for the credential",
                    };
                    tracing::warn!(%registry, %error, "{consequence}");
                }
                // What worked keeps working while a file is away or half written.
                let material = known.cloned().ok_or_else(|| error.clone());
                (Known { material, fault: Some(error), end_fault: None }, false)
            }
        }
    }

    /// States when the credential itself ends. That it cannot be said is no reason not to use it; it is logged once.
    async fn tell_end(
        &self,
        registry: &RegistryName,
        credential: &CredentialConfiguration,
        known: &Known,
        before: Option<&Known>,
    ) -> Option<EndError> {
        let (ends_at, fault) = match end(credential, known.material.as_ref().ok()).await {
            Ok(ends_at) => (ends_at, None),
            Err(error) => (None, Some(error)),
        };
        self.metrics.service_principal_expiry(registry.as_str(), ends_at);
        if let Some(error) = &fault
            && before.is_none_or(|before| before.end_fault.as_ref() != Some(error))
        {
            tracing::warn!(%registry, %error, "no alert can tell that the service principal's secret is about to end");
        }
        fault
    }

    /// Has the cache keep a token for every exact host of a rule that delivers tokens.
    fn warm(&self, configured: &Configured, known: &BTreeMap<RegistryName, Known>) {
        let identities: BTreeMap<RegistryName, Arc<Identity>> = known
            .iter()
            .filter_map(|(registry, known)| match &known.material {
                Ok(Material::Identity { identity, .. }) => Some((registry.clone(), identity.clone())),
                _ => None,
            })
            .collect();
        let mut wanted = Vec::new();
        for rule in &configured.rules {
            let Some(identity) = identities.get(&rule.name) else { continue };
            for host in exact_hosts(&rule.hosts, &configured.rules) {
                let host = RegistryHost::from(&host);
                wanted.push(Wanted { registry: rule.name.clone(), identity: identity.clone(), host });
            }
        }
        self.cache.configure(configured.http.clone(), &identities, &wanted);
    }
}

impl CredentialSource for Credentials {
    async fn credential(
        &self,
        registry: &RegistryName,
        login_server: &LoginServer,
    ) -> Result<RegistryCredential, CredentialError> {
        let failed = |reason: String| CredentialError { registry: registry.clone(), reason };
        let state = self.state.load_full();
        // Whoever asks has looked at the rules; a credential must not depend on that.
        let rule = state.configured.rules.iter().find(|rule| rule.name == *registry);
        if !rule.is_some_and(|rule| rule.covers(login_server)) {
            return Err(failed(format!("it does not cover {login_server} any more")));
        }
        let material = match state.known.get(registry).map(|known| &known.material) {
            Some(Ok(material)) => material.clone(),
            Some(Err(error)) => return Err(failed(error.to_string())),
            None => return Err(failed("it is not configured any more".to_owned())),
        };
        match material {
            Material::Stored(credential) => Ok(credential),
            Material::Identity { identity, .. } => {
                let host = RegistryHost::from(login_server);
                // Boxed, so that callers need not prove anew that all that is in here may move between threads.
                let credential: BoxFuture<'_, _> = Box::pin(self.cache.credential(registry, &identity, &host));
                credential.await.map_err(|error| failed(error.to_string()))
            }
        }
    }

    fn goes_by(&self, rules: &RegistryRules) -> bool {
        self.state.load().configured.rules == *rules
    }

    fn vouch(&self, registry: &RegistryName, login_server: &LoginServer) {
        let state = self.state.load();
        if let Some(Ok(Material::Identity { identity, .. })) = state.known.get(registry).map(|known| &known.material) {
            self.cache.vouch(registry, identity, &RegistryHost::from(login_server));
        }
    }

    fn source(&self, registry: &RegistryName) -> Option<CredentialSourceHash> {
        let state = self.state.load();
        state.known.get(registry).and_then(|known| known.material.as_ref().ok()).map(Material::source)
    }
}

impl Configured {
    fn new(configuration: &Configuration, before: Option<&Self>) -> Self {
        let http = match before {
            Some(before) if before.azure.ca_file == configuration.azure.ca_file => before.http.clone(),
            _ => Arc::new(AzureHttp::new(configuration.azure.ca_file.clone())),
        };
        Self {
            credentials: configuration.credentials.clone(),
            rules: configuration.rules.clone(),
            azure: configuration.azure.clone(),
            http,
        }
    }

    /// Whether a rule's credential is read as by `before`, whomever the rule serves.
    fn reads_as(&self, before: &Self, registry: &RegistryName) -> bool {
        self.credentials.get(registry) == before.credentials.get(registry) && self.azure == before.azure
    }
}

/// The hosts that a rule names in full. One without a port covers every port and stands for the usual one.
pub fn exact_hosts(patterns: &[HostPattern], rules: &RegistryRules) -> Vec<LoginServer> {
    patterns
        .iter()
        .filter(|pattern| matches!(pattern, HostPattern::Exact { .. }))
        .filter_map(|pattern| rules.login_servers().parse(&pattern.to_string()).ok())
        .collect()
}

#[cfg(test)]
mod tests;
