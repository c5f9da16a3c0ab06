//! Pods on the API server: one by name, the pending ones page by page, and their eviction.
//!
//! Answers are decoded here rather than by the client, which logs an answer that it cannot decode: pods may carry secrets
//! in their environment.

use std::{fmt, future::Future, time::Duration};

use kube::{
    Client,
    api::{GetParams, ListParams, PostParams},
    core::{Request, Status, request},
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
    /// A disruption budget forbids it just now.
    Held,
    /// The pod is not there any more, or has changed meanwhile.
    Gone,
}

/// Why the API server gave no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodsError {
    /// It refused. When the code is 403, our role lacks a rule.
    #[error("the API server refused ({code}): {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// What it said.
        message: String,
    },
    /// It was not reached, or did not answer in time.
    #[error("the API server could not be reached: {0}")]
    Unreachable(String),
    /// The answer makes no sense. The position says where; the answer itself is not repeated.
    #[error("the answer of the API server could not be read (line {line}, column {column})")]
    Answer {
        /// Counted from 1.
        line: usize,
        /// In bytes, counted from 1.
        column: usize,
    },
    /// The name cannot be part of a request.
    #[error("{0:?} cannot name a pod or a namespace")]
    Name(String),
}

const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// A pod has 5 to 15 KB on the wire, so that a page stays below 1.5 MB.
const PAGE_LENGTH: u32 = 100;

impl Pods {
    /// The pods that `client` reaches.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The pod as JSON; `None`: there is none.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<String>, PodsError> {
        let request = built(Request::new(pods_url(namespace)?).get(checked(name)?, &GetParams::default()))?;
        match answer(self.client.request_text(request)).await {
            Ok(pod) => Ok(Some(pod)),
            Err(PodsError::Refused { code: 404, .. }) => Ok(None),
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
        let page = answer(self.client.request_text(built(Request::new("/api/v1/pods").list(&parameters))?)).await?;
        decode(&page).map(Some)
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
        let url = format!("{}/{}/eviction", pods_url(&pod.namespace)?, checked(&pod.name)?);
        let request = built(Request::new(url).create(&PostParams::default(), eviction.to_string().into_bytes()))?;
        match answer(self.client.request_text(request)).await {
            Ok(status) => {
                let status: Status = decode(&status)?;
                // Several budgets for one pod are reported so.
                if status.is_failure() {
                    return Err(PodsError::Refused { code: status.code, message: status.message });
                }
                Ok(Eviction::Evicted)
            }
            Err(PodsError::Refused { code: 429, .. }) => Ok(Eviction::Held),
            Err(PodsError::Refused { code: 404 | 409, .. }) => Ok(Eviction::Gone),
            Err(error) => Err(error),
        }
    }
}

impl Eviction {
    /// The outcome as the value of a metric label.
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Held => "held",
            Self::Gone => "gone",
        }
    }
}

fn pods_url(namespace: &str) -> Result<String, PodsError> {
    Ok(format!("/api/v1/namespaces/{}/pods", checked(namespace)?))
}

/// Names may come from Events, which anybody may write, and go into a URL. These are the names of RFC 1123 that Kubernetes
/// allows.
fn checked(name: &str) -> Result<&str, PodsError> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().next_back()];
        ends.into_iter().all(|end| end.is_some_and(is_word)) && label.bytes().all(|byte| is_word(byte) || byte == b'-')
    };
    if name.len() <= 253 && name.split('.').all(is_label) { Ok(name) } else { Err(PodsError::Name(name.to_owned())) }
}

fn built<R>(request: Result<R, request::Error>) -> Result<R, PodsError> {
    request.map_err(|error| PodsError::Unreachable(error.to_string()))
}

/// Waits for an answer, but not for ever.
async fn answer(answer: impl Future<Output = kube::Result<String>>) -> Result<String, PodsError> {
    match tokio::time::timeout(REQUEST_LIMIT, answer).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(kube::Error::Api(status))) => {
            Err(PodsError::Refused { code: status.code, message: status.message.clone() })
        }
        Ok(Err(error)) => Err(PodsError::Unreachable(root_cause(&error))),
        Err(_) => Err(PodsError::Unreachable(format!("no answer within {} s", REQUEST_LIMIT.as_secs()))),
    }
}

fn decode<'a, T: Deserialize<'a>>(answer: &'a str) -> Result<T, PodsError> {
    serde_json::from_str(answer).map_err(|error| PodsError::Answer { line: error.line(), column: error.column() })
}

/// The innermost cause: the outer ones say only that a request failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl fmt::Debug for Pods {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pods").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
