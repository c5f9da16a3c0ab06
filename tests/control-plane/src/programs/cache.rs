//! Built programs, kept between runs: `<cache>/<product>-<version>/<program>`.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::ProgramError;
use super::go::{self, Recipe};
use crate::environment;
use crate::progress::Progress;

/// The directory that holds all programs of the recipe, after building those that are missing.
///
/// Programs appear whole (built under another name, then renamed), and only one process builds at a time.
pub(super) fn installed(recipe: &Recipe, progress: &Progress) -> Result<PathBuf, ProgramError> {
    let directory = directory(recipe.product, &recipe.version)?;
    if missing(recipe, &directory).is_empty() {
        return Ok(directory);
    }
    fs::create_dir_all(&directory).map_err(|source| failure(&directory, source))?;
    // Given back by the kernel when it is closed, however this process ends.
    let _lock = lock(recipe, &directory, progress)?;
    let missing = missing(recipe, &directory);
    if missing.is_empty() {
        return Ok(directory);
    }
    let workshop = directory.join(".building");
    // What an interrupted build left; usually nothing.
    drop(fs::remove_dir_all(&workshop));
    fs::create_dir_all(&workshop).map_err(|source| failure(&workshop, source))?;
    go::build(recipe, &missing, &workshop, progress)?;
    for (program, _) in missing {
        let built = workshop.join(program);
        fs::rename(&built, directory.join(program)).map_err(|source| failure(&built, source))?;
    }
    drop(fs::remove_dir_all(&workshop));
    Ok(directory)
}

/// Where the programs of one version of one product are kept.
pub(super) fn directory(product: &str, version: &str) -> Result<PathBuf, ProgramError> {
    Ok(root()?.join(format!("{product}-{version}")))
}

/// The versions of a product that were built before, oldest first in no particular order.
pub(super) fn versions(product: &str) -> Vec<String> {
    let entries = root().ok().and_then(|root| fs::read_dir(root).ok());
    let prefix = format!("{product}-");
    let names =
        entries.into_iter().flatten().filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect()
}

pub(super) fn failure(path: &Path, source: std::io::Error) -> ProgramError {
    ProgramError::Cache { path: path.to_owned(), source }
}

fn root() -> Result<PathBuf, ProgramError> {
    environment::cache_directory().ok_or(ProgramError::NoCacheDirectory)
}

fn missing(recipe: &Recipe, directory: &Path) -> Vec<(&'static str, &'static str)> {
    recipe.packages.iter().copied().filter(|(program, _)| !directory.join(program).is_file()).collect()
}

fn lock(recipe: &Recipe, directory: &Path, progress: &Progress) -> Result<File, ProgramError> {
    let path = directory.join(".lock");
    let file = File::create(&path).map_err(|source| failure(&path, source))?;
    let waiting = format!("waiting for another process or thread that builds {} {}", recipe.product, recipe.version);
    let mut stopwatch = None;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if stopwatch.is_none() {
                    progress.say(&waiting);
                }
                stopwatch.get_or_insert_with(|| progress.stopwatch()).tick(&waiting);
                thread::sleep(Duration::from_millis(200));
            }
            Err(TryLockError::Error(source)) => return Err(failure(&path, source)),
        }
    }
}
