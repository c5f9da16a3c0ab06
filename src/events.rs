//! What the owner of a namespace or of a pod can mend is said where they look: in a Kubernetes Event.
//!
//! Recording never waits: what does not fit the queue or the limits is dropped and counted. The same thing about the same
//! object is said once in [`REPEAT_AFTER`], and all together [`PER_MINUTE`] at most, however many reviews come in. Events about
//! ourselves are few, and stand outside of that. No text holds a secret.

mod limits;
mod recorder;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

use self::limits::Limits;
pub use self::{
    limits::{PER_MINUTE, REPEAT_AFTER},
    recorder::{EventRecorder, Ourselves},
};
use crate::{
    clock::Clock,
    domain::{
        decision::Ungranted,
        pull_secret::{MANAGER, PullSecretName},
        review::{OPT_OUT_LABEL, OPT_OUT_VALUE},
    },
    metrics::Metrics,
};

/// Says things in Events. Cheap to clone.
#[derive(Clone)]
pub struct Events(Option<Arc<Shared>>);

struct Shared {
    limits: Mutex<Limits>,
    clock: Clock,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<Statement>,
}

/// A pod, as an Event names it. `kubectl describe` shows only Events with the pod's uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Namespace(String),
    Pod(PodReference),
    Ourselves,
}

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reason {
    NameTaken,
    NotGranted,
    Replaced,
    Stuck,
    OptedOut,
    ConfigurationRefused,
}

/// An Event that is to be recorded.
#[derive(Debug)]
struct Statement {
    subject: Subject,
    reason: Reason,
    note: String,
}

/// Statements that wait for the API server.
const QUEUE_LENGTH: usize = 128;
/// Places of the queue that are kept for Events about ourselves.
const KEPT_FOR_OURSELVES: usize = 8;

impl Events {
    /// A handle, and what has to run for its Events to be recorded.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> (Self, EventRecorder) {
        let (queue, statements) = mpsc::channel(QUEUE_LENGTH);
        let recorder = EventRecorder::new(statements, metrics.clone());
        (Self(Some(Arc::new(Shared { limits: Mutex::default(), clock, metrics, queue }))), recorder)
    }

    /// Records nothing, for tests and for programs that run outside of a cluster.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// A Secret that is not ours stands where the pull secret of the namespace should be.
    pub fn name_taken(&self, namespace: &str, pull_secret: &PullSecretName) {
        self.say(Subject::Namespace(namespace.to_owned()), Reason::NameTaken, || {
            format!(
                "Secret {pull_secret} was not made by {MANAGER} and is left as it is, so pods here get no credential from \
                 it. Delete or rename it to have the pull secret made."
            )
        });
    }

    /// Pods of the namespace pull from a login server that no registry rule grants it.
    pub fn not_granted(&self, namespace: &str, ungranted: &Ungranted) {
        self.say(Subject::Namespace(namespace.to_owned()), Reason::NotGranted, || {
            format!("Pods here have {ungranted}. Whoever configures {MANAGER} can change that.")
        });
    }

    /// The pull secret could not be mended in place and was made anew.
    pub fn replaced(&self, namespace: &str, pull_secret: &PullSecretName) {
        self.say(Subject::Namespace(namespace.to_owned()), Reason::Replaced, || {
            format!(
                "Somebody gave Secret {pull_secret} another type or made it immutable. That cannot be taken back, so it was \
                 deleted and made anew. {MANAGER} keeps it right; leave it as it is."
            )
        });
    }

    /// The pod was created without the pull secret and cannot pull.
    pub fn stuck(&self, pod: PodReference, pull_secret: &PullSecretName) {
        self.say(Subject::Pod(pod), Reason::Stuck, || {
            format!(
                "The image cannot be pulled, and the pod does not reference the pull secret {pull_secret}: it was created \
                 before {MANAGER} was installed, or while it was away. Delete the pod; the one that takes its place gets the \
                 pull secret. A pod without a controller has to be created again by hand."
            )
        });
    }

    /// The pod references the pull secret, but its namespace has opted out.
    pub fn opted_out(&self, pod: PodReference, pull_secret: &PullSecretName) {
        self.say(Subject::Pod(pod), Reason::OptedOut, || {
            format!(
                "The pod references the pull secret {pull_secret}, which is not kept here because the namespace has opted \
                 out. Remove the label {OPT_OUT_LABEL}={OPT_OUT_VALUE} from the namespace, or give the pod a pull secret of \
                 its own."
            )
        });
    }

    /// A changed configuration file was refused. The text does not repeat the reason, which may quote the file.
    pub fn configuration_refused(&self) {
        self.say(Subject::Ourselves, Reason::ConfigurationRefused, || {
            "The changed configuration was refused, and the one before stays in force. The log of this pod says which field \
             is wrong; mend it in the chart's values or in the ConfigMap."
                .to_owned()
        });
    }

    fn say(&self, subject: Subject, reason: Reason, note: impl FnOnce() -> String) {
        let Some(shared) = &self.0 else { return };
        let admitted = {
            let mut limits = shared.limits.lock().unwrap_or_else(PoisonError::into_inner);
            limits.admit(reason, &subject, shared.clock.now())
        };
        match admitted {
            Ok(()) => {}
            Err(limits::Refused::SaidBefore) => return,
            Err(limits::Refused::TooMany) => return shared.metrics.event("dropped"),
        }
        let note = note();
        // An Event is gone after an hour, and its owner may not see it.
        tracing::info!(reason = reason.as_str(), about = subject.name(), note, "Event");
        let has_place = matches!(subject, Subject::Ourselves) || shared.queue.capacity() > KEPT_FOR_OURSELVES;
        // Nobody listens any more when the process ends.
        if !has_place || shared.queue.try_send(Statement { subject, reason, note }).is_err() {
            shared.metrics.event("dropped");
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Events(recorded)" } else { "Events(none)" })
    }
}

