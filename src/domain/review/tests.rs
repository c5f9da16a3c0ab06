use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::patch;

const MINIMAL: &str = include_str!("../../../tests/fixtures/review-create-minimal.json");
const REPLICA_SET_POD: &str = include_str!("../../../tests/fixtures/review-create-replicaset-pod.json");
const IMAGE_VOLUME: &str = include_str!("../../../tests/fixtures/review-create-dry-run-image-volume.json");

fn pod<'a>(review: &'a Review<'a>) -> &'a Pod<'a> {
    match &review.subject {
        Subject::PodCreation(pod) => pod,
        Subject::Other(other) => panic!("{other:?}"),
    }
}

fn images<'a>(pod: &'a Pod<'a>) -> Vec<&'a str> {
    pod.images().collect()
}

/// The minimal capture with the values at these pointers replaced; a null pointer target is made.
fn minimal_with(changes: &[(&str, Value)]) -> Vec<u8> {
    let mut review: Value = serde_json::from_str(MINIMAL).unwrap();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        review.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    serde_json::to_vec(&review).unwrap()
}

#[test]
fn a_captured_minimal_pod() {
    let review = parse(MINIMAL.as_bytes()).unwrap();
    assert_eq!(review.api_version, "admission.k8s.io/v1");
    assert_eq!(review.uid, "feb0628f-9165-48b4-8b5f-1b04d5d80d3d");
    assert!(!review.dry_run);
    let pod = pod(&review);
    assert_eq!(images(pod), ["contoso.azurecr.io/app:v1"]);
    assert!(pod.image_pull_secrets().is_empty() && !pod.is_mirror() && !pod.opted_out());
}

#[test]
fn a_captured_pod_of_a_replica_set() {
    let review = parse(REPLICA_SET_POD.as_bytes()).unwrap();
    assert_eq!(review.namespace, "team-a");
    let pod = pod(&review);
    assert_eq!(pod.display_name(), "web-7d9f8c6b5d-");
    assert_eq!(
        images(pod),
        [
            "contoso.azurecr.io/team/web:v42",
            "fabrikam.azurecr.io/logger:1",
            "contoso.azurecr.io/team/migrate@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "mcr.microsoft.com/oss/envoy:1.30",
        ]
    );
}

#[test]
fn a_captured_dry_run_with_an_image_volume() {
    let review = parse(IMAGE_VOLUME.as_bytes()).unwrap();
    assert!(review.dry_run);
    assert_eq!(images(pod(&review)), ["nginx", "contoso.azurecr.io/data:v1"]);
}

#[test]
fn a_capture_is_decoded_without_copying_its_strings() {
    let review = parse(REPLICA_SET_POD.as_bytes()).unwrap();
    let pod = pod(&review);
    let strings = pod.images.iter().chain([&review.uid, &review.namespace, &pod.generate_name]);
    for string in strings {
        assert!(matches!(string, Cow::Borrowed(_)), "{string} was copied");
    }
}

