//! The Helm chart: what it makes of each value, what it grants, what it refuses. Rendered by helm without a cluster,
//! and at the end installed.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may end at once and say where")]

mod cleanup;
mod comments;
mod conditions;
mod credentials;
mod documented;
mod effects;
mod fallback;
mod installed;
mod kubernetes;
mod releases;
mod render;
mod rights;
mod schema;
mod values;
mod watching;

use std::collections::BTreeSet;

use render::{Objects, chart_directory, helm, refuse, render, render_as};
use serde_json::{Value, json};

/// Every kind of value that adds to what is rendered, so that nothing hides behind a condition; only kinds that every
/// API server knows.
const EVERY_BUILT_IN_KIND: [&str; 24] = [
    "--set",
    "webhook.annotations.note=a,webhook.labels.note=a,webhook.configurationName=zz-injector",
    "--set",
    "podAnnotations.note=a,podLabels.note=a,serviceAnnotations.note=a,serviceAccount.annotations.note=a,commonLabels.note=a",
    "--set",
    "azure.extraSuffixes={registry.example.org},webhook.excludedNamespaces={team-z}",
    "--set",
    "registries[0].name=contoso,registries[0].hosts={contoso.azurecr.io},registries[0].namespaces.names={team-a}",
    "--set",
    "registries[0].credential.servicePrincipal.existingSecret=contoso",
    "--set",
    "registries[1].name=fabrikam,registries[1].credential.static.existingSecret=fabrikam",
    "--set",
    "priorityClassName=system-cluster-critical,imagePullSecrets[0].name=own",
    "--set",
    "tolerations[0].operator=Exists,extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy.example",
    "--set",
    "extraVolumes[0].name=store,extraVolumes[0].csi.driver=secrets-store.csi.k8s.io",
    "--set",
    "extraVolumeMounts[0].name=store,extraVolumeMounts[0].mountPath=/store",
    "--set",
    "networkPolicy.enabled=true,flowSchema.enabled=true,metrics.dashboard.enabled=true,cleanup.onUninstall=true",
    "--set",
    "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone",
];

/// The same with kinds of cert-manager, of Prometheus's operator and of Kubernetes 1.36.
fn everything() -> Vec<&'static str> {
    let others = [
        "--api-versions",
        "cert-manager.io/v1",
        "--api-versions",
        "monitoring.coreos.com/v1",
        "--set",
        "certificates.source=certManager,fallbackPolicy.enabled=true",
        "--set",
        "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true",
    ];
    [&EVERY_BUILT_IN_KIND[..], &others].concat()
}

const SHORT_FORM: [&str; 2] = ["--set", "servicePrincipal.existingSecret=sp"];

#[test]
fn the_chart_passes_helms_strict_lint() {
    for values in [&[][..], &SHORT_FORM] {
        let output = helm().args(["lint", "--strict"]).arg(chart_directory()).args(values).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_defaults_render_what_a_webhook_needs() {
    let kinds: Vec<_> = render(&[]).keys().map(|name| name.split('/').next().unwrap().to_owned()).collect();
    assert_eq!(
        kinds,
        [
            "ClusterRole",
            "ClusterRoleBinding",
            "ConfigMap",
            "Deployment",
            "MutatingWebhookConfiguration",
            "PodDisruptionBudget",
            "Role",
            "RoleBinding",
            "Service",
            "Service",
            "ServiceAccount",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
        ]
    );
}

#[test]
fn no_key_is_without_a_value() {
    for objects in [render(&[]), render(&SHORT_FORM), render(&everything())] {
        for (name, object) in &objects {
            assert_eq!(find_null(object, name), None);
        }
    }
}

fn find_null(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Null => Some(path.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| find_null(item, &format!("{path}/{index}")))
        }
        Value::Object(fields) => fields.iter().find_map(|(key, item)| find_null(item, &format!("{path}/{key}"))),
        _ => None,
    }
}

#[test]
fn two_releases_share_no_name() {
    let first: BTreeSet<_> = render_as("first", "shared", &[]).into_keys().collect();
    let second: BTreeSet<_> = render_as("second", "shared", &[]).into_keys().collect();
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
}

