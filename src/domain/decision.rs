//! From a pod, its namespace and the settings to what is to be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use super::{
    image::LoginServer,
    patch,
    pull_secret::{MANAGER, PullSecretName},
    registry::{Grant, Namespace, RegistryName, RegistryRule, RegistryRules},
    review::{OPT_OUT_LABEL, OPT_OUT_VALUE, Pod, Response, Warning},
};

/// Never injected, whatever the settings say: an outage there can take the cluster down.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// What the operator decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of the pull secret, the same in every namespace.
    pub pull_secret_name: PullSecretName,
    /// Namespaces that are left alone, our own among them. `kube-system` is so even when it is not listed.
    pub excluded_namespaces: BTreeSet<String>,
    /// Which credential a login server and a namespace may use.
    pub rules: RegistryRules,
    /// How long and how much.
    pub limits: Limits,
}

/// Bounds on what is done for a pod and in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a pod waits for its pull secret at most. Default 2 s.
    pub ensure_timeout: Duration,
    /// How many pull secrets are written a second in the background at most. Default 50: 10,000 then take under four
    /// minutes, and the API server hardly notices.
    pub writes_per_second: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ensure_timeout: Duration::from_secs(2), writes_per_second: 50 }
    }
}

impl Settings {
    /// Is the namespace left alone, whatever its labels?
    pub fn excludes(&self, namespace_name: &str) -> bool {
        namespace_name == SYSTEM_NAMESPACE || self.excluded_namespaces.contains(namespace_name)
    }
}

/// Login servers of one pod that are looked at: twice what a pull secret holds, so that who writes a pod with too many is
/// told so. Anybody who reaches the port may send a review, and one has room for hundreds of thousands.
pub const MOST_LOGIN_SERVERS: usize = 256;

/// Step 1, which needs no knowledge of the namespace but its name: the login servers that the pod pulls from, at least
/// one and the first [`MOST_LOGIN_SERVERS`] at most, or why the pod is left alone.
pub fn login_servers(
    pod: &Pod<'_>,
    namespace_name: &str,
    settings: &Settings,
) -> Result<BTreeSet<LoginServer>, SkipReason> {
    if settings.excludes(namespace_name) {
        return Err(SkipReason::ExcludedNamespace);
    }
    if pod.is_mirror() {
        return Err(SkipReason::MirrorPod);
    }
    if pod.opted_out() {
        return Err(SkipReason::PodOptedOut);
    }
    if pod.has_too_many_pull_secrets() {
        return Err(SkipReason::TooManyPullSecrets);
    }
    let rule = settings.rules.login_servers();
    let mut login_servers = BTreeSet::new();
    for login_server in pod.images().filter_map(|image| rule.login_server_of(image)) {
        login_servers.insert(login_server);
        if login_servers.len() == MOST_LOGIN_SERVERS {
            break;
        }
    }
    if login_servers.is_empty() { Err(SkipReason::NoRegistryImage) } else { Ok(login_servers) }
}

/// Step 2: what the namespace is granted of these login servers.
pub fn decide(login_servers: BTreeSet<LoginServer>, namespace: &Namespace, settings: &Settings) -> Decision {
    if opted_out(namespace) {
        return Decision::Skip(SkipReason::NamespaceOptedOut);
    }
    if namespace.terminating {
        return Decision::Skip(SkipReason::NamespaceTerminating);
    }
    let mut injection = Injection { granted: BTreeMap::new(), ungranted: Vec::new() };
    for login_server in login_servers {
        let rule = match settings.rules.grant(&login_server, namespace) {
            Grant::Granted(rule) => {
                injection.granted.insert(login_server, rule.name.clone());
                continue;
            }
            Grant::Refused(rule) => Some(rule.name.clone()),
            Grant::NoRule => None,
        };
        injection.ungranted.push(Ungranted { login_server, rule });
    }
    if injection.granted.is_empty() {
        Decision::Skip(SkipReason::NothingGranted(injection.ungranted))
    } else {
        Decision::Inject(injection)
    }
}

/// Does the namespace carry the label that opts out?
pub fn opted_out(namespace: &Namespace) -> bool {
    namespace.labels.get(OPT_OUT_LABEL).is_some_and(|value| value == OPT_OUT_VALUE)
}

/// What is to be done with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it alone.
    Skip(SkipReason),
    /// Make sure that the pull secret holds what is granted, and make the pod reference it.
    Inject(Injection),
}

