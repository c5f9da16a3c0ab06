//! What the chart renders, held against the shapes of Kubernetes' own `OpenAPI`, from the oldest version that the chart
//! supports to the newest: unknown fields, wrong types, missing fields, kinds that are not there yet.
//!
//! All that any test of this program renders goes through [`assert_known`]. The shapes in
//! tests/fixtures/kubernetes-shapes.txt are those of the rendered kinds and what they consist of, a line each:
//!
//! ```text
//! 1.30-1.37 core.v1.EnvVar name!:string value:string valueFrom:core.v1.EnvVarSource
//! ```
//!
//! `!` marks what is required. `UPDATE_KUBERNETES_SHAPES=1 cargo test --test chart kubernetes` makes the file anew; it takes
//! Go, which fetches the sources of Kubernetes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::{Value, json};

use crate::render::render_manifests;

/// One patch release of each minor version.
const RELEASES: [&str; 8] = ["1.30.14", "1.31.14", "1.32.13", "1.33.13", "1.34.4", "1.35.4", "1.36.3", "1.37.2"];
/// What the chart renders of Kubernetes itself.
const KINDS: [&str; 18] = [
    "admissionregistration.v1.MutatingAdmissionPolicy",
    "admissionregistration.v1.MutatingAdmissionPolicyBinding",
    "admissionregistration.v1.MutatingWebhookConfiguration",
    "admissionregistration.v1.ValidatingAdmissionPolicy",
    "admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    "apps.v1.Deployment",
    "batch.v1.Job",
    "core.v1.ConfigMap",
    "core.v1.Secret",
    "core.v1.Service",
    "core.v1.ServiceAccount",
    "flowcontrol.v1.FlowSchema",
    "networking.v1.NetworkPolicy",
    "policy.v1.PodDisruptionBudget",
    "rbac.v1.ClusterRole",
    "rbac.v1.ClusterRoleBinding",
    "rbac.v1.Role",
    "rbac.v1.RoleBinding",
];
/// Kinds that a version may lack: `fallbackPolicy` is for Kubernetes 1.36 or later.
const SINCE: [(&str, u32); 2] = [
    ("admissionregistration.v1.MutatingAdmissionPolicy", 36),
    ("admissionregistration.v1.MutatingAdmissionPolicyBinding", 36),
];
/// API groups that are not part of Kubernetes.
const FOREIGN_GROUPS: [&str; 2] = ["cert-manager.io", "monitoring.coreos.com"];

/// Fails when some supported version of Kubernetes would not know an object as it is.
pub(crate) fn assert_known(objects: &[Value]) {
    static SHAPES: LazyLock<Shapes> = LazyLock::new(|| Shapes::parse(&std::fs::read_to_string(file()).unwrap()));
    let faults: Vec<_> = objects.iter().flat_map(|object| SHAPES.faults(object)).collect();
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn the_shapes_are_of_the_versions_that_the_chart_supports() {
    if std::env::var_os("UPDATE_KUBERNETES_SHAPES").is_some() {
        std::fs::write(file(), made()).unwrap();
    }
    let text = std::fs::read_to_string(file()).unwrap();
    let versions = format!("# Kubernetes {}\n", RELEASES.join(" "));
    assert!(text.contains(&versions), "run UPDATE_KUBERNETES_SHAPES=1 cargo test --test chart kubernetes");
    for kind in KINDS {
        assert!(text.contains(&format!(" {kind} ")), "{kind}");
    }
}

#[test]
fn everybody_names_the_same_oldest_version() {
    let sentence = format!("Kubernetes 1.{} or later", minor(RELEASES[0]));
    let places =
        ["README.md", "docs/install.md", "charts/acr-pull-injector/README.md", "charts/acr-pull-injector/Chart.yaml"];
    for place in places.into_iter().chain(["charts/acr-pull-injector/templates/validate.yaml"]) {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(place)).unwrap();
        assert!(text.replace('\n', " ").contains(&sentence), "{place} does not say {sentence}");
    }
}

