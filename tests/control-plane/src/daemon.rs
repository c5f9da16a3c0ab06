//! One program of the control plane, running in the background with its output in a log file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::environment::search_path;
use crate::guardian::{Guardian, kill_group};

const SHOWN_LOG_LINES: usize = 25;

#[derive(Debug)]
pub(crate) struct Daemon {
    name: &'static str,
    child: Mutex<Child>,
    group: u32,
    log: PathBuf,
    guardian: Arc<Guardian>,
}

impl Daemon {
    /// Starts `program` in the care of the guardian. Its log `<name>.log` is begun anew.
    pub(crate) fn start(
        guardian: &Arc<Guardian>,
        name: &'static str,
        program: &Path,
        arguments: &[String],
    ) -> io::Result<Self> {
        let log = guardian.directory().join(format!("{name}.log"));
        let output = File::create(&log)?;
        let mut child = Guardian::gated_command(program, arguments)
            .current_dir(guardian.directory())
            // Above all without HTTPS_PROXY: the API server would call webhooks through it.
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", guardian.directory())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let gate = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let group = child.id();
        let daemon = Self { name, child: Mutex::new(child), group, log, guardian: Arc::clone(guardian) };
        guardian.release(group, gate)?;
        Ok(daemon)
    }

    /// The program's own name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Kills it at once and waits until it is gone.
    pub(crate) fn stop(&self) {
        let mut child = self.child();
        // Once it has been waited for, its number may belong to somebody else.
        if matches!(child.try_wait(), Ok(None)) {
            kill_group(self.group);
            drop(child.wait());
        }
        self.guardian.forget(self.group);
    }

    /// The last lines that it wrote.
    pub(crate) fn last_log_lines(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&log), SHOWN_LOG_LINES).to_owned()
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The end of `text`, at most `count` lines of it.
pub(crate) fn last_lines(text: &str, count: usize) -> &str {
    let text = text.trim_end();
    let start = text.rmatch_indices('\n').nth(count.saturating_sub(1)).map_or(0, |(newline, _)| newline + 1);
    text.get(start..).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_counted_from_the_end() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\nb", 5), "a\nb");
        assert_eq!(last_lines("", 5), "");
    }
}
