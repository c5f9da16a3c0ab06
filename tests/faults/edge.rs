//! Clients of the webhook's port that take up room, while the API server calls there.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};

use crate::{
    load::{Load, Outcome},
    progress::say,
    replicas::failed_open_calls,
    world::{Error, World, eventually, expect, expect_equal, review},
};

/// Connections that do nothing: more than the program keeps, and than its memory limit has room for.
pub async fn ten_thousand_idle_connections_cost_no_pod(world: Arc<World>) -> Result<(), Error> {
    const WITH_TLS: usize = 2_500;
    const WITHOUT: usize = 7_500;
    /// What the program keeps, of the webhook and of the admin port.
    const KEPT: usize = 800 + 64;
    allow_descriptors("self", 11_000)?;
    let webhook = world.installation.webhooks()[0];
    let (process, tls) = (world.installation.process_of(webhook)?, world.tls().await?);
    // The program's own bound shall hold, and not that of the system.
    allow_descriptors(&process.to_string(), 11_000)?;
    let before = resources(process)?.descriptors;
    forget_peak(process)?;
    let idle = async {
        let mut with_tls = JoinSet::new();
        for _ in 0..16 {
            let tls = tls.clone();
            with_tls.spawn(async move {
                let mut open = Vec::new();
                for _ in 0..WITH_TLS / 16 {
                    open.push(tls.connect(webhook).await?);
                }
                Ok::<_, Error>(open)
            });
        }
        let mut open_with_tls = Vec::new();
        while let Some(open) = with_tls.join_next().await {
            open_with_tls.extend(open??);
        }
        say(format!("{} idle connections with TLS: {}", open_with_tls.len(), resources(process)?));
        let mut open = Vec::new();
        for number in 0..WITHOUT {
            open.push(TcpStream::connect(webhook).await?);
            // Faster ones fill the queue of 128 that the kernel keeps, and then wait for a second each time.
            if number % 64 == 0 {
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        }
        say(format!("{} more without: {}", open.len(), resources(process)?));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let resources = resources(process)?;
        expect(resources.descriptors <= before + KEPT, format!("{resources}, {before} before: more than is kept"))?;
        expect(resources.peak_kibibytes < 128 << 10, format!("{resources}: more than the chart's limit"))
    };
    under_load(&world, idle).await?;
    allow_descriptors(&process.to_string(), 1_024)?;
    let log = world.installation.logs();
    expect_equal("warnings of too many connections", log.matches("too many connections").count(), 1)
}

/// Clients that ask on and on and never read an answer.
pub async fn clients_that_never_read_cost_no_pod(world: Arc<World>) -> Result<(), Error> {
    let webhook = world.installation.webhooks()[0];
    let (process, tls) = (world.installation.process_of(webhook)?, world.tls().await?);
    let body = review("does-not-exist", &["contoso.azurecr.io/app:v1"]);
    let mut request =
        format!("POST /mutate HTTP/1.1\r\nhost: webhook\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend(body);
    forget_peak(process)?;
    let deaf = async {
        const DEAF: usize = 50;
        let mut clients = JoinSet::new();
        for _ in 0..DEAF {
            let (tls, requests) = (tls.clone(), request.repeat(20));
            clients.spawn(async move {
                let mut connection = tls.connect(webhook).await?;
                // Until the program reads no more, since nobody takes its answers, or has closed the connection for that.
                while let Ok(Ok(())) =
                    tokio::time::timeout(Duration::from_secs(3), connection.write_all(&requests)).await
                {
                }
                Ok::<_, Error>(connection)
            });
        }
        let mut open = Vec::new();
        let limit = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Ok(Some(client)) = tokio::time::timeout_at(limit, clients.join_next()).await {
            open.push(client??);
        }
        let resources = resources(process)?;
        say(format!("{} clients that do not read were stopped: {resources}", open.len()));
        expect_equal("clients that were stopped", open.len(), DEAF)?;
        expect(resources.peak_kibibytes < 128 << 10, format!("{resources}: more than the chart's limit"))
    };
    under_load(&world, deaf).await.map(drop)
}

/// Peers take all descriptors that the process may have. It goes on with those it has, closes what is idle, and does not
/// spin.
pub async fn no_descriptor_left_costs_no_pod(world: Arc<World>) -> Result<(), Error> {
    let webhook = world.installation.webhooks()[0];
    let process = world.installation.process_of(webhook)?;
    let exhausted = async {
        let limit = resources(process)?.descriptors + 20;
        allow_descriptors(&process.to_string(), limit)?;
        let mut open = Vec::new();
        for _ in 0..150 {
            open.push(TcpStream::connect(webhook).await?);
        }
        let replica_log = || world.installation.logs();
        let exhausted = eventually("the program to say that no descriptor is left", || async {
            Ok(replica_log().contains("Too many open files").then_some(()))
        })
        .await;
        let (watched, busy) = (Instant::now(), processor_time(process)?);
        let direct = world.direct(webhook).await?;
        let answer = world.review(&direct, review("does-not-exist", &["contoso.azurecr.io/app:v1"]));
        let newcomer = tokio::time::timeout(Duration::from_secs(5), answer).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (busy, watched) = (processor_time(process)?.saturating_sub(busy), watched.elapsed());
        say(format!("{}; busy for {busy:?} of {watched:.1?}, limit {limit}", resources(process)?));
        allow_descriptors(&process.to_string(), 1_024)?;
        exhausted?;
        let (status, _) = newcomer.map_err(|_| "a new client is not answered while others are idle")??;
        expect_equal("status for a new client", status, 200)?;
        expect(busy < watched / 4, format!("busy for {busy:?} of {watched:.1?}: it spins"))
    };
    under_load(&world, exhausted).await.map(drop)
}

/// Lets a fault happen while pods come: no call of the API server may fail.
pub async fn under_load(world: &Arc<World>, fault: impl Future<Output = Result<(), Error>>) -> Result<Outcome, Error> {
    let before = failed_open_calls(world).await?;
    let load = Load::start(world).await?;
    let happened = fault.await;
    let outcome = load.finish().await;
    let failed = failed_open_calls(world).await? - before;
    say(format!("{failed} calls failed; {outcome:?}"));
    if failed > 0.0 {
        let log = std::fs::read_to_string(world.control_plane.directory().join("kube-apiserver.log"))?;
        log.lines().filter(|line| line.contains("calling webhook")).for_each(say);
    }
    happened?;
    let outcome = outcome?;
    expect_equal("calls of the API server that failed", failed, 0.0)?;
    expect(outcome.created > 50, format!("only {} pods were created", outcome.created))?;
    Ok(outcome)
}

/// Lets a process have this many descriptors, within its hard limit.
fn allow_descriptors(process: &str, count: usize) -> Result<(), Error> {
    let process = if process == "self" { std::process::id().to_string() } else { process.to_owned() };
    let output = Command::new("prlimit").args(["--pid", &process, &format!("--nofile={count}:")]).output()?;
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    expect(output.status.success(), format!("prlimit --nofile={count} {process}: {reason}"))
}

/// What a process takes up.
pub struct Resources {
    descriptors: usize,
    pub peak_kibibytes: u64,
}

impl std::fmt::Display for Resources {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} descriptors, {} MiB at the peak", self.descriptors, self.peak_kibibytes >> 10)
    }
}

/// Forgets the peak of what ran before.
pub fn forget_peak(process: u32) -> Result<(), Error> {
    Ok(std::fs::write(format!("/proc/{process}/clear_refs"), "5")?)
}

/// Now, and the peak since it was forgotten.
pub fn resources(process: u32) -> Result<Resources, Error> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd"))?.count();
    Ok(Resources { descriptors, peak_kibibytes: peak.ok_or("no VmHWM")? })
}

/// The time that a process has been on a processor.
fn processor_time(process: u32) -> Result<Duration, Error> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<_> = stat.rsplit(')').next().ok_or("no stat")?.split_whitespace().collect();
    // utime and stime, in hundredths of a second.
    let ticks: u64 = [fields[11], fields[12]].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}
