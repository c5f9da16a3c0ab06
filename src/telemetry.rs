//! Logs, and traces where they are wanted. Text for a person at a terminal, JSON for everything that collects logs.
//!
//! An admission is one line at debug, with uid, namespace, name, operation, outcome and milliseconds; a write of a pull secret
//! one at info. Never a review and never a credential.

#[cfg(feature = "otlp")]
pub mod traces;

mod background_writer;

use std::{io::IsTerminal, time::Duration};

use clap::ValueEnum;
use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::{EnvFilter, fmt::SubscriberBuilder};

use self::background_writer::BackgroundWriter;
use crate::spans;

/// How long the end of the process waits for a log that nobody takes.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging that has been started. When it is dropped, the last lines are written.
#[derive(Debug)]
#[must_use = "the last lines are written when it is dropped"]
pub struct Logging(BackgroundWriter);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES);
    }
}

/// Starts logging to standard error; standard output stays free for results. Nobody who logs waits for it: what it does not
/// take is kept up to a limit, then dropped, and counted in `dropped`.
///
/// # Errors
///
/// When logging was started already, or no thread can be started.
pub fn start(
    format: LogFormat,
    filter: EnvFilter,
    dropped: Counter,
) -> Result<Logging, Box<dyn std::error::Error + Send + Sync>> {
    let writer = BackgroundWriter::start(std::io::stderr(), dropped)?;
    let subscriber = SubscriberBuilder::default().with_env_filter(filter).with_writer(writer.clone());
    if format.is_json() {
        subscriber.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()?;
    } else {
        subscriber.with_ansi(std::io::stderr().is_terminal()).try_init()?;
    }
    Ok(Logging(writer))
}

/// The same, and spans go to a collector.
///
/// # Errors
///
/// When logging was started already.
#[cfg(feature = "otlp")]
pub fn start_with_traces(
    format: LogFormat,
    filter: EnvFilter,
    dropped: Counter,
    traces: &traces::Traces,
) -> Result<Logging, Box<dyn std::error::Error + Send + Sync>> {
    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};
    let writer = BackgroundWriter::start(std::io::stderr(), dropped)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer.clone());
    let lines = if format.is_json() {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).with_filter(filter).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed()
    };
    tracing_subscriber::registry().with(traces.layer()).with(lines).try_init()?;
    Ok(Logging(writer))
}

impl LogFormat {
    fn is_json(self) -> bool {
        match self {
            Self::Auto => !std::io::stderr().is_terminal(),
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// Parses a log filter such as `info` or `info,acr_pull_injector=debug`.
///
/// # Errors
///
/// When the filter does not follow the syntax of `tracing_subscriber::EnvFilter`.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    // That module logs an answer that it cannot decode as it is, and it may be a Secret. The error itself is logged by us.
    let filter = EnvFilter::builder().parse(filter)?.add_directive("kube_client::client=off".parse()?);
    Ok(filter.add_directive(format!("{}=off", spans::TARGET).parse()?))
}

#[cfg(test)]
pub(crate) mod tests;
