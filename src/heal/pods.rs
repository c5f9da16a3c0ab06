//! Pods on the API server: one by name, the pending ones page by page, and their eviction.
//!
//! Answers are decoded here rather than by the client, which logs an answer that it cannot decode: pods may carry secrets
//! in their environment.

use std::time::Duration;

use kube::{
    Client,
    api::{ListParams, PostParams},
    core::{Request, request},
};
use serde::Deserialize;
use serde_json::json;

use crate::domain::stuck_pod::{ListedPod, StuckPod};

/// The pods of a cluster.
#[derive(Clone)]
pub struct Pods {
    client: Client,
}

/// Pending pods, as many as are read at once.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Page {
    /// The pods.
    pub items: Vec<ListedPod>,
    metadata: PageMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PageMetadata {
    r#continue: String,
}

/// What became of an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The pod goes away.
    Evicted,
    /// A PodDisruptionBudget forbids it just now.
    Held,
    /// The pod is not there any more, or has changed meanwhile.
    Gone,
}

/// Why the API server gave no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodsError {
    /// It refused, or was not reached.
    #[error("the API server did not do as asked")]
    Request(#[source] Box<kube::Error>),
    /// It took too long.
    #[error("the API server did not answer within {} s", REQUEST_LIMIT.as_secs())]
    Timeout,
    /// The answer makes no sense. The position says where; the answer itself is not repeated.
    #[error("the answer of the API server could not be read (line {line}, column {column})")]
    Answer {
        /// Counted from 1.
        line: usize,
        /// In bytes, counted from 1.
        column: usize,
    },
    /// The name cannot be part of a request.
    #[error("{0:?} is not the name of a pod")]
    Name(String),
    /// The API server says in its answer that it failed.
    #[error("the pod could not be evicted: {0}")]
    Eviction(String),
}

const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// A pod has 5 to 15 KB on the wire, so that a page stays below 4 MB.
const PAGE_LENGTH: u32 = 250;

impl Pods {
    /// The pods that `client` reaches.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The pod as JSON; `None`: there is none.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<String>, PodsError> {
        let url = url(namespace, name)?;
        match self.send(Request::new(url).list(&ListParams::default())).await {
            Ok(pod) => Ok(Some(pod)),
            Err(PodsError::Request(error)) if code(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first pending pods of the cluster, or those that come after the page `previous`. `None`: there are no more.
    pub async fn pending(&self, previous: Option<&Page>) -> Result<Option<Page>, PodsError> {
        let mut parameters = ListParams::default().fields("status.phase=Pending").limit(PAGE_LENGTH);
        match previous.map(|page| page.metadata.r#continue.as_str()) {
            Some("") => return Ok(None),
            Some(next) => parameters = parameters.continue_token(next),
            None => {}
        }
        let page = self.send(Request::new("/api/v1/pods").list(&parameters)).await?;
        serde_json::from_str(&page)
            .map(Some)
            .map_err(|error| PodsError::Answer { line: error.line(), column: error.column() })
    }

    /// Evicts the pod, if it is still this one.
    ///
    /// The API server asks no budget about a pod that is pending (`canIgnorePDB` in
    /// `pkg/registry/core/pod/storage/eviction.go` of Kubernetes); one that has started meanwhile is protected.
    pub async fn evict(&self, pod: &StuckPod) -> Result<Eviction, PodsError> {
        // Written by hand: `Api::evict` of kube spells `deleteOptions` in a way that the API server passes over, and with
        // it would go the uid.
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": pod.namespace, "name": pod.name},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        });
        let url = format!("{}/eviction", url(&pod.namespace, &pod.name)?);
        match self.send(Request::new(url).create(&PostParams::default(), eviction.to_string().into_bytes())).await {
            Ok(answer) => evicted(&answer),
            Err(PodsError::Request(error)) => match code(&error) {
                Some(429) => Ok(Eviction::Held),
                Some(404 | 409) => Ok(Eviction::Gone),
                _ => Err(PodsError::Request(error)),
            },
            Err(error) => Err(error),
        }
    }

    async fn send<R>(&self, request: Result<R, request::Error>) -> Result<String, PodsError>
    where
        R: Into<RawRequest>,
    {
        unimplemented!()
    }
}
