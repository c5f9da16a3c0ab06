//! A kubelet says that it misses the pull secret of a pod: it is made at once, and the kubelet's next attempt finds it.
//!
//! This is what serves pods that name the pull secret without having come by us: those of the fallback policy while the
//! webhook was away, and those whose pull secret could not be made while they were admitted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1;
use kube::{Api, runtime::watcher};
use tokio::time::Instant;

use super::{Healer, pods::Pods};
use crate::{
    admission::{CredentialSource, NamespaceSource, PullSecretStore, judge},
    clients::Clients,
    domain::{
        decision::{self, Decision, Injection, Settings, SkipReason, Ungranted},
        pull_secret::PullSecretName,
        registry::Namespace,
        review,
    },
    ensure::{EnsureError, WriteReason},
    events::PodReference,
    watching,
};

/// Listens to kubelets.
#[derive(Debug)]
pub struct MissingPullSecrets<C, S, N> {
    healer: Arc<Healer<C, S, N>>,
    events: Api<v1::Event>,
    pods: Pods,
    handled: Mutex<HashMap<PodKey, Instant>>,
}

/// Namespace and name of a pod.
type PodKey = (String, String);

/// A kubelet's complaint that names our pull secret.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Complaint {
    pod: PodReference,
    /// When it was made last.
    at: Option<Timestamp>,
}

