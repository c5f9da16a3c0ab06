//! Files that hold credentials: a mounted Secret, a CSI volume, a projected token.

use std::{
    io,
    path::{Path, PathBuf},
};

use certs::polled_file;

/// A password, a user name, a certificate or a token is far shorter; anything longer is the wrong file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Why a file cannot be used. The text names it and what to do, never its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// There is none.
    #[error("{} does not exist; is the Secret there, and does it have that key?", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("{} cannot be read: {reason}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It has more than 64 KiB.
    #[error("{} is larger than a credential can be", .0.display())]
    TooLarge(PathBuf),
    /// It is not UTF-8.
    #[error("{} is not text in UTF-8", .0.display())]
    NotText(PathBuf),
    /// Nothing is in it.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// It holds more than one value.
    #[error("{} has more than one line", .0.display())]
    Lines(PathBuf),
}

/// The text of a file without the line end that editors and `kubectl create secret --from-file` leave behind, and without the
/// byte order mark with which PowerShell begins a file.
pub async fn read_line(path: &Path) -> Result<String, FileError> {
    let text = String::from_utf8(read_bytes(path).await?).map_err(|_| FileError::NotText(path.to_owned()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(FileError::Empty(path.to_owned()));
    }
    if text.contains(['\r', '\n', '\0']) {
        return Err(FileError::Lines(path.to_owned()));
    }
    Ok(text.to_owned())
}

/// The bytes of a file.
pub async fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    polled_file::read(path, MAX_FILE_BYTES).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Missing(path.to_owned()),
        io::ErrorKind::FileTooLarge => FileError::TooLarge(path.to_owned()),
        _ => FileError::Unreadable { path: path.to_owned(), reason: error.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_programs_put_around_a_line_is_no_part_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let found = async |content: &str| {
            std::fs::write(&path, content).unwrap();
            read_line(&path).await
        };
        for content in ["secret", "secret\n", "secret\r\n", "\u{feff}secret\r\n"] {
            assert_eq!(found(content).await.as_deref(), Ok("secret"), "{content:?}");
        }
        for content in ["", "\r\n", "\u{feff}", "\u{feff}\r\n"] {
            assert_eq!(found(content).await, Err(FileError::Empty(path.clone())), "{content:?}");
        }
    }
}
