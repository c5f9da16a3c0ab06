//! Nobody takes what a replica logs, or nothing can be written at all. What fails then is the log and nothing else.

use std::{
    fs::{File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use control_plane::{LocalPod, LocalPodOptions};
use installation::RELEASE;

use crate::{
    load::Load,
    progress::say,
    replicas::failed_open_calls,
    world::{Error, World, expect, expect_equal, get},
};

const LOAD_FOR: Duration = Duration::from_secs(8);

/// Three replicas serve: one whose disk is full, one whose log nobody reads, one whose reader is gone.
pub async fn a_log_that_takes_nothing_holds_up_no_pod(world: Arc<World>) -> Result<(), Error> {
    let (unread, full) = named_pipe(&world, "unread")?;
    // Fills it now, and waits for a reader until this program ends.
    std::thread::spawn(move || std::io::copy(&mut std::io::repeat(b'\n'), &mut { full }));
    let (gone, leaving) = named_pipe(&world, "gone")?;
    let mut pods = Vec::new();
    for log in [Path::new("/dev/full"), &unread, &gone] {
        pods.push(start(&world, log).await?);
    }
    drop(leaving);
    serve_alone(&world, &pods).await?;
    let mut dropped = Vec::new();
    for pod in &pods {
        let admin = pod.port("admin").ok_or("no such port")?.to_string();
        let metrics = get(&admin, "/metrics").await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("acr_pull_injector_log_lines_dropped_total "));
        dropped.push(line.ok_or("dropped lines are not counted")?.parse::<u64>()?);
    }
    say(format!("lines dropped for a full disk, an unread log, a reader that is gone: {dropped:?}"));
    expect(dropped[0] > 0 && dropped[2] > 0, "lines that were refused were not counted")?;
    end(pods).await
}

/// With a root file system that takes no write, as the chart has it.
pub async fn nothing_is_written_to_a_file(world: Arc<World>) -> Result<(), Error> {
    let (log, mut reader) = named_pipe(&world, "log")?;
    let pod = start(&world, &log).await?;
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    // From now on a write of one byte to a file ends the process (SIGXFSZ).
    let limited = Command::new("prlimit").args(["--fsize=0:0", "--pid", &pod.id().to_string()]).status()?;
    expect(limited.success(), "prlimit failed")?;
    let pods = vec![pod];
    serve_alone(&world, &pods).await?;
    end(pods).await
}

/// The installation's replicas get no call while these serve the load.
async fn serve_alone(world: &Arc<World>, pods: &[LocalPod]) -> Result<(), Error> {
    let others = world.installation.webhooks();
    let mut webhooks = Vec::new();
    for pod in pods {
        webhooks.push(pod.port("webhook").ok_or("no such port")?);
    }
    route(world, &webhooks, &others);
    let before = failed_open_calls(world).await?;
    let load = Load::start(world).await?;
    tokio::time::sleep(LOAD_FOR).await;
    let outcome = load.finish().await;
    let failed = failed_open_calls(world).await? - before;
    let mut well = Vec::new();
    for pod in pods {
        well.push(pod.is_ready().await);
    }
    route(world, &others, &webhooks);
    expect_equal("calls that failed open", failed, 0.0)?;
    expect_equal("replicas that are well", well, vec![true; pods.len()])?;
    let outcome = outcome?;
    say(format!("{outcome:?}"));
    expect(outcome.created > 300, format!("only {} pods were created", outcome.created))
}

fn route(world: &World, to: &[SocketAddr], no_more_to: &[SocketAddr]) {
    let forwarder = world.installation.forwarder();
    for webhook in to {
        forwarder.add_backend(*webhook);
    }
    for webhook in no_more_to {
        forwarder.remove_backend(*webhook);
    }
    forwarder.cut_connections();
}

/// A replica beside those of the installation, which gets no calls yet.
async fn start(world: &World, log: &Path) -> Result<LocalPod, Error> {
    let program = env!("CARGO_BIN_EXE_acr-pull-injector");
    let mut options = LocalPodOptions::new(program, world.control_plane.new_pod_address());
    options.log = Some(log.to_owned());
    let pod = LocalPod::start(&world.control_plane, RELEASE, RELEASE, options).await?;
    // Its log cannot be shown when it does not become ready.
    for _ in 0..600 {
        if pod.is_ready().await {
            return Ok(pod);
        }
        expect(pod.is_running(), format!("the replica that logs to {} has ended", log.display()))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!("the replica that logs to {} did not become ready", log.display()).into())
}

/// They end in an orderly way, also without their log.
async fn end(pods: Vec<LocalPod>) -> Result<(), Error> {
    for pod in &pods {
        pod.terminate();
    }
    for mut pod in pods {
        let status = tokio::time::timeout(Duration::from_secs(30), pod.exited()).await;
        let status = status.map_err(|_| "a replica without its log did not end")?;
        expect(status.success(), format!("a replica without its log ended with {status}"))?;
    }
    Ok(())
}

/// A pipe by name, and its reading end, which is there before a writer can wait for it.
fn named_pipe(world: &World, name: &str) -> Result<(PathBuf, File), Error> {
    let path = world.control_plane.directory().join(name);
    expect(Command::new("mkfifo").arg(&path).status()?.success(), "mkfifo failed")?;
    let reader = OpenOptions::new().read(true).write(true).open(&path)?;
    Ok((path, reader))
}
