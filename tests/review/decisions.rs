//! Which pods are changed, and the words that say why.

use std::fs;

use acr_pull_injector::cli::review::ReviewArguments;
use serde_json::json;

use crate::{DEPLOYMENT, arguments, documents, review, review_with};

const OPTED_OUT_NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a, labels: {acr-pull-injector.io/inject: disabled}}\n";

#[test]
fn a_namespace_in_the_same_input_can_opt_out_wherever_it_stands() {
    for input in [format!("{OPTED_OUT_NAMESPACE}---\n{DEPLOYMENT}"), format!("{DEPLOYMENT}---\n{OPTED_OUT_NAMESPACE}")]
    {
        let mut outcome = review(&input);
        assert_eq!(outcome.output, input);
        outcome.lines.sort();
        assert_eq!(
            outcome.lines,
            ["Deployment team-a/web: namespace team-a has opted out", "Namespace team-a: has opted out"]
        );
    }
}

#[test]
fn a_namespace_in_a_list_can_opt_out() {
    let items = [documents(OPTED_OUT_NAMESPACE).remove(0), documents(DEPLOYMENT).remove(0)];
    let input = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let outcome = review(&input);
    assert_eq!(outcome.output, input);
    assert_eq!(outcome.lines[1], "Deployment team-a/web: namespace team-a has opted out");
}

#[test]
fn a_pod_is_left_alone_for_these_reasons() {
    for (metadata, reason) in [
        ("{name: web, labels: {acr-pull-injector.io/inject: disabled}}", "Pod default/web: the pod has opted out"),
        ("{name: web, namespace: kube-system}", "Pod kube-system/web: namespace kube-system is excluded"),
        (
            "{name: web, annotations: {kubernetes.io/config.mirror: x}}",
            "Pod default/web: a mirror pod cannot reference secrets",
        ),
    ] {
        let input = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {metadata}\nspec: {{containers: [{{image: contoso.azurecr.io/app}}]}}\n"
        );
        let outcome = review(&input);
        assert_eq!((outcome.output, outcome.lines), (input, vec![reason.to_owned()]));
    }
}

#[test]
fn the_namespace_of_objects_that_name_none() {
    let input = DEPLOYMENT.replace("  namespace: team-a\n", "");
    let arguments = ReviewArguments { namespace: "kube-node-lease".to_owned(), ..arguments() };
    let outcome = review_with(&arguments, &input);
    assert_eq!(outcome.lines, ["Deployment kube-node-lease/web: namespace kube-node-lease is excluded"]);
}

#[test]
fn an_image_that_no_kubelet_could_pull_is_named() {
    let outcome = review(&DEPLOYMENT.replace("contoso.azurecr.io/app:v1", "contoso.azurecr.io/App"));
    assert!(
        outcome.lines[0].contains("image 1 of 2 contoso.azurecr.io/App is no image reference: "),
        "{:?}",
        outcome.lines
    );
    assert_eq!(outcome.lines[1], "Deployment team-a/web: no image comes from an Azure container registry");
}

const CONFIGURATION: &str = "\
pullSecretName: company-registry
registries:
- name: contoso
  hosts: [contoso.azurecr.io]
  credential: {static: {username: u, passwordFile: /nowhere}}
- name: payments
  hosts: [payments.azurecr.io]
  namespaces: {matchLabels: {team: payments}}
  credential: {static: {username: u, passwordFile: /nowhere}}
- name: named
  hosts: [named.azurecr.io]
  namespaces: {matchLabels: {kubernetes.io/metadata.name: team-a}}
  credential: {static: {username: u, passwordFile: /nowhere}}
";

#[test]
fn a_configuration_decides_by_its_rules() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    fs::write(&config, CONFIGURATION).unwrap();
    let arguments = ReviewArguments { config: Some(config), ..arguments() };
    let pod = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: team-a}
spec:
  containers:
  - image: contoso.azurecr.io/app
  - image: payments.azurecr.io/app
  - image: fabrikam.azurecr.io/app
  - image: named.azurecr.io/app
";
    let outcome = review_with(&arguments, pod);
    assert_eq!(documents(&outcome.output)[0]["spec"]["imagePullSecrets"], json!([{"name": "company-registry"}]));
    assert_eq!(
        outcome.lines,
        [
            "Pod team-a/web: image 1 of 4 contoso.azurecr.io/app matches rule contoso",
            "Pod team-a/web: image 2 of 4 payments.azurecr.io/app is refused: rule payments does not serve the namespace",
            "Pod team-a/web: image 3 of 4 fabrikam.azurecr.io/app is refused: no rule covers its host",
            "Pod team-a/web: image 4 of 4 named.azurecr.io/app matches rule named",
            "Pod team-a/web: the labels of namespace team-a are not known: its manifest is not in the input",
        ]
    );
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a, labels: {team: payments}}\n---\n";
    let outcome = review_with(&arguments, &format!("{namespace}{pod}"));
    assert_eq!(outcome.lines[2], "Pod team-a/web: image 2 of 4 payments.azurecr.io/app matches rule payments");
    assert_eq!(outcome.lines.len(), 5, "with its manifest the namespace is not in doubt: {:?}", outcome.lines);
}
