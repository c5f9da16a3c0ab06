//! `check`: tries each registry rule for real and says what is wrong.

mod end_date;
mod table;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;

use self::table::{Outcome, Table};
use crate::{
    clock::Clock,
    config::{Configuration, CredentialConfiguration},
    credentials::{
        end::end,
        entra::{Entra, EntraToken},
        exchange::{REFRESH_TOKEN_USERNAME, RegistryExchange, RegistryHost},
        http::AzureHttp,
        identity::{Identity, Proof},
        material::Material,
        registry_login::RegistryLogin,
        source::exact_hosts,
    },
    domain::{
        image::{ImageReference, LoginServer},
        pull_secret::RegistryCredential,
        registry::{HostPattern, RegistryRule},
    },
};

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Configuration file: registries and their credentials
    #[arg(
        long,
        value_name = "FILE",
        env = "ACR_PULL_INJECTOR_CONFIG",
        default_value = "/etc/acr-pull-injector/config.yaml"
    )]
    config: PathBuf,

    /// Image whose manifest must be readable, such as contoso.azurecr.io/app:v1; may be repeated
    #[arg(long = "image", value_name = "REFERENCE")]
    images: Vec<String>,
}

/// Checks every registry rule. Exit code 0: all is well; 1: something failed; 2: bad configuration or image.
#[must_use]
pub fn run(arguments: &CheckArguments) -> ExitCode {
    let (configuration, images) = match prepare(arguments) {
        Ok(prepared) => prepared,
        Err(error) => {
            super::report(error.as_ref());
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            super::report(&error);
            return ExitCode::FAILURE;
        }
    };
    let table = runtime.block_on(check(&configuration, &images));
    // A file or a name server that does not answer must not hold up the end.
    runtime.shutdown_background();
    if let Err(error) = table.print(&mut std::io::stdout()) {
        super::report(&error);
        return ExitCode::FAILURE;
    }
    if table.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// An image to pull.
#[derive(Debug)]
struct Image {
    reference: String,
    login_server: LoginServer,
    repository: String,
    tag_or_digest: String,
}

/// An image that cannot be checked.
#[derive(Debug, thiserror::Error)]
#[error("--image {image}: {reason}")]
struct ImageError {
    image: String,
    reason: String,
}

fn prepare(arguments: &CheckArguments) -> Result<(Configuration, Vec<Image>), Box<dyn std::error::Error>> {
    let configuration = Configuration::load(&arguments.config)?;
    let images: Result<Vec<_>, _> = arguments.images.iter().map(|image| parse_image(image, &configuration)).collect();
    Ok((configuration, images?))
}

fn parse_image(image: &str, configuration: &Configuration) -> Result<Image, ImageError> {
    let failed = |reason: String| ImageError { image: image.to_owned(), reason };
    let reference = ImageReference::parse(image).map_err(|error| failed(error.to_string()))?;
    let login_server = configuration
        .rules
        .login_servers()
        .parse(reference.registry_host())
        .map_err(|error| failed(error.to_string()))?;
    Ok(Image {
        reference: image.to_owned(),
        login_server,
        repository: reference.path().to_owned(),
        tag_or_digest: reference.digest().or_else(|| reference.tag()).unwrap_or("latest").to_owned(),
    })
}

async fn check(configuration: &Configuration, images: &[Image]) -> Table {
    let http = Arc::new(AzureHttp::new(configuration.azure.ca_file.clone()));
    let mut check = Check { configuration, http, table: Table::default() };
    for rule in &configuration.rules {
        if let Some(credential) = configuration.credentials.get(&rule.name) {
            check.rule(rule, credential, images).await;
        }
    }
    for image in images {
        if configuration.rules.covering(&image.login_server).is_empty() {
            let reason = "no registry rule covers this host: add it to the hosts of one".to_owned();
            check.table.add("-", image.login_server.as_str(), "find rule", Outcome::Failed(reason));
        }
    }
    if configuration.rules.is_empty() {
        let reason = "no registry is configured: every pod would be admitted unchanged".to_owned();
        check.table.add("-", "-", "find rule", Outcome::Failed(reason));
    }
    check.table
}

struct Check<'a> {
    configuration: &'a Configuration,
    http: Arc<AzureHttp>,
    table: Table,
}

