//! Manifests: what changes and what does not.

use serde_json::json;

use crate::{DEPLOYMENT, documents, review};

#[test]
fn a_deployment_gets_the_reference_and_nothing_else() {
    let outcome = review(DEPLOYMENT);
    let mut expected = documents(DEPLOYMENT);
    expected[0]["spec"]["template"]["spec"]["imagePullSecrets"] =
        json!([{"name": "mine"}, {"name": "acr-pull-secret"}]);
    assert_eq!(documents(&outcome.output), expected);
    assert!(
        outcome.output.starts_with("# The web shop.\napiVersion: apps/v1\nkind: Deployment\n"),
        "{}",
        outcome.output
    );
    assert_eq!(outcome.lines, ["Deployment team-a/web: image 1 of 2 contoso.azurecr.io/app:v1 matches rule default"]);
}

#[test]
fn fields_keep_their_order() {
    let output = review(DEPLOYMENT).output;
    let places: Vec<_> = ["replicas:", "selector:", "template:", "initContainers:", "- name: web"]
        .map(|field| output.find(field))
        .into();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{output}");
}

#[test]
fn what_was_admitted_is_admitted_unchanged() {
    let once = review(DEPLOYMENT).output;
    let twice = review(&once);
    assert_eq!(twice.output, once);
    assert_eq!(twice.lines[1], "Deployment team-a/web: references acr-pull-secret already");
}

#[test]
fn every_kind_that_makes_pods() {
    let pod = json!({"spec": {"containers": [{"name": "a", "image": "contoso.azurecr.io/app"}]}});
    let rows = [
        ("v1", "Pod", pod.clone(), ""),
        ("v1", "PodTemplate", json!({"template": pod}), "/template"),
        ("v1", "ReplicationController", json!({"spec": {"template": pod}}), "/spec/template"),
        ("apps/v1", "Deployment", json!({"spec": {"template": pod}}), "/spec/template"),
        ("apps/v1", "StatefulSet", json!({"spec": {"template": pod}}), "/spec/template"),
        ("apps/v1", "DaemonSet", json!({"spec": {"template": pod}}), "/spec/template"),
        ("apps/v1", "ReplicaSet", json!({"spec": {"template": pod}}), "/spec/template"),
        ("batch/v1", "Job", json!({"spec": {"template": pod}}), "/spec/template"),
        (
            "batch/v1",
            "CronJob",
            json!({"spec": {"jobTemplate": {"spec": {"template": pod}}}}),
            "/spec/jobTemplate/spec/template",
        ),
    ];
    for (api_version, kind, mut object, template) in rows {
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        object["metadata"] = json!({"name": "web"});
        let outcome = review(&object.to_string());
        object.pointer_mut(template).unwrap()["spec"]["imagePullSecrets"] = json!([{"name": "acr-pull-secret"}]);
        assert_eq!(documents(&outcome.output), [object], "{kind}");
        assert_eq!(
            outcome.lines,
            [format!("{kind} default/web: image 1 of 1 contoso.azurecr.io/app matches rule default")]
        );
    }
}

#[test]
fn what_makes_no_such_pods_passes_byte_for_byte() {
    let input = "\
# Before the first document.
---
# Source: chart/templates/settings.yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: team-a}   # with a comment
data:
  image: contoso.azurecr.io/app:v1
  text: |
    line
     ---
---
---
# Only a comment.
---
apiVersion: batch.example.com/v1
kind: Job
metadata:
    name: foreign
spec: {template: {spec: {containers: 'contoso.azurecr.io/app'}}}
...
---
{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"generateName\": \"job-\"}, \"spec\": {\"containers\": [{\"image\": \"nginx\"}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: empty}
spec: {replicas: 1}
";
    let outcome = review(input);
    assert_eq!(outcome.output, input);
    assert_eq!(
        outcome.lines,
        [
            "ConfigMap team-a/settings: makes no pods, passes unchanged",
            "Job foreign: makes no pods, passes unchanged",
            "Pod default/job-: no image comes from an Azure container registry",
            "Deployment default/empty: spec.template is missing, passes unchanged",
        ]
    );
}

#[test]
fn documents_stay_apart_and_in_order() {
    let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let input = format!(
        "{config_map}---\n# Source: web.yaml\n{DEPLOYMENT}---\n{config_map}--- {{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{containers: [{{image: contoso.azurecr.io/app}}]}}}}\n"
    );
    let outcome = review(&input);
    let kinds: Vec<_> = documents(&outcome.output).iter().map(|document| document["kind"].clone()).collect();
    assert_eq!(kinds, ["ConfigMap", "Deployment", "ConfigMap", "Pod"]);
    assert!(outcome.output.starts_with(&format!("{config_map}---\n# Source: web.yaml\n# The web shop.\napiVersion")));
}

#[test]
fn directives_and_document_ends_are_understood() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{image: contoso.azurecr.io/app}]}\n";
    let outcome = review(&format!("%YAML 1.2\n---\n{pod}...\n# The second.\n{pod}...\n%YAML 1.2\n---\n{pod}"));
    let admitted = documents(&outcome.output);
    assert_eq!(admitted.len(), 3, "{}", outcome.output);
    for pod in admitted {
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "acr-pull-secret"}]));
    }
}

#[test]
fn a_large_manifest() {
    let variables = "        - {name: A, value: b}\n".repeat(52_000);
    let input =
        DEPLOYMENT.replace("        image: contoso", &format!("        env:\n{variables}        image: contoso"));
    assert!(review(&input).output.contains("- name: acr-pull-secret\n"));
}

#[test]
fn values_survive_as_kubectl_reads_them() {
    let values = r#"
        quotedYes: "yes"
        plainYes: yes
        quotedNumber: "1e3"
        plainNumber: 1e3
        version: "1.10"
        date: 2026-11-24
        time: "12:30:45"
        octal: 0755
        quotedOctal: "0755"
        large: 9223372036854775807
        float: 0.1
        nothing: ~
        quotedNull: "null"
        empty: ""
        emptyList: []
        emptyMap: {}
        block: |
          #!/bin/sh
          echo "a: b" # no comment

            indented
        folded: >-
          one
          two
        spaces: "  both  "
        control: "a\tb\u0007c\r\n"
        anchor: &anchor {a: [1]}
        alias: *anchor
        merged: {<<: *anchor, b: 2}
        unicode: "naïve 😀"
        long: "LONG"
"#;
    let values = values.replace("LONG", &"word ".repeat(60)).replace("        ", "    ");
    let input = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:{values}spec:\n  containers:\n  - image: contoso.azurecr.io/app\n"
    );
    let mut expected = documents(&input);
    assert_eq!(expected[0]["metadata"]["annotations"]["octal"], 0o755);
    assert_eq!(expected[0]["metadata"]["annotations"]["merged"], json!({"a": [1], "b": 2}));
    expected[0]["spec"]["imagePullSecrets"] = json!([{"name": "acr-pull-secret"}]);
    assert_eq!(documents(&review(&input).output), expected);
}

#[test]
fn the_items_of_a_list() {
    let mut list = json!({"apiVersion": "v1", "kind": "List", "items": [
        documents(DEPLOYMENT)[0],
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}},
    ]});
    let outcome = review(&list.to_string());
    list["items"][0]["spec"]["template"]["spec"]["imagePullSecrets"] =
        json!([{"name": "mine"}, {"name": "acr-pull-secret"}]);
    assert_eq!(documents(&outcome.output), [list]);
    assert_eq!(outcome.lines.len(), 2);
    for empty in ["[]", "null"] {
        let input = format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": {empty}}}\n");
        assert_eq!(review(&input).output, input);
    }
}
