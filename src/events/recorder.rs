//! Brings Events to the API server, by the group `events.k8s.io`: `create` for a new one, `patch` to count one up.

use std::{fmt, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api, Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{PodReference, Statement, Subject};
use crate::{domain::pull_secret::MANAGER, metrics::Metrics};

const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// What the API server takes as `reportingInstance`.
const INSTANCE_LENGTH: usize = 128;

/// Records what an [`Events`](super::Events) was told.
pub struct EventRecorder {
    statements: mpsc::Receiver<Statement>,
    metrics: Arc<Metrics>,
}

/// Who we are, for Events about ourselves.
#[derive(Clone, Debug)]
pub struct Ourselves {
    /// The namespace that we run in.
    pub namespace: String,
    /// The name of our pod. Where it is not known, or no pod, Events about us are about the namespace.
    pub pod: Option<String>,
}

impl EventRecorder {
    pub(super) fn new(statements: mpsc::Receiver<Statement>, metrics: Arc<Metrics>) -> Self {
        Self { statements, metrics }
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, client: Client, ourselves: Ourselves, shutdown: CancellationToken) {
        let instance = ourselves.pod.clone().map(instance);
        let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance });
        loop {
            let statement = tokio::select! {
                () = shutdown.cancelled() => return,
                statement = self.statements.recv() => statement,
            };
            let Some(statement) = statement else {
                // Nobody is left to say anything.
                return shutdown.cancelled().await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.record(&recorder, &client, &ourselves, statement) => {}
            }
        }
    }

    async fn record(&self, recorder: &Recorder, client: &Client, ourselves: &Ourselves, statement: Statement) {
        let Statement { subject, reason, note } = statement;
        let event = Event {
            type_: EventType::Warning,
            reason: reason.as_str().to_owned(),
            note: Some(note),
            action: reason.action().to_owned(),
            secondary: None,
        };
        let published = tokio::time::timeout(REQUEST_LIMIT, async {
            let about = about(subject, client, ourselves).await;
            recorder.publish(&event, &about).await
        });
        let failure = match published.await {
            Ok(Ok(())) => return self.metrics.event("recorded"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", REQUEST_LIMIT.as_secs()),
        };
        self.metrics.event("failed");
        tracing::warn!(reason = event.reason, failure, "an Event could not be recorded");
    }

    #[cfg(test)]
    pub(super) fn statements(&mut self) -> &mut mpsc::Receiver<Statement> {
        &mut self.statements
    }
}

/// As much of a name as is taken: a pod's name is short and plain, but `--identity` takes any text.
fn instance(mut name: String) -> String {
    if let Some(end) = (0..=INSTANCE_LENGTH).rev().find(|end| name.is_char_boundary(*end)) {
        name.truncate(end);
    }
    name
}

async fn about(subject: Subject, client: &Client, ourselves: &Ourselves) -> ObjectReference {
    match subject {
        Subject::Namespace(name) => namespace(name),
        Subject::Pod(reference) => pod(reference),
        Subject::Ourselves => match own_pod(client, ourselves).await {
            Some(reference) => pod(reference),
            None => namespace(ourselves.namespace.clone()),
        },
    }
}

async fn own_pod(client: &Client, ourselves: &Ourselves) -> Option<PodReference> {
    let (namespace, name) = (ourselves.namespace.clone(), ourselves.pod.clone()?);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let uid = pods.get_metadata_opt(&name).await.ok()??.metadata.uid?;
    Some(PodReference { namespace, name, uid })
}

fn pod(pod: PodReference) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace),
        name: Some(pod.name),
        uid: Some(pod.uid),
        ..ObjectReference::default()
    }
}

/// An Event about a namespace stands in that namespace, where those who work in it may read it. Without `namespace` in the
/// reference it would stand in `default`.
fn namespace(name: String) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Namespace".to_owned()),
        namespace: Some(name.clone()),
        name: Some(name),
        ..ObjectReference::default()
    }
}

impl fmt::Debug for EventRecorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EventRecorder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_two_characters() {
        for (name, expected) in [
            ("web-1".to_owned(), "web-1".to_owned()),
            ("a".repeat(200), "a".repeat(128)),
            ("a".to_owned() + &"ä".repeat(100), "a".to_owned() + &"ä".repeat(63)),
            ("ä".repeat(100), "ä".repeat(64)),
        ] {
            assert_eq!(instance(name), expected);
        }
    }
}