#[test]
fn selectors_hold_only_what_never_changes() {
    let objects = render(&everything());
    let selector = json!({
        "app.kubernetes.io/name": "acr-pull-injector", "app.kubernetes.io/instance": "acr-pull-injector",
    });
    let deployment = &objects["Deployment/acr-pull-injector"];
    assert_eq!(deployment.pointer("/spec/selector/matchLabels"), Some(&selector));
    assert_eq!(objects["Service/acr-pull-injector"].pointer("/spec/selector"), Some(&selector));
    assert_eq!(objects["PodDisruptionBudget/acr-pull-injector"].pointer("/spec/selector/matchLabels"), Some(&selector));
    let pod_labels = deployment.pointer("/spec/template/metadata/labels").unwrap();
    for (label, value) in selector.as_object().unwrap() {
        assert_eq!(&pod_labels[label], value);
    }
}

#[test]
fn pods_meet_the_restricted_standard() {
    let objects = render(&SHORT_FORM);
    let pod = objects["Deployment/acr-pull-injector"].pointer("/spec/template/spec").unwrap();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(container["allowPrivilegeEscalation"], json!(false));
    assert_eq!(container["readOnlyRootFilesystem"], json!(true));
    assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
}

#[test]
fn the_program_knows_every_flag() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_acr-pull-injector")).args(["serve", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    for objects in [render(&[]), render(&everything())] {
        let flags = objects["Deployment/acr-pull-injector"].pointer("/spec/template/spec/containers/0/flags").unwrap();
        for flag in flags.as_object().unwrap().keys() {
            assert!(help.contains(&format!("{flag} ")), "{flag} is not in:\n{help}");
        }
    }
}

#[test]
fn a_self_managed_certificate_leaves_the_ca_bundle_to_the_program() {
    let client = render(&[])["MutatingWebhookConfiguration/acr-pull-injector"]["webhooks"][0]["clientConfig"].clone();
    assert_eq!(client.as_object().unwrap().keys().collect::<Vec<_>>(), ["service"]);
}

#[test]
fn a_certificate_of_cert_manager_is_made_mounted_and_announced() {
    let objects = render(&everything());
    let secret = "acr-pull-injector-serving-certificate";
    let certificate = &objects[&format!("Certificate/{secret}")]["spec"];
    assert_eq!(certificate["secretName"], secret);
    assert_eq!(certificate["dnsNames"][0], "acr-pull-injector.acr-pull-injector.svc");
    assert!(objects.contains_key(&format!("Issuer/{}", certificate["issuerRef"]["name"].as_str().unwrap())));
    assert_eq!(
        objects["MutatingWebhookConfiguration/zz-injector"]["metadata"]["annotations"]["cert-manager.io/inject-ca-from"],
        format!("acr-pull-injector/{secret}")
    );
    assert_certificate_mounted(&objects, secret);
}

#[test]
fn a_certificate_of_ones_own_is_mounted_and_trusted() {
    let objects = render(&values::OWN_CERTIFICATE);
    assert_certificate_mounted(&objects, "own-certificate");
    assert_eq!(
        objects["MutatingWebhookConfiguration/acr-pull-injector"]["webhooks"][0]["clientConfig"]["caBundle"],
        "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"
    );
}

fn volume_mounted_at<'a>(pod: &'a Value, directory: &str) -> &'a Value {
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["mountPath"] == directory).unwrap();
    assert_eq!(mount.get("subPath"), None, "a subPath never changes in a running pod");
    pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]).unwrap()
}

fn assert_certificate_mounted(objects: &Objects, secret: &str) {
    let pod = objects["Deployment/acr-pull-injector"].pointer("/spec/template/spec").unwrap();
    let flags = &pod["containers"][0]["flags"];
    assert_eq!(flags["--certificate-source"], "files");
    let volume = volume_mounted_at(pod, flags["--certificate-directory"].as_str().unwrap());
    assert_eq!(volume["secret"]["secretName"], secret);
}

#[test]
fn combinations_that_cannot_work_are_refused_with_a_sentence() {
    for (arguments, sentence) in values::REFUSED {
        let message = refuse(arguments);
        assert!(message.contains(sentence), "{arguments:?}: {message}");
    }
}

#[test]
fn unknown_values_are_refused_wherever_the_chart_knows_all_keys() {
    for path in values::CLOSED {
        let message = refuse(&["--set", &format!("{path}unknownValue=1")]);
        assert!(message.contains("additional properties 'unknownValue' not allowed"), "{path}: {message}");
    }
}
