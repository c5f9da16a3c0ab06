//! The pinned container registry and a client of registries, for tests that pull. Only they have them built.

use std::path::PathBuf;

use crate::environment::Environment;
use crate::programs::{ProgramError, Workbench};
use crate::progress::Progress;

/// The pinned `registry` of the distribution project, built first if needed (about 3 minutes, once). Blocks.
pub fn registry_program() -> Result<PathBuf, ProgramError> {
    workbench().registry()
}

/// The pinned `crane`, which pulls and pushes images, built first if needed (less than a minute, once). Blocks.
pub fn crane_program() -> Result<PathBuf, ProgramError> {
    workbench().crane()
}

fn workbench() -> Workbench {
    Workbench { environment: Environment::read(), progress: Progress::default() }
}
