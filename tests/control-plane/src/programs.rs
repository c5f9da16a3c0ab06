//! Where the binaries come from: `KUBEBUILDER_ASSETS`, else the cache, else a build by Go from pinned modules.

mod cache;
mod go;
mod kubernetes;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::Environment;
use crate::progress::Progress;
use crate::version::{InvalidVersion, KubernetesVersion, VersionRequest};

use go::Recipe;

/// A binary could not be found or made.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Neither a cache directory nor a home directory is known.
    #[error("no place to keep built programs: set ACR_PULL_INJECTOR_CACHE to a directory (or HOME)")]
    NoCacheDirectory,
    /// The cache cannot be read or written.
    #[error("cannot use the cache at {}: check that it is writable, or set ACR_PULL_INJECTOR_CACHE", path.display())]
    Cache {
        /// The file or directory in question.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `KUBEBUILDER_ASSETS` lacks a program that cannot be taken from elsewhere.
    #[error(
        "KUBEBUILDER_ASSETS has no usable {}: let it name a directory with etcd and kube-apiserver, or unset it to \
         have them built",
        path.display()
    )]
    AssetMissing {
        /// Where the program was expected.
        path: PathBuf,
    },
    /// Go is not installed.
    #[error(
        "{product} must be built once, and there is no `go` on PATH: install Go >= {required} (https://go.dev/dl), or \
         set KUBEBUILDER_ASSETS to a directory that holds etcd, kube-apiserver, kube-controller-manager and helm, for \
         tests that pull also registry and crane"
    )]
    GoMissing {
        /// What was to be built.
        product: &'static str,
        /// The oldest Go that can build it.
        required: String,
    },
    /// Go is too old and does not fetch a newer one by itself.
    #[error(
        "{product} needs Go >= {required}, and this machine has {found}: install a newer Go (https://go.dev/dl), set \
         GOTOOLCHAIN=auto, or set KUBEBUILDER_ASSETS to a directory that holds etcd, kube-apiserver, \
         kube-controller-manager and helm, for tests that pull also registry and crane"
    )]
    GoTooOld {
        /// What was to be built.
        product: &'static str,
        /// The oldest Go that can build it.
        required: String,
        /// What Go says about itself.
        found: String,
    },
    /// Prometheus is not installed.
    #[error(
        "there is no `prometheus` on PATH or in the cache: install it (apt-get install prometheus), or run \
         .ci/prometheus, which unpacks that package into the cache without installing it"
    )]
    PrometheusMissing,
    /// A go command failed.
    #[error("`{command}` failed:\n{output}")]
    Go {
        /// The command line, shortened.
        command: String,
        /// The end of what it wrote.
        output: String,
    },
    /// The module proxy has no such Kubernetes version.
    #[error(
        "K8S_VERSION asks for Kubernetes {request}, which the Go module proxy does not have: choose one of {known}"
    )]
    VersionNotServed {
        /// What was asked for.
        request: String,
        /// The newest versions that are served.
        known: String,
    },
    /// `K8S_VERSION` is not a version.
    #[error("K8S_VERSION: {0}")]
    InvalidVersion(#[from] InvalidVersion),
    /// The pinned module files do not name the version of their program.
    #[error("{} does not require {module}: restore it", path.display())]
    Pin {
        /// The go.mod file.
        path: PathBuf,
        /// The module whose version was looked for.
        module: &'static str,
    },
}

/// All binaries of a control plane.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) etcd: PathBuf,
    pub(crate) api_server: PathBuf,
    pub(crate) controller_manager: Option<PathBuf>,
    pub(crate) helm: PathBuf,
    /// What `K8S_VERSION` asks for. Binaries from `KUBEBUILDER_ASSETS` may differ.
    pub(crate) requested: Option<VersionRequest>,
}

/// What is known while programs are looked for and built.
#[derive(Debug)]
pub(crate) struct Workbench {
    pub(crate) environment: Environment,
    pub(crate) progress: Progress,
}

impl Workbench {
    /// Finds or builds all programs. Blocks, for minutes when something is to be built.
    pub(crate) fn programs(&self, controller_manager: bool) -> Result<Programs, ProgramError> {
        let requested = self.environment.kubernetes_version.as_ref().map(|version| version.parse()).transpose()?;
        let Some(assets) = &self.environment.assets else {
            let directory = kubernetes::programs(self, requested, &kubernetes::ALL)?;
            return Ok(Programs {
                etcd: self.etcd()?,
                api_server: directory.join(kubernetes::API_SERVER),
                controller_manager: controller_manager.then(|| directory.join(kubernetes::CONTROLLER_MANAGER)),
                helm: self.helm()?,
                requested,
            });
        };
        let etcd = asset(assets, "etcd")?;
        let api_server = asset(assets, kubernetes::API_SERVER)?;
        let controller_manager = controller_manager.then(|| self.controller_manager_beside(assets, &api_server));
        let controller_manager = controller_manager.transpose()?;
        Ok(Programs { etcd, api_server, controller_manager, helm: self.helm()?, requested })
    }

