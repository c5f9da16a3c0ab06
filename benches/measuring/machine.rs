//! The machine, and which of its cores do what.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// One core for the servers, the others for whoever loads them.
#[derive(Clone, Debug)]
pub struct Cores {
    server: usize,
    others: Vec<usize>,
}

impl Cores {
    /// Divides the cores that this process may use. `None`: there is only one.
    pub fn divide() -> io::Result<Option<Self>> {
        let mut allowed = allowed()?;
        if allowed.len() < 2 {
            return Ok(None);
        }
        let others = allowed.split_off(1);
        Ok(Some(Self { server: allowed[0], others }))
    }

    /// Keeps this process, and all that it starts from now on, away from the servers' core.
    pub fn leave_to_servers(&self) -> io::Result<()> {
        let others: Vec<String> = self.others.iter().map(ToString::to_string).collect();
        let process = std::process::id().to_string();
        let taskset =
            Command::new("taskset").args(["-cp", &others.join(","), &process]).stdout(Stdio::null()).status()?;
        if taskset.success() {
            Ok(())
        } else {
            Err(io::Error::other("taskset could not set the cores of this process"))
        }
    }

    /// A command that runs `program` on the servers' core.
    pub fn server_command(&self, program: &Path) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.server.to_string()]).arg(program);
        command
    }

    /// A program that does what `program` does, on the servers' core. It is put into `directory`.
    pub fn server_program(&self, program: &Path, directory: &Path) -> io::Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let script = directory.join("on-the-servers-core");
        let text = format!("#!/bin/sh\nexec taskset -c {} '{}' \"$@\"\n", self.server, program.display());
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(script)
    }
}

/// A line about the machine, for the head of a report.
pub fn description() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = allowed().map_or(0, |allowed| allowed.len());
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "{}, {cores} cores, Linux {}, load average at the start {}",
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        load.split(' ').next().unwrap_or("unknown")
    )
}

/// Lets threads that are started from now on wake up to the microsecond rather than 50 µs late.
pub fn wake_up_in_time() {
    // On a kernel without it the latencies are a little worse, which is the safe side.
    drop(fs::write("/proc/self/timerslack_ns", "1"));
}

/// The cores that this process may use.
fn allowed() -> io::Result<Vec<usize>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.ok_or(io::ErrorKind::InvalidData)?.trim();
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    Ok(list.split(',').filter_map(range).flatten().collect())
}
