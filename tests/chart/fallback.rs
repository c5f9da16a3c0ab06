//! The fallback policy: rendered where it helps, and doing its work inside a real API server.

use std::time::{Duration, Instant};

use control_plane::ControlPlane;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    SHORT_FORM,
    installed::{release, run},
    render::{Objects, refuse, render},
};

const SERVED: [&str; 2] = ["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"];
const OFF: [&str; 2] = ["--set", "fallbackPolicy.enabled=false"];
const ON: [&str; 2] = ["--set", "fallbackPolicy.enabled=true"];
const POLICY: &str = "MutatingAdmissionPolicy/acr-pull-injector-fallback";
const BINDING: &str = "MutatingAdmissionPolicyBinding/acr-pull-injector-fallback";

fn rendered(arguments: &[&[&str]]) -> Objects {
    render(&arguments.concat())
}

#[test]
fn it_is_there_when_the_cluster_serves_it_or_when_told_to() {
    let cases: [(&[&[&str]], bool); 6] = [
        (&[&SHORT_FORM], false),
        (&[&SHORT_FORM, &SERVED], true),
        (&[&SHORT_FORM, &SERVED, &OFF], false),
        (&[&SHORT_FORM, &ON], true),
        // Without a registry nothing is ever granted.
        (&[&SERVED], false),
        (&[&ON], false),
    ];
    for (arguments, expected) in cases {
        let objects = rendered(arguments);
        assert_eq!([POLICY, BINDING].map(|name| objects.contains_key(name)), [expected; 2], "{arguments:?}");
    }
    let message = refuse(&[&SHORT_FORM[..], &ON, &AN_OLDER_CLUSTER].concat());
    assert!(message.contains("this cluster does not serve MutatingAdmissionPolicy"), "{message}");
}

const AN_OLDER_CLUSTER: [&str; 4] =
    ["--api-versions", "v1/Pod", "--api-versions", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"];

#[test]
fn it_is_for_the_pods_of_the_webhook_at_the_configured_login_servers() {
    let hosts = r#"registries=[
        {"name": "a", "hosts": ["Contoso.azurecr.io", "fabrikam.azurecr.io:5443"], "credential": {"managedIdentity": {}}},
        {"name": "b", "hosts": ["*.azurecr.cn"], "credential": {"managedIdentity": {}}}
    ]"#;
    let objects = rendered(&[&ON, &["--set-json", hosts, "--set", "webhook.excludedNamespaces={x}"]]);
    let (policy, webhook) =
        (&objects[POLICY]["spec"], &objects["MutatingWebhookConfiguration/acr-pull-injector"]["webhooks"][0]);
    for selector in ["namespaceSelector", "objectSelector"] {
        assert_eq!(policy["matchConstraints"][selector], webhook[selector]);
    }
    assert_eq!(policy["matchConditions"][0], webhook["matchConditions"][0]);
    let pattern =
        r"'(?i)^([^/]+[.]azurecr[.]cn(:[0-9]+)?|contoso[.]azurecr[.]io(:[0-9]+)?|fabrikam[.]azurecr[.]io:5443)/'";
    let (ours, theirs) =
        (policy["matchConditions"][2]["expression"].as_str().unwrap(), &webhook["matchConditions"][1]["expression"]);
    assert_eq!(ours.replace(pattern, r"'(?i)^[^/]+[.](azurecr[.](io|cn|us))(:[0-9]+)?/'"), *theirs);
}

#[tokio::test]
async fn without_any_webhook_process_pods_get_the_reference() {
    let control_plane = ControlPlane::builder().controller_manager(true).start().await.unwrap();
    if control_plane.version().minor < 36 {
        // K8S_VERSION asks for an older one: there the chart must leave it out, and install.
        run(release(control_plane.helm().command(), "install").args(SHORT_FORM));
        return;
    }
    let client = control_plane.client();
    let rules = r#"registries=[{"name": "a", "hosts": ["contoso.azurecr.io"], "credential": {"managedIdentity": {}}}]"#;
    run(release(control_plane.helm().command(), "install").args(["--set-json", rules]));
    for (name, labels) in [("team", json!({})), ("opted-out", json!({"acr-pull-injector.io/inject": "disabled"}))] {
        namespace(&client, name, &labels).await;
    }
    wait_until_active(&client).await;

    let created = async |namespace: &str, pod: Value| references(&create(&client, namespace, &pod).await);
    let acr = || pod("contoso.azurecr.io/app:1");
    let with = |pointer: &str, value: Value| {
        let mut pod = acr();
        *pod.pointer_mut(pointer).unwrap() = value;
        pod
    };
    assert_eq!(created("team", acr()).await, ["acr-pull-secret"], "a list that was not there");
    // What the alert about failed calls reads.
    let counter = r#"apiserver_admission_webhook_fail_open_count{name="inject.acr-pull-injector.io",type="admit"}"#;
    assert!(
        control_plane.metrics().await.unwrap().contains(counter),
        "the webhook was not called, or its failure not counted"
    );
    let listed = with("/spec/imagePullSecrets", json!([{"name": "mine"}]));
    assert_eq!(created("team", listed).await, ["mine", "acr-pull-secret"], "a list of the pod's own");
    let twice = with("/spec/imagePullSecrets", json!([{"name": "acr-pull-secret"}]));
    assert_eq!(created("team", twice).await, ["acr-pull-secret"], "already there");
    assert_eq!(created("team", pod("docker.io/library/nginx:1")).await, [""; 0], "a plain pod");
    assert_eq!(created("team", pod("fabrikam.azurecr.io/app:1")).await, [""; 0], "no entry is for this login server");
    assert_eq!(created("opted-out", acr()).await, [""; 0], "its namespace opted out");
    let label = with("/metadata/labels", json!({"acr-pull-injector.io/inject": "disabled"}));
    assert_eq!(created("team", label).await, [""; 0], "it opted out itself");
    let mut mirror = with("/metadata/annotations", json!({"kubernetes.io/config.mirror": "x"}));
    mirror["spec"]["nodeName"] = json!("node");
    assert_eq!(created("team", mirror).await, [""; 0], "the copy of a static pod");

    let account = json!({"imagePullSecrets": [{"name": "of-the-account"}]});
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "team");
    accounts.patch("default", &PatchParams::default(), &Patch::Merge(&account)).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // The API server learns of the ServiceAccount's list by a watch.
    loop {
        let found = created("team", acr()).await;
        if found == ["of-the-account", "acr-pull-secret"] {
            break;
        }
        assert!(found == ["acr-pull-secret"] && Instant::now() < deadline, "the ServiceAccount's list: {found:?}");
    }
}

async fn namespace(client: &Client, name: &str, labels: &Value) {
    let namespace = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap();
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    let deadline = Instant::now() + Duration::from_secs(60);
    while accounts.get_opt("default").await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "no ServiceAccount in {name}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A policy becomes active a second or three after it was created.
async fn wait_until_active(client: &Client) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while references(&create(client, "team", &pod("contoso.azurecr.io/app:1")).await).is_empty() {
        assert!(Instant::now() < deadline, "the policy does nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn pod(image: &str) -> Value {
    json!({
        "metadata": {"generateName": "pod-", "labels": {}, "annotations": {}},
        "spec": {"containers": [{"name": "app", "image": image}], "imagePullSecrets": null},
    })
}

async fn create(client: &Client, namespace: &str, pod: &Value) -> Pod {
    let pod = serde_json::from_value(pod.clone()).unwrap();
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &pod).await.unwrap()
}

fn references(pod: &Pod) -> Vec<String> {
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    secrets.map(|reference| reference.name.clone()).collect()
}
