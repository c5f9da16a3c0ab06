//! `cleanup`: deletes every pull secret that we made, and nothing else.

use std::{io::Write, process::ExitCode};

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Preconditions},
    core::PartialObjectMeta,
};

use crate::domain::pull_secret::{MANAGED_BY_LABEL, MANAGER, PullSecretName};

/// Options of `cleanup`. The Kubernetes API is found as kubectl finds it (KUBECONFIG), else as a pod does.
#[derive(Debug, Args)]
pub struct CleanupArguments {
    /// Name of the pull secrets, as configured by pullSecretName
    #[arg(long, value_name = "NAME", default_value = "acr-pull-secret")]
    pull_secret_name: PullSecretName,

    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
}

/// Deletes the pull secrets and says which. Ends with failure when one could not be deleted.
#[must_use]
pub fn run(arguments: &CleanupArguments) -> ExitCode {
    let outcome = super::runtime().and_then(|runtime| runtime.block_on(cleanup(arguments)));
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            super::report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// Pull secrets per page of a list.
const PAGE: u32 = 500;

/// Gives the number of pull secrets that could not be deleted.
async fn cleanup(arguments: &CleanupArguments) -> Result<usize, super::Error> {
    let CleanupArguments { pull_secret_name, dry_run } = arguments;
    let client = Client::try_default().await?;
    let all: Api<PartialObjectMeta<Secret>> = Api::all(client.clone());
    // By name and by label: a Secret of that name which is not ours stays.
    let mut page = ListParams::default()
        .fields(&format!("metadata.name={pull_secret_name}"))
        .labels(&format!("{MANAGED_BY_LABEL}={MANAGER}"))
        .limit(PAGE);
    let mut output = std::io::stdout();
    let (mut deleted, mut failed) = (0_usize, 0_usize);
    loop {
        let found = all.list_metadata(&page).await?;
        for secret in found.items {
            let namespace = secret.metadata.namespace.unwrap_or_default();
            if *dry_run {
                writeln!(output, "would delete {namespace}/{pull_secret_name}")?;
                deleted += 1;
                continue;
            }
            let same = Preconditions { uid: secret.metadata.uid, resource_version: None };
            let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
            match secrets.delete(pull_secret_name.as_str(), &DeleteParams::default().preconditions(same)).await {
                Ok(_) => {
                    writeln!(output, "deleted {namespace}/{pull_secret_name}")?;
                    deleted += 1;
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(kube::Error::Api(status)) => {
                    writeln!(output, "could not delete {namespace}/{pull_secret_name}: {}", status.message)?;
                    failed += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        match found.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    let verb = if *dry_run { "would be deleted" } else { "deleted" };
    writeln!(output, "{deleted} pull secrets {verb}, {failed} failed")?;
    Ok(failed)
}
