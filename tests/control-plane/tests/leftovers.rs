//! However a process with a control plane ends, no process of the control plane and no file of it stays.
//!
//! The test runs itself a second time as that process, which is why it has a main function of its own.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use control_plane::{ControlPlane, LocalPod, LocalPodOptions};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::PostParams;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;

/// First argument of the process that is to end.
const VICTIM: &str = "--play-the-victim";

/// The guardian gives up on a directory after 10 seconds.
const DEADLINE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    if let Some(way) = std::env::args().skip_while(|argument| argument != VICTIM).nth(1) {
        let runtime = tokio::runtime::Runtime::new().map_err(Into::into);
        if let Err(error) = runtime.and_then(|runtime| runtime.block_on(victim(&way))) {
            // In the place of the directory, so that it is shown.
            drop(writeln!(std::io::stdout(), "{error}"));
        }
        return ExitCode::SUCCESS;
    }
    let trials = ["return", "panic", "abort", "leak", "SIGINT", "SIGTERM", "SIGKILL"]
        .map(|way| Trial::test(format!("nothing_is_left_after_{way}"), move || nothing_is_left_after(way)));
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn nothing_is_left_after(way: &str) -> Result<(), Failed> {
    let mut victim = Command::new(std::env::current_exe()?)
        .args([VICTIM, way])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let directory = announced_directory(&mut victim)?;
    // etcd, kube-apiserver, kube-controller-manager, the pod and its child: else the search would prove nothing.
    until(|| processes_of(&directory).len() == 5)
        .map_err(|()| format!("not the five expected processes: {:?}", processes_of(&directory)))?;
    match way.strip_prefix("SIG") {
        Some(signal) => drop(Command::new("kill").args(["-s", signal, &victim.id().to_string()]).status()?),
        // Lets it go on to its end.
        None => drop(victim.stdin.take()),
    }
    victim.wait()?;

    until(|| processes_of(&directory).is_empty() && !directory.exists()).map_err(|()| {
        let exists = directory.exists();
        format!("left: {:?}, {} exists: {exists}", processes_of(&directory), directory.display()).into()
    })
}

fn until(condition: impl Fn() -> bool) -> Result<(), ()> {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        if Instant::now() > deadline {
            return Err(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The victim says where its directory is once everything runs.
fn announced_directory(victim: &mut Child) -> Result<PathBuf, Failed> {
    let mut line = String::new();
    let output = victim.stdout.as_mut().ok_or("the victim has no output")?;
    BufReader::new(output).read_line(&mut line)?;
    let directory = PathBuf::from(line.trim_end());
    if directory.is_dir() { Ok(directory) } else { Err(format!("the victim said `{line}`").into()) }
}

/// Command lines of the processes that have the directory in their command line or environment.
fn processes_of(directory: &Path) -> Vec<String> {
    let needle = directory.to_string_lossy().into_owned();
    let read = |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace('\0', " ");
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    processes
        .filter_map(|process| {
            let command_line = read(process.path().join("cmdline"));
            let environment = read(process.path().join("environ"));
            (command_line.contains(&needle) || environment.contains(&needle)).then_some(command_line)
        })
        .collect()
}

/// Starts a control plane with a pod, announces it, waits for its input to close and ends in the given way.
#[expect(clippy::panic, reason = "one of the ways to end")]
async fn victim(way: &str) -> Result<(), Box<dyn Error>> {
    let control_plane = ControlPlane::builder().controller_manager(true).start().await?;
    let pod = pod_with_a_child(&control_plane).await?;
    writeln!(std::io::stdout(), "{}", control_plane.directory().display())?;
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    match way {
        "panic" => panic!("as told"),
        "abort" => std::process::abort(),
        "leak" => std::mem::forget((control_plane, pod)),
        _ => {}
    }
    Ok(())
}

async fn pod_with_a_child(control_plane: &ControlPlane) -> Result<LocalPod, Box<dyn Error>> {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "sleeper"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "sleeper"}}, "template": {
            "metadata": {"labels": {"app": "sleeper"}},
            "spec": {"containers": [{"name": "sh", "image": "sh", "args": ["-c", "sleep 1000 & wait"]}]},
        }},
    }))?;
    let deployments = Api::<Deployment>::namespaced(control_plane.client(), "default");
    deployments.create(&PostParams::default(), &deployment).await?;
    let options = LocalPodOptions::new("/bin/sh", control_plane.new_pod_address());
    Ok(LocalPod::start(control_plane, "default", "sleeper", options).await?)
}