impl Subject {
    /// As a person names it.
    fn name(&self) -> String {
        match self {
            Self::Namespace(name) => format!("namespace {name}"),
            Self::Pod(pod) => format!("pod {}/{}", pod.namespace, pod.name),
            Self::Ourselves => "ourselves".to_owned(),
        }
    }

    /// What tells it from every other of its kind.
    fn key(&self) -> &str {
        match self {
            Self::Namespace(name) => name,
            Self::Pod(pod) => &pod.uid,
            Self::Ourselves => "",
        }
    }
}

impl Reason {
    /// What `kubectl get events` shows as REASON.
    fn as_str(self) -> &'static str {
        match self {
            Self::NameTaken => "PullSecretNameTaken",
            Self::NotGranted => "RegistryNotGranted",
            Self::Replaced => "PullSecretReplaced",
            Self::Stuck => "PullSecretNotReferenced",
            Self::OptedOut => "PullSecretWithheld",
            Self::ConfigurationRefused => "ConfigurationRefused",
        }
    }

    /// What was done or tried when the Event came about.
    fn action(self) -> &'static str {
        match self {
            Self::NameTaken | Self::NotGranted | Self::Replaced | Self::OptedOut => "EnsurePullSecret",
            Self::Stuck => "FindStuckPods",
            Self::ConfigurationRefused => "ReloadConfiguration",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> PodReference {
        PodReference { namespace: "team-a".to_owned(), name: "web".to_owned(), uid: uid.to_owned() }
    }

    fn name() -> PullSecretName {
        "acr-pull-secret".parse().unwrap()
    }

    fn everything(events: &Events) {
        let ungranted = |rule: Option<&str>| Ungranted {
            login_server: crate::domain::image::LoginServerRule::default().parse("contoso.azurecr.io").unwrap(),
            rule: rule.map(|rule| rule.parse().unwrap()),
        };
        events.name_taken("team-a", &name());
        events.not_granted("team-a", &ungranted(None));
        events.not_granted("team-b", &ungranted(Some("contoso")));
        events.replaced("team-a", &name());
        events.stuck(pod("1"), &name());
        events.opted_out(pod("1"), &name());
        events.configuration_refused();
    }

    /// The API server refuses longer ones. Source: `pkg/apis/core/validation/events.go` of Kubernetes.
    #[tokio::test]
    async fn texts_fit_an_event() {
        let (events, mut recorder) = Events::new(Arc::default(), Clock::system());
        everything(&events);
        let mut statements = Vec::new();
        while let Ok(statement) = recorder.statements().try_recv() {
            statements.push(statement);
        }
        assert_eq!(statements.len(), 7);
        for Statement { note, reason, .. } in statements {
            assert!((80..=1024).contains(&note.len()), "{reason:?}: {} characters", note.len());
            assert!(note.ends_with('.') && !note.contains("  "), "{note}");
            assert!(reason.as_str().len() <= 128 && reason.action().len() <= 128);
        }
    }

    #[tokio::test]
    async fn the_same_is_said_once_and_a_full_queue_drops() {
        let metrics = Arc::new(Metrics::new());
        let time = Arc::new(Mutex::new("2026-11-24T08:00:00Z".parse::<jiff::Timestamp>().unwrap()));
        let clock = {
            let time = time.clone();
            Clock::from_fn(move || *time.lock().unwrap())
        };
        let (events, mut recorder) = Events::new(metrics.clone(), clock);
        for _ in 0..5 {
            everything(&events);
        }
        assert_eq!(recorder.statements().len(), 7);
        for number in 0..QUEUE_LENGTH * 2 {
            // A minute each, so that only the queue is in the way.
            *time.lock().unwrap() += jiff::SignedDuration::from_mins(1);
            events.stuck(pod(&format!("pod-{number}")), &name());
        }
        let taken = QUEUE_LENGTH - KEPT_FOR_OURSELVES;
        assert_eq!(recorder.statements().len(), taken);
        events.configuration_refused();
        assert_eq!(recorder.statements().len(), taken + 1, "what is about ourselves has a place of its own");
        let text = metrics.encode(0, None);
        let dropped = format!("acr_pull_injector_events_total{{outcome=\"dropped\"}} {}", QUEUE_LENGTH * 2 + 7 - taken);
        assert!(text.contains(&dropped), "{text}");
    }

    #[test]
    fn none_records_nothing() {
        everything(&Events::none());
    }
}
