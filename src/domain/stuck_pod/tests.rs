use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::{
    image::LoginServerRule,
    registry::{HostPattern, NamespaceSelector, RegistryRule, RegistryRules},
    review::{MIRROR_ANNOTATION, OPT_OUT_LABEL},
};

fn settings() -> Settings {
    let login_servers = LoginServerRule::default();
    let rule = |name: &str, host: &str, names: &[&str]| RegistryRule {
        name: name.parse().unwrap(),
        hosts: vec![HostPattern::parse(host, &login_servers).unwrap()],
        namespaces: NamespaceSelector {
            names: names.iter().map(ToString::to_string).collect(),
            ..NamespaceSelector::default()
        },
    };
    let rules = vec![rule("contoso", "contoso.azurecr.io", &[]), rule("fabrikam", "fabrikam.azurecr.io", &["team-b"])];
    Settings {
        pull_secret_name: "acr-pull-secret".parse().unwrap(),
        excluded_namespaces: BTreeSet::from(["ours".to_owned()]),
        rules: RegistryRules::new(login_servers, rules).unwrap(),
        limits: decision::Limits::default(),
    }
}

fn namespace(name: &str) -> Namespace {
    Namespace { name: name.to_owned(), ..Namespace::default() }
}

/// A pod of a `ReplicaSet` whose one container waits for its image.
fn stuck() -> Value {
    json!({
        "metadata": {
            "namespace": "team-a", "name": "web-1", "uid": "pod-uid",
            "creationTimestamp": "2026-11-24T08:00:00Z",
            "labels": {"app": "web"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "other"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "owner-uid", "controller": true},
            ],
        },
        "spec": {"containers": [{"name": "web", "image": "contoso.azurecr.io/web:v1", "env": [{"name": "A"}]}]},
        "status": {
            "phase": "Pending",
            "containerStatuses": [waiting("web", "ImagePullBackOff")],
        },
    })
}

fn waiting(name: &str, reason: &str) -> Value {
    json!({"name": name, "image": "", "state": {"waiting": {"reason": reason, "message": "Back-off"}}})
}

/// `stuck` with the values at these JSON pointers replaced or added.
fn with(changes: &[(&str, Value)]) -> Value {
    let mut pod = stuck();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    pod
}

fn find_in(pod: &Value, namespace: &Namespace) -> Option<StuckPod> {
    find(&serde_json::from_value(pod.clone()).unwrap(), namespace, &settings())
}

#[test]
fn a_stuck_pod_is_found_with_what_an_eviction_needs() {
    let expected = StuckPod {
        namespace: "team-a".to_owned(),
        name: "web-1".to_owned(),
        uid: "pod-uid".to_owned(),
        created_at: Some("2026-11-24T08:00:00Z".parse().unwrap()),
        replaced_by: Some("owner-uid".to_owned()),
    };
    assert_eq!(find_in(&stuck(), &namespace("team-a")), Some(expected));
}