#[test]
fn what_may_be_missing_null_or_unknown() {
    let rows = [
        ("containers null", "/request/object/spec/containers", Value::Null, vec![]),
        ("containers empty", "/request/object/spec/containers", json!([]), vec![]),
        ("image missing", "/request/object/spec/containers", json!([{"name": "a"}]), vec![]),
        ("image null", "/request/object/spec/containers", json!([{"image": null}]), vec![]),
        ("image empty", "/request/object/spec/containers", json!([{"image": ""}]), vec![]),
        ("init containers null", "/request/object/spec/initContainers", Value::Null, vec!["contoso.azurecr.io/app:v1"]),
        (
            "init container",
            "/request/object/spec/initContainers",
            json!([{"image": "i"}]),
            vec!["contoso.azurecr.io/app:v1", "i"],
        ),
        (
            "ephemeral container",
            "/request/object/spec/ephemeralContainers",
            json!([{"image": "e"}]),
            vec!["contoso.azurecr.io/app:v1", "e"],
        ),
        ("volumes null", "/request/object/spec/volumes", Value::Null, vec!["contoso.azurecr.io/app:v1"]),
        (
            "volume of another type",
            "/request/object/spec/volumes",
            json!([{"emptyDir": {}}]),
            vec!["contoso.azurecr.io/app:v1"],
        ),
        (
            "image volume without reference",
            "/request/object/spec/volumes",
            json!([{"image": {}}, {"image": null}]),
            vec!["contoso.azurecr.io/app:v1"],
        ),
        (
            "image volume",
            "/request/object/spec/volumes",
            json!([{"image": {"reference": "v"}}]),
            vec!["contoso.azurecr.io/app:v1", "v"],
        ),
        ("pull secrets null", "/request/object/spec/imagePullSecrets", Value::Null, vec!["contoso.azurecr.io/app:v1"]),
        ("labels null", "/request/object/metadata/labels", Value::Null, vec!["contoso.azurecr.io/app:v1"]),
        ("spec null", "/request/object/spec", Value::Null, vec![]),
        ("metadata null", "/request/object/metadata", Value::Null, vec!["contoso.azurecr.io/app:v1"]),
        (
            "unknown fields",
            "/request/object/spec/future",
            json!({"a": [1, {"b": 1e99}]}),
            vec!["contoso.azurecr.io/app:v1"],
        ),
        ("dry run null", "/request/dryRun", Value::Null, vec!["contoso.azurecr.io/app:v1"]),
    ];
    for (name, pointer, value, expected) in rows {
        let body = minimal_with(&[(pointer, value)]);
        let review = parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(images(pod(&review)), expected, "{name}");
    }
}

#[test]
fn strings_with_escapes_are_decoded() {
    let body = MINIMAL.replace("contoso.azurecr.io/app:v1", r"contoso\u002eazurecr.io\/app:v1");
    assert_eq!(images(pod(&parse(body.as_bytes()).unwrap())), ["contoso.azurecr.io/app:v1"]);
}

#[test]
fn the_opt_out_label_of_a_pod() {
    for (labels, expected) in [
        (json!({OPT_OUT_LABEL: "disabled"}), true),
        (json!({"app": "web", OPT_OUT_LABEL: "disabled", "z": "z"}), true),
        (json!({OPT_OUT_LABEL: "enabled"}), false),
        (json!({OPT_OUT_LABEL: ""}), false),
        (json!({OPT_OUT_LABEL: null}), false),
        (json!({"app": "disabled"}), false),
        (json!({}), false),
    ] {
        let body = minimal_with(&[("/request/object/metadata/labels", labels.clone())]);
        assert_eq!(pod(&parse(&body).unwrap()).opted_out(), expected, "{labels}");
    }
    let annotations = json!({OPT_OUT_LABEL: "disabled"});
    let body = minimal_with(&[("/request/object/metadata/annotations", annotations)]);
    assert!(!pod(&parse(&body).unwrap()).opted_out(), "an annotation is not a label");
}

#[test]
fn a_mirror_pod_is_known_by_its_annotation() {
    for (annotations, expected) in [
        (json!({"kubernetes.io/config.mirror": "0123456789abcdef"}), true),
        (json!({"kubernetes.io/config.mirror": ""}), true),
        (json!({"kubernetes.io/config.source": "file"}), false),
    ] {
        let body = minimal_with(&[("/request/object/metadata/annotations", annotations.clone())]);
        assert_eq!(pod(&parse(&body).unwrap()).is_mirror(), expected, "{annotations}");
    }
}

