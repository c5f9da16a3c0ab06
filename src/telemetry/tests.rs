//! What the program logs, as JSON lines.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
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
