//! Why a pull secret is not as it should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::MAX_LOGIN_SERVERS;
use crate::{
    admission::{CredentialError, StoreError},
    domain::image::LoginServer,
};

/// Why a pull secret is not as it should be. The text is for the person who created the pod.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnsureError {
    /// A Secret of the configured name stands there that is not ours.
    #[error(
        "Secret {name} in namespace {namespace} was not made by acr-pull-injector and is left as it is; delete or rename it \
         to have it made"
    )]
    Foreign {
        /// The name that both claim.
        name: String,
        /// Where it stands.
        namespace: String,
    },
    /// Rules and credentials are not of the same configuration just now.
    #[error("the configuration is being replaced; the pull secret follows in a moment")]
    Changing,
    /// Reading or writing failed.
    #[error("the pull secret could not be stored: {0}")]
    Store(#[from] StoreError),
    /// Some login servers got no credential; all others have theirs.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

/// The login servers that got no credential, each with the reason.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Incomplete(BTreeMap<LoginServer, Missing>);

/// Why a login server got no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// The stored credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// More login servers than one pull secret may hold.
    #[error("namespace {namespace} uses more than {MAX_LOGIN_SERVERS} login servers; the pull secret holds no more")]
    TooMany {
        /// Where.
        namespace: String,
    },
}

impl EnsureError {
    /// Whether trying again later may help: also after a refusal, since a quota or a right may be changed meanwhile, and when
    /// the namespace is gone, since it may have been made anew where not every API server has heard of it.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Foreign { .. } => false,
            Self::Changing | Self::Store(_) => true,
            Self::Incomplete(Incomplete(missing)) => missing.values().any(Missing::may_pass),
        }
    }

    /// The kind of failure, by which one that goes on is told from another one.
    pub fn as_label(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "foreign",
            Self::Changing => "changing",
            Self::Store(error) => error.as_label(),
            Self::Incomplete(Incomplete(missing)) => {
                if missing.values().any(Missing::may_pass) {
                    "no_credential"
                } else {
                    "too_many_login_servers"
                }
            }
        }
    }

    /// Those of the login servers that were wanted for which trying again later may help.
    pub fn left<'a>(&self, wanted: impl Iterator<Item = &'a LoginServer>) -> BTreeSet<LoginServer> {
        let may_pass = |login_server: &&LoginServer| match self {
            Self::Incomplete(Incomplete(missing)) => missing.get(*login_server).is_some_and(Missing::may_pass),
            _ => self.may_pass(),
        };
        wanted.filter(may_pass).cloned().collect()
    }

    /// What of it concerns somebody who wants only these login servers; `None` when nothing does.
    #[must_use]
    pub fn concerning<'a>(&self, mut wanted: impl Iterator<Item = &'a LoginServer>) -> Option<Self> {
        match self {
            Self::Incomplete(Incomplete(missing)) => Incomplete::of(
                wanted.filter_map(|wanted| Some((wanted.clone(), missing.get(wanted)?.clone()))).collect(),
            ),
            _ => wanted.next().map(|_| self.clone()),
        }
    }

    /// Each reason once.
    pub fn sentences(&self) -> BTreeSet<String> {
        match self {
            Self::Incomplete(Incomplete(missing)) => missing.values().map(ToString::to_string).collect(),
            _ => BTreeSet::from([self.to_string()]),
        }
    }
}

impl Incomplete {
    /// `None` when nothing is missing.
    pub(super) fn of(missing: BTreeMap<LoginServer, Missing>) -> Option<EnsureError> {
        if missing.is_empty() { None } else { Some(Self(missing).into()) }
    }
}

impl fmt::Display for Incomplete {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentences: BTreeSet<_> = self.0.values().map(ToString::to_string).collect();
        formatter.write_str(&sentences.into_iter().collect::<Vec<_>>().join("; "))
    }
}

impl Missing {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Credential(_))
    }
}
