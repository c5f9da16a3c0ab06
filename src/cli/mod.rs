//! The command line.

pub mod check;
pub mod cleanup;
pub mod completions;
pub mod review;
pub mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::{
    check::CheckArguments, cleanup::CleanupArguments, completions::CompletionsArguments, review::ReviewArguments,
    serve::ServeArguments,
};

/// Pods with images in an Azure Container Registry just pull: the pull secret is made in their namespace and named in
/// their spec while they are created.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  What would happen to these manifests, offline and without a cluster:
    acr-pull-injector review -f deployment.yaml

  Does a chart leave anything to the webhook? For CI: ends with 3 if so, and shows it:
    helm template shop ./chart | acr-pull-injector review --check --diff

  Is every credential right, and can it pull this image:
    acr-pull-injector check --config config.yaml --image contoso.azurecr.io/app:v1

  Run the webhook against the cluster of the current kubeconfig (the chart does this in the cluster):
    acr-pull-injector serve --config config.yaml --namespace acr-pull-injector";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the webhook; this is what the Helm chart starts
    Serve(Box<ServeArguments>),

    /// Try each registry rule for real: read the credential, get a token, sign in, pull a manifest
    Check(CheckArguments),

    /// Show what would happen to manifests or to an admission review, offline
    Review(ReviewArguments),

    /// Delete every pull secret that was made, and nothing else; for after an uninstall
    Cleanup(CleanupArguments),

    /// Write the completions of a shell, to be put where it looks for them
    Completions(CompletionsArguments),

    /// Write the manual page, in roff
    Man,
}

impl Cli {
    /// Runs the chosen subcommand to its end.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(arguments) => serve::run(*arguments),
            Command::Check(arguments) => check::run(&arguments),
            Command::Review(arguments) => {
                let (stdin, stdout, stderr) =
                    (std::io::stdin().lock(), std::io::stdout().lock(), std::io::stderr().lock());
                match review::run(&arguments, stdin, stdout, stderr) {
                    Ok(verdict) => verdict.exit_code(arguments.check),
                    Err(error) => {
                        report(&error);
                        error.exit_code()
                    }
                }
            }
            Command::Cleanup(arguments) => cleanup::run(&arguments),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Man => completions::manual(),
        }
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Prints an error with its causes, each once.
fn report(error: &(dyn std::error::Error + 'static)) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            text.push_str(": ");
            text.push_str(&source_text);
        }
        cause = source.source();
    }
    // A closed standard error leaves nowhere to say so.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes());
}