    /// The pinned helm, or the one in `KUBEBUILDER_ASSETS` if it holds one.
    pub(crate) fn helm(&self) -> Result<PathBuf, ProgramError> {
        if let Some(helm) = self.optional_asset("helm") {
            return Ok(helm);
        }
        let module_directory = pinned_module("helm");
        let version = go::required_version(&module_directory, "helm.sh/helm/v3")?;
        let recipe = Recipe {
            product: "helm",
            linker_flags: format!("-s -w -X helm.sh/helm/v3/internal/version.version={version}"),
            version,
            generated: false,
            packages: vec![("helm", "helm.sh/helm/v3/cmd/helm")],
            expected: "about 2 minutes",
        };
        Ok(cache::installed(self, &recipe, || Ok(module_directory))?.join("helm"))
    }

    /// The pinned registry of the distribution project, or the one in `KUBEBUILDER_ASSETS` if it holds one.
    pub(crate) fn registry(&self) -> Result<PathBuf, ProgramError> {
        if let Some(registry) = self.optional_asset("registry") {
            return Ok(registry);
        }
        let module_directory = pinned_module("registry");
        let version = go::required_version(&module_directory, "github.com/distribution/distribution/v3")?;
        let recipe = Recipe {
            product: "registry",
            linker_flags: format!("-s -w -X github.com/distribution/distribution/v3/version.version={version}"),
            version,
            generated: false,
            packages: vec![("registry", "github.com/distribution/distribution/v3/cmd/registry")],
            expected: "about 3 minutes",
        };
        Ok(cache::installed(self, &recipe, || Ok(module_directory))?.join("registry"))
    }

    /// The pinned crane, a client of registries, or the one in `KUBEBUILDER_ASSETS` if it holds one.
    pub(crate) fn crane(&self) -> Result<PathBuf, ProgramError> {
        if let Some(crane) = self.optional_asset("crane") {
            return Ok(crane);
        }
        let module_directory = pinned_module("crane");
        let recipe = Recipe {
            product: "crane",
            version: go::required_version(&module_directory, "github.com/google/go-containerregistry")?,
            linker_flags: "-s -w".to_owned(),
            generated: false,
            packages: vec![("crane", "github.com/google/go-containerregistry/cmd/crane")],
            expected: "less than 1 minute",
        };
        Ok(cache::installed(self, &recipe, || Ok(module_directory))?.join("crane"))
    }

    fn optional_asset(&self, name: &str) -> Option<PathBuf> {
        self.environment.assets.as_ref().and_then(|assets| asset(assets, name).ok())
    }

    fn etcd(&self) -> Result<PathBuf, ProgramError> {
        let module_directory = pinned_module("etcd");
        let recipe = Recipe {
            product: "etcd",
            version: go::required_version(&module_directory, "go.etcd.io/etcd/server/v3")?,
            linker_flags: "-s -w".to_owned(),
            generated: false,
            packages: vec![("etcd", "go.etcd.io/etcd/server/v3")],
            expected: "about 1 minute",
        };
        Ok(cache::installed(self, &recipe, || Ok(module_directory))?.join("etcd"))
    }

    /// envtest's archives hold no controller manager: then one of the same minor version is built.
    fn controller_manager_beside(&self, assets: &Path, api_server: &Path) -> Result<PathBuf, ProgramError> {
        if let Ok(program) = asset(assets, kubernetes::CONTROLLER_MANAGER) {
            return Ok(program);
        }
        let missing = || ProgramError::AssetMissing { path: api_server.to_owned() };
        let answer = Command::new(api_server).arg("--version").output().map_err(|_| missing())?;
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        let version: KubernetesVersion =
            answer.split_whitespace().next_back().and_then(|version| version.parse().ok()).ok_or_else(missing)?;
        self.progress.say(&format!(
            "KUBEBUILDER_ASSETS has no kube-controller-manager: using one that Go builds for Kubernetes {version}"
        ));
        let request = VersionRequest::NewestPatch { major: version.major, minor: version.minor };
        let directory = kubernetes::programs(self, Some(request), &[kubernetes::CONTROLLER_MANAGER])?;
        Ok(directory.join(kubernetes::CONTROLLER_MANAGER))
    }
}

fn asset(assets: &Path, name: &str) -> Result<PathBuf, ProgramError> {
    let path = assets.join(name);
    if path.is_file() { Ok(path) } else { Err(ProgramError::AssetMissing { path }) }
}

/// The directory of a go.mod that this crate brings along.
fn pinned_module(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(name)
}
