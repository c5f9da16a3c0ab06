//! An admission review, from the body of a call to the answer.

use std::collections::BTreeSet;

use acr_pull_injector::{
    config::Configuration,
    domain::{
        decision::{self, Decision, Settings},
        patch,
        registry::Namespace,
        review::{self, OPT_OUT_LABEL, OPT_OUT_VALUE, OtherSubject, Pod, Response, Review, Subject},
    },
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

const PULL_SECRET: &str = "acr-pull-secret";

/// Of two login servers the first is for all namespaces, the second for some; there is no rule for others.
const CONFIGURATION: &str = r#"
registries:
- name: contoso
  hosts: [contoso.azurecr.io, "*.azurecr.cn"]
  credential: {static: {username: user, passwordFile: /password}}
- name: payments
  hosts: [payments.azurecr.io]
  namespaces: {matchLabels: {team: payments}}
  credential: {static: {username: user, passwordFile: /password}}
admission: {excludedNamespaces: [excluded]}
"#;

/// Whatever arrives, either an error says why, or the answer is one that the API server can use and that says what a plain
/// reading of the document asks for.
pub(crate) fn check(body: &[u8]) {
    let review = match review::parse(body) {
        Ok(review) => review,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    // A plain reading is stricter about what nobody looks at: numbers without bounds, depth.
    let document: Option<Value> = serde_json::from_slice(body).ok();
    if let Some(document) = &document {
        agree(&review, document, body.len());
    }
    let settings = Configuration::parse(CONFIGURATION).unwrap().settings(Some("acr-pull-injector"));
    let response = Response::allowed(&review);
    let response = match &review.subject {
        Subject::Other(_) => response,
        Subject::PodCreation(pod) => respond(pod, &review, &settings, response),
    };
    let answer: Value = serde_json::from_slice(&response.to_json()).expect("the answer is JSON");
    assert_eq!(answer["apiVersion"], *review.api_version);
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], *review.uid);
    assert_eq!(answer["response"]["allowed"], true);
    for warning in answer["response"]["warnings"].as_array().into_iter().flatten() {
        let warning = warning.as_str().expect("a warning is text");
        assert!(warning.chars().count() <= 256 && !warning.chars().any(char::is_control), "{warning:?}");
    }
    let object = document.as_ref().map(|document| &document["request"]["object"]);
    assert_eq!(answer["response"].get("patch").is_some(), answer["response"].get("patchType").is_some());
    if let (Some(patch), Some(object)) = (answer["response"].get("patch"), object) {
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let patch = BASE64_STANDARD.decode(patch.as_str().expect("the patch is text")).expect("the patch is base64");
        applies(&serde_json::from_slice(&patch).expect("a JSON patch"), object);
    }
}

fn respond<'a>(pod: &Pod<'_>, review: &Review<'_>, settings: &Settings, response: Response<'a>) -> Response<'a> {
    let mut namespace = Namespace { name: review.namespace.clone().into_owned(), ..Namespace::default() };
    if review.dry_run {
        namespace.labels.insert("team".to_owned(), "payments".to_owned());
    }
    let decision = match decision::login_servers(pod, &review.namespace, settings) {
        Ok(login_servers) => decision::decide(login_servers, &namespace, settings),
        Err(reason) => Decision::Skip(reason),
    };
    let injects = matches!(decision, Decision::Inject(_));
    let response = decision.respond(response, pod, settings);
    assert_eq!(response.patch().is_some(), injects && !pod.references(&settings.pull_secret_name));
    response
}

