//! `review`: what the webhook would do, offline, with neither a cluster nor a credential.

mod case;
mod documents;
mod manifests;

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use self::{case::Case, documents::Document, manifests::Manifests};
use crate::{
    config::{Configuration, ConfigurationError},
    domain::{
        decision::Settings,
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
    /// An admission review (JSON) or manifests (YAML or JSON, several documents); - reads standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub filename: PathBuf,

    /// Configuration file; without it every *.azurecr.io host counts, under one rule named default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Namespace of objects that name none
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
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

/// Reads the input (`stdin` when the file name is `-`), writes the response or the admitted manifests to `stdout`, and to
/// `stderr` a line for each object that says why. When the input is bad nothing is written to `stdout`.
pub fn run(
    arguments: &ReviewArguments,
    stdin: impl Read,
    mut stdout: impl Write,
    mut stderr: impl Write,
) -> Result<(), ReviewFailure> {
    let settings = settings(arguments.config.as_deref())?;
    let file = if arguments.filename == Path::new("-") {
        "standard input".to_owned()
    } else {
        arguments.filename.display().to_string()
    };
    let text =
        read(&arguments.filename, stdin).map_err(|source| ReviewFailure::Unreadable { file: file.clone(), source })?;
    let reviewed =
        review(&text, &arguments.namespace, &settings).map_err(|reason| ReviewFailure::Input { file, reason })?;
    stderr.write_all(reviewed.explanation.as_bytes()).map_err(ReviewFailure::Unwritable)?;
    stdout.write_all(&reviewed.output).and_then(|()| stdout.flush()).map_err(ReviewFailure::Unwritable)
}

fn read(filename: &Path, mut stdin: impl Read) -> io::Result<String> {
    if filename != Path::new("-") {
        return fs::read_to_string(filename);
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text)?;
    Ok(text)
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

struct Reviewed {
    output: Vec<u8>,
    explanation: String,
}

fn review(text: &str, default_namespace: &str, settings: &Settings) -> Result<Reviewed, String> {
    let documents = documents::parse(text.strip_prefix('\u{feff}').unwrap_or(text))?;
    let is_review = |document: &Document<'_>| document.value["kind"] == "AdmissionReview";
    match documents.iter().find(|document| is_review(document)) {
        None => review_manifests(documents, default_namespace, settings),
        Some(document) if documents.iter().filter(|document| !document.value.is_null()).count() == 1 => {
            review_admission(document.text, default_namespace, settings)
                .map_err(|reason| format!("document {}: AdmissionReview: {reason}", document.number))
        }
        Some(document) => Err(format!("document {}: an AdmissionReview must come alone", document.number)),
    }
}

fn review_admission(text: &str, default_namespace: &str, settings: &Settings) -> Result<Reviewed, String> {
    let review = review::parse(text.as_bytes()).map_err(|error| error.to_string())?;
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
    let mut output = response.to_json();
    output.push(b'\n');
    Ok(Reviewed { output, explanation: to_text(&lines) })
}

fn review_manifests(
    documents: Vec<Document<'_>>,
    default_namespace: &str,
    settings: &Settings,
) -> Result<Reviewed, String> {
    if documents.iter().all(|document| document.value.is_null()) {
        return Err("there is no document in it".to_owned());
    }
    let manifests = Manifests::new(documents.iter().map(|document| &document.value), default_namespace, settings);
    let mut output = String::new();
    let mut lines = Vec::new();
    for mut document in documents {
        let number = document.number;
        let changed =
            manifests.admit(&mut document.value, &mut lines).map_err(|error| format!("document {number}: {error}"))?;
        document.write(changed, &mut output).map_err(|error| format!("document {number}: {error}"))?;
    }
    Ok(Reviewed { output: output.into_bytes(), explanation: to_text(&lines) })
}

fn to_text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}
