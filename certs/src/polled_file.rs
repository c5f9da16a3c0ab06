//! Reads files that somebody else puts into place, again and again, whatever stands there.
//!
//! A pipe, a device or a volume that does not answer costs an error and at most a few threads, never the polling.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;

/// A file of some kilobytes is there at once, or its volume does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Readings that nobody waits for any more, by their file. While one hangs, no other is begun: each keeps a thread.
static HANGING: Mutex<BTreeMap<PathBuf, JoinHandle<io::Result<Vec<u8>>>>> = Mutex::new(BTreeMap::new());

/// The content of a regular file of at most `limit` bytes. Symbolic links are followed.
///
/// # Errors
///
/// When there is none, when it is longer ([`io::ErrorKind::FileTooLarge`]), and when it has not been read within five
/// seconds ([`io::ErrorKind::TimedOut`]). The text does not name the file.
pub async fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let owned = path.to_owned();
    read_with(path, PATIENCE, move || read_regular(&owned, limit)).await
}

async fn read_with(
    path: &Path,
    patience: Duration,
    read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static,
) -> io::Result<Vec<u8>> {
    let no_answer = || {
        let text = format!("it gave no answer within {} s: see to the volume that it is on", PATIENCE.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    };
    let hangs = |hanging: &BTreeMap<_, JoinHandle<_>>| hanging.get(path).is_some_and(|reading| !reading.is_finished());
    if hangs(&HANGING.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Err(no_answer());
    }
    let mut reading = tokio::task::spawn_blocking(read);
    if let Ok(read) = tokio::time::timeout(patience, &mut reading).await {
        return read.unwrap_or_else(|error| Err(io::Error::other(error)));
    }
    HANGING.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), reading);
    Err(no_answer())
}

fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Looked at before it is opened: opening a pipe waits for whoever writes into it.
    if !fs::metadata(path)?.is_file() {
        let text = "it is a directory, a pipe or a device: put a regular file there";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut content = Vec::new();
    // The length that the file system states may be 0 or out of date.
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let text = format!("it is larger than {} KiB: it must be another file", limit / 1024);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command, sync::mpsc};

    use super::*;

    const LIMIT: u64 = 1024;

    #[tokio::test]
    async fn only_regular_files_up_to_the_limit_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        for (name, length) in [("empty", 0), ("full", 1024), ("longer", 1025)] {
            fs::write(place(name), vec![b'x'; length]).unwrap();
        }
        symlink("full", place("link")).unwrap();
        symlink("pipe", place("link-to-pipe")).unwrap();
        assert!(Command::new("mkfifo").arg(place("pipe")).status().unwrap().success());
        let read = async |path: PathBuf| read(&path, LIMIT).await.map(|content| content.len()).map_err(|e| e.kind());
        for (name, expected) in [
            ("empty", Ok(0)),
            ("full", Ok(1024)),
            ("link", Ok(1024)),
            ("longer", Err(io::ErrorKind::FileTooLarge)),
            ("missing", Err(io::ErrorKind::NotFound)),
            ("", Err(io::ErrorKind::InvalidInput)),
            ("pipe", Err(io::ErrorKind::InvalidInput)),
            ("link-to-pipe", Err(io::ErrorKind::InvalidInput)),
            ("/dev/zero", Err(io::ErrorKind::InvalidInput)),
            ("/dev/null", Err(io::ErrorKind::InvalidInput)),
        ] {
            assert_eq!(read(place(name)).await, expected, "{name}");
        }
        // It states a length of 0.
        assert!(read("/proc/self/comm".into()).await.is_ok_and(|length| length > 0));
    }

    #[tokio::test]
    async fn a_volume_that_does_not_answer_costs_one_thread() {
        let path = Path::new("/hanging");
        let (release, released) = mpsc::channel::<()>();
        let hang = move || released.recv().map(|()| Vec::new()).map_err(io::Error::other);
        let kind = |read: io::Result<Vec<u8>>| read.map_err(|error| error.kind());
        assert_eq!(kind(read_with(path, Duration::from_millis(20), hang).await), Err(io::ErrorKind::TimedOut));
        let unread = || panic!("another reading was begun");
        assert_eq!(kind(read_with(path, PATIENCE, unread).await), Err(io::ErrorKind::TimedOut));
        assert_eq!(kind(read_with(Path::new("/other"), PATIENCE, || Ok(vec![1])).await), Ok(vec![1]));
        release.send(()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while kind(read_with(path, PATIENCE, || Ok(vec![2])).await) != Ok(vec![2]) {
            assert!(std::time::Instant::now() < deadline, "it is still taken to hang");
            tokio::task::yield_now().await;
        }
    }
}
