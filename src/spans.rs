//! Spans: what a trace shows of an admission and of work in the background. Nothing is made while no traces are sent.
//!
//! A span has names and outcomes, as a log line has: never a review, never a credential.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tracing::{Instrument as _, Span};

use crate::{domain::review::Review, ensure::WriteReason};

/// The target of all spans. Logs leave it out, traces take nothing else.
pub(crate) const TARGET: &str = "acr_pull_injector::spans";

/// Traces begun within a second. A burst of pods goes on without, so that it is answered as fast as without traces.
const MOST_A_SECOND: u32 = 100;

/// Of a text from a review a span has so many bytes: no name is longer, and thousands of spans wait for the collector.
const LONGEST_TEXT: usize = 253;

/// The span of an admission; none when there are too many.
pub(crate) fn admission(review: &Review<'_>, operation: &str, name: &str) -> Span {
    if !may_begin() {
        return Span::none();
    }
    tracing::trace_span!(
        target: TARGET,
        parent: None,
        "admission",
        otel.kind = "server",
        uid = beginning(&review.uid),
        namespace = beginning(&review.namespace),
        name = beginning(name),
        operation,
        outcome = tracing::field::Empty,
    )
}

/// The span of the flight that this admission starts, and which may last longer than itself.
pub(crate) fn flight() -> Span {
    let admission = Span::current();
    if admission.is_disabled() {
        return Span::none();
    }
    let span = tracing::trace_span!(target: TARGET, parent: None, "flight");
    #[cfg(feature = "otlp")]
    crate::telemetry::traces::continue_trace(&span, &admission);
    span
}

/// The span of what brings a pull secret into being or keeps it right: part of a flight, or the beginning of a trace.
pub(crate) fn ensure(namespace: &str, reason: WriteReason) -> Span {
    if Span::current().is_disabled() && !may_begin() {
        return Span::none();
    }
    tracing::trace_span!(
        target: TARGET,
        "ensure",
        namespace,
        reason = reason.as_label(),
        outcome = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
    )
}

/// The span of a read of an object (`namespace`, `pull_secret`) from the API server.
pub(crate) fn read(object: &'static str) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    let outcome = tracing::field::Empty;
    tracing::trace_span!(target: TARGET, "read", otel.kind = "client", object, outcome, otel.status_code = outcome)
}

/// The span of a write of a pull secret: `create`, `update` or `delete`.
pub(crate) fn write(operation: &'static str) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    let outcome = tracing::field::Empty;
    tracing::trace_span!(target: TARGET, "write", otel.kind = "client", operation, outcome, otel.status_code = outcome)
}

/// The span of a request to Entra and a registry for a token.
pub(crate) fn exchange(login_server: &str) -> Span {
    if Span::current().is_disabled() {
        return Span::none();
    }
    let outcome = tracing::field::Empty;
    tracing::trace_span!(
        target: TARGET, "exchange", otel.kind = "client", login_server, outcome, otel.status_code = outcome
    )
}

/// Carries out work under a span, which then says how it ended.
pub(crate) async fn record<T, E>(
    span: Span,
    outcome: impl FnOnce(&E) -> &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let ended = work.instrument(span.clone()).await;
    match &ended {
        Ok(_) => span.record("outcome", "done"),
        Err(error) => span.record("outcome", outcome(error)).record("otel.status_code", "ERROR"),
    };
    ended
}

/// As much of a text as a span has.
fn beginning(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn may_begin() -> bool {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    static BEGUN: Begun = Begun(AtomicU64::new(0));
    tracing::enabled!(target: TARGET, tracing::Level::TRACE) && BEGUN.may_begin(STARTED.elapsed().as_secs())
}

/// How many traces have begun in which second.
struct Begun(AtomicU64);

impl Begun {
    /// Whether one more may begin in this second.
    fn may_begin(&self, second: u64) -> bool {
        let this_second = second << 32;
        let begun = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |begun| {
            if begun < this_second {
                return Some(this_second + 1);
            }
            (begun - this_second < u64::from(MOST_A_SECOND)).then(|| begun + 1)
        });
        begun.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_traces_begin_in_each_second() {
        let begun = Begun(AtomicU64::new(0));
        for second in [0, 1, 2, 700, 100_000] {
            assert_eq!((0..1000).filter(|_| begun.may_begin(second)).count(), 100, "in second {second}");
        }
    }
}