#[test]
fn faults_are_found() {
    let shapes = Shapes::parse(&std::fs::read_to_string(file()).unwrap());
    let objects = render_manifests(&["--set", "servicePrincipal.existingSecret=a,fallbackPolicy.enabled=true"]);
    let faults = |kind: &str, pointer: &str, change: &dyn Fn(&mut Value)| {
        let mut object = objects.iter().find(|object| object["kind"] == kind).unwrap().clone();
        change(object.pointer_mut(pointer).unwrap());
        shapes.faults(&object)
    };
    let container = "/spec/template/spec/containers/0";
    let all = |what: &str| RELEASES.map(|release| format!("1.{}: {what}", minor(release))).to_vec();
    let name = "Deployment acr-pull-injector";
    assert_eq!(
        faults("Deployment", container, &|it| it["imagePullPolice"] = "Always".into()),
        all(&format!("{name}.spec.template.spec.containers[0]: core.v1.Container has no field imagePullPolice"))
    );
    assert_eq!(
        faults("Deployment", "/spec", &|it| it["replicas"] = "2".into()),
        all(&format!("{name}.spec.replicas: \"2\" is no integer"))
    );
    assert_eq!(
        faults("Deployment", container, &|it| drop(it.as_object_mut().unwrap().remove("name"))),
        all(&format!("{name}.spec.template.spec.containers[0]: name is missing"))
    );
    assert_eq!(
        faults("Deployment", "", &|it| it["apiVersion"] = "apps/v9".into()),
        all("apps.v9.Deployment is not known")
    );
    assert_eq!(faults("MutatingAdmissionPolicy", "", &|_| ()), Vec::<String>::new());
    let late = faults("Deployment", container, &|it| it["lifecycle"] = json!({"stopSignal": "SIGINT"}));
    let before: Vec<_> =
        all(&format!("{name}.spec.template.spec.containers[0].lifecycle: core.v1.Lifecycle has no field stopSignal"));
    assert_eq!(late, before[..3], "stopSignal came with 1.33");
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kubernetes-shapes.txt")
}

fn minor(release: &str) -> u32 {
    release.split('.').nth(1).unwrap().parse().unwrap()
}

/// What a definition is in each minor version.
#[derive(Default)]
struct Shapes(BTreeMap<(u32, String), Shape>);

enum Shape {
    /// Each field's type and whether it is required.
    Object(BTreeMap<String, (String, bool)>),
    /// Another name of a type.
    Is(String),
}

impl Shapes {
    fn parse(text: &str) -> Self {
        let mut shapes = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(' ');
            let (first, last) = words.next().unwrap().split_once('-').unwrap();
            let name = words.next().unwrap();
            let words: Vec<_> = words.collect();
            for version in minor(first)..=minor(last) {
                let shape = match words[..] {
                    ["=", kind] => Shape::Is(kind.to_owned()),
                    _ => Shape::Object(words.iter().map(|word| field(word)).collect()),
                };
                shapes.0.insert((version, name.to_owned()), shape);
            }
        }
        shapes
    }

    fn faults(&self, object: &Value) -> Vec<String> {
        let (api, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let (group, version) = api.split_once('/').unwrap_or(("core", api));
        if FOREIGN_GROUPS.contains(&group) {
            return Vec::new();
        }
        let definition = format!("{}.{version}.{kind}", group.split('.').next().unwrap());
        let since = SINCE.iter().find(|(kind, _)| *kind == definition).map_or(0, |(_, since)| *since);
        let mut faults = Vec::new();
        for version in RELEASES.map(minor).into_iter().filter(|version| *version >= since) {
            let mut found = Vec::new();
            if self.0.contains_key(&(version, definition.clone())) {
                let path = format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or_default());
                self.check(version, &definition, object, &path, &mut found);
            } else {
                found.push(format!("{definition} is not known"));
            }
            faults.extend(found.into_iter().map(|fault| format!("1.{version}: {fault}")));
        }
        faults
    }

    fn check(&self, version: u32, kind: &str, value: &Value, path: &str, faults: &mut Vec<String>) {
        if let (Some(kind), Value::Array(items)) = (kind.strip_prefix("[]"), value) {
            for (index, item) in items.iter().enumerate() {
                self.check(version, kind, item, &format!("{path}[{index}]"), faults);
            }
            return;
        }
        if let (Some(kind), Value::Object(fields)) = (kind.strip_prefix("{}"), value) {
            for (key, field) in fields {
                self.check(version, kind, field, &format!("{path}.{key}"), faults);
            }
            return;
        }
        let is_right = match (kind, self.0.get(&(version, kind.to_owned()))) {
            (_, Some(Shape::Is(kind))) => return self.check(version, kind, value, path, faults),
            (_, Some(Shape::Object(known))) if value.is_object() => {
                let fields = value.as_object().unwrap();
                for (name, field) in fields {
                    match known.get(name) {
                        Some((kind, _)) => self.check(version, kind, field, &format!("{path}.{name}"), faults),
                        None => faults.push(format!("{path}: {kind} has no field {name}")),
                    }
                }
                let required = known.iter().filter(|(_, (_, is_required))| *is_required);
                let missing = required.filter(|(name, _)| !fields.contains_key(*name));
                faults.extend(missing.map(|(name, _)| format!("{path}: {name} is missing")));
                true
            }
            ("any", _) => true,
            ("string", _) => value.is_string(),
            ("integer", _) => value.is_i64(),
            ("boolean", _) => value.is_boolean(),
            ("int-or-string", _) => value.is_i64() || value.is_string(),
            ("quantity", _) => value.is_number() || value.is_string(),
            _ => false,
        };
        if !is_right {
            faults.push(format!("{path}: {value} is no {kind}"));
        }
    }
}

