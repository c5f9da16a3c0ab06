//! A volume's directory, changed as the kubelet changes it: all files at once, by swapping a symbolic link.
//!
//! ```text
//! password          -> ..data/password
//! ..data            -> ..1764000000000000000
//! ..1764000000000000000/password
//! ```
//! Source: `pkg/volume/util/atomic_writer.go` of Kubernetes. A watch on `password` itself sees nothing of a swap.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Files by path relative to the volume.
pub(super) type Files = BTreeMap<PathBuf, VolumeFile>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeFile {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

#[derive(Debug)]
pub(super) struct AtomicDirectory {
    path: PathBuf,
    /// What was written last, and into which directory.
    current: Option<(Files, PathBuf)>,
}

impl AtomicDirectory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, current: None }
    }

    /// Makes `files` the content, in one step for a reader that opens them through their links. Nothing is touched when
    /// nothing has changed.
    pub(super) fn write(&mut self, files: Files) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|(current, _)| *current == files) {
            return Ok(());
        }
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = format!("..{nanoseconds}");
        let fresh = self.path.join(&name);
        fs::create_dir_all(&fresh)?;
        for (path, file) in &files {
            write_file(&fresh.join(path), file)?;
        }
        let link = self.path.join("..data_tmp");
        symlink(&name, &link)?;
        fs::rename(&link, self.path.join("..data"))?;
        self.update_links(&files)?;
        if let Some((_, outdated)) = self.current.replace((files, fresh)) {
            fs::remove_dir_all(outdated)?;
        }
        Ok(())
    }

    /// The links that a container sees: one for each first component of a path.
    fn update_links(&self, files: &Files) -> io::Result<()> {
        let wanted = first_components(files);
        let present = self.current.as_ref().map(|(current, _)| first_components(current)).unwrap_or_default();
        for name in wanted.difference(&present) {
            symlink(Path::new("..data").join(name), self.path.join(name))?;
        }
        for name in present.difference(&wanted) {
            fs::remove_file(self.path.join(name))?;
        }
        Ok(())
    }
}

fn first_components(files: &Files) -> BTreeSet<OsString> {
    let firsts = files.keys().filter_map(|path| path.components().next());
    firsts.map(Component::as_os_str).map(OsString::from).collect()
}

fn write_file(path: &Path, file: &VolumeFile) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.content)?;
    // Explicitly, since the process's umask would take bits away.
    fs::set_permissions(path, Permissions::from_mode(file.mode))
}
