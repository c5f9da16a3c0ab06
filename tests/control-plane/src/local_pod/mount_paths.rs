//! A local process sees the machine's file system, so the paths of mounts are replaced wherever the pod names them.

use std::path::{Path, PathBuf};

/// Paths in the container and the local directories that stand for them.
#[derive(Debug, Clone, Default)]
pub(super) struct MountPaths {
    /// Longest first, so that the innermost mount wins.
    paths: Vec<(String, PathBuf)>,
}

impl MountPaths {
    pub(super) fn new(paths: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        let paths = paths.into_iter().map(|(path, local)| (path.trim_end_matches('/').to_owned(), local));
        let mut paths: Vec<_> = paths.filter(|(path, _)| !path.is_empty()).collect();
        paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self { paths }
    }

    /// The local directory that is mounted at exactly this path.
    pub(super) fn local(&self, mount_path: &str) -> Option<&Path> {
        self.paths.iter().find(|(path, _)| path == mount_path).map(|(_, local)| local.as_path())
    }

    /// The text with the paths of all mounts replaced. Only whole path components count: `/etc/config` is not in
    /// `/etc/config-backup` or `/var/etc/config`.
    pub(super) fn localise(&self, text: &str) -> String {
        let mut localised = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(slash) = rest.find('/') {
            let (before, path) = rest.split_at(slash);
            localised.push_str(before);
            let starts_here = !localised.ends_with(is_path_character);
            let found = self.paths.iter().find(|(mount, _)| {
                starts_here
                    && path.strip_prefix(mount.as_str()).is_some_and(|after| !after.starts_with(is_name_character))
            });
            if let Some((mount, local)) = found {
                localised.push_str(&local.to_string_lossy());
                rest = path.get(mount.len()..).unwrap_or_default();
            } else {
                localised.push('/');
                rest = path.get(1..).unwrap_or_default();
            }
        }
        localised.push_str(rest);
        localised
    }
}

fn is_name_character(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '.' | '_' | '-')
}

fn is_path_character(character: char) -> bool {
    character == '/' || is_name_character(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_components_of_mounted_paths_are_replaced() {
        let mounts = MountPaths::new([
            ("/etc/app".to_owned(), PathBuf::from("/tmp/x/config")),
            ("/etc/app/keys/".to_owned(), PathBuf::from("/tmp/x/keys")),
            ("/tmp".to_owned(), PathBuf::from("/tmp/x/scratch")),
        ]);
        for (text, expected) in [
            ("--config=/etc/app/config.yaml", "--config=/tmp/x/config/config.yaml"),
            ("/etc/app", "/tmp/x/config"),
            ("/etc/app/keys/a,/etc/app/b", "/tmp/x/keys/a,/tmp/x/config/b"),
            ("/etc/app-backup /var/etc/app", "/etc/app-backup /var/etc/app"),
            ("file: \"/tmp/a\"\nurl: https://etc/app", "file: \"/tmp/x/scratch/a\"\nurl: https://etc/app"),
            ("no path", "no path"),
        ] {
            assert_eq!(mounts.localise(text), expected);
        }
    }
}
