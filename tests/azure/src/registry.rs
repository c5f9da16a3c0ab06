//! What registries know, and how tests set them up.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Clock, Entra, TENANT,
    fault::{Fault, Faults, Seen},
    lock,
    token::{self, Signer},
};

/// The user name that goes with a refresh token.
pub(crate) const NULL_USER: &str = "00000000-0000-0000-0000-000000000000";

/// All registries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registries(Arc<Shared>);

struct Shared {
    clock: Clock,
    entra: Entra,
    signer: Arc<Signer>,
    registries: Mutex<BTreeMap<String, Registry>>,
}

/// A registry. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    clock: Clock,
    entra: Entra,
    signer: Arc<Signer>,
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Applications that have a role.
    readers: BTreeSet<String>,
    users: HashMap<String, String>,
    images: BTreeSet<(String, String)>,
    tokens: HashMap<String, Issued>,
    token_life: Duration,
    firewall: bool,
    realm: Option<String>,
    faults: Faults,
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Refresh,
    Access,
}

#[derive(Clone, Copy, Debug)]
struct Issued {
    kind: Kind,
    expires_at: i64,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Registry")
    }
}

impl Registries {
    pub(crate) fn new(clock: Clock, entra: Entra) -> Self {
        Self(Arc::new(Shared { clock, entra, signer: Arc::new(Signer::new()), registries: Mutex::default() }))
    }

    pub(crate) fn key_set(&self) -> String {
        self.0.signer.key_set()
    }

    pub(crate) fn registry(&self, name: &str) -> Registry {
        let known = Known { token_life: Duration::from_secs(3 * 60 * 60), ..Known::default() };
        lock(&self.0.registries)
            .entry(name.to_owned())
            .or_insert_with(|| {
                let (clock, entra, signer) = (self.0.clock.clone(), self.0.entra.clone(), self.0.signer.clone());
                Registry(Arc::new(Inner { clock, entra, signer, state: Mutex::new(known) }))
            })
            .clone()
    }

    /// The registry that a `host` header names.
    pub(crate) fn of_host(&self, host: &str) -> Option<Registry> {
        lock(&self.0.registries).get(host.split('.').next()?).cloned()
    }
}

impl Registry {
    /// Gives the application the role to pull.
    pub fn grant(&self, client: &str) -> &Self {
        self.change(|known| known.readers.extend([client.to_owned()]))
    }

    /// Takes the role away.
    pub fn withdraw(&self, client: &str) -> &Self {
        self.change(|known| known.readers.retain(|reader| reader != client))
    }

    /// Accepts a user name and a password of the registry's own.
    pub fn add_user(&self, username: &str, password: &str) -> &Self {
        self.change(|known| known.users.extend([(username.to_owned(), password.to_owned())]))
    }

    /// Stores an image under a tag or digest.
    pub fn add_image(&self, repository: &str, tag_or_digest: &str) -> &Self {
        self.change(|known| known.images.extend([(repository.to_owned(), tag_or_digest.to_owned())]))
    }

    /// How long refresh tokens are good from now on. Default three hours.
    pub fn set_token_life(&self, life: Duration) -> &Self {
        self.change(|known| known.token_life = life)
    }

    /// Keeps everybody out by a firewall rule, or not.
    pub fn set_firewall(&self, closed: bool) -> &Self {
        self.change(|known| known.firewall = closed)
    }

    /// Names another address in the challenge.
    pub fn set_realm(&self, realm: &str) -> &Self {
        self.change(|known| known.realm = Some(realm.to_owned()))
    }

    /// Has the next request meet this fault, after those asked for before.
    pub fn fail_next(&self, fault: Fault) -> &Self {
        self.change(|known| known.faults.push(fault))
    }

    /// Has every request meet this fault; `None` ends it.
    pub fn fail_always(&self, fault: Option<Fault>) -> &Self {
        self.change(|known| known.faults.set(fault))
    }

