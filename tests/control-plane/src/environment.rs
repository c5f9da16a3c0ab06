//! The only reader of the environment in this crate.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the environment says about where programs come from.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    /// `KUBEBUILDER_ASSETS`: a directory of ready-made programs, the convention of controller-runtime's envtest.
    pub(crate) assets: Option<PathBuf>,
    /// `K8S_VERSION`: the Kubernetes version that the user asks for, as written.
    pub(crate) kubernetes_version: Option<String>,
    /// Where built programs are kept between runs: `ACR_PULL_INJECTOR_CACHE`, else the user's cache directory.
    pub(crate) cache: Option<PathBuf>,
    /// `PATH`, on which `go` is looked for.
    pub(crate) path: OsString,
}

impl Environment {
    pub(crate) fn read() -> Self {
        let cache = not_empty("ACR_PULL_INJECTOR_CACHE")
            .map(PathBuf::from)
            .or_else(|| not_empty("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("acr-pull-injector")))
            .or_else(|| not_empty("HOME").map(|home| PathBuf::from(home).join(".cache/acr-pull-injector")));
        Self {
            assets: not_empty("KUBEBUILDER_ASSETS").map(PathBuf::from),
            kubernetes_version: not_empty("K8S_VERSION").map(|version| version.to_string_lossy().into_owned()),
            cache: cache.map(|cache| cache.join("control-plane")),
            path: search_path(),
        }
    }
}

/// `PATH` of this process, also for programs that are started with an otherwise empty environment.
pub(crate) fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())
}

fn not_empty(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
