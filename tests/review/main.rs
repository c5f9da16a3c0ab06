//! `review`: manifests and admission reviews in, what the cluster would admit out.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may end at once and say why")]

mod admission_reviews;
mod bad_input;
mod completions;
mod decisions;
mod differences;
mod directories;
mod manifests;
mod program;

use acr_pull_injector::cli::review::{self, ReviewArguments};
use serde_json::Value;

struct Outcome {
    output: String,
    lines: Vec<String>,
}

/// Reviews `input` as standard input, without a configuration.
fn review(input: &str) -> Outcome {
    review_with(&arguments(), input)
}

fn arguments() -> ReviewArguments {
    let filename = vec!["-".into()];
    ReviewArguments { filename, config: None, namespace: "default".to_owned(), diff: false, check: false }
}

fn review_with(arguments: &ReviewArguments, input: &str) -> Outcome {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    if let Err(error) = review::run(arguments, input.as_bytes(), &mut stdout, &mut stderr) {
        panic!("{error}\n{input}");
    }
    let lines = String::from_utf8(stderr).unwrap();
    Outcome { output: String::from_utf8(stdout).unwrap(), lines: lines.lines().map(str::to_owned).collect() }
}

fn error_of(input: &str) -> String {
    let mut stdout = Vec::new();
    let error = review::run(&arguments(), input.as_bytes(), &mut stdout, Vec::new()).unwrap_err();
    assert!(stdout.is_empty(), "bad input gives no result");
    error.to_string()
}

/// The documents of a YAML stream, read as kubectl reads them: a leading zero means octal.
fn documents(yaml: &str) -> Vec<Value> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_multiple_with_options(yaml, options).unwrap()
}

const DEPLOYMENT: &str = "\
# The web shop.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: team-a
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
    spec:
      imagePullSecrets:
      - name: mine
      initContainers:
      - {name: init, image: nginx}
      containers:
      - name: web
        image: contoso.azurecr.io/app:v1
";
