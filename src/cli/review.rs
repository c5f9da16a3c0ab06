//! `review`: what the webhook would do, offline, with neither a cluster nor a credential.

mod case;
mod difference;
mod documents;
mod input;
mod manifests;

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::Value;

use self::{case::Case, documents::Document, input::Input, manifests::Manifests};
use crate::{
    config::{Configuration, ConfigurationError},
    domain::{
        decision::Settings,
        patch::Patch,
        registry::Namespace,
        review::{self, Response, Subject},
    },
};

/// The configuration when none is given: every login server of the public cloud, one rule. No credential is read.
const DEFAULT_CONFIGURATION: &str =
    "registries: [{name: default, hosts: ['*.azurecr.io'], credential: {static: {username: '-', passwordFile: '-'}}}]";

/// Options of `review`.
#[derive(Clone, Debug, Args)]
pub struct ReviewArguments {
    /// An admission review (JSON), manifests (YAML or JSON, several documents), or a directory, whose *.yaml, *.yml and
    /// *.json are read with those of the directories in it; - reads standard input. May be given several times
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub filename: Vec<PathBuf>,

    /// Configuration file; without it every *.azurecr.io host counts, under one rule named default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Namespace of objects that name none
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,

    /// Write what would change, as a unified diff, in place of the manifests
    #[arg(long)]
    pub diff: bool,

    /// Write no manifests, and end with 3 when something would be changed
    #[arg(long)]
    pub check: bool,
}

/// Why nothing was reviewed.
#[derive(Debug, thiserror::Error)]
pub enum ReviewFailure {
    /// The input cannot be read.
    #[error("cannot read {file}")]
    Unreadable {
        /// Which file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The input is not what it should be.
    #[error("{file}: {reason}")]
    Input {
        /// Which file.
        file: String,
        /// The document, the field, and what is wrong with it.
        reason: String,
    },
    /// The configuration file is of no use.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The result cannot be written.
    #[error("cannot write the result")]
    Unwritable(#[source] io::Error),
}

impl ReviewFailure {
    /// 2 when the input is to blame, else 1.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if matches!(self, Self::Unwritable(_)) { 1 } else { 2 })
    }
}

/// What the webhook would do to all that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Unchanged,
    /// Some pod would be changed.
    Changed,
}

impl Verdict {
    /// 0, or with `--check` 3 when something would be changed.
    #[must_use]
    pub fn exit_code(self, check: bool) -> ExitCode {
        ExitCode::from(if check && self == Self::Changed { 3 } else { 0 })
    }
}

/// Reads the input (`stdin` for the file name `-`), writes the response or the admitted manifests to `stdout`, and to
/// `stderr` a line for each object that says why. When the input is bad nothing is written to `stdout`.
///
/// # Errors
///
/// When something cannot be read, is not what it should be, or the result cannot be written.
pub fn run(
    arguments: &ReviewArguments,
    stdin: impl Read,
    mut stdout: impl Write,
    mut stderr: impl Write,
) -> Result<Verdict, ReviewFailure> {
    let settings = settings(arguments.config.as_deref())?;
    let inputs = input::read(&arguments.filename, stdin)?;
    let mut reviewed = review(&inputs, &arguments.namespace, &settings)?;
    stderr.write_all(to_text(&reviewed.lines).as_bytes()).map_err(ReviewFailure::Unwritable)?;
    if arguments.diff {
        reviewed.output = reviewed.differences()?.into_bytes();
    } else if arguments.check {
        reviewed.output.clear();
    }
    stdout.write_all(&reviewed.output).and_then(|()| stdout.flush()).map_err(ReviewFailure::Unwritable)?;
    Ok(if reviewed.changes.is_empty() { Verdict::Unchanged } else { Verdict::Changed })
}

fn settings(config: Option<&Path>) -> Result<Settings, ReviewFailure> {
    let configuration = match config {
        Some(path) => Configuration::load(path)?,
        None => default_configuration(),
    };
    Ok(configuration.settings(None))
}

#[expect(clippy::expect_used, reason = "the text is a constant, which the tests of this command read")]
fn default_configuration() -> Configuration {
    Configuration::parse(DEFAULT_CONFIGURATION).expect("the default configuration is valid")
}

/// What came out for all inputs.
#[derive(Default)]
struct Reviewed {
    output: Vec<u8>,
    lines: Vec<String>,
    changes: Vec<Change>,
}

/// A document that the webhook would change.
struct Change {
    file: String,
    number: usize,
    before: Value,
    after: Value,
}

impl Reviewed {
    fn differences(&self) -> Result<String, ReviewFailure> {
        self.changes
            .iter()
            .map(|Change { file, number, before, after }| {
                difference::unified(&format!("{file}, document {number}"), before, after)
                    .map_err(in_document(file, *number))
            })
            .collect()
    }
}

