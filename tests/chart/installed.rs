//! The chart on a real API server, without running pods: is everything accepted, and what does an upgrade leave alone.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use control_plane::ControlPlane;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyStatus,
        },
        core::v1::Namespace,
    },
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::render::chart_directory;

#[tokio::test]
async fn the_api_server_accepts_all_of_it_and_an_upgrade_leaves_the_ca_bundle_alone() {
    let control_plane = ControlPlane::builder().controller_manager(true).start().await.unwrap();
    let client = control_plane.client();

    let notes = run(release(control_plane.helm().command(), "install").args(crate::EVERY_BUILT_IN_KIND));
    assert!(notes.contains("kubectl -n acr-pull-injector rollout status deployment/acr-pull-injector"), "{notes}");
    assert!(notes.contains("describe secret fabrikam"), "{notes}");
    assert_eq!(
        notes.contains("the policy acr-pull-injector-fallback names the pull secret"),
        control_plane.version().minor >= 36,
        "{notes}"
    );

    let types = type_checking(&client).await;
    assert_eq!(types.type_checking.unwrap_or_default().expression_warnings, None);

    write_ca_bundle(&client, "zz-injector", control_plane.ca_pem()).await;
    let upgrade = ["--set", "webhook.failurePolicy=Fail,webhook.timeoutSeconds=9"];
    let notes = run(release(control_plane.helm().command(), "upgrade").args(crate::EVERY_BUILT_IN_KIND).args(upgrade));
    assert!(notes.contains("webhook.failurePolicy is Fail"), "{notes}");
    let webhook = registration(&client).get("zz-injector").await.unwrap().webhooks.unwrap().remove(0);
    assert_eq!(webhook.timeout_seconds, Some(9));
    assert!(webhook.client_config.ca_bundle.is_some(), "the upgrade took the caBundle away");

    let federated =
        r#"registries=[{"name": "a", "credential": {"workloadIdentity": {"tenantId": "t", "clientId": "c"}}}]"#;
    let upgrade = ["--reset-values", "--set-json", federated, "--set", "heal.evictStuckPods=true"];
    let notes = run(release(control_plane.helm().command(), "upgrade").args(upgrade));
    assert!(notes.contains("\n  system:serviceaccount:acr-pull-injector:acr-pull-injector\n"), "{notes}");
    assert!(notes.contains("heal.evictStuckPods does that"), "{notes}");

    let notes = run(release(control_plane.helm().command(), "upgrade").arg("--reset-values"));
    assert!(notes.contains("no registry is configured"), "{notes}");
}

/// What docs/operations.md says of changes that old pods do not survive.
#[tokio::test]
async fn a_certificate_of_ones_own_can_be_trusted_beside_the_one_of_before_but_not_the_other_way() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let client = control_plane.client();
    let ca_bundle = async || {
        let webhook = registration(&client).get("acr-pull-injector").await.unwrap().webhooks.unwrap().remove(0);
        webhook.client_config.ca_bundle.map(|bundle| String::from_utf8(bundle.0).unwrap())
    };
    run(&mut release(control_plane.helm().command(), "install"));
    write_ca_bundle(&client, "acr-pull-injector", control_plane.ca_pem()).await;
    let both = control_plane.ca_pem().repeat(2);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("both.pem");
    std::fs::write(&file, &both).unwrap();
    let own = ["--set", "certificates.source=existingSecret,certificates.existingSecret.name=own", "--set-file"];
    let file = format!("certificates.existingSecret.caBundle={}", file.display());
    run(release(control_plane.helm().command(), "upgrade").args(own).arg(file));
    assert_eq!(ca_bundle().await, Some(both), "the upgrade names it, although the webhook wrote it before");
    run(release(control_plane.helm().command(), "upgrade").arg("--reset-values"));
    assert_eq!(ca_bundle().await, None, "until a new pod writes it");
}

/// `helm template | kubectl apply --server-side`, which unlike helm also refuses fields that Kubernetes does not know.
#[tokio::test]
async fn the_plain_manifests_are_accepted_by_an_api_server_without_helm() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let client = control_plane.client();
    let namespace = serde_json::from_value(json!({"metadata": {"name": "acr-pull-injector"}})).unwrap();
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let fallback = ["--set", if control_plane.version().minor >= 36 { ON } else { OFF }];
    let objects = crate::render::render_manifests(&[&crate::EVERY_BUILT_IN_KIND[..], &fallback].concat());
    assert!(objects.len() >= 20, "{}", objects.len());
    for object in objects {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let resource = ApiResource::from_gvk(&object.types.as_ref().unwrap().try_into().unwrap());
        let objects: Api<DynamicObject> = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let name = object.metadata.name.as_deref().unwrap();
        let applied = objects.patch(name, &PatchParams::apply("kubectl").force(), &Patch::Apply(&object)).await;
        assert!(applied.is_ok(), "{} {name}: {applied:?}", resource.kind);
    }
}

const ON: &str = "fallbackPolicy.enabled=true";
const OFF: &str = "fallbackPolicy.enabled=false";

/// A helm command about the release of the README.
pub(crate) fn release(mut helm: Command, verb: &str) -> Command {
    helm.args([verb, "acr-pull-injector", "--namespace", "acr-pull-injector"]).arg(chart_directory());
    if verb == "install" {
        helm.arg("--create-namespace");
    }
    helm
}

/// What helm prints when it succeeds.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The API server's own judgement of the guard's expressions, which takes a moment.
async fn type_checking(client: &Client) -> ValidatingAdmissionPolicyStatus {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = policies.get("acr-pull-injector-guard").await.unwrap().status;
        if let Some(status) = status.filter(|status| status.observed_generation.is_some()) {
            return status;
        }
        assert!(Instant::now() < deadline, "the guard was not checked");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// As the program does it: server-side apply of this one field.
async fn write_ca_bundle(client: &Client, name: &str, ca_pem: &str) {
    let ca_bundle = ByteString(ca_pem.as_bytes().to_vec());
    let webhook = json!({"name": "inject.acr-pull-injector.io", "clientConfig": {"caBundle": ca_bundle}});
    let apply = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name}, "webhooks": [webhook],
    });
    let parameters = PatchParams::apply("acr-pull-injector-ca-bundle").force();
    registration(client).patch(name, &parameters, &Patch::Apply(&apply)).await.unwrap();
}

fn registration(client: &Client) -> Api<MutatingWebhookConfiguration> {
    Api::all(client.clone())
}
