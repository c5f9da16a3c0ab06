//! No leftovers: a small shell process that outlives this one just long enough to clean up.
//!
//! The guardian waits on a pipe whose other end only this process holds. However this process ends (return, panic,
//! abort, Ctrl-C, SIGKILL), the kernel closes that end; the guardian then kills every process group that it was told of and
//! removes the temporary directory, which it made itself. The orderly end takes the same way, so the way is always tried.
//!
//! A parent death signal would be shorter, but it fires when the *thread* that forked ends, is lost over setuid
//! programs, reaches no grandchildren and removes no files.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Reads `watch GROUP` and `forget GROUP` lines until the pipe closes.
const GUARD: &str = r#"
trap '' HUP INT TERM
directory=$(mktemp -d "${TMPDIR:-/tmp}/acr-pull-injector.XXXXXX") || exit 1
echo "$directory"
groups=
while read -r verb group; do
  case $verb in
  watch) groups="$groups $group" ;;
  forget)
    others=
    for other in $groups; do [ "$other" = "$group" ] || others="$others $other"; done
    groups=$others
    ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
attempt=0
until rm -rf "$directory" 2>/dev/null || [ "$attempt" -ge 100 ]; do
  attempt=$((attempt + 1))
  sleep 0.1
done
"#;

/// Waits for one line before it becomes the program, so that no program runs that the guardian does not know of.
const GATE: &str = r#"read -r go || exit 1; exec "$@" </dev/null"#;

/// Watches over the processes and the temporary directory of one control plane.
#[derive(Debug)]
pub(crate) struct Guardian {
    shell: Mutex<Child>,
    /// `None` once it is closed, which is the sign to clean up.
    orders: Mutex<Option<ChildStdin>>,
    directory: PathBuf,
}

impl Guardian {
    /// Starts the guardian, which makes the temporary directory.
    pub(crate) fn start() -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", GUARD, "control-plane-guardian"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            // Out of the terminal's foreground group, so that Ctrl-C does not reach it.
            .process_group(0)
            .spawn()?;
        let orders = shell.stdin.take();
        let mut answer = String::new();
        if let Some(output) = shell.stdout.take() {
            BufReader::new(output).read_line(&mut answer)?;
        }
        let directory = PathBuf::from(answer.trim_end());
        if !directory.is_absolute() {
            return Err(io::Error::other("mktemp made no directory: is TMPDIR writable?"));
        }
        Ok(Self { shell: Mutex::new(shell), orders: Mutex::new(orders), directory })
    }

    /// The temporary directory, readable only by this user.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command that runs `program` behind the gate, in a process group of its own.
    /// Its standard input must stay piped until [`Self::release`].
    pub(crate) fn gated_command(program: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GATE, "control-plane-gate"]).arg(program).args(arguments);
        command.stdin(Stdio::piped()).process_group(0);
        command
    }

    /// Takes a freshly spawned [`Self::gated_command`] into care and lets it become its program.
    pub(crate) fn release(&self, process: u32, mut gate: impl Write) -> io::Result<()> {
        self.order("watch", process)?;
        gate.write_all(b"go\n")
    }

    /// Says that a process group has ended, since its number may be used again.
    pub(crate) fn forget(&self, process: u32) {
        // A guardian that is gone has nothing to forget.
        drop(self.order("forget", process));
    }

    /// Kills all that is still in care and removes the directory. Returns when that is done: usually at once, after
    /// 10 seconds at most.
    pub(crate) fn clean_up(&self) {
        locked(&self.orders).take();
        drop(locked(&self.shell).wait());
    }

    fn order(&self, verb: &str, process: u32) -> io::Result<()> {
        let mut orders = locked(&self.orders);
        let orders = orders.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(orders, "{verb} {process}")
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.clean_up();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills a process group at once.
pub(crate) fn kill_group(process: u32) {
    if let Some(group) = to_pid(process) {
        // Already gone is as good.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// Asks one process to end (SIGTERM).
pub(crate) fn ask_to_end(process: u32) {
    if let Some(process) = to_pid(process) {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
    }
}

fn to_pid(process: u32) -> Option<rustix::process::Pid> {
    i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw)
}