impl Decision {
    /// Would more be done if the namespace had been made anew, or had other labels? Both may be so already.
    pub fn may_rest_on_the_past(&self, settings: &Settings) -> bool {
        let ungranted = match self {
            Self::Skip(SkipReason::NamespaceOptedOut | SkipReason::NamespaceTerminating) => return true,
            Self::Skip(SkipReason::NothingGranted(ungranted)) | Self::Inject(Injection { ungranted, .. }) => ungranted,
            Self::Skip(_) => return false,
        };
        let selects_by_label = |rule: &&RegistryRule| rule.namespaces.selects_by_label();
        ungranted.iter().any(|ungranted| settings.rules.covering(&ungranted.login_server).iter().any(selects_by_label))
    }

    /// Completes the answer: the patch of a pod that is injected, and a warning for each login server that stays without
    /// a credential.
    #[must_use]
    pub fn respond<'a>(&self, response: Response<'a>, pod: &Pod<'_>, settings: &Settings) -> Response<'a> {
        let (patch, granted, ungranted) = match self {
            Self::Inject(Injection { granted, ungranted }) => {
                (patch::image_pull_secrets(pod, &settings.pull_secret_name), granted.len(), ungranted.as_slice())
            }
            Self::Skip(SkipReason::NothingGranted(ungranted)) => (None, 0, ungranted.as_slice()),
            Self::Skip(_) => (None, 0, [].as_slice()),
        };
        let mut response = match patch {
            Some(patch) => response.with_patch(patch),
            None => response,
        };
        if granted + ungranted.len() >= MOST_LOGIN_SERVERS {
            let first = format!("{MANAGER}: only the first {MOST_LOGIN_SERVERS} login servers of a pod are looked at");
            response = response.with_warning(Warning::new(first));
        }
        let warnings = ungranted.iter().map(|ungranted| Warning::new(format!("{MANAGER}: {ungranted}")));
        warnings.fold(response, Response::with_warning)
    }
}

/// What a pod gets, and what not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// At least one login server, each with the rule whose credential it takes.
    pub granted: BTreeMap<LoginServer, RegistryName>,
    /// The other login servers of the pod.
    pub ungranted: Vec<Ungranted>,
}

/// A login server that a pod pulls from without a credential of ours. Its text is the warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ungranted {
    /// The login server.
    pub login_server: LoginServer,
    /// The rule that covers it but does not serve the namespace; `None`: no rule covers it.
    pub rule: Option<RegistryName>,
}

impl fmt::Display for Ungranted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "no pull secret for {}: ", self.login_server)?;
        match &self.rule {
            Some(rule) => {
                write!(formatter, "registry {rule} does not serve this namespace; see its namespaces setting")
            }
            None => write!(formatter, "no registry covers it; add it to the hosts of one"),
        }
    }
}

/// Why a pod is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The settings exclude the namespace.
    ExcludedNamespace,
    /// The namespace carries the label that opts out.
    NamespaceOptedOut,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// The pod carries the label that opts out.
    PodOptedOut,
    /// The pod is the API server's copy of a static pod.
    MirrorPod,
    /// The pod references more pull secrets than anybody can use.
    TooManyPullSecrets,
    /// No image comes from a login server.
    NoRegistryImage,
    /// Login servers there are, but none that the namespace may use.
    NothingGranted(Vec<Ungranted>),
}

impl SkipReason {
    /// The reason as the value of a metric label.
    pub fn as_label(&self) -> &'static str {
        match self {
            Self::ExcludedNamespace => "excluded_namespace",
            Self::NamespaceOptedOut => "namespace_opted_out",
            Self::NamespaceTerminating => "namespace_terminating",
            Self::PodOptedOut => "pod_opted_out",
            Self::MirrorPod => "mirror_pod",
            Self::TooManyPullSecrets => "too_many_pull_secrets",
            Self::NoRegistryImage => "no_registry_image",
            Self::NothingGranted(_) => "nothing_granted",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ExcludedNamespace => "the namespace is excluded by the settings",
            Self::NamespaceOptedOut => "the namespace has opted out",
            Self::NamespaceTerminating => "the namespace is being deleted",
            Self::PodOptedOut => "the pod has opted out",
            Self::MirrorPod => "a mirror pod cannot reference secrets",
            Self::TooManyPullSecrets => {
                "the pod references more than 1000 pull secrets, or has more than 264 kB of them"
            }
            Self::NoRegistryImage => "no image comes from an Azure container registry",
            Self::NothingGranted(_) => "no registry grants the namespace a credential for the images",
        })
    }
}

#[cfg(test)]
mod tests;
