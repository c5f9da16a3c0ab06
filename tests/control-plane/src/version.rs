//! Kubernetes versions: one that runs, and one that is asked for.

use std::fmt;
use std::str::FromStr;

/// A Kubernetes release such as v1.36.3. Shown as `1.36`, the part that decides about features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KubernetesVersion {
    /// Always 1 so far.
    pub major: u32,
    /// The release line: 36 in v1.36.3.
    pub minor: u32,
    /// The patch of that line: 3 in v1.36.3.
    pub patch: u32,
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

impl KubernetesVersion {
    /// As a git tag and Go module version: `v1.36.3`.
    #[must_use]
    pub fn tag(&self) -> String {
        format!("v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The text is not a version such as `v1.36.3`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a Kubernetes version: write 1.34, v1.34 or v1.34.4")]
pub struct InvalidVersion(String);

impl FromStr for KubernetesVersion {
    type Err = InvalidVersion;

    /// Reads `v1.36.3`, with or without the `v`; a vendor's suffix (`-eks-1234`, `+k3s1`) is ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse()? {
            VersionRequest::Exact(version) => Ok(version),
            VersionRequest::NewestPatch { .. } => Err(InvalidVersion(text.to_owned())),
        }
    }
}

/// What `K8S_VERSION` may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionRequest {
    /// `v1.34.4`
    Exact(KubernetesVersion),
    /// `1.34`
    NewestPatch { major: u32, minor: u32 },
}

impl VersionRequest {
    pub(crate) fn accepts(self, version: KubernetesVersion) -> bool {
        match self {
            Self::Exact(exact) => exact == version,
            Self::NewestPatch { major, minor } => (major, minor) == (version.major, version.minor),
        }
    }
}

impl fmt::Display for VersionRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(version) => formatter.write_str(&version.tag()),
            Self::NewestPatch { major, minor } => write!(formatter, "v{major}.{minor}"),
        }
    }
}

impl FromStr for VersionRequest {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidVersion(text.to_owned());
        let release = text.trim().trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
        let numbers = release.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().map_err(|_| invalid())?;
        match numbers[..] {
            [major, minor] => Ok(Self::NewestPatch { major, minor }),
            [major, minor, patch] => Ok(Self::Exact(KubernetesVersion { major, minor, patch })),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_people_write_them() {
        let exact = KubernetesVersion { major: 1, minor: 34, patch: 4 };
        for text in ["v1.34.4", "1.34.4", " v1.34.4\n", "v1.34.4-eks-1-34-2", "v1.34.4+k3s1"] {
            assert_eq!(text.parse(), Ok(VersionRequest::Exact(exact)), "{text}");
        }
        for text in ["1.34", "v1.34"] {
            assert_eq!(text.parse(), Ok(VersionRequest::NewestPatch { major: 1, minor: 34 }), "{text}");
        }
        for text in ["", "1", "latest", "1.34.x", "1.2.3.4"] {
            assert!(text.parse::<VersionRequest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_minor_is_not_a_whole_version() {
        assert!("1.34".parse::<KubernetesVersion>().is_err());
    }
}
