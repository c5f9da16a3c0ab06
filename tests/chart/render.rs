//! Runs helm and turns what it prints into objects that are easy to ask about.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Output},
    sync::LazyLock,
};

use serde_json::{Map, Value};

/// Objects by `Kind/name`.
pub(crate) type Objects = BTreeMap<String, Value>;

/// The chart's folder.
pub(crate) fn chart_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("charts/acr-pull-injector")
}

/// The pinned helm, which is built first on a fresh machine.
pub(crate) fn helm() -> Command {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| control_plane::helm_program().unwrap());
    let mut command = Command::new(&*PROGRAM);
    command.env_remove("HELM_NAMESPACE").env("KUBECONFIG", "/dev/null");
    command
}

/// Renders the release `acr-pull-injector` in the namespace of the same name, as the README installs it.
pub(crate) fn render(arguments: &[&str]) -> Objects {
    render_as("acr-pull-injector", "acr-pull-injector", arguments)
}

/// Renders a release. For convenience the configuration file is parsed in place, and a container's `--flag=value`
/// arguments also stand in its `flags`.
pub(crate) fn render_as(release: &str, namespace: &str, arguments: &[&str]) -> Objects {
    let mut objects = Objects::new();
    for mut object in manifests(release, namespace, arguments) {
        if let Some(text) = object.pointer("/data/config.yaml").and_then(Value::as_str) {
            object["data"]["config.yaml"] = serde_saphyr::from_str(text).unwrap();
        }
        if let Some(container) = object.pointer_mut("/spec/template/spec/containers/0") {
            container["flags"] = flags(container["args"].as_array().unwrap());
        }
        let name = format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        assert!(objects.insert(name.clone(), object).is_none(), "{name} is rendered twice");
    }
    objects
}

/// What the README's release renders, exactly.
pub(crate) fn render_manifests(arguments: &[&str]) -> Vec<Value> {
    manifests("acr-pull-injector", "acr-pull-injector", arguments)
}

fn manifests(release: &str, namespace: &str, arguments: &[&str]) -> Vec<Value> {
    let output = template(release, namespace, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap();
    let documents: Vec<_> = documents.into_iter().filter(|document| !document.is_null()).collect();
    crate::kubernetes::assert_known(&documents);
    documents
}

fn flags(arguments: &[Value]) -> Value {
    let pairs = arguments.iter().filter_map(|argument| argument.as_str().unwrap().split_once('='));
    pairs.map(|(flag, value)| (flag.to_owned(), Value::from(value))).collect::<Map<_, _>>().into()
}

/// What helm says when it refuses to render.
pub(crate) fn refuse(arguments: &[&str]) -> String {
    let output = template("acr-pull-injector", "acr-pull-injector", arguments);
    assert!(!output.status.success(), "{arguments:?} was rendered");
    String::from_utf8(output.stderr).unwrap()
}

fn template(release: &str, namespace: &str, arguments: &[&str]) -> Output {
    let mut command = helm();
    command.args(["template", release, "--namespace", namespace]).arg(chart_directory()).args(arguments);
    command.output().unwrap()
}
