//! What cannot be reviewed, and how that is said.

use crate::{DEPLOYMENT, error_of};

#[test]
fn bad_input_is_named_by_file_document_and_field() {
    let deployment = |from: &str, to: &str| DEPLOYMENT.replace(from, to);
    let rows = [
        (String::new(), "there is no document in it"),
        ("# nothing\n---\n".to_owned(), "there is no document in it"),
        ("just text".to_owned(), "document 1: not an object with apiVersion and kind"),
        ("- a\n- b\n".to_owned(), "document 1: not an object with apiVersion and kind"),
        (format!("a: {}", "[".repeat(100_000)), "document 1: "),
        ("{\"a\":".repeat(100_000), "document 1: "),
        ("kind: Pod\n".to_owned(), "document 1: apiVersion is missing or no string"),
        ("apiVersion: v1\n".to_owned(), "document 1: kind is missing or no string"),
        ("apiVersion: v1\nkind: 1\n".to_owned(), "document 1: kind is missing or no string"),
        (format!("{DEPLOYMENT}---\napiVersion: v1\nkind:: [\n"), "document 2: "),
        (format!("{DEPLOYMENT}---\na: 1\na: 2\n"), "document 2: "),
        (
            deployment("image: contoso.azurecr.io/app:v1", "image: 1"),
            "document 1: Deployment team-a/web: spec.template.spec.containers[0].image has the wrong type or holds a field twice",
        ),
        (
            deployment("      imagePullSecrets:\n      - name: mine", "      imagePullSecrets: mine"),
            "document 1: Deployment team-a/web: spec.template.spec.imagePullSecrets has the wrong type or holds a field twice",
        ),
        (deployment("namespace: team-a", "namespace: 5"), "document 1: Deployment default/web: metadata.namespace is not a string"),
        (
            "---\n---\napiVersion: v1\nkind: Service\n---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: c}\nspec: {jobTemplate: x}\n".to_owned(),
            "document 2: CronJob default/c: spec.jobTemplate is not an object",
        ),
        ("{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": {}}".to_owned(), "document 1: items is not a list"),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}, \"spec\": []}, 1]}".to_owned(),
            "document 1: items[0]: Pod default/p: spec has the wrong type or holds a field twice",
        ),
        (
            "{\"apiVersion\": \"admission.k8s.io/v1\", \"kind\": \"AdmissionReview\"}".to_owned(),
            "document 1: AdmissionReview: request is missing",
        ),
        (
            include_str!("../fixtures/review-create-minimal.json").replace("\"containers\":[", "\"containers\":[7,"),
            "document 1: AdmissionReview: request.object.spec.containers[0] has the wrong type or holds a field twice",
        ),
        (
            format!("{DEPLOYMENT}---\n{}", include_str!("../fixtures/review-create-minimal.json")),
            "document 2: an AdmissionReview must come alone",
        ),
    ];
    for (input, expected) in rows {
        let error = error_of(&input);
        let expected = format!("standard input: {expected}");
        assert!(error == expected || expected.ends_with(": ") && error.starts_with(&expected), "{error}\n{input}");
    }
}

#[test]
fn a_yaml_error_names_the_line_of_the_file() {
    let lines_before = DEPLOYMENT.lines().count() + 1;
    let error = error_of(&format!("{DEPLOYMENT}---\na: 1\nb: [\n"));
    assert!(
        error.contains(&format!("line {}", lines_before + 2)) || error.contains(&format!("line {}", lines_before + 3)),
        "{error}"
    );
    let error = error_of(&format!("{DEPLOYMENT}---\na: 1\na: 2\n"));
    assert!(error.contains(&format!("line {}", lines_before + 2)), "{error}");
}