fn field(word: &str) -> (String, (String, bool)) {
    let (name, kind) = word.split_once(':').unwrap();
    let is_required = name.ends_with('!');
    (name.trim_end_matches('!').to_owned(), (kind.to_owned(), is_required))
}

/// The file of shapes, from the `OpenAPI` documents in the sources of Kubernetes.
fn made() -> String {
    let mut shapes: BTreeMap<String, BTreeMap<u32, String>> = BTreeMap::new();
    for release in RELEASES {
        let document = std::fs::read_to_string(source(release).join("api/openapi-spec/swagger.json")).unwrap();
        let document: Value = serde_json::from_str(&document).unwrap();
        let definitions = document["definitions"].as_object().unwrap();
        let definitions: BTreeMap<_, _> = definitions.iter().map(|(name, value)| (short(name), value)).collect();
        let mut wanted: Vec<_> = KINDS.map(str::to_owned).to_vec();
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            let Some(definition) = definitions.get(&name).filter(|_| seen.insert(name.clone())) else { continue };
            let line = line(definition, &name, &mut wanted);
            shapes.entry(name).or_default().insert(minor(release), line);
        }
    }
    let mut text = format!(
        "# Made by UPDATE_KUBERNETES_SHAPES=1 cargo test --test chart kubernetes; tests/chart/kubernetes.rs explains it.\n\
         # Kubernetes {}\n",
        RELEASES.join(" ")
    );
    for (name, versions) in shapes {
        let mut versions = versions.into_iter().peekable();
        while let Some((first, line)) = versions.next() {
            let mut last = first;
            while let Some((version, _)) = versions.next_if(|(version, next)| *version == last + 1 && *next == line) {
                last = version;
            }
            text.extend([format!("1.{first}-1.{last} {name} {line}\n")]);
        }
    }
    text
}

/// Where Go has put the sources of a release.
fn source(release: &str) -> PathBuf {
    let module = format!("k8s.io/kubernetes@v{release}");
    let output = Command::new("go").args(["mod", "download", "-json", &module]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    PathBuf::from(answer["Dir"].as_str().unwrap_or_else(|| panic!("{answer}")))
}

/// `io.k8s.api.core.v1.Container` is `core.v1.Container`.
fn short(name: &str) -> String {
    let prefixes = ["io.k8s.api.", "io.k8s.apimachinery.pkg."];
    let name = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    ["apis.", "api.", "util."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_owned()
}

/// A definition in short. What it refers to is added to `wanted`.
fn line(definition: &Value, name: &str, wanted: &mut Vec<String>) -> String {
    let Some(properties) = definition["properties"].as_object() else {
        return match name {
            "resource.Quantity" => "= quantity".to_owned(),
            _ => format!("= {}", kind(definition, wanted)),
        };
    };
    let required: Vec<_> = definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // The chart renders neither.
    let properties = properties.iter().filter(|(name, _)| !["managedFields", "status"].contains(&name.as_str()));
    let fields = properties.map(|(name, property)| {
        let mark = if required.contains(&name.as_str()) { "!" } else { "" };
        format!("{name}{mark}:{}", kind(property, wanted))
    });
    fields.collect::<Vec<_>>().join(" ")
}

fn kind(schema: &Value, wanted: &mut Vec<String>) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = short(reference.trim_start_matches("#/definitions/"));
        wanted.push(name.clone());
        return name;
    }
    match schema["type"].as_str() {
        Some("array") => format!("[]{}", kind(&schema["items"], wanted)),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("{{}}{}", kind(&schema["additionalProperties"], wanted))
        }
        Some("string") if schema["format"] == "int-or-string" => "int-or-string".to_owned(),
        Some(kind @ ("string" | "integer" | "boolean")) => kind.to_owned(),
        _ => "any".to_owned(),
    }
}
