//! A configuration that points at the fake Azure, and a clock that tests move.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use acr_pull_injector::{
    admission::{CredentialError, CredentialSource as _},
    clock::Clock,
    config::Configuration,
    credentials::Credentials,
    domain::{image::LoginServer, pull_secret::RegistryCredential},
    metrics::Metrics,
};
use fake_azure::{FakeAzure, TENANT};
use jiff::Timestamp;
use tracing_subscriber::filter::LevelFilter;

/// The application id of every test.
pub(crate) const CLIENT: &str = "99999999-8888-7777-6666-555555555555";
/// The first secret of that application.
pub(crate) const SECRET: &str = "first~secret+of/the=application";
/// When every test begins.
pub(crate) const START: i64 = 1_800_000_000;

pub(crate) struct World {
    pub(crate) fake: FakeAzure,
    pub(crate) metrics: Arc<Metrics>,
    time: Arc<AtomicI64>,
}

impl World {
    /// An application with a secret and a registry `contoso` that lets it pull.
    pub(crate) async fn start() -> Self {
        // Another test of this program may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
        let _ = subscriber.with_writer(|| Log).try_init();
        let time = Arc::new(AtomicI64::new(START));
        let shown = time.clone();
        let fake = FakeAzure::start_at(Arc::new(move || at(shown.load(Ordering::SeqCst)))).await;
        fake.entra().application(CLIENT).add_secret(SECRET);
        fake.registry("contoso").grant(CLIENT).add_image("team/app", "v1");
        std::fs::write(fake.directory().join("clientSecret"), SECRET).unwrap();
        Self { fake, metrics: Arc::default(), time }
    }

    pub(crate) fn clock(&self) -> Clock {
        let time = self.time.clone();
        Clock::from_fn(move || at(time.load(Ordering::SeqCst)))
    }

    pub(crate) fn now(&self) -> i64 {
        self.time.load(Ordering::SeqCst)
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn secret_file(&self) -> PathBuf {
        self.fake.directory().join("clientSecret")
    }

    pub(crate) fn store_secret(&self, secret: &str) {
        std::fs::write(self.secret_file(), secret).unwrap();
    }

    /// One rule `contoso` with this credential for these hosts.
    pub(crate) fn configuration_of(&self, hosts: &[String], credential: &str) -> String {
        format!(
            "registries: [{{name: contoso, hosts: {hosts:?}, credential: {{{credential}}}}}]\n\
             azure: {{authorityHost: '{}', caFile: '{}', extraSuffixes: [localhost]}}\n",
            self.fake.authority_host(),
            self.fake.ca_file().display()
        )
    }

    /// Token delivery with the secret in the file.
    pub(crate) fn configuration(&self) -> String {
        self.configuration_of(&[self.fake.login_server("contoso")], &self.secret_credential())
    }

    pub(crate) fn secret_credential(&self) -> String {
        format!(
            "servicePrincipal: {{tenantId: {TENANT}, clientId: {CLIENT}, clientSecretFile: '{}', delivery: token}}",
            self.secret_file().display()
        )
    }

    pub(crate) async fn credentials(&self) -> Arc<Credentials> {
        self.credentials_of(&self.configuration()).await
    }

    pub(crate) async fn credentials_of(&self, configuration: &str) -> Arc<Credentials> {
        let configuration = Configuration::parse(configuration).unwrap();
        Arc::new(Credentials::read(&configuration, self.metrics.clone(), self.clock()).await)
    }

    pub(crate) async fn credential(&self, credentials: &Credentials) -> Result<RegistryCredential, CredentialError> {
        self.credential_for(credentials, &self.fake.login_server("contoso")).await
    }

    pub(crate) async fn credential_for(
        &self,
        credentials: &Credentials,
        login_server: &str,
    ) -> Result<RegistryCredential, CredentialError> {
        credentials.credential(&"contoso".parse().unwrap(), &parse(login_server)).await
    }

    /// Says that a pull secret holds a token of this login server.
    pub(crate) fn vouch_for(credentials: &Credentials, login_server: &str) {
        credentials.vouch(&"contoso".parse().unwrap(), &parse(login_server));
    }

    /// Why there is no credential, from a cold start.
    pub(crate) async fn refusal(&self) -> String {
        let credentials = self.credentials().await;
        self.credential(&credentials).await.unwrap_err().to_string()
    }

    /// A metric of the rule `contoso`, with these further labels.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.metrics.encode(0, None);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("acr_pull_injector_{name} ")))?;
        line.parse().ok()
    }
}

/// All that was logged by all tests of this program so far, at every level.
pub(crate) fn logged() -> String {
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn parse(login_server: &str) -> LoginServer {
    let configuration = Configuration::parse("azure: {extraSuffixes: [localhost]}").unwrap();
    configuration.rules.login_servers().parse(login_server).unwrap()
}
