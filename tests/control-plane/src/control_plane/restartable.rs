//! A process of the control plane, which can be stopped and started again for tests of faults.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ControlPlaneError;
use crate::daemon::Daemon;
use crate::guardian::Guardian;

/// The same program with the same arguments, as often as it is started.
#[derive(Debug)]
pub(super) struct Restartable {
    guardian: Arc<Guardian>,
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    /// `None` while it is stopped.
    daemon: Mutex<Option<Arc<Daemon>>>,
}

impl Restartable {
    pub(super) fn start(
        guardian: &Arc<Guardian>,
        name: &'static str,
        program: PathBuf,
        arguments: Vec<String>,
    ) -> Result<Self, ControlPlaneError> {
        let started = Self { guardian: Arc::clone(guardian), name, program, arguments, daemon: Mutex::new(None) };
        started.start_again()?;
        Ok(started)
    }

    /// The running process; one that is stopped is started first.
    pub(super) fn start_again(&self) -> Result<Arc<Daemon>, ControlPlaneError> {
        let mut daemon = self.daemon();
        if let Some(running) = daemon.as_ref().filter(|daemon| daemon.exited().is_none()) {
            return Ok(Arc::clone(running));
        }
        let started = Daemon::start(&self.guardian, self.name, &self.program, &self.arguments);
        let started = Arc::new(started.map_err(ControlPlaneError::io("start a program of the control plane"))?);
        *daemon = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Kills it, as a crash would; returns when it is gone.
    pub(super) fn stop(&self) {
        if let Some(daemon) = self.daemon().take() {
            daemon.stop();
        }
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Arc<Daemon>>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
