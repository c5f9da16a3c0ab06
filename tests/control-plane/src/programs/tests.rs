//! Finding and building, with a shell script in the place of Go.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

/// Writes down how it is called, and "builds" by writing a file where -o points to.
const WORKING_GO: &str = r#"
echo "$*" >> "$(dirname "$0")/calls"
case $1 in
env) echo go1.26.8 ;;
build)
  while [ "$1" != -o ]; do shift; done
  echo example.com/compiled >&2
  sleep 0.3
  case $3-$4 in
  *-) echo built > "$2" ;;
  *) for package in "$3" "$4"; do echo built > "$2/${package##*/}"; done ;;
  esac ;;
esac
"#;

#[test]
fn what_is_missing_is_built_once_although_two_ask_at_the_same_time() {
    let bench = Bench::with_go(WORKING_GO);
    let both = std::thread::scope(|scope| {
        let both = [scope.spawn(|| bench.workbench.programs(true)), scope.spawn(|| bench.workbench.programs(true))];
        both.map(|one| one.join().unwrap().unwrap())
    });
    for programs in both {
        let controller_manager = programs.controller_manager.as_ref().unwrap();
        for program in [&programs.etcd, &programs.api_server, controller_manager, &programs.helm] {
            assert_eq!(fs::read_to_string(program).unwrap(), "built\n", "{}", program.display());
        }
        assert!(programs.api_server.to_string_lossy().contains("/kubernetes-v1."), "{programs:?}");
    }
    let builds = bench.calls().lines().filter(|call| call.starts_with("build")).count();
    assert_eq!(builds, 3, "kubernetes, etcd and helm: {}", bench.calls());
    let told = bench.told();
    assert!(told.contains("about 5 to 10 minutes, once"), "{told}");
    assert!(!told.contains("waiting"), "{told}");
}

#[test]
fn a_build_of_another_process_is_waited_for() {
    let bench = Bench::with_go(WORKING_GO);
    let version = go::required_version(&pinned_module("helm"), "helm.sh/helm/v3").unwrap();
    let cache = bench.directory.path().join(format!("cache/helm-{version}"));
    fs::create_dir_all(&cache).unwrap();
    // Locks belong to open files, so that this one is as good as another process's.
    let lock = fs::File::create(cache.join(".lock")).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let helm = scope.spawn(|| bench.workbench.helm());
        let deadline = Instant::now() + Duration::from_secs(20);
        while !bench.told().contains(&format!("waiting for another process that builds helm {version}")) {
            assert!(Instant::now() < deadline, "{}", bench.told());
            std::thread::sleep(Duration::from_millis(10));
        }
        script(&cache, "helm", "echo made by the other process");
        lock.unlock().unwrap();
        assert_eq!(helm.join().unwrap().unwrap(), cache.join("helm"));
    });
    assert_eq!(bench.calls(), "", "it built what was there already");
}

#[test]
fn a_failed_build_says_what_go_said_and_leaves_no_program() {
    let bench = Bench::with_go("case $1 in env) echo go1.26.8 ;; *) echo 'no space left' >&2; exit 1 ;; esac");
    let error = bench.workbench.helm().unwrap_err().to_string();
    assert!(error.contains("`go build helm v3.") && error.contains("no space left"), "{error}");
    assert!(matches!(bench.workbench.helm(), Err(ProgramError::Go { .. })), "the failed program was found");
}

#[test]
fn without_go_or_with_an_old_one_the_remedy_is_named() {
    let bench = Bench::without_go();
    let error = bench.workbench.programs(false).unwrap_err().to_string();
    assert!(error.contains("install Go >= 1.26") && error.contains("KUBEBUILDER_ASSETS"), "{error}");

    let bench = Bench::with_go("echo go1.20.1");
    let error = bench.workbench.programs(false).unwrap_err().to_string();
    assert!(error.contains("needs Go >= 1.26.0") && error.contains("has go1.20.1"), "{error}");

    let bench =
        Bench::with_go("echo 'go.mod requires go >= 1.26.0 (running go 1.25.1; GOTOOLCHAIN=local)' >&2; exit 1");
    let error = bench.workbench.programs(false).unwrap_err().to_string();
    assert!(error.contains("running go 1.25.1") && error.contains("GOTOOLCHAIN=auto"), "{error}");
}