/// An error's text becomes that of a document.
fn in_document(file: &str, number: usize) -> impl Fn(String) -> ReviewFailure {
    move |reason| ReviewFailure::Input { file: file.to_owned(), reason: format!("document {number}: {reason}") }
}

fn review(inputs: &[Input], default_namespace: &str, settings: &Settings) -> Result<Reviewed, ReviewFailure> {
    let mut files = Vec::new();
    for Input { name, text } in inputs {
        let documents = documents::parse(text).map_err(|reason| ReviewFailure::Input { file: name.clone(), reason })?;
        files.push((name.as_str(), documents));
    }
    let contents =
        || files.iter().flat_map(|(file, documents)| documents.iter().map(move |document| (*file, document)));
    let contents = || contents().filter(|(_, document)| !document.value.is_null());
    let admission_review = contents().find(|(_, document)| document.value["kind"] == "AdmissionReview");
    match (admission_review, contents().count()) {
        (_, 0) => {
            let names: Vec<_> = files.iter().map(|(file, _)| *file).collect();
            Err(ReviewFailure::Input { file: names.join(", "), reason: "there is no document in it".to_owned() })
        }
        (None, _) => review_manifests(files, default_namespace, settings),
        (Some((file, document)), 1) => review_admission(file, document, default_namespace, settings),
        (Some((file, document)), _) => {
            Err(in_document(file, document.number)("an AdmissionReview must come alone".to_owned()))
        }
    }
}

fn review_admission(
    file: &str,
    document: &Document<'_>,
    default_namespace: &str,
    settings: &Settings,
) -> Result<Reviewed, ReviewFailure> {
    let fail = |reason: String| in_document(file, document.number)(format!("AdmissionReview: {reason}"));
    let review = review::parse(document.text.as_bytes()).map_err(|error| fail(error.to_string()))?;
    let response = Response::allowed(&review);
    let (response, lines) = match &review.subject {
        Subject::Other(_) => {
            (response, vec!["AdmissionReview: not the creation of a pod, passes unchanged".to_owned()])
        }
        Subject::PodCreation(pod) => {
            let namespace_name = if review.namespace.is_empty() { default_namespace } else { &review.namespace };
            let namespace = Namespace { name: namespace_name.to_owned(), ..Namespace::default() };
            let case = Case {
                object: format!("Pod {namespace_name}/{}", pod.display_name()),
                pod,
                namespace: &namespace,
                is_namespace_known: false,
                settings,
            };
            let decision = case.decide();
            (decision.respond(response, pod, settings), case.explain(&decision))
        }
    };
    let mut changes = Vec::new();
    if let Some(patch) = response.patch() {
        let before = document.value["request"]["object"].clone();
        let mut after = before.clone();
        apply(patch, &mut after).map_err(fail)?;
        changes.push(Change { file: file.to_owned(), number: document.number, before, after });
    }
    let mut output = response.to_json();
    output.push(b'\n');
    Ok(Reviewed { output, lines, changes })
}

fn review_manifests(
    files: Vec<(&str, Vec<Document<'_>>)>,
    default_namespace: &str,
    settings: &Settings,
) -> Result<Reviewed, ReviewFailure> {
    // Namespaces of one file tell about the workloads of another.
    let objects = files.iter().flat_map(|(_, documents)| documents.iter().map(|document| &document.value));
    let manifests = Manifests::new(objects, default_namespace, settings);
    let mut output = String::new();
    let mut reviewed = Reviewed::default();
    for (file, documents) in files {
        for (index, mut document) in documents.into_iter().enumerate() {
            let fail = in_document(file, document.number);
            let before = document.value.clone();
            let changed =
                manifests.admit(&mut document.value, &mut reviewed.lines).map_err(|error| fail(error.to_string()))?;
            if index == 0 && !changed && !output.is_empty() && !document.is_marked() {
                output.push_str(if output.ends_with('\n') { "---\n" } else { "\n---\n" });
            }
            document.write(changed, &mut output).map_err(&fail)?;
            if changed {
                let Document { number, value: after, .. } = document;
                reviewed.changes.push(Change { file: file.to_owned(), number, before, after });
            }
        }
    }
    reviewed.output = output.into_bytes();
    Ok(reviewed)
}

/// Changes an object as the API server would.
fn apply(patch: &Patch, object: &mut Value) -> Result<(), String> {
    let operations: json_patch::Patch = serde_json::from_str(patch.as_json()).map_err(|error| error.to_string())?;
    json_patch::patch(object, &operations).map_err(|error| error.to_string())
}

fn to_text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}
