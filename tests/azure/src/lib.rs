//! Entra and Azure Container Registry as small HTTPS servers on loopback, with the wire format that Microsoft documents.
//!
//! [`FakeAzure::start`] brings up both under names below `localhost`, with a certificate authority of their own. A test
//! makes applications and registries, asks for faults, moves the clock, and looks at what was requested. Nothing in here is
//! secure, and nothing has to be.
//!
//! Sources: <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>,
//! <https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md>.

mod assertion;
mod authority;
mod entra;
mod fault;
mod registry;
mod registry_routes;
mod server;
mod token;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::Router;
use jiff::Timestamp;

pub use entra::{Application, Entra, SecretState};
pub use fault::{Fault, Seen};
pub use registry::Registry;

use authority::Authority;
use server::Server;

/// The tenant of every registry and application, unless a test says otherwise.
pub const TENANT: &str = "11111111-2222-3333-4444-555555555555";
/// The domain that login servers of this crate live under; it has to be an extra suffix of whoever uses them.
pub const SUFFIX: &str = "localhost";

/// Tells the time to both services.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Entra and registries. They end when it is dropped.
pub struct FakeAzure {
    directory: tempfile::TempDir,
    authority: Arc<Authority>,
    entra: Entra,
    entra_server: Server,
    registries: registry::Registries,
    registry_server: Server,
}

impl std::fmt::Debug for FakeAzure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FakeAzure").field("authority_host", &self.authority_host()).finish_non_exhaustive()
    }
}

impl FakeAzure {
    /// Starts both services with the clock of the machine.
    pub async fn start() -> Self {
        Self::start_at(Arc::new(Timestamp::now)).await
    }

    /// Starts both services with a clock of the test.
    ///
    /// # Panics
    ///
    /// When loopback cannot be listened on.
    #[expect(clippy::expect_used, reason = "a test cannot go on without its fake")]
    pub async fn start_at(clock: Clock) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the CA file");
        let authority = Arc::new(Authority::new());
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).expect("the CA file is written");
        let entra = Entra::new(clock.clone());
        let entra_server = Server::start(&authority, entra::router(entra.clone())).await;
        entra.listens_at(format!("https://login.{SUFFIX}:{}", entra_server.port()));
        let registries = registry::Registries::new(clock, entra.clone());
        let router: Router = registry_routes::router(registries.clone());
        let registry_server = Server::start(&authority, router).await;
        Self { directory, authority, entra, entra_server, registries, registry_server }
    }

    /// Entra.
    pub fn entra(&self) -> &Entra {
        &self.entra
    }

    /// The registry of this name; made when there is none.
    pub fn registry(&self, name: &str) -> Registry {
        self.registries.registry(name)
    }

    /// The value of `azure.authorityHost`.
    pub fn authority_host(&self) -> String {
        format!("https://login.{SUFFIX}:{}", self.entra_server.port())
    }

    /// The login server of a registry: `<name>.localhost:<port>`.
    pub fn login_server(&self, name: &str) -> String {
        format!("{name}.{SUFFIX}:{}", self.registry_server.port())
    }

    /// The key that registries sign their tokens with, as a JSON Web Key Set.
    pub fn registry_keys(&self) -> String {
        self.registries.key_set()
    }

    /// Where registries listen, whatever their names.
    pub fn registry_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.registry_server.port()))
    }

    /// The certificate of the CA that both services' certificates come from.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// A file with [`FakeAzure::ca_pem`].
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A directory for whatever a test wants to store beside it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Stops to listen: connections are refused.
    pub async fn go_away(&self) {
        self.entra_server.stop().await;
        self.registry_server.stop().await;
    }

    /// Listens again at the same ports.
    pub async fn come_back(&self) {
        self.entra_server.resume().await;
        self.registry_server.resume().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