/// The patch is one that always applies, adds our name at the end, keeps all else, and leaves nothing to do.
fn applies(patch: &json_patch::Patch, object: &Value) {
    assert_eq!(patch.len(), 1, "{patch}");
    let mut patched = object.clone();
    json_patch::patch(&mut patched, patch).expect("the patch applies");
    let list = patched["spec"]["imagePullSecrets"].as_array().expect("a list");
    assert_eq!(list.last(), Some(&json!({"name": PULL_SECRET})));
    let before = object["spec"]["imagePullSecrets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_kept = |entry: &Value| entry.is_null() || list.iter().any(|kept| kept["name"] == entry["name"]);
    assert!(before.iter().all(is_kept), "an entry was lost: {object} became {patched}");
    let kept = &list[..list.len() - 1];
    assert_eq!(names(kept), first_names(before), "the order was changed: {object} became {patched}");

    let text = patched.to_string();
    let again = review::parse_pod(&text).expect("a patched pod is still a pod");
    assert_eq!(patch::image_pull_secrets(&again, &PULL_SECRET.parse().unwrap()), None, "twice is not as once");

    let without_list = |mut pod: Value| {
        pod["spec"].as_object_mut().map(|spec| spec.remove("imagePullSecrets"));
        pod
    };
    assert_eq!(without_list(patched), without_list(object.clone()), "something else was changed");
}

fn names(entries: &[Value]) -> Vec<&str> {
    entries.iter().filter_map(|entry| entry["name"].as_str()).filter(|name| !name.is_empty()).collect()
}

/// Each name once, where it stands first.
fn first_names(entries: &[Value]) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    names(entries).into_iter().filter(|name| seen.insert(*name)).collect()
}

/// The decoder saw what stands in the document.
fn agree(review: &Review<'_>, document: &Value, length: usize) {
    let request = &document["request"];
    assert_eq!(review.api_version, text(&document["apiVersion"]));
    assert_eq!(document["kind"], "AdmissionReview");
    assert_eq!(review.uid, text(&request["uid"]));
    assert_eq!(review.namespace, text(&request["namespace"]));
    assert_eq!(review.dry_run, request["dryRun"].as_bool().unwrap_or_default());
    let kind = &request["kind"];
    let is_pod = text(&kind["group"]).is_empty() && kind["version"] == "v1" && kind["kind"] == "Pod";
    match &review.subject {
        Subject::PodCreation(pod) => {
            assert_eq!(review.api_version, "admission.k8s.io/v1");
            assert!(is_pod && request["operation"] == "CREATE" && text(&request["subResource"]).is_empty());
            same_pod(pod, &request["object"], length);
        }
        Subject::Other(OtherSubject::ApiVersion) => assert_ne!(review.api_version, "admission.k8s.io/v1"),
        Subject::Other(OtherSubject::Kind) => assert!(!is_pod),
        Subject::Other(OtherSubject::Operation) => assert_ne!(request["operation"], "CREATE"),
        Subject::Other(OtherSubject::Subresource) => assert_ne!(text(&request["subResource"]), ""),
    }
}

fn same_pod(pod: &Pod<'_>, object: &Value, length: usize) {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    let name = text(&metadata["name"]);
    assert_eq!(pod.display_name(), if name.is_empty() { text(&metadata["generateName"]) } else { name });
    assert_eq!(pod.opted_out(), metadata["labels"][OPT_OUT_LABEL] == OPT_OUT_VALUE);
    let annotations = metadata["annotations"].as_object();
    assert_eq!(pod.is_mirror(), annotations.is_some_and(|map| map.contains_key("kubernetes.io/config.mirror")));
    let entries = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let containers = ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(entries);
    let of_containers = containers.map(|container| text(&container["image"]));
    let of_volumes = entries("volumes").iter().map(|volume| text(&volume["image"]["reference"]));
    let images: Vec<&str> = of_containers.chain(of_volumes).filter(|image| !image.is_empty()).take(1000).collect();
    assert_eq!(pod.images().collect::<Vec<_>>(), images);
    let references = entries("imagePullSecrets");
    if pod.has_too_many_pull_secrets() {
        assert!(references.len() > 1000 || length > 264_000);
    } else {
        assert!(references.len() <= 1000);
        let names: Vec<_> = references.iter().map(|reference| reference["name"].as_str()).collect();
        assert_eq!(pod.image_pull_secrets().iter().map(|reference| reference.name()).collect::<Vec<_>>(), names);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
