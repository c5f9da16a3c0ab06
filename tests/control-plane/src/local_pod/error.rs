//! What can go wrong with a local pod.

use std::io;
use std::time::Duration;

/// A pod could not be run as a local process.
#[derive(Debug, thiserror::Error)]
pub enum LocalPodError {
    /// The API server does not give what the pod needs.
    #[error("cannot read {object}")]
    Request {
        /// Kind, namespace and name.
        object: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// A Secret or `ConfigMap` that is not optional is missing, or lacks a key. In the kubelet's words.
    #[error("MountVolume.SetUp failed for volume \"{volume}\": {missing}")]
    Volume {
        /// The volume's name in the pod.
        volume: String,
        /// What is missing.
        missing: String,
    },
    /// The pod template uses something that only a real kubelet does.
    #[error("a local pod cannot do this: {0}")]
    Unsupported(String),
    /// A file or process could not be made.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The process ended before it was ready.
    #[error("pod {pod} ended before it was ready ({status}); the end of its log:\n{log}")]
    Ended {
        /// Its name.
        pod: String,
        /// How it ended.
        status: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// The readiness probe did not succeed in time.
    #[error("pod {pod} was not ready within {} s ({reason}); the end of its log:\n{log}", waited.as_secs_f32())]
    NotReady {
        /// Its name.
        pod: String,
        /// How long it was waited for.
        waited: Duration,
        /// What the last probe saw.
        reason: String,
        /// The last lines that it wrote.
        log: String,
    },
}

impl LocalPodError {
    pub(super) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    pub(super) fn request(kind: &str, namespace: &str, name: &str) -> impl FnOnce(kube::Error) -> Self {
        let object = format!("{kind} {namespace}/{name}");
        move |source| Self::Request { object, source: Box::new(source) }
    }
}
