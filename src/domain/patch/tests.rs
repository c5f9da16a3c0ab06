use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::review;

fn name() -> PullSecretName {
    "acr-pull-secret".parse().unwrap()
}

/// The pod after the API server has applied our patch.
fn patched(mut pod: Value) -> Value {
    let text = pod.to_string();
    if let Some(patch) = image_pull_secrets(&review::parse_pod(&text).unwrap(), &name()) {
        let operations: json_patch::Patch = serde_json::from_str(patch.as_json()).unwrap();
        json_patch::patch(&mut pod, &operations).unwrap();
    }
    pod
}

#[test]
fn the_list_after_the_patch() {
    let ours = json!({"name": "acr-pull-secret"});
    let rows = [
        ("no list", json!({}), json!([ours])),
        ("null", json!({"imagePullSecrets": null}), json!([ours])),
        ("empty", json!({"imagePullSecrets": []}), json!([ours])),
        (
            "others come first",
            json!({"imagePullSecrets": [{"name": "b"}, {"name": "a"}]}),
            json!([{"name": "b"}, {"name": "a"}, ours]),
        ),
        (
            "unknown fields stay",
            json!({"imagePullSecrets": [{"name": "a", "future": [1]}]}),
            json!([{"name": "a", "future": [1]}, ours]),
        ),
        (
            "a name given twice",
            json!({"imagePullSecrets": [{"name": "a", "x": 1}, {"name": "b"}, {"name": "a", "x": 2}]}),
            json!([{"name": "a", "x": 1}, {"name": "b"}, ours]),
        ),
        ("entries without a name", json!({"imagePullSecrets": [{}, {}]}), json!([{}, {}, ours])),
        (
            "a longer name",
            json!({"imagePullSecrets": [{"name": "acr-pull-secret-2"}]}),
            json!([{"name": "acr-pull-secret-2"}, ours]),
        ),
        ("ours is there", json!({"imagePullSecrets": [ours, {"name": "a"}]}), json!([ours, {"name": "a"}])),
        (
            "ours is there, a name twice",
            json!({"imagePullSecrets": [{"name": "a"}, ours, {"name": "a"}]}),
            json!([{"name": "a"}, ours, {"name": "a"}]),
        ),
    ];
    for (name, spec, expected) in rows {
        assert_eq!(patched(json!({"spec": spec}))["spec"]["imagePullSecrets"], expected, "{name}");
    }
}

