//! What the program logs, as JSON lines.

use std::{
    io,
    sync::{Arc, Mutex, Once, PoisonError},
};

use serde_json::Value;
use tracing::subscriber::DefaultGuard;

use super::*;

/// What this thread logs, at debug.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    /// From now on, for as long as the guard lives.
    pub(crate) fn here() -> (Self, DefaultGuard) {
        another_listens();
        let logged = Self::default();
        let writer = logged.clone();
        let filter = parse_filter("debug").unwrap();
        let subscriber = SubscriberBuilder::default().with_env_filter(filter).with_writer(move || writer.clone());
        let subscriber = subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).finish();
        (logged, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Has a subscriber that lasts, next to that of a test. Where there is a single one, tracing asks that of the thread which
/// comes first to a line of code whether anybody is interested in it, for good: a thread of another test, which has none.
pub(super) fn another_listens() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let another = SubscriberBuilder::default().with_max_level(tracing::Level::DEBUG).with_writer(io::sink);
        tracing::subscriber::set_global_default(another.finish()).unwrap();
    });
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_client_that_logs_what_it_cannot_decode_is_kept_silent() {
    let (logged, _guard) = Logged::here();
    tracing::warn!(target: "kube_client::client", "{{\"data\": {{\"password\": \"...\"}}}}");
    tracing::warn!(target: "kube_client", "heard");
    assert_eq!(logged.lines().len(), 1);
    assert_eq!(logged.lines()[0]["message"], "heard");
}
