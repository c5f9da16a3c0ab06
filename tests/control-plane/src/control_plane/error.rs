//! What can go wrong with a control plane.

use std::io;
use std::time::Duration;

use crate::programs::ProgramError;

/// A control plane could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// A binary is missing and could not be built.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A file, process or socket could not be made.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A program ended during the start.
    #[error("{program} ended before it was ready ({status}); the end of its log:\n{log}")]
    Ended {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// A program runs but did not become ready.
    #[error("{program} was not ready within {} s ({reason}); the end of its log:\n{log}", waited.as_secs())]
    NotReady {
        /// Its name.
        program: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// What the last try said.
        reason: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// The API server refused a request of ours.
    #[error("the API server refused to {action}")]
    Request {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// etcd refused a request of ours.
    #[error("etcd refused to forget its history")]
    Etcd(#[source] Box<kube::Error>),
    /// The kubeconfig that was just written cannot be used.
    #[error("cannot use the kubeconfig of the control plane")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    /// `KUBEBUILDER_ASSETS` holds another version than `K8S_VERSION` asks for.
    #[error(
        "K8S_VERSION asks for {requested}, but kube-apiserver in KUBEBUILDER_ASSETS is {found}: unset one of the two"
    )]
    VersionMismatch {
        /// What was asked for.
        requested: String,
        /// What runs.
        found: String,
    },
}

impl ControlPlaneError {
    pub(super) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    pub(super) fn request(action: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Request { action, source: Box::new(source) }
    }

    /// Somebody else took the port between our choosing it and the program's binding it.
    pub(super) fn is_port_taken(&self) -> bool {
        matches!(self, Self::Ended { log, .. } if log.contains("address already in use"))
    }
}
