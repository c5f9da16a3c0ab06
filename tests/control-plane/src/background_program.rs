//! Programs of the caller's beside the control plane, ended together with it.

use std::io;
use std::path::Path;

use crate::control_plane::ControlPlane;
use crate::daemon::Daemon;

/// A program that runs until it is dropped or the control plane ends, in whichever way.
#[derive(Debug)]
pub struct BackgroundProgram(Daemon);

impl BackgroundProgram {
    /// Starts `program` with an environment of little more than `PATH`, in the control plane's directory. Its output goes to
    /// `<name>.log` there.
    pub fn start(
        control_plane: &ControlPlane,
        name: &'static str,
        program: &Path,
        arguments: &[String],
    ) -> io::Result<Self> {
        Daemon::start(control_plane.guardian(), name, program, arguments).map(Self)
    }

    /// Whether it has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.exited().is_some()
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn last_log_lines(&self) -> String {
        self.0.last_log_lines()
    }
}