/// What a rule has at hand for each of its login servers.
enum Ready {
    Stored(RegistryCredential),
    SignedIn(Arc<Identity>, EntraToken),
}

impl Check<'_> {
    async fn rule(&mut self, rule: &RegistryRule, credential: &CredentialConfiguration, images: &[Image]) {
        let name = rule.name.as_str();
        let Some(ready) = self.credential(name, credential).await else { return };
        let images: Vec<_> = images
            .iter()
            .filter(|image| {
                let rules = self.configuration.rules.covering(&image.login_server);
                rules.iter().any(|covering| covering.name == rule.name)
            })
            .collect();
        let mut hosts = exact_hosts(&rule.hosts, &self.configuration.rules);
        for image in &images {
            if !hosts.iter().any(|host| RegistryHost::from(host) == RegistryHost::from(&image.login_server)) {
                hosts.push(image.login_server.clone());
            }
        }
        for host in hosts {
            let images =
                images.iter().filter(|image| RegistryHost::from(&image.login_server) == RegistryHost::from(&host));
            self.host(name, &host, &ready, images.copied()).await;
        }
        for wildcard in rule.hosts.iter().filter(|host| matches!(host, HostPattern::Any { .. })) {
            if images.is_empty() {
                let reason = "names no registry to try: give an image with --image".to_owned();
                self.table.add(name, &wildcard.to_string(), "sign in", Outcome::Skipped(reason));
            }
        }
    }

    async fn credential(&mut self, name: &str, credential: &CredentialConfiguration) -> Option<Ready> {
        let read = Material::read(credential, &self.configuration.azure).await;
        self.table.add(name, "-", "read credential", Outcome::of(&read));
        let read = read.ok();
        if let Some(outcome) = end_date::outcome(end(credential, read.as_ref()).await, Clock::system().now()) {
            self.table.add(name, "-", "end date", outcome);
        }
        match read? {
            Material::Stored(credential) => Some(Ready::Stored(credential)),
            Material::Identity { identity, .. } => {
                let token = Entra::new(self.http.clone(), Clock::system()).token(&identity).await;
                let authority = match &identity.proof {
                    Proof::Machine { .. } => "169.254.169.254",
                    _ => self.configuration.azure.authority_host.host_str().unwrap_or("-"),
                };
                self.table.add(name, authority, "Entra token", Outcome::of(&token));
                Some(Ready::SignedIn(identity, token.ok()?))
            }
        }
    }

    async fn host<'i>(
        &mut self,
        name: &str,
        login_server: &LoginServer,
        ready: &Ready,
        images: impl Iterator<Item = &'i Image>,
    ) {
        let host = RegistryHost::from(login_server);
        let credential = match ready {
            Ready::Stored(credential) => credential.clone(),
            Ready::SignedIn(identity, token) => {
                let exchanged = RegistryExchange::new(self.http.clone())
                    .refresh_token(&host, identity.tenant(), token, Clock::system().now())
                    .await;
                self.table.add(name, host.as_str(), "exchange token", Outcome::of(&exchanged));
                let Ok(token) = exchanged else { return };
                RegistryCredential {
                    username: REFRESH_TOKEN_USERNAME.to_owned(),
                    password: token.secret,
                    lifetime: Some(token.lifetime),
                    source: identity.fingerprint(),
                }
            }
        };
        let login = RegistryLogin::new(self.http.clone(), self.configuration.rules.login_servers().clone());
        let signed_in = login.sign_in(&host, &credential).await;
        self.table.add(name, host.as_str(), "sign in", Outcome::of(&signed_in));
        for image in images {
            let found = login.find_manifest(&host, &image.repository, &image.tag_or_digest, &credential).await;
            self.table.add(name, host.as_str(), &format!("pull {}", image.reference), Outcome::of(&found));
        }
    }
}
