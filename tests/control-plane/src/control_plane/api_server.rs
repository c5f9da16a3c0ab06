//! The API server's process, which can be stopped and started again for tests of faults.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Client;

use super::ControlPlaneError;
use super::start::wait_until_serving;
use crate::daemon::Daemon;
use crate::guardian::Guardian;

#[derive(Debug)]
pub(super) struct ApiServer {
    guardian: Arc<Guardian>,
    program: PathBuf,
    arguments: Vec<String>,
    /// `None` while it is stopped.
    daemon: Mutex<Option<Arc<Daemon>>>,
}

impl ApiServer {
    pub(super) fn start(
        guardian: &Arc<Guardian>,
        program: PathBuf,
        arguments: Vec<String>,
    ) -> Result<Self, ControlPlaneError> {
        let server = Self { guardian: Arc::clone(guardian), program, arguments, daemon: Mutex::new(None) };
        server.start_again()?;
        Ok(server)
    }

    /// Does nothing when it runs.
    pub(super) fn start_again(&self) -> Result<(), ControlPlaneError> {
        let mut daemon = self.daemon();
        if daemon.as_ref().is_none_or(|daemon| daemon.exited().is_some()) {
            let started = Daemon::start(&self.guardian, "kube-apiserver", &self.program, &self.arguments);
            *daemon = Some(Arc::new(started.map_err(ControlPlaneError::io("start kube-apiserver"))?));
        }
        Ok(())
    }

    /// Kills it, as a crash would; returns when it is gone.
    pub(super) fn stop(&self) {
        if let Some(daemon) = self.daemon().take() {
            daemon.stop();
        }
    }

    pub(super) async fn wait_until_serving(&self, client: &Client) -> Result<(), ControlPlaneError> {
        let daemon = self.daemon().clone();
        match daemon {
            Some(daemon) => wait_until_serving(&daemon, client).await,
            None => Ok(()),
        }
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Arc<Daemon>>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