#[test]
fn pull_secrets_are_known_by_name_and_keep_unknown_fields() {
    let list = json!([{"name": "first", "future": {"a": 1}}, {}, null, {"name": null}]);
    let body = minimal_with(&[("/request/object/spec/imagePullSecrets", list)]);
    let review = parse(&body).unwrap();
    let references = pod(&review).image_pull_secrets();
    let names: Vec<_> = references.iter().map(PullSecretReference::name).collect();
    assert_eq!(names, [Some("first"), None, None, None]);
    assert_eq!(references[0].as_json(), r#"{"name":"first","future":{"a":1}}"#);
    assert!(pod(&review).references(&"first".parse().unwrap()));
    assert!(!pod(&review).references(&"second".parse().unwrap()));
}

#[test]
fn another_subject_is_no_error_whatever_the_shape_of_its_object() {
    let deployment = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let strange = json!({"metadata": [], "spec": {"containers": "none", "volumes": {"a": 1}}});
    let rows = [
        ("deployment", vec![("/request/kind", deployment.clone())], OtherSubject::Kind),
        ("strange object", vec![("/request/kind", deployment), ("/request/object", strange)], OtherSubject::Kind),
        ("pod of another group", vec![("/request/kind/group", json!("example.com"))], OtherSubject::Kind),
        ("pod of another version", vec![("/request/kind/version", json!("v2"))], OtherSubject::Kind),
        ("update", vec![("/request/operation", json!("UPDATE"))], OtherSubject::Operation),
        (
            "delete",
            vec![("/request/operation", json!("DELETE")), ("/request/object", Value::Null)],
            OtherSubject::Operation,
        ),
        ("subresource", vec![("/request/subResource", json!("status"))], OtherSubject::Subresource),
        ("older review", vec![("/apiVersion", json!("admission.k8s.io/v1beta1"))], OtherSubject::ApiVersion),
        ("newer review", vec![("/apiVersion", json!("admission.k8s.io/v2"))], OtherSubject::ApiVersion),
    ];
    for (name, changes, expected) in rows {
        let body = minimal_with(&changes);
        let review = parse(&body).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(matches!(review.subject, Subject::Other(other) if other == expected), "{name}: {:?}", review.subject);
        assert_eq!(review.uid, "feb0628f-9165-48b4-8b5f-1b04d5d80d3d", "{name}");
    }
}

#[test]
fn an_empty_subresource_is_none() {
    assert_eq!(images(pod(&parse(&minimal_with(&[("/request/subResource", json!(""))])).unwrap())).len(), 1);
}

#[test]
fn a_malformed_review_is_refused_with_a_reason() {
    let field = |field: &str| ReviewError::Field { field: field.to_owned() };
    let version = format!("admission.k8s.io/{}", "v".repeat(254));
    let rows = [
        ("empty", b"".to_vec(), ReviewError::NotJson { line: 1, column: 0 }),
        ("text", b"hello".to_vec(), ReviewError::NotJson { line: 1, column: 1 }),
        ("cut off", MINIMAL.as_bytes()[..100].to_vec(), ReviewError::NotJson { line: 1, column: 100 }),
        ("more behind it", [MINIMAL.as_bytes(), b"x"].concat(), ReviewError::NotJson { line: 2, column: 1 }),
        ("not text", [b"{", &b"\xff"[..]].concat(), ReviewError::NotUtf8 { offset: 1 }),
        ("null", b"null".to_vec(), ReviewError::NotAnAdmissionReview),
        ("list", b"[1]".to_vec(), ReviewError::NotAnAdmissionReview),
        ("string", b"\"hello\"".to_vec(), ReviewError::NotAnAdmissionReview),
        ("empty object", b"{}".to_vec(), ReviewError::NotAnAdmissionReview),
        ("pod", br#"{"apiVersion":"v1","kind":"Pod"}"#.to_vec(), ReviewError::NotAnAdmissionReview),
        ("other kind", minimal_with(&[("/kind", json!("Review"))]), ReviewError::NotAnAdmissionReview),
        ("other group", minimal_with(&[("/apiVersion", json!("example.com/v1"))]), ReviewError::NotAnAdmissionReview),
        ("no request", minimal_with(&[("/request", Value::Null)]), ReviewError::Missing("request")),
        ("no uid", minimal_with(&[("/request/uid", Value::Null)]), ReviewError::Missing("request.uid")),
        ("empty uid", minimal_with(&[("/request/uid", json!(""))]), ReviewError::Missing("request.uid")),
        ("long uid", minimal_with(&[("/request/uid", json!("a".repeat(254)))]), ReviewError::TooLong("request.uid")),
        ("long version", minimal_with(&[("/apiVersion", json!(version))]), ReviewError::TooLong("apiVersion")),
        ("no kind", minimal_with(&[("/request/kind", Value::Null)]), ReviewError::Missing("request.kind")),
        (
            "no operation",
            minimal_with(&[("/request/operation", Value::Null)]),
            ReviewError::Missing("request.operation"),
        ),
        ("no object", minimal_with(&[("/request/object", Value::Null)]), ReviewError::Missing("request.object")),
        ("request a number", minimal_with(&[("/request", json!(1))]), field("request")),
        ("uid a number", minimal_with(&[("/request/uid", json!(1))]), field("request.uid")),
        ("dry run a string", minimal_with(&[("/request/dryRun", json!("yes"))]), field("request.dryRun")),
        ("object a string", minimal_with(&[("/request/object", json!("secret"))]), field("request.object")),
        (
            "image a number",
            minimal_with(&[
                ("/request/object/spec/containers/0/image", json!(1)),
                ("/request/object/spec/imagePullSecrets", json!([{"name": "a"}, {"name": 1}, null])),
            ]),
            field("request.object.spec.containers[0].image"),
        ),
        // The fields of what an object should be, in the order in which the decoder knows them.
        (
            "spec a list",
            minimal_with(&[("/request/object/spec", json!([[{"image": "a"}], null, null, null, null]))]),
            field("request.object.spec"),
        ),
        (
            "container a list",
            minimal_with(&[("/request/object/spec/containers", json!([["a"]]))]),
            field("request.object.spec.containers[0]"),
        ),
        (
            "labels a list",
            minimal_with(&[("/request/object/metadata/labels", json!(["secret"]))]),
            field("request.object.metadata.labels"),
        ),
        (
            "pull secret a string",
            minimal_with(&[("/request/object/spec/imagePullSecrets", json!(["secret"]))]),
            field("request.object.spec.imagePullSecrets[0]"),
        ),
    ];
    for (name, body, expected) in rows {
        let error = parse(&body).unwrap_err();
        assert_eq!(error, expected, "{name}");
        assert!(
            !error.to_string().contains("secret") || name.starts_with("pull secret"),
            "{name}: {error} quotes the body"
        );
    }
}

#[test]
fn a_field_given_twice_is_an_error_and_not_a_surprise() {
    let body = MINIMAL.replacen("\"operation\":", "\"operation\":\"DELETE\",\"operation\":", 1);
    assert_eq!(parse(body.as_bytes()).unwrap_err(), ReviewError::Field { field: "request".to_owned() });
}

#[test]
fn deep_nesting_is_survived() {
    let nested = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    for (field, list) in [("future", nested.clone()), ("imagePullSecrets", format!(r#"[{{"x":{nested}}}]"#))] {
        let body = MINIMAL.replacen("\"containers\":", &format!("\"{field}\":{list},\"containers\":"), 1);
        assert_eq!(images(pod(&parse(body.as_bytes()).unwrap())).len(), 1, "{field}");
    }
}

#[test]
fn a_pod_that_stands_alone() {
    let pod = parse_pod(r#"{"metadata":{"name":"web"},"spec":{"containers":[{"image":"a"}]}}"#).unwrap();
    assert_eq!((pod.display_name(), images(&pod)), ("web", vec!["a"]));
    let error = parse_pod(r#"{"spec":{"containers":{}}}"#).unwrap_err();
    assert_eq!(error, ReviewError::Field { field: "spec.containers".to_owned() });
}

fn response_json(response: &Response<'_>) -> Value {
    serde_json::from_slice(&response.to_json()).unwrap()
}

#[test]
fn a_response_repeats_uid_and_version_and_always_allows() {
    let review = parse(MINIMAL.as_bytes()).unwrap();
    let expected = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "feb0628f-9165-48b4-8b5f-1b04d5d80d3d", "allowed": true},
    });
    assert_eq!(response_json(&Response::allowed(&review)), expected, "without a patch there is no patchType either");
    let older = minimal_with(&[("/apiVersion", json!("admission.k8s.io/v1beta1"))]);
    assert_eq!(response_json(&Response::allowed(&parse(&older).unwrap()))["apiVersion"], "admission.k8s.io/v1beta1");
}

#[test]
fn a_patch_travels_as_base64_with_its_type() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let review = parse(MINIMAL.as_bytes()).unwrap();
    let operations = json!([{"op": "add", "path": "/spec/imagePullSecrets", "value": [{"name": "a"}]}]);
    let patch = patch::image_pull_secrets(pod(&review), &"a".parse().unwrap()).unwrap();
    let response = Response::allowed(&review)
        .with_patch(patch)
        .with_warning(Warning::new("look"))
        .with_audit_annotation("outcome", "injected".to_owned());
    let sent = response_json(&response);
    assert_eq!(sent["response"]["patchType"], "JSONPatch");
    let bytes = STANDARD.decode(sent["response"]["patch"].as_str().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), operations);
    assert_eq!(sent["response"]["warnings"], json!(["look"]));
    assert_eq!(sent["response"]["auditAnnotations"], json!({"outcome": "injected"}));
}

#[test]
fn a_warning_has_no_control_characters_and_an_end() {
    assert_eq!(Warning::new("\u{7}one\r\ntwo\t\u{9b}three\n").as_str(), "one  two  three");
    let longest = "ä".repeat(256);
    assert_eq!(Warning::new(&longest).as_str(), longest);
    let cut = Warning::new(format!("{longest}ä"));
    assert_eq!((cut.as_str().chars().count(), cut.as_str().ends_with("ä...")), (256, true));
}

#[test]
fn a_response_has_room_for_so_many_warnings() {
    let review = parse(MINIMAL.as_bytes()).unwrap();
    let warnings = (0..1_000).map(|number| Warning::new(format!("warning {number}")));
    let sent = response_json(&warnings.fold(Response::allowed(&review), Response::with_warning));
    let sent = sent["response"]["warnings"].as_array().unwrap();
    assert_eq!((sent.len(), &sent[0], &sent[31]), (32, &json!("warning 0"), &json!("warning 31")));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body);
        let _ = parse_pod(&String::from_utf8_lossy(&body));
    }

    /// Bytes of a real review changed, dropped or doubled.
    #[test]
    fn a_damaged_capture_never_panics(at in 0..REPLICA_SET_POD.len(), length in 0_usize..20, with in proptest::collection::vec(any::<u8>(), 0..20)) {
        let bytes = REPLICA_SET_POD.as_bytes();
        let end = (at + length).min(bytes.len());
        let damaged = [&bytes[..at], &with, &bytes[end..]].concat();
        if let Ok(review) = parse(&damaged) {
            let _ = Response::allowed(&review).to_json();
        }
    }

    /// Any value in the place of any field.
    #[test]
    fn a_field_of_any_type_never_panics(pointer in proptest::sample::select(vec![
        "/request", "/request/kind", "/request/object", "/request/object/metadata", "/request/object/metadata/labels",
        "/request/object/metadata/annotations", "/request/object/spec", "/request/object/spec/containers",
        "/request/object/spec/imagePullSecrets", "/request/object/spec/volumes",
    ]), value in proptest::sample::select(vec![
        Value::Null, json!(true), json!(-1), json!("text"), json!([]), json!([null]), json!([[]]), json!({}), json!({"a": []}),
    ])) {
        let body = minimal_with(&[(pointer, value)]);
        let _ = parse(&body);
    }
}
