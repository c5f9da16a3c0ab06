//! The programs of Kubernetes, in the pinned version or in another that `K8S_VERSION` asks for.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::go::{self, Recipe};
use super::{ProgramError, Workbench, cache, pinned_module};
use crate::version::{KubernetesVersion, VersionRequest};

pub(super) const API_SERVER: &str = "kube-apiserver";
pub(super) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(super) const ALL: [&str; 2] = [API_SERVER, CONTROLLER_MANAGER];

const MODULE: &str = "k8s.io/kubernetes";
const PACKAGES: [(&str, &str); 2] = [
    (API_SERVER, "k8s.io/kubernetes/cmd/kube-apiserver"),
    (CONTROLLER_MANAGER, "k8s.io/kubernetes/cmd/kube-controller-manager"),
];

/// The directory that holds the named programs, which are built if needed.
pub(super) fn programs(
    workbench: &Workbench,
    request: Option<VersionRequest>,
    names: &[&str],
) -> Result<PathBuf, ProgramError> {
    let pinned_directory = pinned_module("kubernetes");
    let pinned: KubernetesVersion = go::required_version(&pinned_directory, MODULE)?.parse()?;
    let version = match request {
        Some(request) if !request.accepts(pinned) => chosen(workbench, request, names)?,
        _ => pinned,
    };
    let tag = version.tag();
    let recipe = Recipe {
        product: "kubernetes",
        linker_flags: format!(
            "-s -w -X k8s.io/component-base/version.gitVersion={tag} -X k8s.io/component-base/version.gitMajor={} -X \
             k8s.io/component-base/version.gitMinor={}",
            version.major, version.minor
        ),
        version: tag,
        generated: version != pinned,
        packages: PACKAGES.into_iter().filter(|(program, _)| names.contains(program)).collect(),
        expected: "about 5 to 10 minutes",
    };
    let module = || if recipe.generated { generate_module(workbench, version) } else { Ok(pinned_directory) };
    cache::installed(workbench, &recipe, module)
}

/// The newest version that meets the request: among those already built, else among those that the module proxy serves.
fn chosen(workbench: &Workbench, request: VersionRequest, names: &[&str]) -> Result<KubernetesVersion, ProgramError> {
    if let VersionRequest::Exact(version) = request {
        return Ok(version);
    }
    let built = cache::versions(workbench, "kubernetes").into_iter().filter(|version| {
        cache::directory(workbench, "kubernetes", version)
            .is_ok_and(|directory| names.iter().all(|name| directory.join(name).is_file()))
    });
    if let Some(version) = newest(built, request) {
        return Ok(version);
    }
    let served = go::run(workbench, "kubernetes", &["list", "-m", "-versions", MODULE])?;
    let served = || served.split_whitespace().skip(1).map(str::to_owned);
    newest(served(), request).ok_or_else(|| ProgramError::VersionNotServed {
        request: request.to_string(),
        known: served().filter(|version| !version.contains('-')).collect::<Vec<_>>().join(", "),
    })
}

fn newest(versions: impl Iterator<Item = String>, request: VersionRequest) -> Option<KubernetesVersion> {
    versions
        .filter(|version| !version.contains('-'))
        .filter_map(|version| version.parse().ok())
        .filter(|version| request.accepts(*version))
        .max()
}

/// Writes a go.mod for that version. The go.mod of Kubernetes asks for v0.0.0 of its staging modules, which nobody
/// serves; they are published as v0.<minor>.<patch>.
fn generate_module(workbench: &Workbench, version: KubernetesVersion) -> Result<PathBuf, ProgramError> {
    let directory = cache::directory(workbench, "kubernetes", &version.tag())?.join("module");
    fs::create_dir_all(&directory).map_err(|source| cache::failure(&directory, source))?;
    let download =
        go::run(workbench, "kubernetes", &["mod", "download", "-json", &format!("{MODULE}@{}", version.tag())])?;
    let download: serde_json::Value = serde_json::from_str(&download).unwrap_or_default();
    let upstream = PathBuf::from(download["GoMod"].as_str().unwrap_or_default());
    let upstream = fs::read_to_string(&upstream).map_err(|source| cache::failure(&upstream, source))?;
    let write = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).map_err(|source| cache::failure(&path, source))
    };
    write("go.mod", &module_for(version, &upstream))?;
    Ok(directory)
}

fn module_for(version: KubernetesVersion, upstream: &str) -> String {
    let mut module = "module acr-pull-injector.io/control-plane/kubernetes\n\n".to_owned();
    for line in upstream.lines().filter(|line| line.starts_with("go ") || line.starts_with("godebug ")) {
        let _ = writeln!(module, "{line}\n");
    }
    let _ = writeln!(module, "require {MODULE} {}\n\nreplace (", version.tag());
    for staging in staging_modules(upstream) {
        let _ = writeln!(module, "\t{staging} => {staging} v0.{}.{}", version.minor, version.patch);
    }
    module.push_str(")\n");
    module
}

/// Named by a `replace k8s.io/X => ./staging/...` line or by a requirement of v0.0.0.
fn staging_modules(upstream: &str) -> BTreeSet<&str> {
    let words =
        upstream.lines().map(|line| line.split_whitespace().skip_while(|word| matches!(*word, "replace" | "require")));
    words
        .filter_map(|mut words| {
            let (module, next, target) = (words.next()?, words.next()?, words.next());
            let replaced = next == "=>" && target.is_some_and(|target| target.starts_with("./staging/"));
            (replaced || next == "v0.0.0").then_some(module)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &str = "module k8s.io/kubernetes\n\ngo 1.24.0\n\ngodebug default=go1.24\n\nrequire (\n\tgo.uber.org/zap \
                            v1.27.0\n\tk8s.io/api v0.0.0\n\tk8s.io/utils v0.0.0-2025 // indirect\n)\n\nreplace (\n\t\
                            k8s.io/kms => ./staging/src/k8s.io/kms\n)\n";

    #[test]
    fn staging_modules_are_replaced_by_their_published_versions() {
        let module = module_for("v1.34.4".parse().unwrap(), UPSTREAM);
        assert!(module.contains("go 1.24.0\n"), "{module}");
        assert!(module.contains("godebug default=go1.24\n"), "{module}");
        assert!(module.contains("require k8s.io/kubernetes v1.34.4\n"), "{module}");
        assert!(module.contains("\tk8s.io/api => k8s.io/api v0.34.4\n"), "{module}");
        assert!(module.contains("\tk8s.io/kms => k8s.io/kms v0.34.4\n"), "{module}");
        assert!(!module.contains("utils"), "{module}");
    }

    #[test]
    fn the_newest_patch_of_a_minor_is_chosen_by_number() {
        let served = || ["v1.34.9", "v1.34.10", "v1.34.11-rc.0", "v1.35.4"].into_iter().map(str::to_owned);
        let newest_34 = newest(served(), "1.34".parse().unwrap()).unwrap();
        assert_eq!(newest_34.tag(), "v1.34.10");
        assert_eq!(newest(served(), "1.33".parse().unwrap()), None);
    }
}