#[test]
fn assets_are_taken_as_they_are_and_need_no_go() {
    let mut bench = Bench::without_go();
    let assets = bench.directory.path().join("assets");
    bench.workbench.environment.assets = Some(assets.clone());
    let error = bench.workbench.programs(true).unwrap_err().to_string();
    assert!(error.contains(&format!("{}/etcd", assets.display())), "{error}");

    for program in ["etcd", "kube-apiserver", "kube-controller-manager", "helm"] {
        script(&assets, program, "");
    }
    let programs = bench.workbench.programs(true).unwrap();
    assert_eq!(programs.controller_manager, Some(assets.join("kube-controller-manager")));
    assert_eq!(programs.helm, assets.join("helm"));

    for program in ["registry", "crane"] {
        script(&assets, program, "");
    }
    assert_eq!(bench.workbench.registry().unwrap(), assets.join("registry"));
    assert_eq!(bench.workbench.crane().unwrap(), assets.join("crane"));
}

#[test]
fn a_registry_and_its_client_are_built_for_those_who_ask_for_them() {
    let bench = Bench::with_go(WORKING_GO);
    bench.workbench.programs(true).unwrap();
    assert!(!bench.calls().contains("registry") && !bench.calls().contains("crane"), "{}", bench.calls());
    for (program, directory) in
        [(bench.workbench.registry().unwrap(), "/registry-v3."), (bench.workbench.crane().unwrap(), "/crane-v0.")]
    {
        assert_eq!(fs::read_to_string(&program).unwrap(), "built\n", "{}", program.display());
        assert!(program.to_string_lossy().contains(directory), "{}", program.display());
    }
}

#[test]
fn a_controller_manager_is_built_for_assets_that_lack_it() {
    let mut bench = Bench::with_go(WORKING_GO);
    let assets = bench.directory.path().join("assets");
    for program in ["etcd", "helm"] {
        script(&assets, program, "");
    }
    let pinned = go::required_version(&pinned_module("kubernetes"), "k8s.io/kubernetes").unwrap();
    script(&assets, "kube-apiserver", &format!("echo Kubernetes {pinned}"));
    bench.workbench.environment.assets = Some(assets.clone());
    let programs = bench.workbench.programs(true).unwrap();
    assert_eq!(programs.api_server, assets.join("kube-apiserver"));
    assert!(programs.controller_manager.unwrap().ends_with(format!("kubernetes-{pinned}/kube-controller-manager")));
    assert!(bench.told().contains("KUBEBUILDER_ASSETS has no kube-controller-manager"), "{}", bench.told());
    assert!(!bench.calls().contains("cmd/kube-apiserver"), "{}", bench.calls());
}

#[test]
fn a_version_that_nobody_serves_is_answered_with_those_that_are() {
    let go = "case $1 in list) echo k8s.io/kubernetes v1.34.4 v1.35.0-rc.0 v1.35.4 ;; *) exit 1 ;; esac";
    let mut bench = Bench::with_go(go);
    bench.workbench.environment.kubernetes_version = Some("1.33".to_owned());
    let error = bench.workbench.programs(false).unwrap_err().to_string();
    assert!(error.contains("Kubernetes v1.33") && error.ends_with("choose one of v1.34.4, v1.35.4"), "{error}");
}

struct Bench {
    directory: TempDir,
    workbench: Workbench,
    told: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn with_go(body: &str) -> Self {
        let bench = Self::without_go();
        script(&bench.directory.path().join("bin"), "go", body);
        bench
    }

    fn without_go() -> Self {
        let directory = TempDir::new().unwrap();
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for tool in ["dirname", "sleep"] {
            let found =
                ["/usr/bin", "/bin"].map(|place| Path::new(place).join(tool)).into_iter().find(|path| path.exists());
            std::os::unix::fs::symlink(found.unwrap(), bin.join(tool)).unwrap();
        }
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&told);
        let environment = Environment {
            assets: None,
            kubernetes_version: None,
            cache: Some(directory.path().join("cache")),
            path: bin.into_os_string(),
        };
        let progress = Progress::to(move |line| listener.lock().unwrap().push(line.to_owned()));
        Self { directory, workbench: Workbench { environment, progress }, told }
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.directory.path().join("bin/calls")).unwrap_or_default()
    }

    fn told(&self) -> String {
        self.told.lock().unwrap().join("\n")
    }
}

fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
    fs::create_dir_all(directory).unwrap();
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
