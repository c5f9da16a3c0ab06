//! What is decided about the pods of a namespace, by what memory or the API server says of it.
//!
//! A pod that is left alone stays so for good, and memory may be behind: while the watch lags, a namespace may have been made
//! anew, or lost or got a label. So memory alone never leaves a pod out; the API server is asked before that.

use std::{collections::BTreeSet, future::Future, sync::Arc};

use super::StoreError;
use crate::domain::{
    decision::{self, Decision, Settings},
    image::LoginServer,
    registry::Namespace,
};

/// Decides by what is `known` of a namespace, and by what `read` finds when nothing is known, or when more might be done by
/// another state of the namespace. `None`: there is no such namespace.
///
/// # Errors
///
/// When reading failed, and by what is known nothing would be done.
pub(crate) async fn judge(
    known: Option<Arc<Namespace>>,
    read: impl Future<Output = Result<Option<Namespace>, StoreError>>,
    login_servers: &BTreeSet<LoginServer>,
    settings: &Settings,
) -> Result<Option<(Arc<Namespace>, Decision)>, StoreError> {
    let decide = |namespace: Arc<Namespace>| {
        let decision = decision::decide(login_servers.clone(), &namespace, settings);
        (namespace, decision)
    };
    let judged = known.map(decide);
    match judged {
        Some((_, ref decision)) if !decision.may_rest_on_the_past(settings) => Ok(judged),
        Some((_, Decision::Inject(_))) => match read.await {
            Ok(namespace) => Ok(namespace.map(Arc::new).map(decide)),
            Err(_) => Ok(judged),
        },
        _ => Ok(read.await?.map(Arc::new).map(decide)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Configuration,
        domain::decision::SkipReason,
        ensure::tests::world::{A, login_server, namespace},
    };

    fn settings() -> Settings {
        let credential = "credential: {static: {usernameFile: /u, passwordFile: /p}}";
        let rules = format!(
            "registries:
            - {{name: labelled, hosts: [contoso.azurecr.io], namespaces: {{matchLabels: {{team: a}}}}, {credential}}}
            - {{name: named, hosts: [fabrikam.azurecr.io], namespaces: {{names: [other]}}, {credential}}}
            - {{name: everywhere, hosts: [proseware.azurecr.io], {credential}}}"
        );
        Configuration::parse(&rules).unwrap().settings(None)
    }

    fn labelled(key: &str, value: &str) -> Namespace {
        Namespace { labels: [(key.to_owned(), value.to_owned())].into(), ..namespace("team") }
    }

    /// What is decided in the end, and whether the API server was asked.
    async fn judged(
        known: Option<Namespace>,
        found: Result<Option<Namespace>, StoreError>,
        hosts: &[&str],
    ) -> (Result<Option<Decision>, StoreError>, bool) {
        let mut was_asked = false;
        let read = async {
            was_asked = true;
            found
        };
        let login_servers = hosts.iter().map(|host| login_server(host)).collect();
        let judged = judge(known.map(Arc::new), read, &login_servers, &settings()).await;
        (judged.map(|judged| judged.map(|(_, decision)| decision)), was_asked)
    }

    #[tokio::test]
    async fn a_pod_is_left_alone_only_after_a_look_at_its_namespace() {
        let opted_out = labelled("acr-pull-injector.io/inject", "disabled");
        let terminating = Namespace { terminating: true, ..labelled("team", "a") };
        for past in [opted_out.clone(), terminating, labelled("team", "b")] {
            let (decision, was_asked) = judged(Some(past.clone()), Ok(Some(labelled("team", "a"))), &[A]).await;
            assert!(was_asked && matches!(decision, Ok(Some(Decision::Inject(_)))), "{past:?}");
            let (decision, _) = judged(Some(past.clone()), Ok(Some(past.clone())), &[A]).await;
            assert!(matches!(decision, Ok(Some(Decision::Skip(_)))), "{past:?}: so it is");
            let (decision, _) = judged(Some(past.clone()), Ok(None), &[A]).await;
            assert!(matches!(decision, Ok(None)), "{past:?}");
            let away = Err(StoreError::Unavailable(String::new()));
            assert!(judged(Some(past.clone()), away, &[A]).await.0.is_err(), "{past:?}");
        }
    }

    #[tokio::test]
    async fn a_login_server_is_refused_only_after_a_look_too() {
        let everywhere = "proseware.azurecr.io";
        let (decision, was_asked) =
            judged(Some(namespace("team")), Ok(Some(labelled("team", "a"))), &[A, everywhere]).await;
        let Ok(Some(Decision::Inject(injection))) = decision else { panic!("{decision:?}") };
        assert_eq!((was_asked, injection.granted.len()), (true, 2));
        let away = Err(StoreError::Unavailable(String::new()));
        let (decision, _) = judged(Some(namespace("team")), away, &[A, everywhere]).await;
        assert!(matches!(decision, Ok(Some(Decision::Inject(_)))), "what is granted is, whoever is away");
    }

    #[tokio::test]
    async fn what_no_label_changes_is_decided_from_memory() {
        let unused = || Err(StoreError::Unavailable("unused".to_owned()));
        let (decision, was_asked) = judged(Some(labelled("team", "a")), unused(), &[A]).await;
        assert!(!was_asked && matches!(decision, Ok(Some(Decision::Inject(_)))));
        for host in ["fabrikam.azurecr.io", "unknown.azurecr.io"] {
            let (decision, was_asked) = judged(Some(namespace("team")), unused(), &[host]).await;
            let is_refused = matches!(decision, Ok(Some(Decision::Skip(SkipReason::NothingGranted(_)))));
            assert!(!was_asked && is_refused, "{host}");
        }
    }
}
