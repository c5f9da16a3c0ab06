//! Several files and directories at once.

use std::{
    fs,
    path::{Path, PathBuf},
};

use acr_pull_injector::cli::review::{self, ReviewArguments};
use tempfile::TempDir;

use crate::{DEPLOYMENT, Outcome, arguments, documents, review_with};

const OPTED_OUT: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-a, labels: {acr-pull-injector.io/inject: disabled}}\n";

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn with(filename: Vec<PathBuf>) -> ReviewArguments {
    ReviewArguments { filename, ..arguments() }
}

fn review_directory(path: &Path) -> Outcome {
    review_with(&with(vec![path.to_owned()]), "")
}

fn error_of(filename: Vec<PathBuf>) -> String {
    review::run(&with(filename), &b""[..], Vec::new(), Vec::new()).unwrap_err().to_string()
}

fn named(name: &str) -> String {
    DEPLOYMENT.replace("name: web\n  namespace", &format!("name: {name}\n  namespace"))
}

#[test]
fn a_directory_is_read_with_those_in_it_in_order() {
    let json = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain"}}"#;
    let directory = directory(&[
        ("b.yml", &named("b")),
        ("a/second.yaml", &named("a2")),
        ("a/first.json", json),
        ("c.yaml", "# nothing but a remark"),
        ("d.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: d}"),
        ("README.md", "no manifest"),
        ("values.yaml.bak", "no: [manifest"),
    ]);
    let outcome = review_directory(directory.path());
    let names: Vec<_> = outcome.lines.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(names, ["Service plain", "Deployment team-a/a2", "Deployment team-a/b", "Service d"]);
    let found = documents(&outcome.output);
    let kept: Vec<_> = found.iter().filter(|value| !value.is_null()).map(|value| &value["metadata"]["name"]).collect();
    assert_eq!(kept, ["plain", "a2", "b", "d"], "{}", outcome.output);
    assert!(outcome.output.contains(json), "what does not change is written as it was: {}", outcome.output);
}

#[test]
fn a_namespace_in_one_file_speaks_for_workloads_in_another() {
    let directory = directory(&[("1-web.yaml", DEPLOYMENT), ("2-namespace.yaml", OPTED_OUT)]);
    let outcome = review_directory(directory.path());
    assert_eq!(outcome.lines[0], "Deployment team-a/web: namespace team-a has opted out");
    let files = vec![directory.path().join("2-namespace.yaml"), directory.path().join("1-web.yaml")];
    let outcome = review_with(&with(files), "");
    assert_eq!(
        outcome.lines,
        ["Namespace team-a: has opted out", "Deployment team-a/web: namespace team-a has opted out"]
    );
}

#[test]
fn an_error_names_the_file_in_the_directory() {
    let directory = directory(&[("good.yaml", DEPLOYMENT), ("sub/bad.yaml", "kind: Pod\n")]);
    let bad = directory.path().join("sub/bad.yaml");
    let error = error_of(vec![directory.path().to_owned()]);
    assert_eq!(error, format!("{}: document 1: apiVersion is missing or no string", bad.display()));
}

#[test]
fn a_directory_without_manifests_is_an_error() {
    let directory = directory(&[("README.md", "nothing")]);
    let error = error_of(vec![directory.path().to_owned()]);
    assert!(error.ends_with("there is no *.yaml, *.yml or *.json in this directory"), "{error}");
}

#[test]
fn links_to_files_count_and_links_to_directories_do_not() {
    let directory = directory(&[("real/web.txt", DEPLOYMENT)]);
    std::os::unix::fs::symlink("real/web.txt", directory.path().join("web.yaml")).unwrap();
    std::os::unix::fs::symlink(".", directory.path().join("circle")).unwrap();
    assert_eq!(review_directory(directory.path()).lines.len(), 1);
}

#[test]
fn standard_input_can_be_one_of_several() {
    let directory = directory(&[("namespace.yaml", OPTED_OUT)]);
    let outcome = review_with(&with(vec!["-".into(), directory.path().to_owned()]), DEPLOYMENT);
    assert_eq!(outcome.lines[0], "Deployment team-a/web: namespace team-a has opted out");
}
