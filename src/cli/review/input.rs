//! Where the manifests come from: files, directories, standard input.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::ReviewFailure;

/// One file, or standard input.
#[derive(Debug)]
pub(super) struct Input {
    /// What messages call it.
    pub(super) name: String,
    pub(super) text: String,
}

/// Reads everything that the arguments name, in their order. A directory stands for its `*.yaml`, `*.yml` and `*.json`, and
/// those of the directories in it, in the order of their names.
pub(super) fn read(arguments: &[PathBuf], mut stdin: impl Read) -> Result<Vec<Input>, ReviewFailure> {
    let mut inputs = Vec::new();
    for argument in arguments {
        if argument == Path::new("-") {
            let name = "standard input".to_owned();
            let mut text = String::new();
            match stdin.read_to_string(&mut text) {
                Ok(_) => inputs.push(Input::new(name, &text)),
                Err(source) => return Err(ReviewFailure::Unreadable { file: name, source }),
            }
            continue;
        }
        if !argument.is_dir() {
            inputs.push(read_file(argument)?);
            continue;
        }
        let mut files = Vec::new();
        collect(argument, &mut files)?;
        if files.is_empty() {
            let reason = "there is no *.yaml, *.yml or *.json in this directory".to_owned();
            return Err(ReviewFailure::Input { file: argument.display().to_string(), reason });
        }
        for file in files {
            inputs.push(read_file(&file)?);
        }
    }
    Ok(inputs)
}

impl Input {
    fn new(name: String, text: &str) -> Self {
        Self { name, text: text.strip_prefix('\u{feff}').unwrap_or(text).to_owned() }
    }
}

fn read_file(path: &Path) -> Result<Input, ReviewFailure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Input::new(path.display().to_string(), &text)),
        Err(source) => Err(unreadable(path, source)),
    }
}

/// Adds the files of a directory. A link to a file counts as the file; one to a directory is not followed, since it may
/// lead in a circle.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), ReviewFailure> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<_> =
        entries.map_err(|source| unreadable(directory, source))?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if !path.is_symlink() {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known)) {
            files.push(path);
        }
    }
    Ok(())
}

fn unreadable(path: &Path, source: io::Error) -> ReviewFailure {
    ReviewFailure::Unreadable { file: path.display().to_string(), source }
}
