//! Log lines on their way to standard error: whoever logs never waits for it.
//!
//! Standard error is a pipe to the container runtime, which stops reading when its disk is full or it hangs. Then lines are
//! kept up to a limit, and beyond that dropped and counted.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait to be written, at most; a line is 200 to 500.
const LIMIT: usize = 1 << 20;
/// Room that is kept when nothing waits.
const SMALL: usize = 64 << 10;

/// Takes lines and hands them to a thread that writes. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct BackgroundWriter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Lines came in, or all are written.
    changed: Condvar,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    count: u64,
    /// Taken out and not written yet.
    is_writing: bool,
    /// Dropped, and not told of yet.
    dropped: u64,
}

impl BackgroundWriter {
    /// Starts the thread that writes to `output`, for as long as the process lives. `dropped` counts what is lost.
    pub(super) fn start(output: impl Write + Send + 'static, dropped: Counter) -> io::Result<Self> {
        let waiting = Mutex::new(Waiting { lines: Vec::with_capacity(SMALL), ..Waiting::default() });
        let writer = Self(Arc::new(Shared { waiting, changed: Condvar::new(), dropped }));
        let shared = writer.0.clone();
        // No task of the runtime: it may wait for ever. `flush` waits for it at the end.
        std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_to(output))?;
        Ok(writer)
    }

    /// Waits until all lines are written, `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let waiting = self.0.waiting();
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        drop(self.0.changed.wait_timeout_while(waiting, limit, is_busy));
    }
}

impl Write for BackgroundWriter {
    /// Takes a whole line. One that is dropped is no error: the caller could do nothing about it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.waiting();
        if waiting.lines.len() + line.len() > LIMIT {
            waiting.dropped += 1;
            self.0.dropped.inc();
        } else {
            waiting.lines.extend_from_slice(line);
            waiting.count += 1;
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for BackgroundWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Shared {
    fn write_to(&self, mut output: impl Write) {
        let mut lines = Vec::new();
        loop {
            lines.clear();
            lines.shrink_to(SMALL);
            let count = {
                let waiting = self.waiting();
                let waiting = self.changed.wait_while(waiting, |waiting| waiting.lines.is_empty());
                let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut waiting.lines, &mut lines);
                waiting.is_writing = true;
                std::mem::take(&mut waiting.count)
            };
            let written = output.write_all(&lines).and_then(|()| output.flush());
            let mut waiting = self.waiting();
            waiting.is_writing = false;
            let untold = if written.is_ok() {
                std::mem::take(&mut waiting.dropped)
            } else {
                // A full disk, or nobody at the other end. Some may have been written; nobody can tell.
                waiting.dropped += count;
                self.dropped.inc_by(count);
                0
            };
            drop(waiting);
            // Only after a success, since it is one more line.
            if untold > 0 {
                tracing::warn!(lines = untold, "log lines were dropped: standard error did not take them");
            }
            self.changed.notify_all();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// Takes a piece each time that it is allowed to.
    struct Output {
        allowed: mpsc::Receiver<io::Result<()>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().unwrap_or(Ok(()))?;
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Parts = (BackgroundWriter, mpsc::Sender<io::Result<()>>, Arc<Mutex<Vec<u8>>>, Counter);

    fn writer() -> Parts {
        let (allow, allowed) = mpsc::channel();
        let (taken, dropped) = (Arc::<Mutex<Vec<u8>>>::default(), Counter::default());
        let output = Output { allowed, taken: taken.clone() };
        (BackgroundWriter::start(output, dropped.clone()).unwrap(), allow, taken, dropped)
    }

    #[test]
    fn a_blocked_output_holds_up_nobody_and_costs_bounded_memory() {
        let (mut writer, allow, taken, dropped) = writer();
        let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<_>>();
        let start = Instant::now();
        for _ in 0..5000 {
            writer.write_all(&line).unwrap();
        }
        writer.flush(Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(10), "somebody waited");
        assert!(writer.0.waiting().lines.len() <= LIMIT);
        let lost = dropped.get();
        assert!((2900..5000).contains(&lost), "{lost}");
        drop(allow);
        writer.flush(Duration::from_secs(10));
        let kept = taken.lock().unwrap().len() / line.len();
        assert_eq!(u64::try_from(kept).unwrap() + lost, 5000, "what was not dropped was written, each line once");
    }

    #[test]
    fn an_output_that_fails_is_tried_again_with_the_next_line() {
        let (mut writer, allow, taken, dropped) = writer();
        allow.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        writer.write_all(b"lost\n").unwrap();
        writer.flush(Duration::from_secs(10));
        allow.send(Ok(())).unwrap();
        writer.write_all(b"kept\n").unwrap();
        writer.flush(Duration::from_secs(10));
        assert_eq!((taken.lock().unwrap().as_slice(), dropped.get()), (b"kept\n".as_slice(), 1));
    }
}
