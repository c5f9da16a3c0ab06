//! The pinned helm program, for tests of the chart and for installing it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::Environment;
use crate::programs::{ProgramError, Workbench};
use crate::progress::Progress;

/// Helm with homes of its own, aimed at one control plane.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    pub(crate) fn new(program: PathBuf, kubeconfig: &Path, home: PathBuf) -> Self {
        Self { program, kubeconfig: kubeconfig.to_owned(), home }
    }

    /// The helm binary.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A helm command that acts as the administrator of this control plane and neither reads nor writes the user's own
    /// helm configuration.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_CACHE_HOME", self.home.join("cache"))
            .env("HELM_CONFIG_HOME", self.home.join("config"))
            .env("HELM_DATA_HOME", self.home.join("data"))
            .env_remove("HELM_NAMESPACE")
            .env_remove("HELM_KUBECONTEXT");
        command
    }
}

/// The pinned helm binary, built first if needed (about 2 minutes, once), for work that needs no control plane such as
/// `helm template`. Blocks.
pub fn helm_program() -> Result<PathBuf, ProgramError> {
    Workbench { environment: Environment::read(), progress: Progress::default() }.helm()
}