#[test]
fn a_list_that_is_too_long_to_be_known_in_full_is_not_replaced() {
    for (count, is_patched) in [(1000, true), (1001, false), (1_000_000, false)] {
        let text = format!(r#"{{"spec": {{"imagePullSecrets": [{}{{}}]}}}}"#, "{},".repeat(count - 1));
        let pod = review::parse_pod(&text).unwrap();
        assert_eq!(image_pull_secrets(&pod, &name()).is_some(), is_patched, "{count}");
        assert_eq!(pod.image_pull_secrets().len(), if is_patched { count } else { 0 }, "{count}");
    }
}

#[test]
fn a_list_with_too_much_text_is_not_replaced_either() {
    const ROOM: usize = 264_000;
    let reference = |length: usize| format!(r#"{{"name":"{}"}}"#, "a".repeat(length - r#"{"name":""}"#.len()));
    for (lengths, is_patched) in [
        (vec![ROOM], true),
        (vec![ROOM + 1], false),
        (vec![ROOM / 2, ROOM / 2], true),
        (vec![ROOM / 2, ROOM / 2 + 1], false),
        (vec![8 << 20, 100], false),
    ] {
        let list = lengths.iter().map(|length| reference(*length)).collect::<Vec<_>>().join(", ");
        let text = format!(r#"{{"spec": {{"imagePullSecrets": [{list}]}}}}"#);
        let pod = review::parse_pod(&text).unwrap();
        assert_eq!(pod.has_too_many_pull_secrets(), !is_patched, "{lengths:?}");
        assert_eq!(image_pull_secrets(&pod, &name()).is_some(), is_patched, "{lengths:?}");
    }
}

/// As the API server writes it, the list is passed on byte for byte: fields in order, unknown ones and numbers too.
#[test]
fn an_entry_is_passed_on_as_it_is_written() {
    let entries = r#"{"future":{"b":1e2,"a":[18446744073709551616,"\u00e4"]},"name":"a"},{},{"name":"b","name":"c"}"#;
    let text = format!(r#"{{"spec":{{"imagePullSecrets":[{entries},null,{{"name":"c"}}]}}}}"#);
    let patch = image_pull_secrets(&review::parse_pod(&text).unwrap(), &name()).unwrap();
    let list = format!(r#"{entries},{{}},{{"name":"acr-pull-secret"}}"#);
    assert_eq!(patch.as_json(), format!(r#"[{{"op":"add","path":"/spec/imagePullSecrets","value":[{list}]}}]"#));
}

#[test]
fn there_is_no_patch_when_the_pod_references_the_pull_secret() {
    let pod = review::parse_pod(r#"{"spec":{"imagePullSecrets":[{"name":"a"},{"name":"acr-pull-secret"}]}}"#).unwrap();
    assert_eq!(image_pull_secrets(&pod, &name()), None);
}

#[test]
fn the_patch_is_one_add_of_the_whole_list() {
    let pod = review::parse_pod(r#"{"spec":{"imagePullSecrets":[{"name":"a"}]}}"#).unwrap();
    let patch: Value = serde_json::from_str(image_pull_secrets(&pod, &name()).unwrap().as_json()).unwrap();
    let list = json!([{"name": "a"}, {"name": "acr-pull-secret"}]);
    assert_eq!(patch, json!([{"op": "add", "path": "/spec/imagePullSecrets", "value": list}]));
}

fn any_reference() -> impl Strategy<Value = Value> {
    let any_name = prop_oneof!["[ab]", Just("acr-pull-secret".to_owned()), "[a-z.-]{1,20}"];
    prop_oneof![
        any_name.clone().prop_map(|name| json!({"name": name})),
        (any_name, any::<i64>()).prop_map(|(name, future)| json!({"future": {"n": future}, "name": name})),
        Just(json!({})),
    ]
}

fn any_pod() -> impl Strategy<Value = Value> {
    let list = proptest::option::of(proptest::option::of(proptest::collection::vec(any_reference(), 0..6)));
    (list, "[a-z]{1,8}", proptest::collection::vec("\\PC{0,20}", 0..3)).prop_map(|(list, future, images)| {
        let containers: Vec<Value> = images.iter().map(|image| json!({"image": image, "future": 1.5})).collect();
        let mut pod = json!({"metadata": {"name": "web", "future": future}, "spec": {"containers": containers}});
        pod["spec"][format!("x-{future}")] = json!({"imagePullSecrets": [null]});
        if let Some(list) = list {
            pod["spec"]["imagePullSecrets"] = json!(list);
        }
        pod
    })
}

fn without_list(mut pod: Value) -> Value {
    pod["spec"].as_object_mut().unwrap().remove("imagePullSecrets");
    pod
}

proptest! {
    #[test]
    fn nothing_else_changes(pod in any_pod()) {
        prop_assert_eq!(without_list(patched(pod.clone())), without_list(pod));
    }

    #[test]
    fn twice_is_as_good_as_once(pod in any_pod()) {
        let once = patched(pod);
        prop_assert_eq!(patched(once.clone()), once);
    }

    #[test]
    fn ours_is_in_the_list_once_and_no_other_is_lost_or_moved(pod in any_pod()) {
        let list_of = |pod: &Value| pod["spec"]["imagePullSecrets"].as_array().cloned().unwrap_or_default();
        let (before, after) = (list_of(&pod), list_of(&patched(pod)));
        let is_ours = |reference: &Value| reference["name"] == "acr-pull-secret";
        if before.iter().any(is_ours) {
            prop_assert_eq!(after, before);
        } else {
            prop_assert!(is_ours(after.last().unwrap()));
            let mut expected: Vec<Value> = Vec::new();
            for reference in before {
                if reference["name"].is_null() || !expected.iter().any(|kept| kept["name"] == reference["name"]) {
                    expected.push(reference);
                }
            }
            prop_assert_eq!(&after[..after.len() - 1], &expected[..]);
        }
    }
}
