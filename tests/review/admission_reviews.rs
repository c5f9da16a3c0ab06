//! An admission review in, its response out.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::review;

#[test]
fn an_admission_review_gets_its_response() {
    let request = include_str!("../fixtures/review-create-replicaset-pod.json");
    let outcome = review(request);
    let response: Value = serde_json::from_str(&outcome.output).unwrap();
    let uid = &serde_json::from_str::<Value>(request).unwrap()["request"]["uid"];
    assert_eq!(
        (&response["apiVersion"], &response["kind"], &response["response"]["uid"], &response["response"]["allowed"]),
        (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"), uid, &json!(true))
    );
    let patch = STANDARD.decode(response["response"]["patch"].as_str().unwrap()).unwrap();
    let list = json!([{"name": "acr-pull-secret"}]);
    assert_eq!(
        serde_json::from_slice::<Value>(&patch).unwrap(),
        json!([{"op": "add", "path": "/spec/imagePullSecrets", "value": list}])
    );
    assert_eq!(
        outcome.lines,
        [
            "Pod team-a/web-7d9f8c6b5d-: image 1 of 4 contoso.azurecr.io/team/web:v42 matches rule default",
            "Pod team-a/web-7d9f8c6b5d-: image 2 of 4 fabrikam.azurecr.io/logger:1 matches rule default",
            "Pod team-a/web-7d9f8c6b5d-: image 3 of 4 contoso.azurecr.io/team/migrate@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa matches rule default",
        ]
    );
}

#[test]
fn an_admission_review_of_something_else_is_allowed_untouched() {
    let request = include_str!("../fixtures/review-create-minimal.json").replace("\"CREATE\"", "\"UPDATE\"");
    let outcome = review(&request);
    let response: Value = serde_json::from_str(&outcome.output).unwrap();
    assert_eq!(response["response"], json!({"uid": "feb0628f-9165-48b4-8b5f-1b04d5d80d3d", "allowed": true}));
    assert_eq!(outcome.lines, ["AdmissionReview: not the creation of a pod, passes unchanged"]);
}

#[test]
fn an_admission_review_of_3_mebibytes() {
    let mut request: Value = serde_json::from_str(include_str!("../fixtures/review-create-minimal.json")).unwrap();
    let variable = json!({"name": "A", "value": "x".repeat(1000)});
    request["request"]["object"]["spec"]["containers"][0]["env"] = vec![variable; 3000].into();
    let outcome = review(&request.to_string());
    assert!(outcome.output.contains("\"patchType\":\"JSONPatch\""));
}
