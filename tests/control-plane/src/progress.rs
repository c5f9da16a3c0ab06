//! Tells the person who waits what is going on.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where progress goes: a function of the caller's, or by default standard error.
#[derive(Clone, Default)]
pub(crate) struct Progress {
    listener: Option<Listener>,
}

type Listener = Arc<dyn Fn(&str) + Send + Sync>;

impl Progress {
    pub(crate) fn to(listener: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { listener: Some(Arc::new(listener)) }
    }

    /// Something worth a line even for someone who did not ask: a build, a wait for another process.
    pub(crate) fn say(&self, line: &str) {
        match &self.listener {
            Some(listener) => listener(line),
            // Not eprintln: the test harness would hide it until the test has failed. Nobody to tell is no reason to stop.
            None => drop(writeln!(io::stderr(), "control-plane: {line}")),
        }
    }

    /// A step of the start, told only to a listener.
    pub(crate) fn step(&self, line: &str) {
        if let Some(listener) = &self.listener {
            listener(line);
        }
    }

    /// Starts to tell the elapsed time of something long.
    pub(crate) fn stopwatch(&self) -> Stopwatch<'_> {
        let started = Instant::now();
        Stopwatch { progress: self, started, told: started }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.listener.is_some() { "Progress(listener)" } else { "Progress(stderr)" })
    }
}

/// Says every few seconds that something goes on: rewriting one line on a terminal, in new lines elsewhere.
pub(crate) struct Stopwatch<'a> {
    progress: &'a Progress,
    started: Instant,
    told: Instant,
}

impl Stopwatch<'_> {
    /// Call it often; it speaks when it is time.
    pub(crate) fn tick(&mut self, what: &str) {
        let in_place = self.progress.listener.is_none() && io::stderr().is_terminal();
        let pause = if in_place { Duration::from_secs(1) } else { Duration::from_secs(5) };
        if self.told.elapsed() < pause {
            return;
        }
        self.told = Instant::now();
        let elapsed = self.elapsed();
        if in_place {
            drop(write!(io::stderr(), "\r\x1b[Kcontrol-plane: {what}, {elapsed}"));
        } else {
            self.progress.say(&format!("{what}, {elapsed}"));
        }
    }

    /// Ends with a line of its own.
    pub(crate) fn finish(self, what: &str) {
        if self.progress.listener.is_none() && io::stderr().is_terminal() {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
        self.progress.say(&format!("{what}, {}", self.elapsed()));
    }

    fn elapsed(&self) -> String {
        let seconds = self.started.elapsed().as_secs();
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    }
}
