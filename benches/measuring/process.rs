//! What a running process has used, as `/proc` tells.

use std::{collections::BTreeMap, ffi::OsString, fs, io, time::Duration};

/// The unit of times in `/proc/<pid>/stat` on Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time of this program so far, with threads that have ended, in steps of 10 ms.
pub fn own_cpu_time() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold spaces; after it the fields are counted from 3.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, system] => Ok(Duration::from_secs_f64((user + system) / TICKS_PER_SECOND)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// CPU time of each thread of a process so far.
#[derive(Clone, Debug)]
pub struct CpuTime(BTreeMap<OsString, Duration>);

impl CpuTime {
    /// What was used since. `None` when threads have begun or ended: what they used is not known then.
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        let is_same = self.0.keys().eq(earlier.0.keys());
        is_same.then(|| self.0.values().sum::<Duration>().saturating_sub(earlier.0.values().sum()))
    }
}

/// A running process.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// Resident at most, since the start or since [`Process::forget_peak`].
    pub peak: u64,
}

impl Process {
    /// CPU time so far, in nanoseconds: that of the whole process (`/proc/<pid>/stat`) comes in steps of 10 ms.
    pub fn cpu_time(self) -> io::Result<CpuTime> {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.0))? {
            let thread = thread?;
            // One that has ended meanwhile is left out.
            let Ok(times) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let running = times.split(' ').next().and_then(|running| running.parse().ok());
            let running = running.ok_or(io::ErrorKind::InvalidData)?;
            threads.insert(thread.file_name(), Duration::from_nanos(running));
        }
        Ok(CpuTime(threads))
    }

    /// What it holds in memory.
    pub fn memory(self) -> io::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default()
        };
        Ok(Memory { resident: field("VmRSS:"), peak: field("VmHWM:") })
    }

    /// Counts the peak from now on.
    pub fn forget_peak(self) -> io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5")
    }
}

/// KiB as MiB.
pub fn mebibytes(kibibytes: u64) -> String {
    format!("{:.1}", kibibytes as f64 / 1024.0)
}
