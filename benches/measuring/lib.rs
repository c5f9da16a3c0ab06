//! What the benches have in common: how they start, what they put under load, what they measure, and how they show it.

#![expect(clippy::expect_used, clippy::print_stderr, reason = "a bench prints, and may end at once and say why")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and times are far below the limits of f64"
)]

pub mod client;
pub mod latencies;
pub mod machine;
pub mod metrics;
pub mod plot;
pub mod process;
pub mod product;
pub mod reviews;
pub mod svg;
pub mod table;

use std::process::{ExitCode, Termination};

use installation::Error;

/// Runs a bench as the whole of its program, with the TLS library that the product uses. What goes wrong is said.
pub fn run<Outcome: Termination>(bench: impl FnOnce() -> Result<Outcome, Error>) -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    match bench() {
        Ok(outcome) => outcome.report(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The same for a bench that waits for the control plane more than it computes.
pub fn run_on_tokio<Outcome: Termination>(bench: impl AsyncFnOnce() -> Result<Outcome, Error>) -> ExitCode {
    run(|| tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bench()))
}
