//! The program: installs the TLS provider, reads the command line and runs one subcommand.

use std::process::ExitCode;

use acr_pull_injector::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    // First of all, and fatal: without a process-wide provider every TLS client of a dependency would have to guess.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    Cli::parse().run()
}
