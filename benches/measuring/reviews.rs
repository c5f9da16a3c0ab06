//! Admission reviews of several sizes: two as a real API server sent them, and larger ones grown from the second.
//!
//! They grow as pods do: containers with many variables, what the API server notes in `managedFields` about each of them,
//! and annotations, among them one that holds JSON in a string. Annotations stay within the 256 KiB that Kubernetes allows.

use serde_json::{Map, Value, json};

/// A review of a pod.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its size in words.
    pub name: &'static str,
    /// As it is sent.
    pub body: Vec<u8>,
}

/// Both captured reviews are of pods in this namespace.
pub const NAMESPACE: &str = "team-a";

const MINIMAL: &str = include_str!("../../tests/fixtures/review-create-minimal.json");
const REPLICA_SET_POD: &str = include_str!("../../tests/fixtures/review-create-replicaset-pod.json");

/// The most that the annotations of an object may take.
const ANNOTATIONS_MAX: usize = 256 << 10;

/// Reviews of about 2.5 KB, 8 KB, 100 KB and 3 MiB.
pub fn samples() -> Vec<Sample> {
    vec![
        Sample { name: "2.5 KB", body: MINIMAL.trim_end().as_bytes().to_vec() },
        Sample { name: "8 KB", body: REPLICA_SET_POD.trim_end().as_bytes().to_vec() },
        Sample { name: "100 KB", body: grown(100 << 10) },
        Sample { name: "3 MiB", body: grown(3 << 20) },
    ]
}

/// The second captured review, grown to at least `size` bytes.
fn grown(size: usize) -> Vec<u8> {
    let mut review: Value = serde_json::from_str(REPLICA_SET_POD).expect("the captured review is JSON");
    annotate(&mut review["request"]["object"]["metadata"], (size / 4).min(ANNOTATIONS_MAX * 9 / 10));
    let template = review["request"]["object"]["spec"]["containers"][0].clone();
    let managed = &review["request"]["object"]["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:containers"];
    let managed_template = managed[r#"k:{"name":"web"}"#].clone();
    let one = serialised(&template).len() + serialised(&managed_template).len();
    let mut length = serialised(&review).len();
    let mut number = 0;
    while length < size {
        let name = format!("worker-{number}");
        let variables = (size.saturating_sub(length + one) / 200).min(60);
        let (container, fields) = worker(&template, &managed_template, &name, variables);
        length += serialised(&container).len() + serialised(&fields).len() + name.len() + 20;
        let object = &mut review["request"]["object"];
        object["spec"]["containers"].as_array_mut().expect("a list").push(container);
        let managed = &mut object["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:containers"];
        managed[format!(r#"k:{{"name":"{name}"}}"#)] = fields;
        number += 1;
    }
    serialised(&review)
}

/// A container with this many variables, and what the API server notes of it.
fn worker(template: &Value, managed_template: &Value, name: &str, variables: usize) -> (Value, Value) {
    let (mut container, mut fields) = (template.clone(), managed_template.clone());
    container["name"] = json!(name);
    let listed = container["env"].as_array_mut().expect("a list");
    for number in 0..variables {
        let variable = format!("SERVICE_{number}_ENDPOINT");
        let value = format!("https://service-{number}.{name}.svc.cluster.local:8443/api/v1?retries=3");
        listed.push(json!({"name": variable, "value": value}));
        fields["f:env"][format!(r#"k:{{"name":"{variable}"}}"#)] = json!({".": {}, "f:name": {}, "f:value": {}});
    }
    (container, fields)
}

/// Adds annotations of about `size` bytes: half of them one document of JSON, as `kubectl apply` leaves it.
fn annotate(metadata: &mut Value, size: usize) {
    let annotations = metadata["annotations"].as_object_mut().expect("a map");
    let mut applied = Map::new();
    let mut length = 0;
    for number in 0.. {
        if length >= size {
            break;
        }
        let (key, value) = (format!("setting-{number}"), format!("value {number} of \"many\"\nin two lines"));
        length += 2 * (key.len() + value.len() + 20);
        annotations.insert(format!("example.com/{key}"), json!(format!("{value}, and as an annotation of its own")));
        applied.insert(key, json!(value));
    }
    let applied = Value::Object(applied).to_string();
    annotations.insert("kubectl.kubernetes.io/last-applied-configuration".to_owned(), json!(applied));
}

fn serialised(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a value can be written")
}