    /// What was requested, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.0.state).seen.clone()
    }

    /// How many tokens of Entra were exchanged or refused.
    pub fn exchanges(&self) -> usize {
        lock(&self.0.state).seen.iter().filter(|seen| seen.path == "/oauth2/exchange").count()
    }

    /// Whether a container runtime could pull with this pair now.
    pub fn accepts(&self, username: &str, password: &str) -> bool {
        let now = self.now();
        let known = lock(&self.0.state);
        let refresh = username == NULL_USER && known.is_good(password, Kind::Refresh, now);
        let own = known.users.get(username).is_some_and(|expected| expected == password);
        refresh || own || known.readers.contains(username) && self.0.entra.accepts_secret(username, password)
    }

    pub(crate) fn record(&self, seen: Seen) -> Option<Fault> {
        let mut known = lock(&self.0.state);
        known.seen.push(seen);
        known.faults.take()
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.0.state).firewall
    }

    pub(crate) fn realm(&self, host: &str) -> String {
        lock(&self.0.state).realm.clone().unwrap_or_else(|| format!("https://{host}/oauth2/token"))
    }

    /// Exchanges a token of Entra; `None`: not for this one.
    pub(crate) fn exchange(&self, entra_token: &str, tenant: Option<&str>, host: &str) -> Option<String> {
        let owner = self.0.entra.owner(entra_token)?;
        let for_registries = owner.scope.starts_with("https://containerregistry.azure.net/")
            || owner.scope.starts_with("https://management.azure.com/");
        let mut known = lock(&self.0.state);
        let allowed = known.readers.contains(&owner.client) && tenant.is_none_or(|tenant| tenant == owner.tenant);
        (for_registries && allowed && owner.tenant == TENANT).then(|| {
            let life = known.token_life;
            known.issue(Kind::Refresh, life, host, &json!([]), self)
        })
    }

    /// For what is asked for in `scopes` (`repository:<name>:pull`), less all that is more than to pull.
    pub(crate) fn issue_access_token(&self, host: &str, scopes: &[String]) -> String {
        let scopes = scopes.iter().flat_map(|scopes| scopes.split(' '));
        let access: Value = scopes
            .filter_map(|scope| {
                let (resource, _) = scope.rsplit_once(':')?;
                let (kind, name) = resource.split_once(':')?;
                Some(json!({"type": kind, "name": name, "actions": ["pull"]}))
            })
            .collect();
        lock(&self.0.state).issue(Kind::Access, Duration::from_secs(75 * 60), host, &access, self)
    }

    pub(crate) fn accepts_access_token(&self, token: &str) -> bool {
        lock(&self.0.state).is_good(token, Kind::Access, self.now())
    }

    pub(crate) fn has_image(&self, repository: &str, tag_or_digest: &str) -> bool {
        lock(&self.0.state).images.contains(&(repository.to_owned(), tag_or_digest.to_owned()))
    }

    fn now(&self) -> i64 {
        (self.0.clock)().as_second()
    }

    fn change(&self, change: impl FnOnce(&mut Known)) -> &Self {
        change(&mut lock(&self.0.state));
        self
    }
}

impl Known {
    fn issue(&mut self, kind: Kind, life: Duration, host: &str, access: &Value, registry: &Registry) -> String {
        let now = registry.now();
        let expires_at = now + i64::try_from(life.as_secs()).unwrap_or_default();
        let grant_type = if kind == Kind::Refresh { "refresh_token" } else { "access_token" };
        let token = registry.0.signer.jwt(&json!({
            "iss": "Azure Container Registry", "aud": host, "iat": now, "nbf": now, "exp": expires_at,
            "grant_type": grant_type, "tenant": TENANT, "jti": token::random("jti-"), "access": access,
        }));
        self.tokens.insert(token.clone(), Issued { kind, expires_at });
        token
    }

    fn is_good(&self, token: &str, kind: Kind, now: i64) -> bool {
        self.tokens.get(token).is_some_and(|issued| issued.kind == kind && issued.expires_at > now)
    }
}