/// Only these are asked for. A kubelet repeats its complaint each time that it tries to start the pod.
///
/// Source: `getPullSecretsForPod` in `pkg/kubelet/kubelet_pods.go` of Kubernetes.
const FIELDS: &str = "reason=FailedToRetrieveImagePullSecret,type=Warning,involvedObject.kind=Pod";
/// What stands in the message before the names.
const NAMES_START: &str = "Unable to retrieve some image pull secrets (";
/// Complaints that are worked on at the same time.
const AT_ONCE: usize = 8;
/// How long the same pod is not looked at again.
const HANDLED_FOR: Duration = Duration::from_secs(10);
const MAX_HANDLED: usize = 10_000;
/// Complaints that are older, as every list has them, may be about what is right by now. A kubelet repeats its own within this
/// time.
const OLD: SignedDuration = SignedDuration::from_mins(5);

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> MissingPullSecrets<C, S, N> {
    /// Listens and reads through `clients`.
    pub fn new(healer: Arc<Healer<C, S, N>>, clients: &Clients) -> Self {
        let pods = Pods::new(clients.single_attempt.clone());
        Self { healer, events: Api::all(clients.watches.clone()), pods, handled: Mutex::default() }
    }

    /// Hears the complaints that the API server still has (an hour's worth, by default), and then every new one, for ever.
    pub async fn follow(&self) {
        let watched = watching::follow(self.events.clone(), Some(FIELDS.to_owned()));
        let complaints = watched.filter_map(|event| std::future::ready(self.complaint(event)));
        complaints
            .for_each_concurrent(AT_ONCE, async |complaint| {
                let key = (complaint.pod.namespace.clone(), complaint.pod.name.clone());
                if self.is_new(&key) && self.handle(complaint).await.is_err() {
                    // The kubelet's next complaint is heard.
                    self.handled().remove(&key);
                }
            })
            .await;
    }

    fn complaint(&self, event: watcher::Result<watcher::Event<v1::Event>>) -> Option<Complaint> {
        match event {
            Ok(watcher::Event::Apply(event) | watcher::Event::InitApply(event)) => {
                complaint(event, &self.healer.ensurer.settings.load().pull_secret_name)
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone | watcher::Event::Delete(_)) => None,
            Err(error) => {
                tracing::warn!(%error, "the watch of kubelet Events was interrupted and is resumed");
                None
            }
        }
    }

    async fn handle(&self, complaint: Complaint) -> Result<(), NotHandled> {
        let Complaint { pod, at } = complaint;
        let healer = &self.healer;
        let old = healer.ensurer.clock.now() - OLD;
        let settings = healer.ensurer.settings.load_full();
        if settings.excludes(&pod.namespace) {
            return Ok(());
        }
        let is_old = at.is_none_or(|at| at < old);
        if is_old && healer.ensurer.store.stored(&pod.namespace).is_some() {
            return Ok(());
        }
        let Some(text) = self.pods.get(&pod.namespace, &pod.name).await.map_err(|error| {
            tracing::warn!(namespace = pod.namespace, pod = pod.name, %error, "the pod of a complaint could not be read");
            NotHandled
        })?
        else {
            return Ok(());
        };
        let Ok(spec) = review::parse_pod(&text) else { return Ok(()) };
        if !spec.references(&settings.pull_secret_name) {
            return Ok(());
        }
        let Ok(login_servers) = decision::login_servers(&spec, &pod.namespace, &settings) else { return Ok(()) };
        let (known, read) = (healer.namespaces.cached(&pod.namespace), healer.namespaces.read(&pod.namespace));
        let judged = judge(known, read, &login_servers, &settings).await.map_err(|error| {
            tracing::warn!(namespace = pod.namespace, %error, "the namespace of a complaint could not be read");
            NotHandled
        })?;
        let Some((namespace, decision)) = judged else { return Ok(()) };
        match decision {
            Decision::Inject(injection) => self.ensure(&namespace, injection, &settings).await,
            Decision::Skip(SkipReason::NamespaceOptedOut) => healer.events.opted_out(pod, &settings.pull_secret_name),
            Decision::Skip(SkipReason::NothingGranted(ungranted)) => self.tell_ungranted(&namespace, &ungranted),
            Decision::Skip(_) => {}
        }
        Ok(())
    }

    async fn ensure(&self, namespace: &Namespace, injection: Injection, settings: &Settings) {
        let Injection { granted, ungranted } = injection;
        let healer = &self.healer;
        self.tell_ungranted(namespace, &ungranted);
        healer.ensurer.note_demand(&namespace.name);
        let Err(error) = healer.ensurer.ensure(namespace, &granted, WriteReason::Heal).await else { return };
        tracing::warn!(namespace = namespace.name, %error, "a kubelet misses the pull secret, which could not be made");
        if matches!(error, EnsureError::Foreign { .. }) {
            healer.events.name_taken(&namespace.name, &settings.pull_secret_name);
        }
        healer.retries.push(&namespace.name, error.left(granted.keys()));
    }

    fn tell_ungranted(&self, namespace: &Namespace, ungranted: &[Ungranted]) {
        if let Some(first) = ungranted.first() {
            self.healer.events.not_granted(&namespace.name, first);
        }
    }

    /// Notes that a pod is looked at, unless that was done just now.
    fn is_new(&self, key: &PodKey) -> bool {
        let now = Instant::now();
        let mut handled = self.handled();
        if handled.get(key).is_some_and(|at| now.duration_since(*at) < HANDLED_FOR) {
            return false;
        }
        if handled.len() >= MAX_HANDLED {
            handled.retain(|_, at| now.duration_since(*at) < HANDLED_FOR);
        }
        // Above the limit the same pod may be looked at twice, which does no harm.
        if handled.len() < MAX_HANDLED {
            handled.insert(key.clone(), now);
        }
        true
    }

    fn handled(&self) -> std::sync::MutexGuard<'_, HashMap<PodKey, Instant>> {
        self.handled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something was not known at the moment.
struct NotHandled;

/// The complaint in a kubelet's Event, if it is about our pull secret.
fn complaint(event: v1::Event, pull_secret: &PullSecretName) -> Option<Complaint> {
    if !names(event.message.as_deref()?, pull_secret) {
        return None;
    }
    let last_in_series = event.series.and_then(|series| series.last_observed_time).map(|time| time.0);
    let at = [last_in_series, event.last_timestamp.map(|time| time.0), event.event_time.map(|time| time.0)];
    let at = at.into_iter().flatten().next();
    let about = event.involved_object;
    let namespace = event.metadata.namespace?;
    // Whoever may write Events in one namespace could name another here.
    (about.kind.as_deref() == Some("Pod") && about.namespace.as_ref() == Some(&namespace)).then_some(())?;
    Some(Complaint { pod: PodReference { namespace, name: about.name?, uid: about.uid.unwrap_or_default() }, at })
}

/// Does the message say that the Secret could not be retrieved? Where kubelets combine Events, something stands before it.
fn names(message: &str, pull_secret: &PullSecretName) -> bool {
    message
        .split_once(NAMES_START)
        .and_then(|(_, rest)| rest.split_once(')'))
        .is_some_and(|(names, _)| names.split(", ").any(|name| name == pull_secret.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn heard(event: Value) -> Option<Complaint> {
        complaint(serde_json::from_value(event).unwrap(), &"acr-pull-secret".parse().unwrap())
    }

    fn event(message: &str) -> Value {
        json!({
            "metadata": {"namespace": "team-a", "name": "web.1"},
            "involvedObject": {"kind": "Pod", "namespace": "team-a", "name": "web", "uid": "u"},
            "message": message,
            "lastTimestamp": "2026-11-24T08:00:00Z",
        })
    }

    #[test]
    fn messages_that_name_the_pull_secret() {
        let rows = [
            (
                "Unable to retrieve some image pull secrets (acr-pull-secret); attempting to pull the image may not succeed.",
                true,
            ),
            ("Unable to retrieve some image pull secrets (own, acr-pull-secret); attempting to pull", true),
            ("Unable to retrieve some image pull secrets (acr-pull-secret, own); attempting to pull", true),
            (
                "(combined from similar events): Unable to retrieve some image pull secrets (acr-pull-secret); attempting",
                true,
            ),
            ("Unable to retrieve some image pull secrets (own); attempting to pull the image may not succeed.", false),
            ("Unable to retrieve some image pull secrets (acr-pull-secret-2); attempting to pull", false),
            ("Unable to retrieve some image pull secrets (my-acr-pull-secret); attempting to pull", false),
            ("Unable to retrieve some image pull secrets (own); acr-pull-secret", false),
            ("Unable to retrieve some image pull secrets (acr-pull-secret", false),
            ("acr-pull-secret", false),
            ("", false),
        ];
        for (message, expected) in rows {
            assert_eq!(heard(event(message)).is_some(), expected, "{message}");
        }
    }

    #[test]
    fn a_complaint_is_about_a_pod_of_its_own_namespace() {
        let message = "Unable to retrieve some image pull secrets (acr-pull-secret); attempting to pull";
        let expected = PodReference { namespace: "team-a".to_owned(), name: "web".to_owned(), uid: "u".to_owned() };
        assert_eq!(heard(event(message)).unwrap().pod, expected);
        for (pointer, value) in [
            ("/involvedObject/namespace", json!("team-b")),
            ("/involvedObject/namespace", Value::Null),
            ("/involvedObject/kind", json!("Secret")),
            ("/involvedObject/name", Value::Null),
            ("/metadata/namespace", json!("team-b")),
        ] {
            let mut event = event(message);
            *event.pointer_mut(pointer).unwrap() = value;
            assert_eq!(heard(event.clone()), None, "{event}");
        }
    }

    #[test]
    fn the_last_time_counts() {
        let message = "Unable to retrieve some image pull secrets (acr-pull-secret); attempting to pull";
        let mut event = event(message);
        event["eventTime"] = json!("2026-11-24T07:00:00.000000Z");
        assert_eq!(heard(event.clone()).unwrap().at, Some("2026-11-24T08:00:00Z".parse().unwrap()));
        event["series"] = json!({"count": 3, "lastObservedTime": "2026-11-24T09:00:00.000000Z"});
        assert_eq!(heard(event).unwrap().at, Some("2026-11-24T09:00:00Z".parse().unwrap()));
    }
}
