//! What the chart's ServiceAccount may do.

use serde_json::{Value, json};

use crate::{
    everything,
    render::{Objects, render},
};

#[test]
fn rights_are_these_and_no_more() {
    let pull_secrets = json!({
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["pulls"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    });
    let namespaces = json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]});
    let events = json!({"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]});
    let new_events = json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]});
    let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]});
    let eviction = json!({"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]});
    let registration = json!({
        "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": ["zz"], "verbs": ["get", "list", "watch", "patch"],
    });
    let election = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]});
    let lease = json!({
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["acr-pull-injector"],
        "verbs": ["get", "patch"],
    });
    let certificate = json!({
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["acr-pull-injector-serving-certificate"],
        "verbs": ["get", "create", "patch"],
    });

    let objects = render(&["--set", "pullSecretName=pulls,webhook.configurationName=zz"]);
    assert_eq!(
        rules(&objects),
        json!([pull_secrets, namespaces, events, new_events, pods, registration, election, lease, certificate])
    );

    // With a certificate from elsewhere there is nothing to register and nothing to store.
    let others = ["--set", "pullSecretName=pulls,heal.evictStuckPods=true"];
    let objects = render(&[&everything()[..], &others].concat());
    assert_eq!(rules(&objects), json!([pull_secrets, namespaces, events, new_events, pods, eviction, election, lease]));
}

fn rules(objects: &Objects) -> Value {
    let roles = ["ClusterRole/acr-pull-injector", "Role/acr-pull-injector"];
    roles.iter().flat_map(|role| objects[*role]["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn the_lease_that_is_granted_is_the_one_that_is_used() {
    let objects = render(&["--set", "fullnameOverride=mine"]);
    let container = objects["Deployment/mine"].pointer("/spec/template/spec/containers/0").unwrap();
    assert_eq!(container["flags"]["--lease"], objects["Role/mine"]["rules"][1]["resourceNames"][0]);
    assert_eq!(
        container["env"][0],
        json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    );
}

#[test]
fn rights_and_guard_are_bound_to_the_service_account_that_the_pods_run_as() {
    let objects = render(&["--set", "serviceAccount.create=false,serviceAccount.name=mine"]);
    assert!(!objects.keys().any(|name| name.starts_with("ServiceAccount/")));
    for binding in ["ClusterRoleBinding/acr-pull-injector", "RoleBinding/acr-pull-injector"] {
        assert_eq!(
            objects[binding]["subjects"],
            json!([{"kind": "ServiceAccount", "name": "mine", "namespace": "acr-pull-injector"}])
        );
    }
    assert_eq!(
        objects["Deployment/acr-pull-injector"].pointer("/spec/template/spec/serviceAccountName"),
        Some(&json!("mine"))
    );
    let policy = &objects["ValidatingAdmissionPolicy/acr-pull-injector-guard"];
    assert_eq!(
        policy.pointer("/spec/matchConditions/0/expression"),
        Some(&json!("request.userInfo.username == 'system:serviceaccount:acr-pull-injector:mine'"))
    );
}
