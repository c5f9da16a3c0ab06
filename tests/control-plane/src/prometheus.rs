//! Prometheus, which nobody builds here: a program of the system, or one that `.ci/prometheus` has put into the cache.

use std::env::split_paths;
use std::path::PathBuf;

use crate::environment::Environment;
use crate::programs::ProgramError;

/// The program `prometheus`: on `PATH`, else in the cache.
pub fn prometheus_program() -> Result<PathBuf, ProgramError> {
    let environment = Environment::read();
    let cached = environment.cache.map(|cache| cache.join("prometheus/usr/bin"));
    split_paths(&environment.path)
        .chain(cached)
        .map(|directory| directory.join("prometheus"))
        .find(|program| program.is_file())
        .ok_or(ProgramError::PrometheusMissing)
}