#[test]
fn what_a_pull_secret_may_lack_is_what_its_pods_wait_for() {
    let contoso: LoginServer = LoginServerRule::default().parse("contoso.azurecr.io").unwrap();
    let lacks = |changes: &[(&str, Value)], namespace: &Namespace| {
        let named = ("/spec/imagePullSecrets", json!([{"name": "own"}, {"name": "acr-pull-secret"}]));
        let pod = with(&[&[named], changes].concat());
        assert_eq!(find_in(&pod, namespace), None, "it is not stuck");
        may_lack(&serde_json::from_value(pod).unwrap(), namespace, &settings()).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(lacks(&[], &namespace("team-a")), [contoso]);
    let opted_out = Namespace { labels: [(OPT_OUT_LABEL.into(), OPT_OUT_VALUE.into())].into(), ..namespace("team-a") };
    for other in [namespace("ours"), opted_out] {
        assert!(lacks(&[], &other).is_empty(), "{other:?}");
    }
    for (pointer, value) in [
        ("/status/containerStatuses", json!([waiting("web", "CrashLoopBackOff")])),
        ("/spec/containers/0/image", json!("fabrikam.azurecr.io/app")),
        ("/metadata/deletionTimestamp", json!("2026-11-24T09:00:00Z")),
    ] {
        assert!(lacks(&[(pointer, value)], &namespace("team-a")).is_empty(), "{pointer}");
    }
    assert!(may_lack(&serde_json::from_value(stuck()).unwrap(), &namespace("team-a"), &settings()).is_empty());
}

#[test]
fn what_counts_as_stuck() {
    let contoso = "contoso.azurecr.io/app:v1";
    let volume = json!([
        {"name": "model", "image": {"reference": "contoso.azurecr.io/model:v1"}},
        {"name": "empty", "emptyDir": {}},
    ]);
    let mounts =
        |name: &str| json!([{"name": "web", "image": "nginx", "volumeMounts": [{"name": name, "mountPath": "/m"}]}]);
    let rows = [
        ("the first failure", with(&[("/status/containerStatuses", json!([waiting("web", "ErrImagePull")]))]), true),
        (
            "waits for something else",
            with(&[("/status/containerStatuses", json!([waiting("web", "CrashLoopBackOff")]))]),
            false,
        ),
        ("no status yet", with(&[("/status", json!({"phase": "Pending"}))]), false),
        (
            "runs",
            with(&[("/status/containerStatuses/0/state", json!({"running": {"startedAt": "2026-11-24T08:00:00Z"}}))]),
            false,
        ),
        ("another registry", with(&[("/spec/containers/0/image", json!("quay.io/app:v1"))]), false),
        ("looks alike", with(&[("/spec/containers/0/image", json!("contoso.azurecr.io.evil.com/app"))]), false),
        ("no rule", with(&[("/spec/containers/0/image", json!("other.azurecr.io/app"))]), false),
        ("rule for other namespaces", with(&[("/spec/containers/0/image", json!("fabrikam.azurecr.io/app"))]), false),
        (
            "the other container waits",
            with(&[
                ("/spec/containers", json!([{"name": "web", "image": contoso}, {"name": "side", "image": "nginx"}])),
                ("/status/containerStatuses", json!([waiting("side", "ImagePullBackOff")])),
            ]),
            false,
        ),
        (
            "init container",
            with(&[
                ("/spec/containers/0/image", json!("nginx")),
                ("/spec/initContainers", json!([{"name": "init", "image": contoso}])),
                ("/status/containerStatuses", json!([waiting("web", "PodInitializing")])),
                ("/status/initContainerStatuses", json!([waiting("init", "ImagePullBackOff")])),
            ]),
            true,
        ),
        (
            "ephemeral container",
            with(&[
                ("/spec/containers/0/image", json!("nginx")),
                ("/spec/ephemeralContainers", json!([{"name": "debug", "image": contoso}])),
                ("/status/ephemeralContainerStatuses", json!([waiting("debug", "ErrImagePull")])),
            ]),
            true,
        ),
        ("image volume", with(&[("/spec/volumes", volume.clone()), ("/spec/containers", mounts("model"))]), true),
        (
            "image volume of nobody who waits",
            with(&[("/spec/volumes", volume), ("/spec/containers", mounts("empty"))]),
            false,
        ),
        (
            "references the pull secret",
            with(&[("/spec/imagePullSecrets", json!([{"name": "own"}, {"name": "acr-pull-secret"}]))]),
            false,
        ),
        ("references another", with(&[("/spec/imagePullSecrets", json!([{"name": "own"}, {}]))]), true),
        ("opted out", with(&[("/metadata/labels", json!({ OPT_OUT_LABEL: OPT_OUT_VALUE }))]), false),
        (
            "label with another value",
            with(&[("/metadata/labels", json!({"acr-pull-injector.io/inject": "enabled"}))]),
            true,
        ),
        ("mirror pod", with(&[("/metadata/annotations", json!({ MIRROR_ANNOTATION: "x", "a": "b" }))]), false),
        ("goes away", with(&[("/metadata/deletionTimestamp", json!("2026-11-24T09:00:00Z"))]), false),
    ];
    for (name, pod, expected) in rows {
        assert_eq!(find_in(&pod, &namespace("team-a")).is_some(), expected, "{name}");
    }
}

#[test]
fn namespaces_that_are_left_alone() {
    let opted_out = Namespace {
        labels: BTreeMap::from([("acr-pull-injector.io/inject".to_owned(), "disabled".to_owned())]),
        ..namespace("team-a")
    };
    let terminating = Namespace { terminating: true, ..namespace("team-a") };
    for (namespace, expected) in [
        (namespace("team-a"), true),
        (namespace("ours"), false),
        (namespace("kube-system"), false),
        (opted_out, false),
        (terminating, false),
    ] {
        assert_eq!(find_in(&stuck(), &namespace).is_some(), expected, "{namespace:?}");
    }
    let fabrikam = with(&[("/spec/containers/0/image", json!("fabrikam.azurecr.io/app"))]);
    assert!(find_in(&fabrikam, &namespace("team-b")).is_some(), "the rule serves this namespace");
}

#[test]
fn only_a_controller_that_makes_a_new_pod_counts() {
    let owner = |api_version: &str, kind: &str, controller: Option<bool>| {
        let mut owner = json!({"apiVersion": api_version, "kind": kind, "name": "x", "uid": "u"});
        if let Some(controller) = controller {
            owner["controller"] = json!(controller);
        }
        json!([owner])
    };
    let rows = [
        ("bare", json!([]), false),
        ("ReplicaSet", owner("apps/v1", "ReplicaSet", Some(true)), true),
        ("StatefulSet", owner("apps/v1", "StatefulSet", Some(true)), true),
        ("DaemonSet", owner("apps/v1", "DaemonSet", Some(true)), true),
        ("ReplicationController", owner("v1", "ReplicationController", Some(true)), true),
        ("somebody else's kind", owner("argoproj.io/v1alpha1", "Workflow", Some(true)), false),
        ("somebody else's ReplicaSet", owner("apps.example/v1", "ReplicaSet", Some(true)), false),
        ("Job", owner("batch/v1", "Job", Some(true)), false),
        ("Node", owner("v1", "Node", Some(true)), false),
        ("an owner that is no controller", owner("apps/v1", "ReplicaSet", None), false),
        ("an owner that says so", owner("apps/v1", "ReplicaSet", Some(false)), false),
    ];
    for (name, owners, expected) in rows {
        let found = find_in(&with(&[("/metadata/ownerReferences", owners)]), &namespace("team-a")).unwrap();
        assert_eq!(found.replaced_by.is_some(), expected, "{name}");
    }
}
