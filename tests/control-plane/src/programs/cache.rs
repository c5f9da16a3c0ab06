//! Built programs, kept between runs: `<cache>/<product>-<version>/<program>`.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::go::{self, Recipe};
use super::{ProgramError, Workbench};
use crate::progress::Progress;

static TURN: Mutex<()> = Mutex::new(());

/// The directory that holds all programs of the recipe, after building those that are missing in the Go module that
/// `module` names or makes.
///
/// Programs appear whole (built under another name, then renamed), and only one process builds at a time.
pub(super) fn installed(
    workbench: &Workbench,
    recipe: &Recipe,
    module: impl FnOnce() -> Result<PathBuf, ProgramError>,
) -> Result<PathBuf, ProgramError> {
    let directory = directory(workbench, recipe.product, &recipe.version)?;
    if missing(recipe, &directory).is_empty() {
        return Ok(directory);
    }
    fs::create_dir_all(&directory).map_err(|source| failure(&directory, source))?;
    // Threads of this process wait in silence: the one that builds tells the progress.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Given back by the kernel when it is closed, however this process ends.
    let _lock = lock(recipe, &directory, &workbench.progress)?;
    let missing = missing(recipe, &directory);
    if missing.is_empty() {
        return Ok(directory);
    }
    let output = directory.join(".building");
    // What an interrupted build left; usually nothing.
    drop(fs::remove_dir_all(&output));
    fs::create_dir_all(&output).map_err(|source| failure(&output, source))?;
    go::build(workbench, recipe, &module()?, &missing, &output)?;
    for (program, _) in missing {
        let built = output.join(program);
        fs::rename(&built, directory.join(program)).map_err(|source| failure(&built, source))?;
    }
    drop(fs::remove_dir_all(&output));
    Ok(directory)
}

/// Where the programs of one version of one product are kept.
pub(super) fn directory(workbench: &Workbench, product: &str, version: &str) -> Result<PathBuf, ProgramError> {
    Ok(root(workbench)?.join(format!("{product}-{version}")))
}

/// The versions of a product that were built before, in no particular order, perhaps not all of their programs.
pub(super) fn versions(workbench: &Workbench, product: &str) -> Vec<String> {
    let entries = root(workbench).ok().and_then(|root| fs::read_dir(root).ok());
    let prefix = format!("{product}-");
    let names = entries.into_iter().flatten().filter_map(Result::ok);
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect()
}

pub(super) fn failure(path: &Path, source: std::io::Error) -> ProgramError {
    ProgramError::Cache { path: path.to_owned(), source }
}

fn root(workbench: &Workbench) -> Result<&Path, ProgramError> {
    workbench.environment.cache.as_deref().ok_or(ProgramError::NoCacheDirectory)
}

fn missing(recipe: &Recipe, directory: &Path) -> Vec<(&'static str, &'static str)> {
    recipe.packages.iter().copied().filter(|(program, _)| !directory.join(program).is_file()).collect()
}

fn lock(recipe: &Recipe, directory: &Path, progress: &Progress) -> Result<File, ProgramError> {
    let path = directory.join(".lock");
    let file = File::create(&path).map_err(|source| failure(&path, source))?;
    let waiting = format!("waiting for another process that builds {} {}", recipe.product, recipe.version);
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
